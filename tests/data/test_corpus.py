import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_text import make_corpus, prose

from ladder import records
from ladder.data import documents, python_docs
from ladder.data.documents import SPLITS, split_of
from ladder.files import sha256
from ladder.reading import read_json


def texts(corpus, split):
    return [document["text"] for document in documents.documents(corpus, split)]


def test_documents_never_straddle_and_duplicates_are_dropped(corpus):
    splits = {split: texts(corpus, split) for split in SPLITS}
    every = [text for found in splits.values() for text in found]
    assert len(every) == len(set(every)) == 120
    assert set(every) == {prose(n, 70 + n) for n in range(120)}
    assert 12 <= len(splits["test"]) <= 36


def test_the_manifest_counts_and_digests_what_is_there(corpus):
    manifest = read_json(corpus / "manifest.json")
    for split in SPLITS:
        found = texts(corpus, split)
        assert manifest["documents"][split] == len(found)
        assert manifest["characters"][split] == sum(map(len, found))
        assert manifest["sha256"][f"{split}.jsonl"] == sha256(corpus / f"{split}.jsonl")
    rows = {row["metric"]: row["value"] for row in records.read(corpus.parent / "corpus.json")["rows"]}
    assert rows["train_documents"] == manifest["documents"]["train"]


def test_order_is_the_source_s_and_the_same_source_gives_the_same_files(corpus, text_file, tmp_path):
    again = make_corpus(text_file, tmp_path)
    assert read_json(again / "manifest.json") == read_json(corpus / "manifest.json")
    ids = [int(document["id"].split(":")[1]) for document in documents.documents(corpus, "train")]
    assert ids == sorted(ids)


@given(st.text(), st.floats(0, 0.5), st.floats(0, 0.49))
def test_a_text_has_one_split_and_a_larger_test_share_keeps_its_members(text, validation, test):
    split = split_of(text, validation, test)
    assert split in SPLITS
    if split == "test":
        assert split_of(text, validation, test + 0.01) == "test"
    assert split_of(text, 0, 0) == "train"


def test_text_markdown_and_parquet_are_read_from_directories(ladder, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for n in range(20):
        (folder / f"{n:02d}.txt").write_text(prose(n, 30))
        (folder / "deep" / f"{n:02d}.md").write_text(prose(100 + n, 30))
    rows = [{"body": prose(200 + n, 30), "id": f"r{n}"} for n in range(20)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    words = ["--kind", "files", "--validation", "0.2", "--test", "0.2"]
    out = ["--out", tmp_path / "a", "--record", tmp_path / "a.json"]
    assert ladder("corpus", *words, "--path", folder, *out) == (0, "")
    ids = sorted(d["id"] for split in SPLITS for d in documents.documents(tmp_path / "a", split))
    assert len(ids) == 40
    assert ids[0] == "00.txt"
    assert "deep/19.md" in ids
    code, _ = ladder("corpus", *words, "--path", tmp_path / "rows.parquet", "--text-field", "body", *out)
    assert code == 0
    ids = {d["id"] for split in SPLITS for d in documents.documents(tmp_path / "a", split)}
    assert ids == {f"rows.parquet:r{n}" for n in range(20)}


def test_hub_datasets_are_streamed(ladder, tmp_path):
    """A local folder with a data set's layout goes the way of a hub data set."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": prose(n, 30)}) + "\n" for n in range(50)))
    words = ["--kind", "huggingface", "--name", folder, "--limit", 40, "--validation", "0.2", "--test", "0.2"]
    code, _ = ladder("corpus", *words, "--out", tmp_path / "c", "--record", tmp_path / "c.json")
    assert code == 0
    assert sum(read_json(tmp_path / "c" / "manifest.json")["documents"].values()) == 40


def test_an_unreachable_hub_is_one_sentence(ladder, tmp_path):
    words = ["--kind", "huggingface", "--name", "nobody/nothing", "--out", tmp_path / "c", "--record", tmp_path / "r"]
    code, said = ladder("corpus", *words)
    assert code == 1
    assert "nobody/nothing: cannot stream this dataset" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "c" / "train.jsonl").exists()


def bad(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("none.txt", None, [], "none.txt: no such file"),
        ("empty.txt", b"", [], "empty.txt: the file is empty"),
        ("latin.txt", b"caf\xe9", [], "latin.txt:1: not UTF-8"),
        ("table.xls", b"x", [], "table.xls: cannot read '.xls' files"),
        ("broken.jsonl", b'{"text": "a"}\n{"text"\n', [], "broken.jsonl:2: not valid JSON"),
        ("other.jsonl", b'{"body": "a"}\n', [], "other.jsonl:1: no text in column 'text' (it has 'body')"),
        ("list.jsonl", b"[1]\n", [], "list.jsonl:1: holds a list"),
        ("torn.parquet", b"PAR1", [], "torn.parquet: not a parquet file"),
        ("one.txt", b"a word", [], "none of its 1 documents fell into"),
        ("one.txt", b"a word", ["--test", "1.5"], "--test 1.5 is not a share"),
        ("one.txt", b"a word", ["--test", "0.5", "--validation", "0.5"], "leave nothing to train on"),
        ("one.txt", b"a word", ["--limit", "0"], "--limit 0"),
    ],
)
def test_bad_input_is_one_sentence(ladder, tmp_path, name, content, options, message):
    path = tmp_path / name if content is None else bad(tmp_path, name, content)
    words = ["--kind", "files", "--path", path, *options, "--out", tmp_path / "c", "--record", tmp_path / "r.json"]
    code, said = ladder("corpus", *words)
    assert code == 1
    assert message in said
    assert said.count("\n") == 1
    assert not list((tmp_path / "c").glob("*"))
    assert not (tmp_path / "r.json").exists()


def test_a_changed_or_missing_split_is_refused(corpus, ladder, tmp_path, tokenizer):
    import shutil

    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    words = ["tokens", "--corpus", copy, "--tokenizer", tokenizer, "--out", tmp_path / "t", "--record", tmp_path / "r"]
    with (copy / "train.jsonl").open("a") as file:
        file.write('{"id": "x", "text": "more"}\n')
    code, said = ladder(*words)
    assert (code, "train.jsonl: truncated or changed" in said) == (1, True)
    (copy / "train.jsonl").unlink()
    code, said = ladder(*words)
    assert (code, "train.jsonl: no such file" in said) == (1, True)
    code, said = ladder("tokenizer", "--corpus", tmp_path / "none", "--vocab", 300, *words[5:])
    assert (code, "manifest.json: no such file" in said) == (1, True)


def test_python_docs_are_english_prose_without_imports(monkeypatch, tmp_path):
    """Sources are parsed: a module that would act on import is read all the same."""
    source = tmp_path / "acting.py"
    source.write_text(
        '"""Says boo."""\nraise SystemExit\nclass A:\n    """An A."""\n    def f(self):\n        """Do f."""\n'
    )
    assert python_docs.module_prose(source, source.relative_to(tmp_path)) == (
        "# acting\n\nSays boo.\n\n# acting.A\n\nAn A.\n\n# acting.A.f\n\nDo f."
    )
    source.write_text("def f(:\n")
    assert python_docs.module_prose(source, source.relative_to(tmp_path)) == ""


def test_python_docs_are_a_few_megabytes_in_a_stable_order():
    found = list(python_docs.documents())
    ids = [document["id"] for document in found]
    assert len(found) > 300
    assert len(ids) == len(set(ids))
    assert 1_000_000 < sum(len(document["text"]) for document in found) < 10_000_000
    by_id = {document["id"]: document["text"] for document in found}
    assert by_id["topic/while"].startswith('# The "while" statement')
    assert "# argparse.ArgumentParser\n\nObject for parsing command line strings" in by_id["module/argparse.py"]
    assert not any("/test/" in name or "idlelib" in name for name in ids)
