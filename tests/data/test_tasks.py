import collections

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
