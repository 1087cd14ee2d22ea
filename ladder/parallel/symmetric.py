"""All-reduce through memory that the GPUs of a node share (torch's symmetric memory): short messages in one kernel."""

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric_memory

from ladder.errors import UserError, unknown_name

DEVICE = "cuda"
DTYPES = (torch.float32, torch.bfloat16)  # that torch's kernels have


def one_shot(buffer: torch.Tensor, result: torch.Tensor, group: str) -> None:
    """Every rank reads all others' buffers: one step, for short messages."""
    torch.ops.symm_mem.one_shot_all_reduce_out(buffer, "sum", group, result)


def two_shot(buffer: torch.Tensor, result: torch.Tensor, group: str) -> None:
    """Every rank sums one slice and the slices are exchanged: less traffic, for longer messages."""
    result.copy_(torch.ops.symm_mem.two_shot_all_reduce_(buffer, "sum", group))


def multimem(buffer: torch.Tensor, result: torch.Tensor, group: str) -> None:
    """The NVLink switch sums (NVLS)."""
    result.copy_(torch.ops.symm_mem.multimem_all_reduce_(buffer, "sum", group))


WAYS = {"one-shot": one_shot, "two-shot": two_shot, "multimem": multimem}


class SymmetricMemory:
    """A communicator over ``group`` that sums in one of ``WAYS``: asynchronous, in place, on a stream of its own.

    It can be captured in a CUDA graph once every shape has been summed outside one: the first sum of a shape and dtype
    allocates the buffer that the ranks share, and all ranks must come to it. One buffer a shape is enough: the kernels
    end when all ranks have read, and the stream is serial. Raises UserError where the GPUs cannot share memory.
    """

    def __init__(self, group: dist.ProcessGroup, how: str):
        if how not in WAYS:
            raise unknown_name("way of summing", how, WAYS)
        if not torch.cuda.is_available():
            raise UserError(f"backend {how} needs GPUs that share memory; on the CPU use gloo")
        self.group, self.size, self.how = group, group.size(), how
        self.stream = torch.cuda.Stream(priority=-1)
        self._buffers: dict[tuple[torch.Size, torch.dtype], torch.Tensor] = {}
        self._buffer(torch.zeros(128, device=DEVICE))  # refuses now, before anything is timed

    def _buffer(self, partial: torch.Tensor) -> torch.Tensor:
        """What the ranks share for partial outputs of this shape and dtype."""
        key = (partial.shape, partial.dtype)
        if key not in self._buffers:
            if partial.dtype not in DTYPES:
                raise UserError(f"backend {self.how} sums fp32 and bf16, not {partial.dtype}; use nccl")
            try:
                with torch.inference_mode(False):  # an inference tensor could be written in inference mode only
                    buffer = symmetric_memory.empty(partial.shape, dtype=partial.dtype, device=partial.device)
                handle = symmetric_memory.rendezvous(buffer, self.group.group_name)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"backend {self.how}: these GPUs share no memory ({reason}); use nccl") from None
            if self.how == "multimem" and not handle.multicast_ptr:
                raise UserError("backend multimem: no NVLink switch that sums here; use one-shot, two-shot or nccl")
            self._buffers[key] = buffer
        return self._buffers[key]

    @torch.compiler.disable  # compiled code stays between launch and wait as the executor has put it
    def all_reduce(self, partial: torch.Tensor) -> "_Sum":
        partial = partial.contiguous()
        buffer = self._buffer(partial)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            buffer.copy_(partial)
            WAYS[self.how](buffer, partial, self.group.group_name)
            return _Sum(self.stream.record_event(), partial)


class _Sum:
    def __init__(self, done: torch.cuda.Event, value: torch.Tensor):
        self.done, self.value = done, value  # the value must live until it is waited for: the stream writes it

    @torch.compiler.disable
    def wait(self) -> torch.Tensor:
        torch.cuda.current_stream().wait_event(self.done)
        return self.value
