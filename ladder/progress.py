"""How far long work is: a bar on a terminal, a line now and then in a log, with the time left."""

import sys
import time

from tqdm import tqdm

SECONDS = 10  # between lines in a log


class Progress:
    """``done`` of ``total`` units, of which some may be done already; silent unless ``show``."""

    def __init__(self, total: int, unit: str, done: int = 0, show: bool = True):
        self.total, self.done, self.show, self._first = total, done, show, done
        self._began = self._said = time.monotonic()
        terminal = show and sys.stderr.isatty()
        options = {"unit": unit, "unit_scale": unit == "B", "dynamic_ncols": True}
        self._bar = tqdm(total=total, initial=done, **options) if terminal else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def rate(self) -> float:
        """Units per second."""
        return (self.done - self._first) / max(time.monotonic() - self._began, 1e-9)

    def advance(self, count: int, line: str, short: str = "") -> None:
        """``count`` units more are done; ``line`` says it in a log, ``short`` stands beside the bar."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(short, False)
            self._bar.update(count)
        elif time.monotonic() - self._said >= SECONDS:
            left = max(0, self.total - self.done) / self.rate if self.done > self._first else float("inf")
            self.say(f"{line}, {left:,.0f} s left")

    def say(self, sentence: str) -> None:
        if self._bar is not None:
            self._bar.write(sentence, sys.stderr)
        elif self.show:
            self._said = time.monotonic()
            print(sentence, file=sys.stderr, flush=True)
