"""Chat data as people have it: read as it is meant, or refused by file and line; nothing is dropped in silence."""

import gzip
import json

import pytest
from transformers import AutoTokenizer

from ladder.data import chat
from ladder.data.chat import IGNORED, encode
from ladder.data.conversations import read_messages
from ladder.data.sources import local_files, local_rows
from ladder.errors import UserError
from ladder.reading import read_jsonl

ASKED, SAID = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good morning."}
TALK = [ASKED, SAID]
UNLEARNT = {"role": "assistant", "content": "", "weight": 0}
PARTS = [{"type": "text", "text": "Good "}, {"type": "text", "text": "morning."}]
CALL = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": TALK}, TALK),
        ({"conversations": TALK}, TALK),
        ({"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good morning."}]}, TALK),
        ({"conversation": TALK, "id": 7}, TALK),
        ({"instruction": "Hello", "input": "", "output": "Good morning."}, TALK),
        ({"instruction": "Hello", "context": "", "response": "Good morning.", "category": "qa"}, TALK),
        ({"prompt": "Hello", "completion": "Good morning."}, TALK),
        ({"instruction": "Hel", "input": "lo", "output": "Good morning."}, [ASKED | {"content": "Hel\n\nlo"}, SAID]),
        ({"messages": [ASKED, SAID | {"content": PARTS}]}, TALK),
        ({"messages": [ASKED, SAID | {"weight": 1, "name": "x"}]}, TALK),
        ({"messages": [ASKED, UNLEARNT, *TALK]}, [ASKED, UNLEARNT, *TALK]),
        ({"messages": [ASKED, SAID | {"train": False}, *TALK]}, [ASKED, SAID | {"weight": 0}, *TALK]),
        ({"system": "Be brief.", "messages": TALK, "tools": []}, [{"role": "system", "content": "Be brief."}, *TALK]),
        ({"messages": [ASKED, *TALK]}, [ASKED, *TALK]),
        ({"messages": [ASKED | {"content": "half \ud83d"}, SAID]}, [ASKED | {"content": "half \ufffd"}, SAID]),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_forms_that_are_read(row, messages):
    assert read_messages("x:1", row) == messages


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [ASKED, SAID | {"content": "", "tool_calls": CALL}, *TALK]}, "'tool_calls'"),
        ({"messages": [ASKED, SAID | {"content": None, "tool_calls": CALL}, *TALK]}, "'tool_calls'"),
        ({"messages": TALK, "tools": [{"name": "f"}]}, "'tools'"),
        ({"messages": [ASKED, {"role": "tool", "content": "3"}, SAID]}, "unknown role 'tool'"),
        ({"messages": [ASKED, SAID | {"content": None}]}, "without a speaker and a text"),
        ({"messages": [ASKED, SAID | {"content": ""}, *TALK]}, "an empty answer"),
        ({"messages": [ASKED, SAID | {"weight": 0}]}, "no words of the assistant"),
        ({"messages": [ASKED, SAID | {"weight": 0.5}]}, "neither 0 nor 1"),
        ({"messages": [ASKED, SAID | {"role": ["assistant"]}]}, "unknown role"),
        ({"messages": [ASKED, SAID | {"content": [{"type": "image_url", "image_url": "x"}]}]}, "no text"),
        ({"messages": {}}, "no messages"),
        ({"messages": [3]}, "without a speaker"),
        ({"instruction": "x"}, "no messages"),
        ({"instruction": "x", "output": "y", "history": [["a", "b"]]}, "'history'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_would_be_lost_is_refused(row, words):
    with pytest.raises(UserError, match="x:1: ") as error:
        read_messages("x:1", row)
    assert words in str(error.value)


LINE = json.dumps({"messages": TALK}) + "\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LINE.encode("utf-8-sig"), None),
        (LINE.replace("\n", "\r\n").encode(), None),
        ((LINE + "\n  \n").encode(), None),
        ((LINE + LINE[:40]).encode(), ":2: not valid JSON"),
        (LINE.encode() + LINE.replace("Hello", "café").encode("latin-1"), ":2: not UTF-8"),
        (LINE.encode("utf-16"), ":1: not UTF-8 text (UTF-16"),
    ],
)
def test_files_of_rows(tmp_path, content, words):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    if words is None:
        assert [row for _, row in local_rows(path)] == [{"messages": TALK}]
    else:
        with pytest.raises(UserError) as error:
            list(local_rows(path))
        assert str(error.value).startswith(f"{path}{words}")


def test_zipped_files_are_read_and_others_named(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(LINE)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((LINE * 2).encode()))
    (tmp_path / "c.csv").write_text("a\n")
    files = [path for path, _ in local_files([tmp_path])]
    assert [path.name for path in files] == ["a.jsonl", "b.jsonl.gz"]
    assert sum(1 for path in files for _ in local_rows(path)) == 3
    assert "c.csv" in capsys.readouterr().err


def test_damaged_parquet_is_one_sentence(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"messages": [TALK] * 200}), path, write_page_checksum=True)
    assert sum(1 for _ in local_rows(path)) == 200
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:30] + bytes(byte ^ 0xFF for byte in whole[30:90]) + whole[90:], b"PAR1"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.parquet: "):
            list(local_rows(path))


@pytest.fixture(scope="module")
def hf(tokenizer):
    return AutoTokenizer.from_pretrained(tokenizer)


def test_a_message_of_weight_zero_is_read_and_not_learnt(hf):
    wrong = SAID | {"content": "Go away.", "weight": 0}
    ids, labels = encode([ASKED, wrong, *TALK], hf)
    assert "Go away." in hf.decode(ids)
    assert hf.decode([label for label in labels if label != IGNORED]) == "Good morning.<|im_end|>"


def test_a_template_that_refuses_or_does_not_end(hf, monkeypatch):
    monkeypatch.setattr(chat, "RENDERING", 0.3)
    mark = "{% generation %}{% endgeneration %}"
    loops = "".join(f"{{% for i{n} in range(90000) %}}" for n in range(3)) + "{% endfor %}" * 3
    for template, words in (
        (mark + loops, "takes over 0.3 s"),
        (mark + "{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        (mark + "{% for %}", "does not take"),
        (mark + "{{ messages[0]['content'] + 1 }}", "does not take"),
    ):
        with pytest.raises(UserError) as error:
            encode(TALK, hf, template)
        assert words in str(error.value)


def test_adapt_names_the_row_that_a_template_refuses(hf, tmp_path):
    from ladder.train.adapt import packed_chat

    path = tmp_path / "train.jsonl"
    path.write_text(LINE + json.dumps({"messages": [ASKED, *TALK]}) + "\n")
    alternate = (
        "{% for m in messages %}{% if loop.index0 % 2 != (m['role'] == 'assistant') | int %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    )
    with pytest.raises(UserError, match=r"train\.jsonl:2: .*must alternate"):
        packed_chat(path, hf, alternate, 64, len(hf))


def test_a_surrogate_is_cleaned_alike(ladder, tmp_path):
    from toy_text import prose

    rows = [{"text": f"half \ud83d {prose(n, 60)}"} for n in range(60)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--kind", "files", "--path", tmp_path / "x.jsonl", "--validation", "0.3", "--test", "0.3"]
    assert ladder("corpus", *words, "--out", tmp_path / "c", "--record", tmp_path / "r.json")[0] == 0
    assert all("half \ufffd " in row["text"] for row in read_jsonl(tmp_path / "c" / "train.jsonl"))
