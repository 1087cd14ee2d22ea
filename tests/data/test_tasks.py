import collections
import json

from toy_text import make_corpus, prose

from ladder import records
from ladder.data.documents import documents
from ladder.data.tokenizer import load
from ladder.files import sha256, write_jsonl
from ladder.reading import read_jsonl


def make(ladder, corpus, tokenizer, out, *more):
    words = ["--corpus", corpus, "--tokenizer", tokenizer, "--out", out, "--record", f"{out}.json"]
    return ladder("tasks", *words, *more)


def test_questions_are_held_out_and_well_formed(ladder, corpus, tokenizer, tmp_path):
    out = tmp_path / "tasks"
    assert make(ladder, corpus, tokenizer, out, "--questions", 30, "--max-tokens", 300) == (0, "")
    test = {document["id"]: " ".join(document["text"].split()) for document in documents(corpus, "test")}
    questions = list(read_jsonl(out / "cloze.jsonl"))
    assert len(questions) == 30
    assert len({question["id"] for question in questions}) == 30
    for question in questions:
        own = test[question["id"].rpartition("@")[0]]
        true = question["choices"][question["answer"]]
        assert f"{question['context']} {true}" in own
        assert len(set(question["choices"])) == 4
        for n, choice in enumerate(question["choices"]):
            assert len(choice.split()) == 12
            assert abs(len(choice) - len(true)) <= 12
            assert any(choice in text for text in test.values())
            assert n == question["answer"] or choice not in own
    places = collections.Counter(question["answer"] for question in questions)
    assert set(places) == {0, 1, 2, 3}
    rows = {row["task"]: row["value"] for row in records.read(f"{out}.json")["rows"]}
    assert rows["cloze"] == 30


def test_questions_fit_the_tokens_of_the_model(ladder, corpus, tokenizer, tmp_path):
    out = tmp_path / "tasks"
    assert make(ladder, corpus, tokenizer, out, "--max-tokens", 85)[0] == 0
    bpe, _ = load(tokenizer)
    questions = list(read_jsonl(out / "cloze.jsonl"))
    assert questions
    for question in questions:
        assert 20 <= len(question["context"].split()) <= 40
        for choice in question["choices"]:
            assert len(bpe.encode(question["context"] + " " + choice).ids) <= 85


def test_pages_are_beginnings_of_held_out_documents(ladder, corpus, tokenizer, tmp_path):
    out = tmp_path / "tasks"
    assert make(ladder, corpus, tokenizer, out, "--documents", 5, "--characters", 300, "--max-tokens", 300)[0] == 0
    test = {document["id"]: document["text"] for document in documents(corpus, "test")}
    pages = list(read_jsonl(out / "perplexity.jsonl"))
    assert len(pages) == 5
    assert all(test[page["id"]].startswith(page["page"]) and 200 < len(page["page"]) <= 300 for page in pages)


def test_the_same_corpus_gives_the_same_tasks(ladder, corpus, tokenizer, tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert make(ladder, corpus, tokenizer, "tasks", "--max-tokens", 300)[0] == 0
    for path in (tmp_path / "a" / "tasks").iterdir():
        assert sha256(path) == sha256(tmp_path / "b" / "tasks" / path.name)


def test_too_little_text_is_one_sentence(ladder, tokenizer, tmp_path):
    write_jsonl(tmp_path / "few.jsonl", [{"text": prose(n, 20)} for n in range(40)])
    corpus = make_corpus(tmp_path / "few.jsonl", tmp_path)
    code, said = make(ladder, corpus, tokenizer, tmp_path / "tasks")
    assert (code, "cloze needs passages of 52 words that fit in" in said) == (1, True)
    code, said = make(ladder, corpus, tokenizer, tmp_path / "tasks", "--questions", 0)
    assert (code, "--questions 0" in said) == (1, True)
    assert not (tmp_path / "tasks").exists()


def test_text_without_spaces(ladder, tokenizer, tmp_path):
    """Chinese has no spaces, and neither has a page of one word."""
    signs = [chr(0x4E00 + n) for n in range(300)]
    texts = ["".join(signs[(n * 7 + k * k) % 300] for k in range(400)) for n in range(80)] + ["x" * 100_000]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["--kind", "files", "--path", tmp_path / "x.jsonl", "--validation", "0.3", "--test", "0.4"]
    assert ladder("corpus", *words, "--out", tmp_path / "c", "--record", tmp_path / "c.json")[0] == 0
    out = tmp_path / "tasks"
    assert make(ladder, tmp_path / "c", tokenizer, out, "--questions", 5, "--max-tokens", 400) == (0, "")
    for question in read_jsonl(out / "cloze.jsonl"):
        assert len(question["context"]) == 40
        assert all(len(choice) == 12 for choice in question["choices"])


def test_task_data_is_that_beside_the_task(ladder, corpus, tokenizer, tmp_path, monkeypatch):
    """Wherever it is evaluated from: another corpus may have files of the same names there."""
    from ladder.evaluate.harness import load_tasks, own_cache

    monkeypatch.chdir(tmp_path)
    assert make(ladder, corpus, tokenizer, "tasks", "--questions", 7, "--max-tokens", 300)[0] == 0
    other = tmp_path / "elsewhere"
    other.mkdir()
    moved = (tmp_path / "tasks").rename(other / "moved")
    (tmp_path / "tasks").mkdir()
    for name in ("cloze.jsonl", "tasks/cloze.jsonl"):
        (tmp_path / name).write_text("")
    with own_cache():
        loaded = load_tasks(moved.relative_to(tmp_path), ["cloze"], {}, 0)
    assert len(loaded["cloze"]["tasks"]["cloze"].test_docs()) == 7
