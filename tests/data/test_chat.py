import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladder.data.chat import IGNORED, encode, pack, too_long
from ladder.data.conversations import cut, sections
from ladder.data.documents import documents
from ladder.errors import UserError
from ladder.reading import read_json, read_jsonl

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is a residual stream?"},
    {"role": "assistant", "content": "A sum of outputs."},
    {"role": "user", "content": "Of what?"},
    {"role": "assistant", "content": "Modules."},
]


@pytest.fixture(scope="session")
def hf(tokenizer):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer)


def test_only_the_assistant_s_words_carry_loss(hf):
    ids, labels = encode(TALK, hf)
    assert len(ids) == len(labels)
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    assert hf.decode([label for label in labels if label != IGNORED]) == "A sum of outputs.<|im_end|>Modules.<|im_end|>"
    assert hf.decode(ids) == hf.apply_chat_template(TALK, tokenize=False)


def test_llama_3_template_marks_the_same_words(hf):
    from ladder.data.tokenizer import chat_template

    ids, labels = encode(TALK, hf, chat_template("llama3"))
    assert hf.decode([label for label in labels if label != IGNORED]) == "A sum of outputs.<|eot_id|>Modules.<|eot_id|>"
    assert hf.decode(ids).startswith("<|endoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>")


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_the_difference_is_what_generation_marks_say(hf, name):
    from ladder.data.tokenizer import chat_template

    talk = [m | {"content": f" {m['content']}é \n"} for m in TALK]
    chosen = {"chat_template": chat_template(name), "return_dict": True, "return_assistant_tokens_mask": True}
    marked = hf.apply_chat_template(talk, **chosen)
    ids, labels = encode(talk, hf, chat_template(name))
    assert ids == marked["input_ids"]
    assert [label != IGNORED for label in labels] == [mark == 1 for mark in marked["assistant_masks"]]
    bare = chosen["chat_template"].replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    assert encode(talk, hf, bare) == (ids, labels)


PUBLISHED = {
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
    "{% endif %}{% endfor %}": " One.</s> Two.</s>",
    "{% if messages[0].role != 'system' %}Be nice.\n{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}": " One.\n Two.\n",
}


@pytest.mark.parametrize(("template", "said"), PUBLISHED.items())
def test_templates_without_marks(hf, template, said):
    talk = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "One."}]
    talk += [{"role": "user", "content": "B"}, {"role": "assistant", "content": "Two."}]
    ids, labels = encode(talk, hf, template)
    assert hf.decode([label for label in labels if label != IGNORED]) == said
    assert hf.decode(ids) == hf.apply_chat_template(talk, chat_template=template, tokenize=False)


def test_a_template_that_changes_what_was_said_is_refused(hf):
    thinks = "{% for m in messages %}{{ m.content if loop.last else m.content | upper }}{% endfor %}"
    with pytest.raises(UserError, match=r"--method distill"):
        encode(TALK, hf, thinks)

    class Bare:
        chat_template = None
        name_or_path = "bare"

    with pytest.raises(UserError, match="bare: no chat template"):
        encode(TALK, Bare())


conversations = st.lists(
    st.tuples(st.integers(2, 40), st.integers(0, 40)).map(lambda p: (p[0], min(p[1], p[0]))), min_size=1, max_size=25
)


@given(conversations, st.integers(4, 32))
def test_packing_keeps_conversations_whole_and_apart(shapes, length):
    """Tokens name their conversation; the last ``said`` of each carry loss."""
    samples = [([n + 1] * size, [IGNORED] * (size - said) + [n + 1] * said) for n, (size, said) in enumerate(shapes)]
    rows = pack(samples, length, pad=0)
    seen = []
    for row in rows:
        assert {key: (value.shape, value.dtype) for key, value in row.items()} == {
            "input_ids": ((length,), np.int64),
            "labels": ((length,), np.int64),
            "position_ids": ((length,), np.int64),
        }
        starts = np.flatnonzero(row["position_ids"] == 0)
        assert starts[0] == 0
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            block = row["input_ids"][start:end]
            assert len(set(block.tolist())) == 1  # attention's block is one conversation, or padding
            assert np.array_equal(row["position_ids"][start:end], np.arange(end - start))
            assert row["labels"][start] == IGNORED
            labels = row["labels"][start:end]
            if block[0] == 0:
                assert (labels == IGNORED).all()
                assert end == length
            else:
                seen.append(int(block[0]))
                ids, wanted = samples[block[0] - 1]
                assert len(block) == min(len(ids), length)
                assert labels.tolist()[1:] == wanted[1 : len(block)]
    expected = [n + 1 for n, (_, labels) in enumerate(samples) if any(x != IGNORED for x in labels[1:length])]
    assert sorted(seen) == expected
    assert too_long(samples, length) == sum(size > length for size, _ in shapes)


@given(conversations)
def test_packing_wastes_little_and_is_deterministic(shapes):
    samples = [([1] * size, [IGNORED] + [1] * (size - 1)) for size, _ in shapes]
    rows = pack(samples, 64)
    again = pack(samples, 64)
    assert all(np.array_equal(a[key], b[key]) for a, b in zip(rows, again, strict=True) for key in a)
    # Of any two rows, one is more than half full: otherwise they would be one.
    used = sorted(int((row["input_ids"] == 1).sum()) for row in rows)
    assert all(a + b > 64 for a, b in zip(used[1:], used, strict=False))


def test_packed_rows_do_not_leak(hf):
    """A packed model sees what it sees of each conversation alone."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(hf), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    samples = [encode(TALK[1 : 3 + 2 * n], hf) for n in range(2)]
    length = sum(len(ids) for ids, _ in samples) + 5
    (row,) = pack(samples, length)
    with torch.no_grad():
        # Without a cache, as in training: only then do the masks follow the positions.
        inputs = {key: torch.tensor(row[key])[None] for key in ("input_ids", "position_ids")}
        packed = model(**inputs, use_cache=False).logits[0]
        start = 0
        for ids, _ in samples:
            alone = model(torch.tensor([ids])).logits[0]
            assert torch.allclose(packed[start : start + len(ids)], alone, atol=1e-6)
            start += len(ids)


def test_conversations_are_made_of_the_documents_of_their_split(ladder, corpus, tmp_path):
    for name in ("a", "b"):
        words = ["--kind", "corpus", "--corpus", corpus, "--limit", 60, "--characters", 200, "--out", tmp_path / name]
        assert ladder("chat", *words, "--record", tmp_path / f"{name}.json") == (0, "")
    manifest = read_json(tmp_path / "a" / "manifest.json")
    assert manifest == read_json(tmp_path / "b" / "manifest.json")
    assert manifest["conversations"] == {"train": 55, "validation": 5}
    for split in ("train", "validation"):
        texts = [document["text"] for document in documents(corpus, split)]
        for row in read_jsonl(tmp_path / "a" / f"{split}.jsonl"):
            user, assistant = row["messages"]
            assert (user["role"], assistant["role"]) == ("user", "assistant")
            assert len(assistant["content"]) <= 200
            assert any(assistant["content"] in text for text in texts)
    questions = [row["messages"][0]["content"] for row in read_jsonl(tmp_path / "a" / "train.jsonl")]
    assert any(question.startswith("Continue this text") for question in questions)
    assert any("`section." in question for question in questions)


@given(st.text(alphabet="ab .\n", max_size=80), st.integers(1, 40))
def test_a_cut_is_a_beginning(text, longest):
    assert text.startswith(cut(text, longest))
    assert len(cut(text, longest)) <= longest


def test_cuts_and_sections():
    assert cut("One. Two. Three", 11) == "One. Two."
    assert cut("No sentence ends", 12) == "No sentence"
    assert list(sections("intro\n\n# A.b\n\ntext\n## C\nmore")) == [(None, "intro"), ("A.b", "text"), ("C", "more")]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_files_of_both_forms_are_read(ladder, tmp_path):
    rows = [{"messages": [*TALK[1:3], {"role": "user", "content": str(n)}]} for n in range(40)]
    turns = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi."}]
    rows += [{"conversations": [*turns, {"from": "human", "value": str(n)}]} for n in range(40)]
    path = write(tmp_path / "chat.jsonl", rows)
    words = ["--kind", "files", "--path", path, "--validation", "0.2", "--out", tmp_path / "c"]
    assert ladder("chat", *words, "--record", tmp_path / "r.json") == (0, "")
    every = [row for split in ("train", "validation") for row in read_jsonl(tmp_path / "c" / f"{split}.jsonl")]
    assert len(every) == 80
    assert {"role": "assistant", "content": "Hi."} in every[-1]["messages"]


GOOD = {"messages": TALK}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, {"text": "x"}], "bad.jsonl:2: no messages"),
        ([GOOD, {"messages": []}], "bad.jsonl:2: no messages"),
        ([[1]], "bad.jsonl:1: holds a list"),
        ([{"messages": [{"content": "x"}]}], "bad.jsonl:1: a message without a speaker"),
        ([{"messages": [{"role": "user", "content": None}]}], "bad.jsonl:1: a message without a speaker"),
        ([{"messages": [{"role": "robot", "content": "x"}]}], "bad.jsonl:1: unknown role 'robot'; known: assistant"),
        ([{"messages": TALK[:2]}], "bad.jsonl:1: no words of the assistant"),
        ([GOOD], "no conversations for"),
        ([], "bad.jsonl: the file is empty"),
    ],
)
def test_bad_rows_are_one_sentence(ladder, tmp_path, rows, message):
    path = write(tmp_path / "bad.jsonl", rows)
    words = ["--kind", "files", "--path", path, "--out", tmp_path / "c", "--record", tmp_path / "r.json"]
    code, said = ladder("chat", *words)
    assert code == 1
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "c" / "train.jsonl").exists()


def test_missing_arguments_are_named(ladder, corpus, tmp_path):
    out = ["--out", tmp_path / "c", "--record", tmp_path / "r.json"]
    assert "needs --corpus" in ladder("chat", "--kind", "corpus", *out)[1]
    assert "needs --path" in ladder("chat", "--kind", "files", *out)[1]
    assert "needs --name" in ladder("chat", "--kind", "huggingface", *out)[1]
    assert "--characters 5 leaves no room" in ladder("chat", "--corpus", corpus, "--characters", 5, *out)[1]
    assert "--limit 1 leaves nothing" in ladder("chat", "--corpus", corpus, "--limit", 1, *out)[1]
    shutil.copytree(corpus, tmp_path / "corpus")
    (tmp_path / "corpus" / "train.jsonl").write_text("")
    assert "train.jsonl: truncated" in ladder("chat", "--corpus", tmp_path / "corpus", *out)[1]
