"""Families over two real gloo ranks, split by transformers' own plans: logits and gradients are those of one rank."""

import pytest
import torch

import ladder
from ladder.errors import UserError
from ladder.model.slicing import part
from ladder.model.tiny import NAMES, taken, tiny
from ladder.parallel.shard import check_split

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "olmo2", "granite", "qwen3_moe", "phi3", "glm4", "olmoe"]
LEAST = 44  # families
WIRINGS = [("ladder", None), ("ladder@1-2", None), ("parallel-2norm", None)]
MORE = [("partial", 2), ("spd@1-2", 2), ("desync-2x", 2), ("dtp-1", 2), ("fal", None), ("fal+", None)]
IDS = torch.tensor([[5, 9, 2, 33, 7, 21, 40], [1, 2, 3, 4, 5, 6, 7]])


def made(name, wiring, tp):
    """A model whose norms and biases are not those that it is initialised with."""
    model = ladder.rewire(tiny(name), wiring, tp)
    for n, (path, parameter) in enumerate(model.named_parameters()):
        if "norm" in path or "bias" in path:
            torch.nn.init.uniform_(parameter, 0.5, 1.0, generator=torch.Generator().manual_seed(n))
    return model


def logits_and_gradients(model):
    output = model(input_ids=IDS, labels=IDS, use_cache=False)
    output.loss.backward()
    return output.logits.detach(), {name: p.grad for name, p in model.named_parameters()}


def check(mesh, name, wirings, folder):
    for wiring, tp in wirings:
        if name in ("gemma2", "olmo2", "glm4") and wiring == "parallel-2norm":
            continue
        expected, whole = logits_and_gradients(made(name, wiring, tp))
        compare(ladder.parallelize(made(name, wiring, tp), mesh), mesh, expected, whole, wiring)
        if folder:
            compare(ladder.load(folder, mesh=mesh)[0], mesh, expected, whole, f"{wiring}, loaded")


def compare(model, mesh, expected, whole, wiring):
    logits, gradients = logits_and_gradients(model)
    assert (logits - expected).abs().max() < 1e-4, wiring
    for path, full in whole.items():
        if full is None or not model.get_parameter(path).requires_grad:
            continue
        mine = part(full, path, mesh.get_local_rank(), mesh.size(), model.config)
        assert (gradients[path] - mine).abs().max() < 1e-4 * (full.abs().max() + 1e-2), (wiring, path)


@pytest.mark.slow
def test_every_family_is_split_exactly_or_refused():
    """By its plan, over two ranks in threads; :func:`check_split` compares the logits."""
    reasons = {}
    for name in NAMES:
        if taken(name)[0] is not None:
            try:
                check_split(name)
            except UserError as error:
                reasons[name] = str(error)
            else:
                reasons[name] = ""
    assert not any("\n" in reason for reason in reasons.values())
    assert sum(not reason for reason in reasons.values()) >= LEAST


@pytest.mark.ranks
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_gradients_equal_those_of_one_rank(two, name):
    two.run(check, name, WIRINGS, None)


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "granite"])
def test_tied_wirings_and_those_of_the_first_attention(two, name):
    two.run(check, name, MORE, None)


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["qwen3", "gemma2", "qwen3_moe"])
def test_a_rank_loads_its_part(two, name, tmp_path):
    made(name, "ladder@1-2", None).save_pretrained(tmp_path)
    two.run(check, name, [("ladder@1-2", None)], str(tmp_path))


@pytest.mark.parametrize(
    ("name", "words"), [("deepseek_v3", "leaves DeepseekV3Attention whole"), ("gpt2", "no tensor-parallel plan")]
)
def test_a_plan_that_is_not_understood_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        ladder.rewire(tiny(name), "partial", 2)
