"""The order of launches, waits and modules, read off the graph that vLLM writes down before it compiles it."""

import re
from pathlib import Path

from ladder.residual import Table
from ladder.vllm.communicator import overlapped

# What stands for what in the graph's source: a matrix product, attention, the launch of a sum and the wait for it.
SIGNS = {"M": r"linear|\w+_mm|\w*gemm\w*", "A": "unified_attention_with_output"}
SIGNS |= {"L": r"ladder\.launch", "W": r"ladder\.wait"}
MODULES = ("MAM", "MM")  # attention: queries, keys and values; attention; output. MLP: gate and up; down
_COMMENT = re.compile(r"#.*")
_CALL = re.compile("|".join(rf"(?P<{sign}>torch\S*\.(?:{name})(?:\.default)?\()" for sign, name in SIGNS.items()))


def order_of(folder: Path) -> list[str]:
    """The signs of each rank's graph, in the order of running. folder: vLLM's cache (VLLM_CACHE_ROOT)."""
    texts = [file.read_text() for file in sorted(Path(folder).rglob("computation_graph.py"))]
    code = [_COMMENT.sub("", text) for text in texts]  # comments quote the model's source
    return ["".join(match.lastgroup for match in _CALL.finditer(text)) for text in code]


def expected(table: Table) -> str:
    """The same of a wiring's operations. What is waited for at once is vLLM's own all-reduce, and has no sign."""
    apart, signs = overlapped(table), ""
    for event in table.events:
        if event.kind == "compute":
            signs += MODULES[event.index % 2]
        elif apart[event.index]:
            signs += {"launch": "L", "wait": "W"}[event.kind]
    return signs
