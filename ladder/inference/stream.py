"""The residual stream of the decode path: sums that have landed are added by the module that reads them.

The executor (ladder.wiring.run) sees objects that it may add and multiply. Here an addition is put off until the next
module, so that additions, norm and module are one piece of compiled code between a wait and a launch.
"""

import torch


class Stream:
    """``value`` [B, S, D] plus, where something was added, ``pending`` [B, S, D]."""

    def __init__(self, value: torch.Tensor, pending: torch.Tensor | None = None):
        self.value, self.pending = value, pending

    def __add__(self, other: torch.Tensor) -> "Stream":
        return Stream(self.settled(), other)

    def settled(self) -> torch.Tensor:
        """The sum [B, S, D]."""
        if self.pending is not None:
            self.value, self.pending = self.value + self.pending, None
        return self.value


class Normed:
    """The stream after a module's norm, computed together with the first module that reads it."""

    def __init__(self, stream: Stream, enter):
        self.stream, self.enter, self.value = stream, enter, None

    def __add__(self, signal: torch.Tensor) -> torch.Tensor:
        return self.computed() + signal

    def computed(self) -> torch.Tensor:
        """[B, S, D]"""
        if self.value is None:
            self.set(*self.enter(self.stream.value, self.stream.pending))
        return self.value

    def set(self, settled: torch.Tensor, normed: torch.Tensor) -> None:
        self.stream.value, self.stream.pending, self.value = settled, None, normed
