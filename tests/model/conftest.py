import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from ladder.model.sizes import size

SHAPE = size("tiny").config(num_hidden_layers=3, vocab_size=64, tie_word_embeddings=False)


@pytest.fixture(scope="session")
def shape():
    """Of the models in these tests: 4 heads, 4 KV heads, 3 layers."""
    return SHAPE


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    from tokenizers import Tokenizer, models

    folder = tmp_path_factory.mktemp("tokenizer")
    core = Tokenizer(models.WordLevel({chr(33 + i): i for i in range(64)}, unk_token="!"))
    PreTrainedTokenizerFast(tokenizer_object=core, chat_template="{{ messages }}").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_llama(tokenizer):
    """``make_llama(folder, shards=2, dtype=..., ...)`` writes a foreign Llama directory with these changes of its
    configuration."""

    disable_progress_bar()

    def make(folder, shards=2, dtype=torch.float32, **changes):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SHAPE | changes)).to(dtype)
        for key, parameter in model.named_parameters():
            if key.endswith(("bias", "norm.weight")):  # which start at 0 and 1
                torch.nn.init.uniform_(parameter, 0.5, 1.0)
        size = sum(p.nbytes for p in model.parameters())
        model.save_pretrained(folder, max_shard_size="10GB" if shards == 1 else size * 3 // 5)
        assert len(list(folder.glob("*.safetensors"))) == shards
        for file in tokenizer.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    return make


@pytest.fixture
def llama(tmp_path, make_llama):
    """``llama(name, shards=2, dtype=..., ...)`` writes one in the test's folder."""
    return lambda name="llama", **changes: make_llama(tmp_path / name, **changes)
