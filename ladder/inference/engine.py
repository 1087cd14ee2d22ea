"""Prefill and decode steps of one wiring at the hardware's limit, over the same executor and table as the model.

Between a wait and a launch everything is one piece of code: additions, norm, module. ``compiled`` compiles these pieces
and leaves the executor as it is, so no compiler can move a wait; ``graphs`` also captures a whole step, with its
collectives on their own stream, into a CUDA graph.

Shapes: B batch, S new tokens, D hidden size, V vocabulary, C cache length.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from ladder.inference.fused import Attention, Fused, Mlp, Now, attend, mlp
from ladder.inference.stream import Normed, Stream
from ladder.residual import Module, Table, run

# The pieces. Weights and caches are arguments, so that all layers run the same compiled code.


def enter(x, pending, weight, eps):
    """(the stream, its norm), both [B, S, D]."""
    x = x if pending is None else x + pending
    return x, F.rms_norm(x, (x.shape[-1],), weight, eps)


def attention_piece(x, pending, normed, eps, weights, kv, now, head, how):
    """(the stream and its norm unless ``normed`` is given, the partial output), each [B, S, D]."""
    if normed is None:
        x, normed = enter(x, pending, weights.norm, eps)
    return x, normed, attend(weights, kv, normed, now, head, how)


def mlp_piece(x, pending, normed, eps, weights):
    if normed is None:
        x, normed = enter(x, pending, weights.norm, eps)
    return x, normed, mlp(weights, normed)


def begin(ids, position, embedding, cos, sin):
    """ids [B, S] from ``position`` [1] on -> (x [B, S, D], Now); moves ``position`` on."""
    positions = position + torch.arange(ids.shape[1], device=ids.device)
    seen = torch.arange(cos.shape[0], device=ids.device) <= position
    now = Now(positions, cos[positions].unsqueeze(0), sin[positions].unsqueeze(0), seen.view(1, 1, 1, -1))
    position += ids.shape[1]
    return F.embedding(ids, embedding), now


def finish(x, pending, weight, eps, head):
    """Logits of the last position only [B, V]."""
    x, normed = enter(x[:, -1], None if pending is None else pending[:, -1], weight, eps)
    return F.linear(normed, head)


PIECES = (enter, attention_piece, mlp_piece, begin, finish)


@cache
def pieces(compute: str, device: str) -> dict:
    if compute == "eager":
        return {piece.__name__: piece for piece in PIECES}
    import torch._dynamo

    # Every shape of a grid, each with and without something to add, is a compilation of the same few functions.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000
    # On a GPU this makes the product with a single row a kernel that streams the weights.
    options = {"coordinate_descent_tuning": True} if device == "cuda" else None
    return {piece.__name__: torch.compile(piece, dynamic=False, options=options) for piece in PIECES}


class Engine:
    """One wiring's generation over weights that several wirings share.

    ``rows``: the wiring's table, of as many of the first layers as are to run. ``ids`` [B, prompt + new tokens] are fed
    whatever the logits say, so that every wiring sees the same input. ``compute``: "eager", "compiled" or "graphs"
    (compiled, and captured by :meth:`capture`); ``attention``: a row of ``DECODE``. ``observe(n, "start" | "end")``, if
    set, is told when module n begins and ends.
    """

    def __init__(
        self,
        fused: Fused,
        rows: Table,
        ids: torch.Tensor,
        prompt: int,
        all_reduce,
        compute: str = "eager",
        attention: str = "matmul",
    ):
        self.fused, self.rows, self.ids, self.prompt, self.all_reduce = fused, rows, ids, prompt, all_reduce
        self.compute, self.attention = compute, attention
        self.observe, self.graphs = None, {}
        weight, length = fused.norm, ids.shape[1]
        self.pieces = pieces("eager" if compute == "eager" else "compiled", weight.device.type)
        self.cos, self.sin = fused.rotary(length)
        shape = (ids.shape[0], fused.kv_heads, length, fused.head_size)
        self.caches = [(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in rows[::2]]
        self.position = torch.zeros(1, dtype=torch.long, device=weight.device)
        self.token, self.fed = ids[:, :1].clone(), 0
        self.now = None

    @torch.inference_mode()
    def prefill(self) -> torch.Tensor:
        """Read the prompt into an empty cache; logits of its last position [B, V]."""
        self.fed = self.prompt
        return self._run("prefill")

    @torch.inference_mode()
    def step(self) -> torch.Tensor:
        """One more token per sequence; its logits [B, V], which the next step overwrites where graphs are on."""
        self.token.copy_(self.ids[:, self.fed : self.fed + 1])
        self.fed += 1
        return self._run("decode")

    def capture(self, pool=None) -> None:
        """Capture prefill and a decode step as CUDA graphs (in a memory ``pool`` that others may share)."""
        for phase in ("prefill", "decode"):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side), torch.inference_mode():
                for _ in range(3):  # compiles, and lets libraries allocate, before anything is recorded
                    self.position.fill_(self.prompt)
                    self._forward(phase)
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            # NCCL's watchdog queries events from a thread of its own meanwhile.
            with torch.inference_mode(), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                logits = self._forward(phase)
            self.graphs[phase] = graph, logits

    def module_seconds(self) -> dict[str, np.ndarray]:
        """On a GPU: phase -> seconds of each module by kind, from graphs that run all attentions, or all MLPs, only."""
        found = {phase: [] for phase in ("prefill", "decode")}
        for kind in (0, 1):
            work = _Some(self.fused, self.rows, self.ids, self.prompt, None, self.compute, self.attention)
            work.kind = kind
            work.capture()
            for phase, (graph, _) in work.graphs.items():
                found[phase].append(_gpu_seconds(graph.replay) / len(self.rows) * 2)
        return {phase: np.tile(means, len(self.rows) // 2) for phase, means in found.items()}

    def _run(self, phase: str) -> torch.Tensor:
        if phase in self.graphs:
            graph, logits = self.graphs[phase]
            graph.replay()
            return logits
        return self._forward(phase)

    def _forward(self, phase: str) -> torch.Tensor:
        if phase == "prefill":
            self.position.zero_()
        ids = self.token if phase == "decode" else self.ids[:, : self.prompt]
        x, self.now = self.pieces["begin"](ids, self.position, self.fused.embedding, self.cos, self.sin)
        x = self._layers(Stream(x))
        return self.pieces["finish"](x.value, x.pending, self.fused.norm, self.fused.eps, self.fused.head)

    def _modules(self) -> list[Module]:
        # Made for each step: kept, they and this engine would hold each other, and its caches would live on.
        return [self._module(n, weights) for n, weights in enumerate(self.fused.modules[: len(self.rows)])]

    def _layers(self, x: Stream) -> Stream:
        return run(x, self._modules(), self.rows, self.all_reduce, self.fused.model.model.first_attention_norm)

    def _module(self, n: int, weights: Attention | Mlp) -> Module:
        eps, enter = self.fused.eps, self.pieces["enter"]
        piece = self.pieces["attention_piece" if isinstance(weights, Attention) else "mlp_piece"]

        def norm(stream: Stream) -> Normed:
            return Normed(stream, lambda x, pending: enter(x, pending, weights.norm, eps))

        def compute(normed: Normed | torch.Tensor) -> torch.Tensor:
            if self.observe:
                self.observe(n, "start")
            fresh = isinstance(normed, Normed) and normed.value is None
            if fresh:
                read = (normed.stream.value, normed.stream.pending, None)
            else:
                read = (None, None, normed.value if isinstance(normed, Normed) else normed)
            rest = (self.caches[n // 2], self.now, self.fused.head_size, self.attention) if n % 2 == 0 else ()
            x, value, partial = piece(*read, eps, weights, *rest)
            if fresh:
                normed.set(x, value)
            if self.observe:
                self.observe(n, "end")
            return partial

        return Module(norm, compute)


class _Some(Engine):
    """The modules of one kind (0 attention, 1 MLP), one after the other: to time them, not to generate."""

    kind: int

    def _layers(self, x: Stream) -> Stream:
        for module in self._modules()[self.kind :: 2]:
            x = x + module.compute(module.norm(x))
        return x


def _gpu_seconds(work, rounds: int = 20) -> float:
    """Median seconds of ``work`` on the GPU."""
    seconds = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) * 1e-3)
    return float(np.median(seconds))
