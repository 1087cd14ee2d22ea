"""Text to make corpora of."""

import random

import pytest

from ladder.cli import main

WORDS = ("stream", "residual", "module", "reads", "writes", "waits", "layer", "rank", "sum", "partial", "norm", "link")


def prose(seed: int, words: int) -> str:
    """Sentences of seven words under a heading, with white space of several kinds."""
    draw = random.Random(seed)
    lines = [" ".join(draw.choices(WORDS, k=7)).capitalize() + "." for _ in range(words // 7)]
    return f"# section.{seed}\n\n" + "\n".join(lines)


def make_corpus(path, folder):
    shares = ["--validation", "0.2", "--test", "0.2"]
    words = ["corpus", "--kind", "files", "--path", path, *shares, "--out", folder / "corpus"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LADDER_TRACKING", "off")
        assert main([str(word) for word in [*words, "--record", folder / "corpus.json"]]) == 0
    return folder / "corpus"
