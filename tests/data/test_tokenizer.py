import json
import shutil

import pytest

from ladder.data.tokenizer import load, train
from ladder.files import MARK, sha256

MESSAGES = [{"role": "user", "content": "Stream?"}, {"role": "assistant", "content": "Residual."}]


def test_transformers_loads_the_same_tokenizer(tokenizer):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    theirs = AutoTokenizer.from_pretrained(tokenizer)
    ours, eos = load(tokenizer)
    assert isinstance(theirs, PreTrainedTokenizerFast)
    assert len(theirs) == ours.get_vocab_size() <= 400
    assert (theirs.eos_token, theirs.eos_token_id) == ("<|endoftext|>", eos)
    assert theirs.bos_token == theirs.pad_token == "<|endoftext|>"
    for text in ("The residual stream.", " two  spaces\n\ttab", "naïve Größe 流 🙂", "Stream's \r\n\x00"):
        assert theirs(text)["input_ids"] == ours.encode(text, add_special_tokens=False).ids
        assert theirs.decode(theirs(text)["input_ids"]) == text
    assert theirs.apply_chat_template(MESSAGES, tokenize=False) == (
        "<|endoftext|><|im_start|>user\nStream?<|im_end|>\n<|im_start|>assistant\nResidual.<|im_end|>\n"
    )
    prompt = theirs.apply_chat_template(MESSAGES[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|endoftext|><|im_start|>user\nStream?<|im_end|>\n<|im_start|>assistant\n"


def test_training_is_deterministic_and_reads_the_training_split_only(ladder, corpus, tokenizer, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    for split in ("validation", "test"):
        (copy / f"{split}.jsonl").unlink()
    words = ["--corpus", copy, "--vocab", 400, "--out", tmp_path / "t", "--record", tmp_path / "r.json"]
    assert ladder("tokenizer", *words) == (0, "")
    names = sorted(path.name for path in tokenizer.iterdir() if path.name != MARK)
    assert names == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert sha256(tmp_path / "t" / name) == sha256(tokenizer / name)


def test_a_small_text_gives_fewer_tokens(tmp_path):
    assert train(["ab ab ab"], 1000, tmp_path, "") < 270


def test_an_existing_tokenizer_is_taken_with_or_without_another_template(ladder, corpus, tokenizer, tmp_path):
    (tmp_path / "own.jinja").write_text("{% generation %}x{% endgeneration %}")
    for given, expected in (
        ([], (tokenizer / "chat_template.jinja").read_text()),
        (["--chat-template", "llama3"], "<|start_header_id|>"),
        (["--chat-template", tmp_path / "own.jinja"], "{% generation %}x{% endgeneration %}"),
    ):
        words = ["--corpus", corpus, "--from", tokenizer, "--out", tmp_path / "t", "--record", tmp_path / "r.json"]
        assert ladder("tokenizer", *words, *given)[0] == 0
        assert expected in (tmp_path / "t" / "chat_template.jinja").read_text()
        assert load(tmp_path / "t")[1] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vocab", "100"], "--vocab 100 is too small; 259 tokens"),
        (["--from", "nobody/nothing"], "--from nobody/nothing: no tokenizer there"),
        (["--vocab", "400", "--chat-template", "nope"], "--chat-template nope: no such file"),
    ],
)
def test_bad_input_is_one_sentence(ladder, corpus, tmp_path, options, message):
    words = ["--corpus", corpus, *options, "--out", tmp_path / "t", "--record", tmp_path / "r.json"]
    code, said = ladder("tokenizer", *words)
    assert code == 1
    assert message in said
    assert said.count("\n") == 1


def test_a_tokenizer_without_end_is_refused(ladder, corpus, tokenizer, tmp_path):
    shutil.copytree(tokenizer, tmp_path / "t")
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    words = ["--corpus", corpus, "--tokenizer", tmp_path / "t", "--out", tmp_path / "o", "--record", tmp_path / "r"]
    code, said = ladder("tokens", *words)
    assert (code, "eos_token null is not in the vocabulary" in said) == (1, True)
