"""``ladder.parallelize`` over real gloo processes: logits, generation, gradients, order of collectives both ways."""

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import ladder
from ladder.errors import UserError
from ladder.model.modeling import LadderConfig, LadderForCausalLM
from ladder.model.rewire import set_virtual_ranks
from ladder.model.sizes import size
from ladder.model.slicing import part
from ladder.residual import Row, Table
from ladder.wiring import Wiring

pytestmark = pytest.mark.ranks

VOCAB = 64
SHAPE = size("tiny").config(num_hidden_layers=4, vocab_size=VOCAB, attention_bias=True, mlp_bias=True)
UNTIED = ["standard", "ladder", "ladder-2", "ladder@1-2", "parallel", "parallel-2norm", "fal", "fal+", "fal@2"]
TIED = ["partial", "dtp-1", "dtp-2", "spd", "spd@2-3", "desync-2x", "desync-4x@1-3", "desync-nx"]
IDS = torch.randint(0, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))
RANDOM_TABLE = [Row(1), Row(0, joint=True, own=2), Row(2, own=1), Row(3, joint=True), Row(4, joint=True, own=1)]
RANDOM_TABLE += [Row(1, weight=0.5), Row(2, own=0.5), Row(0, joint=True)]


def make(wiring, world, **changes):
    tp = world if Wiring.parse(wiring).tied else None
    torch.manual_seed(0)
    model = LadderForCausalLM(LadderConfig(**SHAPE | changes, wiring=wiring, tensor_parallel_size=tp)).eval()
    for n, (name, parameter) in enumerate(model.named_parameters()):
        if "norm" in name or "bias" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.0, generator=torch.Generator().manual_seed(n))
    return model


def logits_and_gradients(model):
    out = model(IDS, labels=IDS)
    out.loss.backward()
    return out.logits.detach(), {name: p.grad for name, p in model.named_parameters()}


def check_gradients(mesh, wirings, options, changes):
    for wiring in wirings:
        expected, whole = logits_and_gradients(make(wiring, mesh.size(), **changes))
        model = ladder.parallelize(make(wiring, mesh.size(), **changes), mesh, **options)
        compare(model, mesh, expected, whole, wiring, options.get("split_vocabulary", False))


def compare(model, mesh, expected, whole, wiring, split=False):
    found, gradients = logits_and_gradients(model)
    assert (found - expected).abs().max() < 1e-5, wiring
    compare_gradients(model, mesh, gradients, whole, wiring, split)


def compare_gradients(model, mesh, gradients, whole, wiring, split=False):
    for name, full in whole.items():
        if full is None:  # the norm that `parallel` does not use
            assert gradients[name] is None, (wiring, name)
        elif model.get_parameter(name).requires_grad:
            mine = part(full, name, mesh.get_local_rank(), mesh.size(), model.config, split)
            scale = full.abs().max() + 1e-4
            assert (gradients[name] - mine).abs().max() / scale < 1e-4, (wiring, name)


@pytest.mark.parametrize("wiring", [*UNTIED, *TIED])
def test_logits_and_gradients_equal_the_unsharded_ones(ranks, wiring):
    ranks.run(check_gradients, [wiring], {}, {})


@pytest.mark.parametrize("tie", [True, False])
def test_gradients_with_the_vocabulary_split(two, tie):
    wirings = ["standard", "ladder", "dtp-1"]
    two.run(check_gradients, wirings, {"split_vocabulary": True}, {"tie_word_embeddings": tie})


def test_gradients_with_key_value_heads_replicated(two):
    two.run(check_gradients, ["standard", "ladder"], {"replicate_kv": True}, {"num_key_value_heads": 1})


def check_random_table(mesh):
    """A table that no wiring has: own shares, held outputs and lags mixed, one never landing at once."""
    model = make("standard", 2)
    set_virtual_ranks(model, 2)
    model.rewiring.table = Table(RANDOM_TABLE)
    expected, whole = logits_and_gradients(model)
    model = ladder.parallelize(make("standard", 2), mesh)
    model.rewiring.table = Table(RANDOM_TABLE)
    compare(model, mesh, expected, whole, "random")


def test_gradients_of_a_table_that_no_wiring_has(two):
    two.run(check_random_table)


def check_generation(mesh):
    """Greedy tokens of every rank, with left padding, a batch, and both caches."""
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    how = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}
    for wiring in (*UNTIED, *TIED):
        expected = make(wiring, 2).generate(IDS, **how)
        model = ladder.parallelize(make(wiring, 2), mesh)
        assert torch.equal(model.generate(IDS, **how), expected), wiring
        assert torch.equal(model.generate(IDS, cache_implementation="static", **how), expected), wiring


def test_generation_over_ranks(two):
    two.run(check_generation)


def noted(model):
    """What happens in ``model`` from now on: modules computing (forward ``c0``, backward ``b0``), all-reduces launched
    and waited for (``L0``, ``W0``)."""
    events, real, launched = [], model.rewiring.all_reduce, 0

    class Noted:
        def __init__(self, handle, index):
            self.handle, self.index = handle, index

        def wait(self):
            events.append(f"W{self.index}")
            return self.handle.wait()

    def all_reduce(value):
        nonlocal launched
        events.append(f"L{launched}")
        launched += 1
        return Noted(real(value), launched - 1)

    def after(n):
        def hook(module, inputs, output):
            events.append(f"c{n}")
            output = output[0] if isinstance(output, tuple) else output
            output.register_hook(lambda gradient: events.append(f"b{n}"))

        return hook

    modules = [module for layer in model.model.layers for module in (layer.self_attn, layer.mlp)]
    for n, module in enumerate(modules):
        module.register_forward_hook(after(n))
    model.rewiring.all_reduce = all_reduce
    return events


def check_order(mesh):
    backward = {
        "standard": "b3 L4 W4 b2 L5 W5 b1 L6 W6 b0 L7 W7",
        # the all-reduce of module n's input gradient is waited for after module n - 1's backward
        "ladder": "b3 L4 b2 L5 W4 b1 L6 W5 b0 L7 W6 W7",
        "partial": "b3 L4 b2 L5 W4 b1 L6 W5 b0 L7 W6 W7",
        "parallel": "b3 b2 L2 W2 b1 b0 L3 W3",
        "desync-4x": "b3 b2 b1 b0 L1 W1",
    }
    for wiring, expected in backward.items():
        model = ladder.parallelize(make(wiring, 2, num_hidden_layers=2), mesh)
        events = noted(model)
        logits_and_gradients(model)
        table = [
            f"{event.kind[0].replace('l', 'L').replace('w', 'W')}{event.index}" for event in model.rewiring.table.events
        ]
        assert events[: len(table)] == table, wiring
        assert " ".join(events[len(table) :]) == expected, wiring


def test_order_of_collectives_forward_and_backward(two):
    two.run(check_order)


def check_compiled(mesh, wiring):
    """``torch.compile`` of the whole model: what it compiles lies between the all-reduces as the table has it."""
    expected, whole = logits_and_gradients(make(wiring, 2, num_hidden_layers=3))
    model = ladder.parallelize(make(wiring, 2, num_hidden_layers=3), mesh)
    bodies = [body for layer in model.model.layers for body in (layer.self_attn, layer.mlp)]
    linears = [sum(isinstance(m, torch.nn.Linear) for m in body.modules()) for body in bodies]
    events = watched(model)

    def backend(graph, example):
        count = sum(node.op == "call_function" and "linear" in str(node.target) for node in graph.graph.nodes)

        def compiled(*args):
            events.extend(["linear"] * count)
            return graph(*args)

        return compiled

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        compiled(IDS, use_cache=False)
        events.clear()
        assert (compiled(IDS, use_cache=False).logits - expected).abs().max() < 1e-5, wiring
    table = []
    for event in model.rewiring.table.events:
        table += ["linear"] * linears[event.index] if event.kind == "compute" else [f"{event.kind} {event.index}"]
    head = ["linear"] if events[-1] == "linear" else []
    assert events == table + head, wiring
    if wiring == "ladder":
        compiled(IDS, labels=IDS).loss.backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        compare_gradients(model, mesh, found, whole, "compiled and trained")


def watched(model):
    """All-reduces launched and waited for in ``model`` from now on, compiled or not."""
    events, real = [], model.rewiring.all_reduce
    handles = []

    def launch(value):
        events.append(f"launch {sum(e.startswith('launch') for e in events)}")
        handle = real(value)
        wait, number = handle.wait, events[-1].partition(" ")[2]
        handle.wait = torch.compiler.disable(lambda: events.append(f"wait {number}") or wait())
        handles.append(handle)
        return handle

    model.rewiring.all_reduce = torch.compiler.disable(launch)
    return events


@pytest.mark.parametrize("wiring", ["standard", "ladder", "parallel", "partial", "spd", "desync-4x", "fal"])
def test_compiled_code_stays_between_launch_and_wait(two, wiring):
    two.run(check_compiled, wiring)


def check_loading(mesh, folder, wiring, options):
    model, _ = ladder.load(folder, mesh=mesh, **options)
    compare(model, mesh, *logits_and_gradients(make(wiring, 2)), wiring, options.get("split_vocabulary", False))


@pytest.mark.parametrize(("wiring", "options"), [("fal", {}), ("spd", {"split_vocabulary": True})])
def test_a_rank_loads_its_slices(two, tmp_path, wiring, options):
    make(wiring, 2).save_pretrained(tmp_path)
    toy_tokenizer(tmp_path)
    two.run(check_loading, str(tmp_path), wiring, options)


def toy_tokenizer(folder):
    vocabulary = {f"<{n}>": n for n in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<0>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def check_refusals(mesh):
    with pytest.raises(UserError, match="belongs to tensor-parallel degree 4"):
        ladder.parallelize(make("spd", 4), mesh)
    with pytest.raises(UserError, match="does not divide the model's num_key_value_heads"):
        ladder.parallelize(make("ladder", 2, num_key_value_heads=1), mesh)


def test_a_mesh_that_does_not_fit_is_refused(two):
    two.run(check_refusals)
