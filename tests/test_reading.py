"""The boundary: what a file from outside can be, and the sentence about it."""

import argparse
import gzip
import json

import pytest

from ladder import reading
from ladder.arguments import Parser
from ladder.errors import UserError
from ladder.reading import clean, jsonl_rows, read_csv, read_json, read_yaml, take


def put(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


NESTED = '{"a":' * 200 + "1" + "}" * 200


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1, "a": 2}', "'a' stands there twice"),
        ('{"a": NaN}', "NaN is not a finite"),
        ('{"a": -Infinity}', "-Infinity is not a finite"),
        ('{"a": 1e999}', "1e999 is not a finite"),
        ('{"a": ' + "9" * 400 + ".5}", "not a finite"),
        ('{"a": ' + "9" * 5000 + "}", "5,000 digits"),
        (NESTED, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "holds a list"),
        ("null", "holds nothing"),
        ('{"a": 1', "not valid JSON"),
        ("", "not valid JSON"),
        ('{"é": 1}'.encode("latin-1"), ":1: not UTF-8"),
        ('{"a": "é"}'.encode("utf-16"), "UTF-16"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_that_is_refused(tmp_path, content, words):
    path = put(tmp_path, "x.json", content)
    with pytest.raises(UserError) as error:
        read_json(path)
    assert str(error.value).startswith(str(path))
    assert words in str(error.value)
    assert len(str(error.value)) < 400


def test_what_is_no_file(tmp_path):
    for path, words in ((tmp_path, "directory"), (tmp_path / "no", "no such file"), ("a\0b", "not the name of a file")):
        with pytest.raises(UserError, match=words):
            read_json(path)
    with pytest.raises(UserError, match="more than the 3"):
        read_json(put(tmp_path, "x.json", "{}   "), largest=3)


def test_a_byte_order_mark_is_no_content(tmp_path):
    assert read_json(put(tmp_path, "x.json", '{"a": 1}'.encode("utf-8-sig"))) == {"a": 1}
    assert [row for _, row in jsonl_rows(put(tmp_path, "x.jsonl", '\ufeff{"a": 1}\r\n\n{"a": 2}'))] == [
        {"a": 1},
        {"a": 2},
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', ":2: not UTF-8"),
        (b'{"a": 1}\n\n{"a": 1', ":3: not valid JSON"),
        (b'{"a": 1}\n[2]\n', ":2: holds a list"),
        (b'{"a": 1}\n{"a": ' + b"[" * 5000, ":2: nested too deeply"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_jsonl_names_the_line(tmp_path, content, words, zipped):
    path = put(tmp_path, "x.jsonl.gz" if zipped else "x.jsonl", gzip.compress(content) if zipped else content)
    with pytest.raises(UserError) as error:
        list(jsonl_rows(path))
    assert str(error.value).startswith(str(path) + words)


def test_damaged_gzip_and_endless_lines(tmp_path, monkeypatch):
    whole = gzip.compress(b'{"a": 1}\n' * 500)
    for content in (whole[:-12], whole[:20] + b"\xff" * 20 + whole[40:], b"{}"):
        with pytest.raises(UserError, match=r"x\.jsonl\.gz"):
            list(jsonl_rows(put(tmp_path, "x.jsonl.gz", content)))
    monkeypatch.setattr(reading, "LONGEST", 1000)
    with pytest.raises(UserError, match=":1: the line has more than"):
        list(jsonl_rows(put(tmp_path, "y.jsonl.gz", gzip.compress(b" " * 10_000))))


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3: the key 'a' stands there twice"),
        ("a:\n  b: {c: 1, c: 2}\n", ":2: the key 'c'"),
        (BOMB, "aliases stand for"),
        (MERGED, "aliases stand for"),
        ("a: &a [*a]\n", "holds itself"),
        ("a: .nan\n", "a: nan is not a finite"),
        ("a: [1, {b: -.inf}]\n", "a[1].b: -inf is not a finite"),
        ("1: 2\n", "the key 1 is not text"),
        ("a: 2020-01-01\n", "use quotes"),
        ("a: !!python/object:os.system x\n", "not valid YAML"),
        ("- a\n", "holds a list"),
        ("", "holds nothing"),
        ("a: [" * 3000, "nested too deeply"),
        ("a: b".encode("utf-16"), "UTF-16"),
        ("a: é".encode("latin-1"), ":1: not UTF-8"),
        ("a: \x00", "not valid YAML"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_yaml_that_is_refused(tmp_path, content, words):
    path = put(tmp_path, "x.yaml", content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert str(error.value).startswith(str(path))
    assert words in str(error.value)


def test_yaml_that_is_read(tmp_path):
    text = "\ufeffa: &x {b: 1}\nc: *x\nd: {<<: *x, e: [1.5, true, null]}\n"
    assert read_yaml(put(tmp_path, "x.yaml", text)) == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": [1.5, True, None]},
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b,a\n1,2,3\n", "the column 'a' stands there twice"),
        ("b\n1\n", "no column 'a'"),
        ("", "no column 'a'"),
        ("a,b\n1,2\n1\n", ":3: has 1 cells"),
        ("a,b\n1,2,3\n", ":2: has 3 cells"),
        ('a,b\n1,"2\n', "not valid CSV"),
    ],
)
def test_csv_that_is_refused(tmp_path, content, words):
    with pytest.raises(UserError) as error:
        read_csv(put(tmp_path, "x.csv", content), ("a",))
    assert words in str(error.value)


def test_csv_that_is_read(tmp_path):
    rows = read_csv(put(tmp_path, "x.csv", '\ufeffa, b\r\n1,"x, ""y"""\r\n\r\n2,\r\n'), ("a", "b"))
    assert [row for _, row in rows] == [{"a": "1", "b": 'x, "y"'}, {"a": "2", "b": ""}]


@pytest.mark.parametrize(
    ("value", "kind", "fine"),
    [
        (3, int, True),
        (3.0, int, False),
        (True, int, False),
        ("3", int, False),
        (3, float, True),
        (10**400, float, False),
        (float("nan"), float, False),
        (None, int, False),
        ([], list, True),
        (1, bool, False),
    ],
)
def test_take_knows_types(value, kind, fine):
    if fine:
        assert take({"k": value}, "k", kind, "x.json") == value
    else:
        with pytest.raises(UserError, match=r"x\.json: .*k"):
            take({"k": value}, "k", kind, "x.json")


def test_take_knows_bounds():
    assert take({}, "k", int, "x", default=5) == 5
    for value, bounds in ((0, {"least": 1}), (9, {"most": 8}), (0, {"least": 1, "most": 8})):
        with pytest.raises(UserError, match="must be"):
            take({"k": value}, "k", int, "x", **bounds)


@pytest.mark.parametrize("word", ["inf", "nan", "-inf", "1e999", "٣", "1_0", "", "0x1", "five"])
def test_numbers_of_a_command_line(word):
    parser = Parser(prog="ladder test")
    parser.add_argument_group("training").add_argument("--lr", type=float, nargs="+")
    parser.add_argument("--steps", type=int)
    assert parser.parse_args(["--lr", "3e-4", ".5", "--steps", "12"]) == argparse.Namespace(lr=[3e-4, 0.5], steps=12)
    for option in ("--lr", "--steps"):
        with pytest.raises(UserError, match=option) as error:
            parser.parse_args([f"{option}={word}"])
        assert "\n" not in str(error.value)
    for number in ("9" * 19, "9" * 5000, "1.5"):
        with pytest.raises(UserError, match="--steps"):
            parser.parse_args(["--steps", number])


def test_surrogates_become_the_replacement_character():
    assert reading.parse_json(r'{"\ud83d": "\ud83d\ude00 \udc00"}', "x") == {"\ufffd": "\U0001f600 \ufffd"}
    assert clean(json.loads(r'"\ud83d and \ud83d\ude00"')) == "\ufffd and \U0001f600"
