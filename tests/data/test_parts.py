"""A source gathered and packed in parts by independent jobs: the same stream whatever their order, whole or refused."""

import json
import shutil

import numpy as np
import pytest
from toy_text import prose

from ladder import records
from ladder.data import sources
from ladder.data import tokens as packing
from ladder.data.documents import SPLITS, documents, manifest
from ladder.data.parts import part_of
from ladder.data.shards import TokenShards
from ladder.data.tokens import shares_of
from ladder.errors import UserError
from ladder.files import sha256
from ladder.reading import read_json

SHARES = ["--validation", "0.2", "--test", "0.2"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A directory of five files of 12 documents; the last file repeats the first document of the first."""
    folder = tmp_path_factory.mktemp("source")
    for n in range(5):
        texts = [prose(100 * n + i, 40) for i in range(12)] + [prose(0, 40)] * (n == 4)
        (folder / f"{n}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture(scope="module")
def parts(text, tokenizer, tmp_path_factory):
    """Two parts of web and one of code, gathered and packed: DIR/{corpus,tokens}/LABEL-NUMBER."""
    from ladder.cli import main

    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LADDER_TRACKING", "off")
        for name, where, part in (("code-1", text / "0.jsonl", "1/1"), ("web-2", text, "2/2"), ("web-1", text, "1/2")):
            words = ["--kind", "files", "--path", where, *SHARES, "--part", part, "--label", name[:-2]]
            out = ["--out", folder / "corpus" / name, "--record", folder / "r.json"]
            assert main([str(word) for word in ["corpus", *words, *out]]) == 0
            words = ["--corpus", folder / "corpus" / name, "--tokenizer", tokenizer]
            out = ["--out", folder / "tokens" / name, "--record", folder / "r.json"]
            assert main([str(word) for word in ["tokens", *words, *out]]) == 0
    return folder


def merge(ladder, parts, out, *names, kind="tokens", more=()):
    words = [kind, "--merge", *(parts / kind / name for name in names), *more]
    return ladder(*words, "--out", out, "--record", out.parent / "record.json")


def texts(corpus, split):
    return [document["text"] for document in documents(corpus, split)]


def test_parts_share_out_the_files_and_together_are_the_source(ladder, parts, text, tmp_path):
    ids = [{d["id"].split(":")[0] for s in SPLITS for d in documents(parts / "corpus" / f"web-{n}", s)} for n in (1, 2)]
    assert ids == [{"0.jsonl", "2.jsonl", "4.jsonl"}, {"1.jsonl", "3.jsonl"}]
    assert merge(ladder, parts, tmp_path / "corpus", "web-2", "web-1", kind="corpus") == (0, "")
    found = manifest(tmp_path / "corpus")
    for split in SPLITS:
        joined = [text for n in (1, 2) for text in texts(parts / "corpus" / f"web-{n}", split)]
        assert texts(tmp_path / "corpus", split) == joined
        assert found["documents"][split] == len(joined)
    assert sum(found["documents"].values()) == 60
    assert not (tmp_path / "corpus" / "train.jsonl").exists()


def test_a_duplicate_in_another_part_is_in_the_same_split(ladder, text, tmp_path):
    """Within a part it is dropped; across parts it stays, but what is held out is never trained on."""
    for n in (1, 2, 3, 4, 5):
        words = ["--kind", "files", "--path", text, *SHARES, "--part", f"{n}/5", "--out", tmp_path / "corpus" / str(n)]
        assert ladder("corpus", *words, "--record", tmp_path / "r.json") == (0, "")
    merge(ladder, tmp_path, tmp_path / "whole", *map(str, range(1, 6)), kind="corpus")
    found = {split: texts(tmp_path / "whole", split) for split in SPLITS}
    assert sum(found[split].count(prose(0, 40)) for split in SPLITS) == 2
    assert max(found[split].count(prose(0, 40)) for split in SPLITS) == 2


def test_fewer_files_than_parts_deal_out_documents(ladder, text, tmp_path):
    ids = []
    for n in (1, 2):
        words = ["--kind", "files", "--path", text / "0.jsonl", "--limit", 11, "--validation", 0, "--test", 0]
        out = ["--out", tmp_path / str(n), "--record", tmp_path / "r.json"]
        assert ladder("corpus", *words, "--part", f"{n}/2", *out) == (0, "")
        ids.append([int(d["id"].split(":")[1]) for d in documents(tmp_path / str(n), "train")])
    assert ids == [[1, 3, 5, 7, 9], [2, 4, 6, 8, 10, 12]]  # of a limit of 11, parts take 5 and 6


def test_hub_datasets_are_shared_out_by_their_files(text):
    read = [[row["text"] for _, row in sources.hub_rows(str(text), None, "train", (n, 2))] for n in (1, 2)]
    assert [len(part) for part in read] == [36, 25]
    assert read[0] + read[1] == [row["text"] for _, row in sources.hub_rows(str(text), None, "train")]
    with pytest.raises(UserError, match=r"has 5 files; --part 1/6 needs at least 6"):
        next(sources.hub_rows(str(text), None, "train", (1, 6)))


def test_the_stream_does_not_depend_on_the_order_of_the_jobs(ladder, parts, tokenizer, tmp_path):
    for name, order in (("a", ("web-1", "web-2")), ("b", ("web-2", "web-1"))):
        assert merge(ladder, parts, tmp_path / name / "tokens", *order) == (0, "")
    first, second = (read_json(tmp_path / name / "tokens" / "manifest.json") for name in "ab")
    assert first["shards"] == second["shards"]
    whole = TokenShards(tmp_path / "a" / "tokens", "train")
    streams = [TokenShards(parts / "tokens" / f"web-{n}", "train") for n in (1, 2)]
    assert np.array_equal(whole.read(0, whole.tokens), np.concatenate([part.read(0, part.tokens) for part in streams]))
    # As if the merged corpus had been packed by one job.
    assert merge(ladder, parts, tmp_path / "corpus", "web-1", "web-2", kind="corpus") == (0, "")
    words = ["--corpus", tmp_path / "corpus", "--tokenizer", tokenizer, "--out", tmp_path / "one"]
    assert ladder("tokens", *words, "--record", tmp_path / "r.json") == (0, "")
    one = TokenShards(tmp_path / "one", "train")
    assert np.array_equal(one.read(0, one.tokens), whole.read(0, whole.tokens))
    assert first["splits"] == read_json(tmp_path / "one" / "manifest.json")["splits"]


def killed(corpus, split):
    yield next(documents(corpus, split))
    raise KeyboardInterrupt


def test_a_part_killed_and_made_again_is_the_same(ladder, parts, tokenizer, tmp_path, monkeypatch):
    words = ["--corpus", parts / "corpus" / "web-1", "--tokenizer", tokenizer, "--out", tmp_path / "again"]
    with monkeypatch.context() as patch:
        patch.setattr(packing, "documents", killed)
        assert ladder("tokens", *words, "--record", tmp_path / "r.json")[0] == 130
    assert list((tmp_path / "again").glob("*")) == []
    assert ladder("tokens", *words, "--record", tmp_path / "r.json") == (0, "")
    again, before = (read_json(path / "manifest.json") for path in (tmp_path / "again", parts / "tokens" / "web-1"))
    assert again["shards"] == before["shards"]


def test_a_mixture_says_shares_and_tokens(ladder, parts, tmp_path):
    more = ["--weight", "web=3", "code=1"]
    assert merge(ladder, parts, tmp_path / "tokens", "web-2", "code-1", "web-1", more=more) == (0, "")
    found = read_json(tmp_path / "tokens" / "manifest.json")
    assert {label: source["share"] for label, source in found["sources"].items()} == {"code": 0.25, "web": 0.75}
    assert list(found["sources"]) == ["code", "web"]
    rows = {row["metric"]: row["value"] for row in records.read(tmp_path / "record.json")["rows"]}
    assert (rows["web_share"], rows["code_share"]) == (0.75, 0.25)
    assert rows["web_train_tokens"] + rows["code_train_tokens"] == rows["train_tokens"]
    web = TokenShards(tmp_path / "tokens", "train", source="web")
    assert web.tokens == rows["web_train_tokens"]
    assert web.read(0, 50).tolist() == TokenShards(parts / "tokens" / "web-1", "train").read(0, 50).tolist()


def test_a_damaged_part_names_the_command_of_that_part(ladder, parts, tmp_path):
    shutil.copytree(parts / "tokens", tmp_path / "tokens")
    assert merge(ladder, tmp_path, tmp_path / "whole", "web-1", "web-2") == (0, "")
    path = tmp_path / "tokens" / "web-2" / "train-00000.bin"
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(UserError, match=r"train-00000.bin: truncated .* run `ladder tokens --corpus .*corpus/web-2 "):
        TokenShards(tmp_path / "whole", "train")
    path.write_bytes(whole[:-2])
    code, said = merge(ladder, tmp_path, tmp_path / "whole", "web-1", "web-2")
    assert (code, "web-2/train-00000.bin: missing or truncated" in said) == (1, True)


def change(folder, name, **values):
    path = folder / name / "manifest.json"
    path.write_text(json.dumps(read_json(path) | values))


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (("web-1",), {}, "'web' lacks part 2 of 2; make it"),
        (("web-1", "web-3"), {}, "web-3: this part is missing; make it with `ladder tokens --out"),
        (("web-1", "web-1"), {}, "'web' lacks part 2 of 2"),
        (("web-1", "web-2"), {"tokenizer": "other"}, "web-2: packed with another tokenizer than"),
        (("web-1", "web-2"), {"part": [3, 3]}, "the parts of 'web' are of 2 and of 3"),
        (("web-1", "web-2", "code-1"), {"label": "code", "part": [1, 1]}, "a part of 'code' is named twice"),
        (("web-1", "web-2"), {"part": None}, "web-2/manifest.json: not a part"),
        (("web-1", "web-2", "code-1"), {}, "--weight is for nothing, but the parts are of code, web"),
    ],
)
def test_parts_that_are_no_whole_are_one_sentence(ladder, parts, tmp_path, names, values, message):
    shutil.copytree(parts / "tokens", tmp_path / "tokens")
    change(tmp_path / "tokens", "web-2", **values)
    code, said = merge(ladder, tmp_path, tmp_path / "whole", *names)
    assert code == 1
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "whole").exists()


def test_a_source_without_tokens_is_refused(ladder, parts, tmp_path):
    shutil.copytree(parts / "tokens", tmp_path / "tokens")
    change(tmp_path / "tokens", "code-1", shards=[])
    code, said = merge(
        ladder, tmp_path, tmp_path / "whole", "web-1", "web-2", "code-1", more=["--weight", "web=1", "code=1"]
    )
    assert (code, "'code': has no tokens of test, train, validation" in said) == (1, True)
    assert not (tmp_path / "whole").exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (["web=0", "code=1"], "--weight web=0: a weight must be above 0"),
        (["web=-1", "code=1"], "a weight must be above 0"),
        (["web=nan", "code=1"], "--weight web=nan is not LABEL=NUMBER"),
        (["web", "code=1"], "--weight web is not LABEL=NUMBER"),
        (["web=1"], "--weight is for web, but the parts are of code, web"),
    ],
)
def test_weights(weights, message):
    with pytest.raises(UserError, match=message):
        shares_of(weights, {"web", "code"})
    assert shares_of([], {"web"}) == {"web": 1.0}


def test_other_wrong_arguments(ladder, parts, text, tmp_path):
    words = ["corpus", "--kind", "files", "--path", text, "--out", tmp_path / "c", "--record", tmp_path / "r.json"]
    assert "--part 3/2 is not NUMBER/OF" in ladder(*words, "--part", "3/2")[1]
    assert "--limit 3 is less than a document for each of 4 parts" in ladder(*words, "--part", "1/4", "--limit", 3)[1]
    assert "--label 'a=b' is not a word" in ladder(*words, "--part", "1/4", "--label", "a=b")[1]
    words[4] = text / "0.jsonl"
    assert "none of its 0 documents fell into 'train'" in ladder(*words, "--part", "30/40")[1]
    assert "give --corpus and --tokenizer" in ladder("tokens", "--corpus", text, *words[5:])[1]
    lost = shutil.copytree(parts / "corpus", tmp_path / "corpus") / "web-1" / "train.jsonl"
    lost.unlink()
    said = merge(ladder, tmp_path, tmp_path / "whole", "web-1", "web-2", kind="corpus")[1]
    assert f"{lost}: no such file; run `ladder corpus --out {lost.parent}` again" in said
    assert part_of("3/64") == (3, 64)


def test_a_merged_corpus_is_checked_like_any_other(ladder, parts, tmp_path):
    shutil.copytree(parts / "corpus", tmp_path / "corpus")
    assert merge(ladder, tmp_path, tmp_path / "whole", "web-1", "web-2", kind="corpus") == (0, "")
    path = tmp_path / "corpus" / "web-1" / "train.jsonl"
    assert read_json(tmp_path / "whole" / "manifest.json")["sha256"]["../corpus/web-1/train.jsonl"] == sha256(path)
    path.write_text("")
    with pytest.raises(UserError, match=r"web-1/train.jsonl: truncated or changed"):
        manifest(tmp_path / "whole")
