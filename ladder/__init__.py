"""Communication-hiding transformers for tensor-parallel inference.

After ``import ladder``, ``AutoModelForCausalLM.from_pretrained`` knows the checkpoints of this project.
"""

import importlib
import sys
from pathlib import Path

__version__ = "0.1.0"
_HOME = {
    "load": "ladder.parallel.shard",
    "parallelize": "ladder.parallel.shard",
    "rewire": "ladder.model.rewire",
    "LadderConfig": "ladder.model.modeling",
    "LadderForCausalLM": "ladder.model.modeling",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ladder' has no attribute {name!r}")


# Registering our model type with the Auto classes imports torch and transformers, some seconds. The command line
# (`ladder`, `python -m ladder`) and the Snakefile load a model only where they need one, and register then.
if Path(sys.argv[0] or "-").stem not in ("ladder", "-m", "snakemake"):
    importlib.import_module("ladder.model.modeling")
