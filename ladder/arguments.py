"""Command lines: numbers are finite and in ASCII digits, and what is wrong is one sentence."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from ladder import reading
from ladder.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose ``type=int`` and ``type=float`` are :func:`ladder.reading.whole` and ``number``.

    int() and float() also take other scripts' digits, infinity, NaN, and numbers beyond any use.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register("type", int, _type(reading.whole))
        self.register("type", float, _type(reading.number))

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` lists the options")


def _type(parse: Callable) -> Callable:
    def convert(text: str):
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert
