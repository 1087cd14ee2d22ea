"""Shapes, the model, checkpoints, conversion. Names are loaded when used: shapes and conversion need no torch."""

import importlib

_HOME = {
    "LadderConfig": "modeling",
    "LadderModel": "modeling",
    "LadderForCausalLM": "modeling",
    "load": "checkpoint",
    "save": "checkpoint",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"ladder.model.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ladder.model' has no attribute {name!r}")
