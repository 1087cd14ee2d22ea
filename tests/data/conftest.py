import json

import pytest
from toy_text import make_corpus, prose

from ladder.cli import main


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch):
    monkeypatch.setenv("LADDER_TRACKING", "off")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def ladder(capsys):
    """Run a subcommand; (exit code, what it wrote to stderr)."""

    def call(*words):
        code = main([str(word) for word in words])
        return code, capsys.readouterr().err

    return call


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """120 documents as JSONL, every tenth one twice."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    texts = [prose(n, 70 + n) for n in range(120)] + [prose(n, 70 + n) for n in range(0, 120, 10)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def corpus(text_file, tmp_path_factory):
    """A corpus directory made of ``text_file``: about 72, 24 and 24 documents."""
    return make_corpus(text_file, tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def tokenizer(corpus):
    """A tokenizer directory of 400 tokens at most, trained on ``corpus``."""
    out = corpus.parent / "tokenizer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LADDER_TRACKING", "off")
        words = ["tokenizer", "--corpus", corpus, "--vocab", 400, "--out", out, "--record", corpus.parent / "t.json"]
        assert main([str(word) for word in words]) == 0
    return out
