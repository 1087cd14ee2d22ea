"""How far a run is: a bar on a terminal, a line now and then in a log."""

import sys
import time

from tqdm import tqdm

SECONDS = 10  # between lines in a log


class Progress:
    def __init__(self, done: int, steps: int, show: bool):
        self.steps, self.show, self._first = steps, show, done
        self._began = self._said = time.monotonic()
        terminal = show and sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True) if terminal else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, point: dict) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {point['loss']:.3f}, {point['tokens_per_second']:,.0f} tokens/s", False)
            self._bar.update()
        elif time.monotonic() - self._said >= SECONDS:
            left = (self.steps - point["step"]) * (time.monotonic() - self._began) / (point["step"] - self._first)
            self.say(
                f"step {point['step']}/{self.steps}: loss {point['loss']:.4f}, "
                f"{point['tokens_per_second']:,.0f} tokens/s, {left:,.0f} s left"
            )

    def say(self, sentence: str) -> None:
        if self._bar is not None:
            self._bar.write(sentence, sys.stderr)
        elif self.show:
            self._said = time.monotonic()
            print(sentence, file=sys.stderr, flush=True)
