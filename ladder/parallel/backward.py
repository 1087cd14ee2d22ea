"""The backward pass of the executor over real ranks, with the same hiding as forward.

Forward, a sum over ranks lands in the stream after ``lag`` more modules have read it. Backward, a module's input
gradient is a sum over ranks too (each rank has back-propagated through its own slices), and it is needed only by the
modules whose outputs this module has read. So in ladder the all-reduce of module n's input gradient runs behind the
backward of module n - 1, which does not need it. (Training is reported to be 5-7 % faster with ladder, without a table;
see reports/published/headline_claims.csv.)

torch's engine would wait for that sum at once, where the stream forks. Here the loop is one autograd node which keeps
the graph of each module, and goes through the table's operations from the last to the first.

Notation: x_k the landed stream that module k reads, p_n a module's partial output, h_k the gradient of what module k
reads (this rank's part), G the gradient of the stream (summed over ranks).
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.fsdp import FSDPModule

from ladder.model import slicing
from ladder.model.forms import layers_of
from ladder.model.rewire import bodies
from ladder.residual import Module, ResidualStream, Table

F = TypeVar("F", bound=Callable)


def unseen(function: F) -> F:
    """Kept out of compiled code; attention and MLP may be compiled."""
    return torch.compiler.disable(function, recursive=False)


class Backward:
    """``ResidualStream`` for a sharded model: differentiable, with asynchronous all-reduces both ways."""

    def __init__(self, model: torch.nn.Module, group: dist.ProcessGroup):
        self.model, self.group = model, group
        paths = [path for name, body in bodies(model) for path, _ in body.named_parameters(prefix=name)]
        self.parts = {path: slicing.distinct(path, model.config, group.size()) for path in paths}

    def __call__(self, x: torch.Tensor, table: Table, all_reduce: Callable, signal_norm=None) -> ResidualStream:
        kind = partial(Tape, self) if torch.is_grad_enabled() else ResidualStream
        return kind(x, table, all_reduce, signal_norm)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tape, x, *parameters):
        ctx.tape = tape
        return tape.x

    @staticmethod
    def backward(ctx, gradient):
        return None, *ctx.tape.backward(gradient)


class Tape(ResidualStream):
    """What one forward pass leaves for its backward: of each module its input, its output and the graph between."""

    @unseen
    def __init__(self, backward, x, table, all_reduce, signal_norm):
        super().__init__(x.detach(), table, all_reduce, self._recorded_signal if table.signal else None)
        model, self.group = backward.model, backward.group
        self.start, self.norm_of_signal = x, signal_norm
        self.of_norm, self.of_after, self.of_body, self.sharded = [], [], [], []
        self.several: dict[int, list] = {}  # parameters that several ranks hold, by how many parts of them there are
        for layer in layers_of(model):
            for part in layer.place[1].attention, layer.place[1].mlp:
                self.of_norm.append(_trained(layer, part.norm))
                self.of_after.append(_trained(layer, part.after))
        for name, body in bodies(model):
            # fully_shard exchanges its modules' parameters, and reduces the gradients that those accumulate.
            self.sharded.append(isinstance(body, FSDPModule))
            named = () if self.sharded[-1] else body.named_parameters(prefix=name)
            trained = {path: parameter for path, parameter in named if parameter.requires_grad}
            self.of_body.append([*trained.values()])
            for path, parameter in trained.items():
                if backward.parts[path] < self.group.size():
                    self.several.setdefault(backward.parts[path], []).append(parameter)
        self.of_signal = [p for p in signal_norm.parameters() if p.requires_grad] if table.signal else []
        self.several.setdefault(1, []).extend(p for parameters in self.of_norm for p in parameters)
        self.parameters = [p for ps in (*self.of_body, *self.of_norm, *self.of_after, self.of_signal) for p in ps]
        self.leaf, self.given, self.inner, self.partial, self.total = ([None] * len(table) for _ in range(5))
        self.landed = self.signal_output = self.signal_leaf = None

    @unseen
    def run(self, module: Module) -> None:
        n = self.module
        after = module.after and partial(self._after, n, module.after)
        with torch.enable_grad():
            super().run(Module(partial(self._norm, n, module.norm), partial(self._compute, n, module.compute), after))

    @unseen
    def end(self) -> torch.Tensor:
        with torch.enable_grad():
            super().end()
        return _Run.apply(self, self.start, *self.parameters)

    def _norm(self, n: int, norm: Callable, read):
        self.leaf[n] = read.detach().requires_grad_()
        return norm(self.leaf[n])

    def _compute(self, n: int, compute: Callable, normed):
        self.given[n], self.inner[n] = normed, normed.detach().requires_grad_()
        self.partial[n] = compute(self.inner[n])
        return self.partial[n].detach()

    def _after(self, n: int, after: Callable, total):
        total = total.detach().requires_grad_()
        self.total[n] = total, after(total)
        return self.total[n][1].detach()

    def _recorded_signal(self, landed):
        self.landed = landed.detach().requires_grad_()
        self.signal_output = self.norm_of_signal(self.landed)
        self.signal_leaf = self.signal_output.detach().requires_grad_()
        return self.signal_leaf

    def backward(self, last: torch.Tensor) -> list[torch.Tensor | None]:
        """Gradients of the stream's start and of ``self.parameters``, from ``last`` [B, S, D], that of its end, which
        is the same on every rank unless the streams end apart."""
        table, end = self.table, len(self.table)
        computed = {step.index: step for step in table.operations if step.kind == "compute"}
        held_modules = {step.index for step in table.operations if step.kind == "hold"}
        first_signal = min((n for n, step in computed.items() if step.signal), default=None)
        gradients: dict[int, torch.Tensor] = {}  # by id of the parameter
        readers: deque = deque()  # sums of h_k that are under way, the latest reader's first
        launched = waited = 0
        stream = last  # G, with what has landed
        if table.ends_apart:
            stream = torch.zeros_like(last)
            readers.append(self.all_reduce(last.clone()))
            launched = 1
        reads = {end: last}  # h_k by k, where ranks read their own shares
        landed: dict[int, tuple[int, int]] = {}  # by sum: the first module that read it, readers launched until then
        of_sum: dict[int, torch.Tensor] = {}
        held = to_normed = of_signal = signal_handle = None
        output, reader = 0, end
        for step in reversed(table.operations):
            n = step.index
            match step.kind:
                case "wait":
                    landed[n] = reader, launched
                case "launch":
                    while waited < landed[n][1]:
                        stream, waited = stream + readers.popleft().wait(), waited + 1
                    of_sum[n] = stream
                    if n == 0 and signal_handle is not None:
                        of_sum[n] = stream + self._through_signal(signal_handle.wait(), gradients)
                    if recorded := self.total[max(step.modules)]:
                        total, normed = recorded
                        of_sum[n] = _grad(normed, total, self.of_after[max(step.modules)], of_sum[n], gradients)
                    if step.weight:
                        output = step.weight * of_sum[n]
                case "hold":
                    output = step.weight * of_sum[step.output]
                case "share":
                    output = output + step.weight * sum(reads[k] for k in range(n + 1, landed[step.output][0]))
                case "keep":
                    output = step.weight * sum(reads[k] for k in range(n + 1, end + 1))
                case "compute":
                    of_inner = self._through_module(n, output, gradients)
                    to_normed = of_inner if to_normed is None else of_inner + to_normed
                    reader = n
                    if table.shares:
                        reads[n] = torch.zeros_like(of_inner)  # unless it has a norm of its own
                case "norm":
                    reads_signal = computed[n].signal
                    leaves = [self.leaf[n], *([self.signal_leaf] if reads_signal else [])]
                    of_leaf, *others = _grad(self.given[n], leaves, self.of_norm[n], to_normed, gradients)
                    to_normed = None
                    if reads_signal:
                        of_signal = others[0] if of_signal is None else of_signal + others[0]
                    if n == first_signal:
                        signal_handle = self.all_reduce(of_signal)
                    if table.shares:
                        reads[n] = of_leaf
                    of_stream = of_leaf.clone() if held is None else held + of_leaf  # summed in place, others read it
                    if n - 1 in held_modules and computed[n].modules == computed[n - 1].modules:
                        held = of_stream  # the module before read the same stream: summed once for both, as forward
                    else:
                        readers.append(self.all_reduce(of_stream))
                        held, launched = None, launched + 1
                    self.leaf[n] = self.given[n] = self.inner[n] = self.partial[n] = None  # their memory is free again
        for handle in readers:
            stream = stream + handle.wait()
        self._sum_replicated(gradients)
        return [stream, *(gradients.get(id(p)) for p in self.parameters)]

    def _through_module(self, n: int, output: torch.Tensor, gradients) -> torch.Tensor:
        """The gradient of what module ``n`` computes from, given that of its output."""
        if self.sharded[n]:
            self.partial[n].backward(output)
            return self.inner[n].grad
        return _grad(self.partial[n], self.inner[n], self.of_body[n], output, gradients)

    def _through_signal(self, gradient, gradients):
        return _grad(self.signal_output, self.landed, self.of_signal, gradient, gradients)

    def _sum_replicated(self, gradients: dict[int, torch.Tensor]) -> None:
        """Parameters that several ranks hold got each rank's part of their gradient: sum it, in place."""
        for parts, parameters in self.several.items():
            mine = dist.get_rank(self.group) * parts // self.group.size()
            given = [gradients[id(p)] for p in parameters if gradients.get(id(p)) is not None]
            sum_gradients(given, self.group, parts, mine)


def sum_gradients(gradients: list[torch.Tensor], group: dist.ProcessGroup, parts: int = 1, mine: int = 0) -> None:
    """Sum them in place over the ranks of ``group`` that have the same ``mine`` of ``parts``, by one all-reduce."""
    if gradients:
        flat = _flatten_dense_tensors(gradients)
        everyone = flat.new_zeros(parts, flat.numel())
        everyone[mine] = flat
        dist.all_reduce(everyone, group=group)
        for gradient, total in zip(gradients, _unflatten_dense_tensors(everyone[mine], gradients), strict=True):
            gradient.copy_(total)


def _grad(output, inputs, parameters, gradient, gradients):
    """Back-propagate ``gradient`` of ``output``: note those of ``parameters``, return those of ``inputs``."""
    several = isinstance(inputs, list)
    targets = [*(inputs if several else [inputs]), *parameters]
    found = torch.autograd.grad(output, targets, gradient, allow_unused=True)
    count = len(targets) - len(parameters)
    gradients.update({id(p): g for p, g in zip(parameters, found[count:], strict=True)})
    return list(found[:count]) if several else found[0]


def _trained(layer, name: str | None) -> list[torch.nn.Parameter]:
    return [p for p in getattr(layer, name).parameters() if p.requires_grad] if name else []
