"""The residual stream: a wiring's rows compiled once to operations, and the one loop that runs them.

An operation is one step of a forward pass. For module n (even = attention, odd = MLP), in this order where it has them:

    wait     for an all-reduce: its sum lands in the stream
    norm     of the stream, plus a rank's own shares of outputs that have not landed
    compute  the module's partial output
    share    keep a rank's own share of the output until its sum lands
    keep     add a rank's own share to its stream for good: the output is never reduced
    hold     the output, for the all-reduce of a later module
    launch   the all-reduce of the output and of what is held

Ladder Residual (paper section 3, equations 3-4) is nothing but the place of ``wait``: one module later than in a
standard transformer, so that the all-reduce runs behind that module:

    standard    norm 0, compute 0, launch 0, wait 0, norm 1, compute 1, launch 1, wait 1, ...
    ladder      norm 0, compute 0, launch 0,         norm 1, compute 1, launch 1, wait 0, norm 2, compute 2, ...

Forward (:class:`ResidualStream`), backward over real ranks (ladder.parallel.backward), the schedule (ladder.schedule),
the memory count and the drawings all read this list. This module needs neither torch nor a process group.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


@dataclass(frozen=True)
class Row:
    """How one module reads from and writes to the residual stream.

    lag:    how many of the latest outputs its input does not contain yet
    joint:  its output is held back and reduced together with the next module's
    own:    weight with which a rank reads its own un-reduced partial until the reduced sum lands (for good, if it is
            never reduced); with it the function depends on the number of ranks T
    weight: weight of its partial in the reduced sum; with 0 it is never reduced
    shared_norm: it reads the normed input of the module before it (which has the same stream), not its own norm
    signal: the first module's output, through a norm of its own, is added to its normed input
    """

    lag: int = 0
    joint: bool = False
    own: float = 0.0
    weight: float = 1.0
    shared_norm: bool = False
    signal: bool = False


class Operation(NamedTuple):
    """One step. ``index``: of the module; of ``wait`` and ``launch`` the number of the all-reduce.

    modules: norm, compute: whose reduced outputs are read; launch, wait: whose outputs are summed.
    own: norm, compute: of whose outputs a rank's own share is read.
    output: the number of the all-reduce that the module's output goes into; of ``norm`` those whose shares are read.
    weight: of the output in its sum (hold, launch; 0: only what is held is launched), or of the rank's own share.
    signal: compute reads the first module's output too; wait makes that signal.
    """

    kind: str
    index: int
    modules: frozenset[int] = frozenset()
    own: frozenset[int] = frozenset()
    output: int | tuple[int, ...] = ()
    weight: float = 1.0
    signal: bool = False


class Table(tuple[Row, ...]):
    """The rows of a model's modules, attention and MLP of each layer.

    late: a: a module reads a x the stream that its row says + (1 - a) x the standard one, which has every output in it.
    """

    late: float = 1.0

    def annealed(self, late: float) -> "Table":
        """The same rows at another ``late``, which means something where :attr:`only_delays`."""
        table = Table(self)
        table.late = late
        return table

    @property
    def only_delays(self) -> bool:
        """Whether the rows change nothing but when an output is read."""
        return all(row == Row(row.lag, row.joint) for row in self)

    @cached_property
    def steps(self) -> tuple[tuple[Operation, ...], ...]:
        """The operations of each module, and as the last entry those after the last module."""
        return tuple(_compile(self))

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        return tuple(operation for step in self.steps for operation in step)

    @cached_property
    def events(self) -> tuple[Operation, ...]:
        """What can be seen from outside: computing, launching, waiting."""
        return tuple(operation for operation in self.operations if operation.kind in ("compute", "launch", "wait"))

    @cached_property
    def launches(self) -> tuple[Operation, ...]:
        return tuple(operation for operation in self.operations if operation.kind == "launch")

    def has(self, kind: str) -> bool:
        return any(operation.kind == kind for operation in self.operations)

    @property
    def ends_apart(self) -> bool:
        """Whether the ranks' final streams differ: some output is read by its own rank only, for good."""
        return self.has("keep")

    @property
    def shares(self) -> bool:
        """Whether a rank reads shares of its own, so that the function depends on the number of ranks."""
        return self.has("share") or self.has("keep")

    @property
    def signal(self) -> bool:
        """Whether the first attention is read through a norm of its own, which the model then has."""
        return any(operation.signal for operation in self.operations)


class _Output:
    """An output in flight while a table is compiled: ``first`` is the oldest module in it."""

    def __init__(self, number: int, first: int):
        self.number, self.first, self.modules, self.own, self.held = number, first, {first}, set(), False


def _compile(rows: Sequence[Row]) -> Iterator[tuple[Operation, ...]]:
    landed: set[int] = set()
    kept: set[int] = set()
    in_flight: deque[_Output] = deque()
    outputs, seen = 0, (frozenset(), frozenset())
    signals = any(row.signal for row in rows)

    def land() -> Iterator[Operation]:
        output = in_flight.popleft()
        landed.update(output.modules)
        modules = frozenset(output.modules)
        if output.held:
            yield Operation("launch", output.number, modules, weight=0.0)
        yield Operation("wait", output.number, modules, signal=signals and output.first == 0)

    for n, row in enumerate(rows):
        step = []
        while in_flight and in_flight[0].first < n - row.lag:
            step += land()
        if not row.shared_norm:
            shares = tuple(output.number for output in in_flight if output.own)
            own = kept.union(*(output.own for output in in_flight))
            seen = (frozenset(landed), frozenset(own))
            step.append(Operation("norm", n, *seen, output=shares))
        step.append(Operation("compute", n, *seen, signal=row.signal))
        if not row.weight:
            if row.own:
                kept.add(n)
                step.append(Operation("keep", n, weight=row.own))
            yield tuple(step)
            continue
        if in_flight and in_flight[-1].held:  # the module before waits for this one's all-reduce
            output = in_flight[-1]
            output.modules.add(n)
            output.held = False
        else:
            output = _Output(outputs, n)
            outputs += 1
            in_flight.append(output)
        if row.own:
            output.own.add(n)
            step.append(Operation("share", n, output=output.number, weight=row.own))
        output.held = row.joint
        modules = frozenset(output.modules)
        if row.joint:
            step.append(Operation("hold", n, output=output.number, weight=row.weight))
        else:
            step.append(Operation("launch", output.number, modules, weight=row.weight))
        yield tuple(step)
    last = []
    while in_flight:
        last += land()
    yield tuple(last)


class Module(NamedTuple):
    """One attention or MLP: ``norm(x)`` is what it reads, ``compute(normed)`` its (partial) output; ``after(sum)``, if
    there is one, is what the stream gets once the output is reduced (a norm of the sum)."""

    norm: Callable
    compute: Callable
    after: Callable | None = None


class Landed:
    """A sum that is already there."""

    def __init__(self, value):
        self.value = value

    def wait(self):
        return self.value


class ResidualStream:
    """The stream of one forward pass, given one module after the other.

    ``x`` holds what has landed, the same on all ranks; a rank's own shares are added where they are read, not to the
    stream, so that nothing has to be taken back. Only ``+`` and ``*`` by a number are used of ``x``.

    all_reduce(partial): launches a sum over ranks, may overwrite ``partial``, and returns an object whose ``wait()``
    gives the sum. signal_norm: norm of the first module's output, for tables that have a signal.
    """

    def __init__(self, x, table: Table, all_reduce: Callable, signal_norm: Callable | None = None):
        self.x, self.table, self.all_reduce, self.signal_norm = x, table, all_reduce, signal_norm
        self.module, self.sums, self.shares = 0, deque(), {}
        self.held = self.normed = self.signal = None
        self.timely = x  # the standard stream, kept where ``table.late`` is below 1

    def run(self, module: Module) -> None:
        """Let the next module read the stream, compute, and write to it."""
        partial = None
        for step in self.table.steps[self.module]:
            match step.kind:
                case "wait":
                    self._land(step)
                case "norm":
                    read = self.x
                    for output in step.output:
                        read = read + self.shares[output]
                    self.normed = module.norm(self._annealed(read))
                case "compute":
                    partial = module.compute(self.normed + self.signal if step.signal else self.normed)
                case "share":
                    share = step.weight * partial
                    self.shares[step.output] = self.shares[step.output] + share if step.output in self.shares else share
                case "keep":
                    self.x = self.x + step.weight * partial
                case "hold":
                    self.held = self._with_held(partial, step.weight)
                case "launch":
                    self._launch(partial, step.weight, module.after)
        if self.table.late < 1:
            self.timely = self.timely + (partial if module.after is None else module.after(partial))
        self.module += 1

    def end(self):
        """The stream after the last module, with every sum in it."""
        for step in self.table.steps[self.module]:
            self._land(step) if step.kind == "wait" else self._launch(None, step.weight)
        return self._annealed(self.x)

    def _annealed(self, x):
        late = self.table.late
        return x if late == 1 else late * x + (1 - late) * self.timely

    def _launch(self, partial, weight: float, after: Callable | None = None) -> None:
        partial, self.held = self._with_held(partial, weight), None
        self.sums.append((self.all_reduce(partial), after))

    def _with_held(self, partial, weight: float):
        if not weight:
            return self.held
        partial = partial if weight == 1 else weight * partial
        return partial if self.held is None else self.held + partial

    def _land(self, step: Operation) -> None:
        handle, after = self.sums.popleft()
        landed = handle.wait() if after is None else after(handle.wait())
        self.shares.pop(step.index, None)
        if step.signal:
            self.signal = self.signal_norm(landed)
        self.x = self.x + landed


def run(
    x,
    modules: Sequence[Module],
    table: Table,
    all_reduce: Callable,
    signal_norm: Callable | None = None,
    begin: Callable = ResidualStream,
):
    """Run all modules over the stream ``x``; return it. The arguments are those of :class:`ResidualStream`, or of what
    ``begin`` makes in its place."""
    stream = begin(x, table, all_reduce, signal_norm)
    for module, _ in zip(modules, table, strict=True):
        stream.run(module)
    return stream.end()
