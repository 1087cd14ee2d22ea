"""Numbers and lists in sentences."""

from collections.abc import Callable

from ladder.metrics import text


def times(value: float) -> str:
    return text("speedup", value)


def percent(fraction: float, digits: int = 0, signed: bool = False) -> str:
    return f"{100 * fraction:{'+' if signed else ''}.{digits}f} %".replace("-", "−")


def span(values, form) -> str:
    """'85 % to 90 %', or '90 %' where both ends read the same."""
    values = list(values)
    return " to ".join(dict.fromkeys(map(form, (min(values), max(values)))))


def listing(words) -> str:
    """['a', 'b', 'c'] -> 'a, b and c'."""
    words = list(words)
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def sentence(words: str) -> str:
    """With a capital at the beginning and a full stop at the end."""
    words = words.strip()
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "?", "!")) else ".")


def finding(make: str | Callable, tables: dict, otherwise: str) -> str:
    """What ``make`` says of the tables; ``otherwise`` where this run lacks the numbers that the sentence needs."""
    if isinstance(make, str):
        return make
    try:
        return make(tables)
    except (LookupError, ValueError, AttributeError, TypeError):
        return otherwise
