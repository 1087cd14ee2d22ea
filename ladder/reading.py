"""One way to read: files from outside are checked for size, encoding, form, keys and numbers before they are used.

Each function raises UserError naming file, line or key, value and cure; none lets an error of a parser through.
"""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from ladder.errors import UserError

LARGEST = 2 << 30  # bytes of a file that is read as a whole
LONGEST = 256 << 20  # bytes of a line; a few bytes of gzip can hold more than any memory
DEEPEST = 100  # levels of nesting
NODES = 1_000_000  # values in a YAML file once its aliases are followed
CURE = "correct it, or make it again"
DIGITS = 300  # of a whole number at most: a longer one is beyond a float
OVERFLOW = re.compile(rf"[0-9][eE]\+?[0-9]{{3}}|[0-9]{{{DIGITS}}}")  # may be beyond a float: look at each number
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # int() takes all scripts' digits, and any number of them
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """The UTF-8 text of a file; a byte-order mark is left out."""
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a directory, not a file")
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is a device or a pipe, not a file")
        if path.stat().st_size > largest:
            raise UserError(
                f"{path}: has {path.stat().st_size:,} bytes, more than the {largest:,} that such a file may"
            )
        return decode(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UserError:
        raise
    except ValueError:  # a NUL in the name
        raise UserError(f"{str(path)!r}: not the name of a file") from None


def decode(data: bytes, path: str, line: int | None = None) -> str:
    """The text of a file, or of one ``line`` of it, without a byte-order mark."""
    try:
        return data.decode("utf-8" if line and line > 1 else "utf-8-sig")
    except UnicodeDecodeError as error:
        number = line or data.count(b"\n", 0, error.start) + 1
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        reason = "UTF-16" if utf16 else f"{error.reason} at byte {error.start}{' of the line' if line else ''}"
        raise UserError(f"{path}:{number}: not UTF-8 text ({reason}); save it as UTF-8") from None


def parse_json(text: str, where: str, kind: type | tuple[type, ...] = dict, cure: str = CURE):
    """The JSON value in ``text``, of type ``kind``. ``where`` names it in errors."""

    def pairs(items: list) -> dict:
        value = dict(items)
        if len(value) < len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f"{where}: the key {twice!r} stands there twice; {cure}")
        return value

    def number(word: str) -> float:
        if not math.isfinite(value := float(word)):
            raise UserError(f"{where}: {word[:40]} is not a finite number; {cure}")
        return value

    def whole(word: str) -> int:
        if len(word) > DIGITS:
            raise UserError(f"{where}: {word[:20]}... is a number of {len(word):,} digits; {cure}")
        return int(word)

    try:
        slow = {"parse_float": number, "parse_int": whole} if OVERFLOW.search(text) else {}
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=number, **slow)
        if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
            raise RecursionError
        if SURROGATE.search(text):
            value = json.loads(clean(json.dumps(value, ensure_ascii=False)))
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{where}: nested too deeply; {cure}") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise UserError(f"{where}: not valid JSON ({line}column {error.colno}: {error.msg}); {cure}") from None
    if not isinstance(value, kind):
        raise UserError(f"{where}: holds {kind_of(value)}, and {_names(kind)} is needed; {cure}")
    return value


def _depth(value) -> int:
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        within = (entry.values() if isinstance(entry, dict) else entry for entry in level)
        level, depth = [x for entries in within for x in entries if isinstance(x, dict | list)], depth + 1
    return depth


def read_json(path: str | Path, kind: type | tuple[type, ...] = dict, cure: str = CURE, largest: int = LARGEST):
    """The JSON value in a file, an object unless ``kind`` says otherwise."""
    return parse_json(read_text(path, largest), str(path), kind, cure)


def read_jsonl(path: str | Path) -> Iterator[dict]:
    """The objects of a JSONL file."""
    return (row for _, row in jsonl_rows(path))


def jsonl_rows(path: str | Path, kind: type | tuple[type, ...] = dict) -> Iterator[tuple[str, dict]]:
    """(``FILE:LINE``, value) of each line of a JSONL file, which may be gzipped. Empty lines are passed over."""
    path, number = Path(path), 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while line := file.readline(LONGEST + 1):
                number += 1
                where = f"{path}:{number}"
                if len(line) > LONGEST:
                    raise UserError(f"{where}: the line has more than {LONGEST:,} bytes; is it a JSONL file?")
                text = decode(line, str(path), number)
                if text.strip():
                    yield where, parse_json(text, where, kind, "correct the line or drop it")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def clean(text: str) -> str:
    """``text`` with U+FFFD for lone surrogates, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_yaml(path: str | Path, largest: int = 1 << 20) -> dict:
    """The mapping in a YAML file. Keys that stand twice, values that are not finite, aliases that unfold without end
    and keys that are not text are refused."""
    import yaml

    text = read_text(path, largest)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            _check_nodes(node, str(path), {})
        value = None if node is None else loader.construct_document(node)
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; {CURE}") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())[:300]})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds {kind_of(value)}, and keys with values are needed")
    check_values(value, str(path))
    return value


def _check_nodes(node, where: str, sizes: dict[int, int]) -> int:
    """The number of values in a YAML node, aliases followed. They are counted before any of them is made: a few lines
    of aliases can stand for more than any memory holds."""
    if (size := sizes.get(id(node))) is not None:
        if not size:
            raise UserError(f"{where}:{node.start_mark.line + 1}: holds itself; write the values out")
        return size
    sizes[id(node)] = 0  # not done yet
    size, line = 1, node.start_mark.line + 1
    seen = set()
    for key, _ in node.value if node.id == "mapping" else ():
        if (name := (key.tag, str(key.value))) in seen:
            raise UserError(f"{where}:{key.start_mark.line + 1}: the key {name[1][:80]!r} stands there twice; keep one")
        seen.add(name)
    for entry in node.value if node.id != "scalar" else ():
        size += sum(_check_nodes(part, where, sizes) for part in (entry if isinstance(entry, tuple) else (entry,)))
    if size > NODES:
        raise UserError(f"{where}:{line}: its aliases stand for over {NODES:,} values; write the values out")
    sizes[id(node)] = size
    return size


def check_values(value, where: str) -> None:
    """Refuse what JSON cannot say: values that are not finite, and keys that are not text."""

    def walk(value, key: str, depth: int) -> None:
        if depth > DEEPEST:
            raise UserError(f"{where}: {key[:80]}: nested too deeply; {CURE}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}: {key}: {value} is not a finite number; give one")
        if isinstance(value, dict):
            for name, entry in value.items():
                if not isinstance(name, str):
                    raise UserError(f"{where}: {key or 'top level'}: the key {name!r} is not text; put it into quotes")
                walk(entry, f"{key}.{name}".lstrip("."), depth + 1)
        elif isinstance(value, list):
            for number, entry in enumerate(value):
                walk(entry, f"{key}[{number}]", depth + 1)
        elif not isinstance(value, str | int | float | bool | None):
            raise UserError(f"{where}: {key}: {value!r} is {kind_of(value)}, which has no meaning here; use quotes")

    walk(value, "", 0)


def read_csv(path: str | Path, columns: tuple[str, ...] = ()) -> list[tuple[str, dict[str, str]]]:
    """(``FILE:LINE``, row) of a CSV whose first line names its columns, among them ``columns``."""
    text = read_text(path)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UserError(f"{path}: not valid CSV ({error})") from None
    head = [name.strip() for name in rows[0][1]] if rows else []
    if missing := [name for name in columns if name not in head]:
        raise UserError(f"{path}: no column {missing[0]!r}; its first line must have {', '.join(columns)}")
    if twice := next((name for name in head if head.count(name) > 1), None):
        raise UserError(f"{path}: the column {twice!r} stands there twice; keep one")
    for line, row in rows[1:]:
        if len(row) != len(head):
            raise UserError(f"{path}:{line}: has {len(row)} cells where the first line names {len(head)} columns")
    return [(f"{path}:{line}", dict(zip(head, row, strict=True))) for line, row in rows[1:]]


REQUIRED = object()


def take(mapping: dict, key: str, kind: type, where: str, default=REQUIRED, least=None, most=None):
    """``mapping[key]`` if it is a ``kind`` between ``least`` and ``most``; ``default`` where it is missing or null.

    kind: int (no bool, no 2.0), float (any finite number), str, bool, dict, list.
    """
    value = mapping.get(key)
    if value is None:
        if default is REQUIRED:
            raise UserError(f"{where}: the key {key!r} is missing")
        return default
    kinds = (int, float) if kind is float else (kind,)
    fits = isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))
    if not fits or (kind is float and not finite(value)):
        raise UserError(f"{where}: {key} is {_short(value)}, and {_names(kind)} is needed")
    if (least is not None and value < least) or (most is not None and value > most):
        bound = f"at least {least}" if most is None else f"at most {most}" if least is None else f"{least} to {most}"
        raise UserError(f"{where}: {key} is {_short(value)}; it must be {bound}")
    return value


def finite(value: int | float) -> bool:
    """Whether a number is finite, and not too large for a float."""
    return -1.7e308 < value < 1.7e308


def whole(text: str) -> int:
    """The whole number in a text: ASCII digits, at most 18. Raises ValueError."""
    if not WHOLE.fullmatch(text.strip()):
        raise ValueError(f"{text[:40]!r} is not a whole number of at most 18 digits 0 to 9")
    return int(text)


def number(text: str) -> float:
    """The finite number in a text, in ASCII digits. Raises ValueError."""
    if not NUMBER.fullmatch(text.strip()) or not finite(value := float(text)):
        raise ValueError(f"{text[:40]!r} is not a finite number")
    return value


def _short(value) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) < 80 else text[:77] + "..."


def kind_of(value) -> str:
    """``a number``, ``a list``, ... for a sentence."""
    if value is None:
        return "nothing"
    return _names(type(value))


def _names(kind: type | tuple[type, ...]) -> str:
    words = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a whole number"}
    words |= {float: "a number"}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(words.get(one, f"a {one.__name__}") for one in kinds)
