import numpy as np
import pytest

from ladder.data.tasks import CLOZE, PERPLEXITY, write
from ladder.data.tokenizer import chat_template, train
from ladder.files import write_json

WORDS = ("residual", "stream", "module", "waits", "for", "its", "sum", "while", "another", "computes", "then", "reads")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with tasks and two small checkpoints, one/ and two/."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("evaluate")
    train([" ".join(WORDS)] * 5, 300, folder / "tokenizer", chat_template("chatml"))
    draw = np.random.default_rng(0)
    pages = [{"id": f"page{n}", "page": " ".join(draw.choice(WORDS, 30))} for n in range(6)]
    write(folder / "tasks", PERPLEXITY, "perplexity.jsonl", pages)
    asked = [
        {
            "id": f"question{n}",
            "context": " ".join(draw.choice(WORDS, 8)),
            "choices": [" ".join(draw.choice(WORDS, 3)) for _ in range(4)],
            "answer": n % 4,
        }
        for n in range(8)
    ]
    write(folder / "tasks", CLOZE, "cloze.jsonl", asked)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        )
        LlamaForCausalLM(config).save_pretrained(folder / name)
        for path in (folder / "tokenizer").iterdir():
            (folder / name / path.name).write_bytes(path.read_bytes())
        card = {"model": "toy", "wiring": "standard", "variant": "pretrained", "seed": seed, "commit": None}
        write_json(folder / name / "ladder.json", card | {"sha256": {}})
    return folder
