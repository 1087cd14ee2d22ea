import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladder import records
from ladder.data import tokens as packing
from ladder.data.documents import documents, manifest
from ladder.data.shards import TokenShards
from ladder.data.tokenizer import load
from ladder.errors import UserError
from ladder.files import atomic_set, json_text, sha256
from ladder.reading import read_json


@pytest.fixture(scope="session")
def tokens(corpus, tokenizer):
    """The corpus packed into shards of at most 1,000 tokens."""
    out = corpus.parent / "tokens"
    bpe, eos = load(tokenizer)
    splits = ["train", "validation", "test"]
    packing.pack(corpus, splits, tokenizer, bpe, eos, out, manifest(corpus), shard=1000)
    return out


def test_shards_hold_every_document_followed_by_eos(corpus, tokenizer, tokens):
    bpe, eos = load(tokenizer)
    for split in ("train", "validation", "test"):
        shards = TokenShards(tokens, split)
        stream = shards.read(0, shards.tokens)
        ends = np.flatnonzero(stream == eos)
        found = [bpe.decode(part.tolist()) for part in np.split(stream, ends + 1)[:-1] for part in [part[:-1]]]
        assert found == [document["text"] for document in documents(corpus, split)]
        assert ends[-1] == shards.tokens - 1


def test_the_manifest_describes_the_shards(corpus, tokenizer, tokens):
    found = read_json(tokens / "manifest.json")
    assert (found["dtype"], found["eos"]) == ("uint16", 0)
    assert found["vocab_size"] == load(tokenizer)[0].get_vocab_size()
    assert found["corpus"] == sha256(corpus / "manifest.json")
    assert found["tokenizer"] == sha256(tokenizer / "tokenizer.json")
    for split, totals in found["splits"].items():
        mine = [shard for shard in found["shards"] if shard["split"] == split]
        assert {key: sum(shard[key] for shard in mine) for key in totals} == totals
        assert all(shard["tokens"] == 1000 for shard in mine[:-1])
        assert totals["documents"] == manifest(corpus)["documents"][split]
    for shard in found["shards"]:
        assert (tokens / shard["file"]).stat().st_size == 2 * shard["tokens"]


@settings(max_examples=60)
@given(data=st.data())
def test_reads_cross_the_borders_of_shards(tokens, data):
    shards = TokenShards(tokens, "train", verify=False)
    files = sorted(tokens.glob("train-*.bin"))
    flat = np.concatenate([np.fromfile(path, "<u2") for path in files]).astype(np.int64)
    assert len(files) > 3
    start = data.draw(st.integers(0, shards.tokens))
    length = data.draw(st.integers(0, shards.tokens - start))
    read = shards.read(start, length)
    assert read.dtype == np.int64
    assert np.array_equal(read, flat[start : start + length])


def test_reads_beyond_the_end_are_refused(tokens):
    shards = TokenShards(tokens, "test")
    for start, length in ((shards.tokens, 1), (-1, 1), (0, shards.tokens + 1)):
        with pytest.raises(IndexError):
            shards.read(start, length)


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 25), min_size=1, max_size=12),
    shard=st.integers(1, 20),
    wide=st.booleans(),
)
def test_any_documents_in_any_shards_read_back(tmp_path_factory, lengths, shard, wide):
    """Shards that documents fill exactly, span, or outgrow; both widths."""
    out = tmp_path_factory.mktemp("shards")
    dtype = np.dtype("<u4" if wide else "<u2")
    rows = [[70000 if wide else 7] * length + [0] for length in lengths]
    about = {"dtype": dtype.name, "vocab_size": 70001, "eos": 0, "splits": {"train": {}}, "made_by": "ladder tokens"}
    with atomic_set(out / "manifest.json") as parts:
        made = list(packing.write_shards(parts, "train", iter(rows), dtype, 0, shard))
        content = about | {"shards": [m | {"split": "train"} for m in made]}
        parts["manifest.json"].write_text(json_text(content), encoding="utf-8")
    assert sum(m["documents"] for m in made) == len(rows)
    shards = TokenShards(out, "train")
    assert shards.read(0, shards.tokens).tolist() == [token for row in rows for token in row]


def copied(tokens, tmp_path):
    import shutil

    return shutil.copytree(tokens, tmp_path / "tokens")


def test_a_damaged_shard_is_refused(tokens, tmp_path):
    folder = copied(tokens, tmp_path)
    path = folder / "train-00001.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    for verify in (True, False):
        with pytest.raises(UserError, match=r"train-00001.bin: truncated or changed .* run `ladder tokens"):
            TokenShards(folder, "train", verify)
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(UserError, match=r"train-00001.bin: truncated or changed"):
        TokenShards(folder, "train")
    TokenShards(folder, "validation")
    path.unlink()
    with pytest.raises(UserError, match=r"train-00001.bin: no such file"):
        TokenShards(folder, "train")
    with pytest.raises(UserError, match="unknown split"):
        TokenShards(folder, "dev")
    with pytest.raises(UserError, match=r"manifest.json: no such file"):
        TokenShards(tmp_path, "train")


def test_the_command_gives_the_same_bytes_twice(ladder, corpus, tokenizer, tmp_path):
    for name in ("a", "b"):
        words = ["--corpus", corpus, "--tokenizer", tokenizer, "--out", tmp_path / name]
        assert ladder("tokens", *words, "--record", tmp_path / f"{name}.json") == (0, "")
    first, second = (read_json(tmp_path / name / "manifest.json") for name in "ab")
    assert first["shards"] == second["shards"]
    rows = {row["metric"]: row["value"] for row in records.read(tmp_path / "a.json")["rows"]}
    assert rows["train_tokens"] == first["splits"]["train"]["tokens"]
    assert 1 < rows["characters_per_token"] < 10


def test_markers_in_a_document_do_not_end_it(tokenizer):
    bpe, eos = load(tokenizer)
    rows = list(packing.encode(bpe, eos, [{"text": "before <|endoftext|> after"}]))
    assert [row.count(eos) for row in rows] == [1]
    assert bpe.decode(rows[0][:-1]) == "before <|endoftext|> after"


def test_no_disk_space_is_said_before_writing(ladder, corpus, tokenizer, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))
    words = ["--corpus", corpus, "--tokenizer", tokenizer, "--out", tmp_path / "t", "--record", tmp_path / "r"]
    code, said = ladder("tokens", *words)
    assert (code, "0 bytes free" in said) == (1, True)
    assert not (tmp_path / "t").exists()


def test_reading_needs_numpy_alone():
    """The shards are read on machines that have none of the pipeline's packages."""
    code = (
        "import sys; sys.argv = ['ladder']; import ladder.data.shards; "
        "print(*{'torch', 'transformers', 'tokenizers', 'datasets', 'mlflow', 'pandas'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
