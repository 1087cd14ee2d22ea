import json
import random

import pytest

from ladder import cli


@pytest.fixture(scope="session", autouse=True)
def no_tracking():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LADDER_TRACKING", "off")
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Corpus, tokenizer, tokens and chat of some thousand words, made by the commands that make the real ones."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    words = ["".join(rng.choices("aeioklmnrst", k=rng.randint(2, 6))) for _ in range(60)]
    texts = folder / "texts.jsonl"
    documents = (" ".join(rng.choices(words, k=60)) + "." for _ in range(120))
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    talks = folder / "talks.jsonl"
    with talks.open("w") as out:
        for _ in range(80):
            said = [" ".join(rng.choices(words, k=6)) for _ in range(2)]
            messages = [{"role": "user", "content": said[0]}, {"role": "assistant", "content": said[1]}]
            out.write(json.dumps({"messages": messages}) + "\n")
    record = f"--record {folder}/r.json"
    for line in (
        f"corpus --kind files --path {texts} --validation 0.2 --test 0.1 --out {folder}/corpus {record}",
        f"tokenizer --corpus {folder}/corpus --vocab 300 --out {folder}/tokenizer {record}",
        f"tokens --corpus {folder}/corpus --tokenizer {folder}/tokenizer --out {folder}/tokens {record}",
        f"chat --kind files --path {talks} --validation 0.2 --out {folder}/chat {record}",
    ):
        assert cli.main(line.split()) == 0, line
    return folder
