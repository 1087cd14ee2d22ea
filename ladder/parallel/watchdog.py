"""A rank that is dead or stuck is named, and the others stop: no hang, and no half hour's timeout of a collective.

Every rank writes a heartbeat into the group's store from a thread of its own, and watches the others'.
"""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

from ladder.errors import UserError, sentence, tell

INTERVAL, PATIENCE, STUCK = 1.0, 20.0, 45.0  # seconds
FAILED = "failed"  # the key of the sentence that ends everything


class Watchdog:
    """This rank's heartbeat and its eye on the others, through an own connection to the store.

    names: what each rank is called ("rank 1 on host"); keeper: who serves the store, in words.
    interval: seconds between beats. patience: seconds without a beat after which a rank counts as dead. stuck: seconds
    after which a rank that lives, but has not come to a collective in which others wait, counts as stuck.

    at_end: what to call before this ends the process; it has three intervals for it.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        names: list[str],
        keeper: str,
        interval: float = INTERVAL,
        patience: float = PATIENCE,
        stuck: float = STUCK,
    ):
        self.store, self.rank, self.names, self.keeper = store, rank, names, keeper
        self.interval, self.patience, self.stuck = interval, patience, stuck
        self.progress = lambda: 0  # collectives that this rank has launched
        self.at_end: Callable[[], object] = lambda: None
        self._ending = threading.Lock()  # both threads may come to the end; the first one goes through with it
        self._left = threading.Event()
        self._failing = False  # by its own doing: the main thread is on its way out
        self._values = ["0 0"] * len(names)
        self._forgive()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._watch)]
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """This rank is done: it stops watching, and the others no longer expect its beats."""
        self._left.set()
        for thread in self._threads:
            thread.join()

    def failed(self, error: BaseException) -> UserError:
        """This rank failed: what to raise. Says so to the others, unless it failed because another rank did."""
        sentence = describe(error, self.names[self.rank])

        def told_to_end(*_):  # by what started the ranks, before the culprit is known
            tell(sentence)
            os._exit(1)

        signal.signal(signal.SIGTERM, told_to_end)
        # Where a collective or the store broke, the cause is likely another rank.
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower()):
            time.sleep(self.patience + 5 * self.interval)  # this thread: the watching one ends the process, if it can
        self._failing = True
        said = self._announce(sentence)
        self._forgive()
        # When the interpreter ends, no thread may be in torch's C++: that would abort.
        self._threads[0].join(3 * self.interval)
        if self.keeper == self.names[self.rank]:
            time.sleep(5 * self.interval)  # with this process goes the store, where the others are to read it
        return UserError(said)

    def _announce(self, sentence: str) -> str:
        """Leave ``sentence`` for all; the first one counts."""
        try:
            return self.store.compare_set(FAILED, "", sentence).decode()
        except RuntimeError:
            return sentence

    def _forgive(self) -> None:
        now = time.monotonic()
        self._answered, self._changed, self._moved = now, [now] * len(self.names), now

    def _beat(self) -> None:
        """Talk to the store; its answers may take for ever."""
        keys = [f"beat/{rank}" for rank in range(len(self.names))]
        beats = 0
        try:
            while not self._left.wait(self.interval if beats else 0):
                if self._failing:
                    return
                beats += 1
                self.store.set(keys[self.rank], f"{beats} {self.progress()}")
                values = [value.decode() for value in self.store.multi_get(keys)]
                now = time.monotonic()
                for rank, (old, new) in enumerate(zip(self._values, values, strict=True)):
                    if old != new:
                        self._changed[rank] = now
                    if old.partition(" ")[2] != new.partition(" ")[2]:
                        self._moved = now
                self._values, self._answered = values, now
                if self.store.check([FAILED]) and not self._failing:
                    self._end(self.store.get(FAILED).decode())
            self.store.set(keys[self.rank], "left")
        except RuntimeError:  # torch's errors of stores
            if not (self._left.is_set() or self._failing):
                self._end(f"{self.keeper} is gone, and with it the store through which the ranks met")

    def _watch(self) -> None:
        """Look at the clock only, so that nothing holds this up."""
        before = time.monotonic()
        while not self._left.wait(self.interval):
            now = time.monotonic()
            if now - before > 3 * self.interval:  # this process itself was stopped and goes on
                self._forgive()
            before = now
            if self._failing:
                if now - self._answered > self.patience:  # the main thread hangs on its way out
                    self._end(None)
            elif sentence := self._verdict(now):
                self._end(sentence)

    def _verdict(self, now: float) -> str | None:
        if now - self._answered > self.patience:
            return f"{self.keeper} has not answered for {self.patience:g} s: stopped, or cut off"
        here = [rank for rank in range(len(self.names)) if self._values[rank] != "left"]
        if late := [rank for rank in here if now - self._changed[rank] > self.patience]:
            names = " and ".join(self.names[rank] for rank in late)
            return f"no sign of life from {names} for {self.patience:g} s: killed, stopped, or cut off"
        launched = {rank: int(self._values[rank].partition(" ")[2]) for rank in here}
        if now - self._moved > self.stuck and len(set(launched.values())) > 1:
            behind = min(launched.values())
            names = " and ".join(self.names[rank] for rank in here if launched[rank] == behind)
            return f"stuck: {names}, for {self.stuck:g} s not come to a collective in which the other ranks wait"
        return None

    def _end(self, sentence: str | None) -> NoReturn:
        with self._ending:
            calls = [partial(self._announce, sentence), partial(tell, sentence)] if sentence else []
            for call in (*calls, self.at_end):  # each may hang
                thread = threading.Thread(target=call, daemon=True)
                thread.start()
                thread.join(3 * self.interval)
            os._exit(1)


def describe(error: BaseException, name: str) -> str:
    """One sentence: who failed, with what, where."""
    if isinstance(error, UserError):
        return str(error)
    if told := sentence(error):
        return f"{name}: {told}"
    lines = str(error).strip().splitlines() or [""]
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
    return f"{name} failed: {type(error).__name__}: {lines[0][:300]}{place}"
