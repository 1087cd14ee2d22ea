"""The sums over ranks of a model in vLLM: two custom operators, ``ladder::launch`` and ``ladder::wait``, both in place.

They are operators so that vLLM's compiled graph is split at them (``splitting_ops``): they run between compiled pieces,
where the executor has put them. Inside code that Inductor compiles they would run elsewhere, and give wrong tokens
without a word; so compiling them there is an error.

Sums are waited for in the order of their launches. One side stream keeps them serial on CUDA, as the buffers of vLLM's
custom all-reduce are shared. The CUDA half is untested: no GPU was at hand.
"""

from collections import deque

import torch
import torch.distributed as dist

from ladder.residual import Landed, Table

OPERATORS = ("ladder::launch", "ladder::wait")

_group = None  # vLLM's coordinator of the tensor-parallel ranks
_under_way: deque = deque()  # (the partial sum that becomes the sum, how it is waited for)
_stream: torch.cuda.Stream | None = None


def connect(group) -> None:
    """Sum over ``group`` from now on: vLLM's coordinator (``get_tp_group()``), or what has its ``device_group`` and
    ``world_size``."""
    global _group, _stream
    _group = group
    _under_way.clear()
    if torch.cuda.is_available():
        _stream = torch.cuda.Stream(priority=-1)


def _launch(partial: torch.Tensor) -> None:
    if _group.world_size == 1:
        _under_way.append((partial, lambda: None))
    elif partial.is_cuda:
        _stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(_stream):
            partial.copy_(_group._all_reduce_out_place(partial))  # by the algorithm that vLLM chooses
        event = _stream.record_event()
        _under_way.append((partial, lambda: torch.cuda.current_stream().wait_event(event)))
    else:
        work = dist.all_reduce(partial, group=_group.device_group, async_op=True)
        _under_way.append((partial, work.wait))


def _wait(total: torch.Tensor) -> None:
    launched, wait = _under_way.popleft()
    if launched.data_ptr() != total.data_ptr():
        raise RuntimeError("a sum over ranks is waited for that is not the oldest: its operators were moved or copied")
    wait()


_library = torch.library.Library("ladder", "DEF")
for _name, _run in (("launch", _launch), ("wait", _wait)):
    _library.define(f"{_name}(Tensor(a!) partial) -> ()")
    _library.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"ladder::{_name}", lambda partial: None, lib=_library)


def _refuse(*_):
    raise RuntimeError(
        "sums over ranks cannot run inside compiled code, where Inductor moves them (wrong tokens): name "
        f"{' and '.join(OPERATORS)} in splitting_ops, or pass --enforce-eager"
    )


def guard() -> None:
    """Let Inductor refuse to compile the operators, instead of moving them."""
    from torch._inductor.lowering import register_lowering

    for name in ("launch", "wait"):
        register_lowering(getattr(torch.ops.ladder, name).default, type_promotion_kind=None)(_refuse)


class _Launched:
    def __init__(self, partial: torch.Tensor):
        self.partial = partial

    def wait(self) -> torch.Tensor:
        torch.ops.ladder.wait(self.partial)
        return self.partial


class AllReduce:
    """The ``all_reduce`` of one forward pass.

    overlapped: of each sum whether it is launched, and waited for later. at_once: sums the others, in vLLM's own way,
    with all that vLLM can do for it.
    """

    def __init__(self, overlapped: tuple[bool, ...], at_once):
        self.overlapped, self.at_once, self.number = overlapped, at_once, 0

    def __call__(self, partial: torch.Tensor) -> _Launched | Landed:
        number, self.number = self.number, self.number + 1
        if not self.overlapped[number]:
            return Landed(self.at_once(partial))
        torch.ops.ladder.launch(partial)
        return _Launched(partial)


def overlapped(table: Table) -> tuple[bool, ...]:
    """Of each all-reduce whether other work is between its launch and its wait, or another all-reduce under way."""
    flags: list[bool] = []
    under_way: set[int] = set()
    for step in table.events:
        if step.kind == "launch":
            flags.append(bool(under_way))
            under_way.add(step.index)
        elif step.kind == "wait":
            under_way.remove(step.index)
        else:
            for number in under_way:
                flags[number] = True
    return tuple(flags)
