"""Methods of adaptation: distillation, rewiring by phases, early stop, and what is refused before training."""

import json
import shutil

import pytest
import torch
from toy import Tracking, killed, losses, model, run

from ladder import cli, reading, records
from ladder.errors import UserError
from ladder.model import LadderConfig, LadderForCausalLM, load, save
from ladder.train.methods import METHODS, Objective, Recipe, in_order, split
from ladder.wiring import table

SMALL = "--sequence 64 --batch 2 --steps 4 --warmup 1 --evaluate-every 2 --validation-windows 4 --device cpu"
LAYERS = 4


def progressive(wiring: str = "ladder", steps: int = 6, **flags) -> Objective:
    return Recipe("progressive", **flags).objective(wiring, 2, None, steps)


def numbers(state) -> list:
    return [losses(state), [p["grad_norm"] for p in state.training], state.validation]


def test_phases():
    phases = split(in_order(None, "ladder", 10, None), 3, "ladder", 10, None, 24)
    assert [phase[:2] for phase in phases] == [
        (0, "ladder@7-9"), (6, "ladder@4-9"), (12, "ladder@1-9"), (18, "ladder")
    ]  # fmt: skip
    assert all(phase.rows == table(phase.wiring, 10) for phase in phases)
    objective = Objective(phases=phases)
    entered = [objective.phase(step).wiring for step in (0, 1, 6, 7, 18, 19, 24)]
    assert entered == [phases[k].wiring for k in (0, 0, 0, 1, 2, 3, 3)]


def test_the_first_layers_can_stay():
    phases = split(in_order(None, "spd@1-3", LAYERS, 2), 2, "spd@1-3", LAYERS, 2, 4)
    assert [phase.wiring for phase in phases] == ["spd@2-3", "spd@1-3"]
    assert phases[0].rows[:4] == table("standard", 2)


def scan(path, metric: str = "loss_change_alone", wiring: str = "ladder") -> str:
    loss = {"metric": metric, "unit": "nats", "origin": "measured"}
    rows = [
        loss | {"wiring": wiring, "converted": 1, "layers": str(layer), "value": value}
        for layer, value in enumerate([0.3, 0.1, 0.4, 0.2])
    ]
    records.write(path, rows, {"mlflow_run_id": None})
    return path


def test_the_order_of_a_scan(tmp_path):
    assert in_order(scan(tmp_path / "r.json"), "ladder", LAYERS, None) == [1, 3, 0, 2]
    assert in_order(scan(tmp_path / "r.json"), "ladder@2-3", LAYERS, None) == [3, 2]
    with pytest.raises(UserError, match=r"r\.json: holds no loss change of layer 0 under 'parallel-2norm'; scan that"):
        in_order(tmp_path / "r.json", "parallel-2norm", LAYERS, None)
    with pytest.raises(UserError, match="holds no loss change of layer 0"):  # from the end
        in_order(scan(tmp_path / "r.json", "loss_change"), "ladder", LAYERS, None)


def test_each_step_runs_under_the_wiring_of_its_phase(tmp_path):
    net, seen = model(), []
    inner = net.model.run
    net.model.run = lambda x, modules, rows, *rest: seen.append((net.training, rows)) or inner(x, modules, rows, *rest)
    state, _ = run(tmp_path, net=net, objective=progressive())
    half, all_ = table("ladder@1", 2), table("ladder", 2)
    assert [rows for training, rows in seen if training] == [half] * 3 + [all_] * 3
    evaluated = [rows for training, rows in seen if not training]
    assert evaluated[0] == half
    assert evaluated[-1] == all_
    other = model()
    other.model.set_wiring("ladder@1")
    assert losses(run(tmp_path / "other", net=other, steps=6)[0])[:3] == losses(state)[:3]


@pytest.mark.parametrize("at", [2, 4, 6])
def test_a_killed_progressive_run_goes_on_exactly(at, tmp_path):
    """Killed in the first phase, in the first step of the second, and at the end."""
    whole, weights = run(tmp_path / "whole", objective=progressive())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Tracking({at: killed}), objective=progressive())
    state, again = run(tmp_path / "killed", net=model(seed=5 if at > 2 else 0), objective=progressive())
    assert numbers(state) == numbers(whole)
    assert all(torch.equal(again[name], weights[name]) for name in weights)


WORSE_LATER = {"lr": 0.3, "warmup": 12, "steps": 12, "evaluate_every": 1, "clip": 0.0}  # the rate rises too far


@pytest.mark.parametrize("lr", [0.3, 3.0], ids=["after some steps", "at once"])
def test_early_stop_keeps_the_best_weights(tmp_path, lr):
    objective, settings = Recipe(patience=2).objective("ladder", 2, None, 12), WORSE_LATER | {"lr": lr}
    state, weights = run(tmp_path, objective=objective, **settings)
    points = {point["step"]: point["loss"] for point in state.validation}
    best = min(points, key=points.get)
    assert objective.kept(state.validation)["step"] == best == state.step - 2 < 10
    assert (best == 0) == (lr == 3.0)
    expected = dict(model().named_parameters())
    if best:  # the rates of these steps are those of the warm-up, so a run that ends there has the same
        alike = settings | {"steps": best, "warmup": best, "lr": lr * best / 12}
        expected = run(tmp_path / "alike", **alike)[1]
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    again = run(tmp_path, net=model(seed=5), objective=objective, **settings)  # what is resumed stops as it did
    assert again[0].validation == state.validation
    assert all(torch.equal(again[1][name], weights[name]) for name in weights)


def test_patience_counts_from_the_last_phase():
    objective = progressive(patience=1)
    points = [{"step": step, "loss": loss} for step, loss in ((0, 1.0), (2, 0.5), (4, 2.0), (5, 1.5))]
    assert objective.best(points[:2]) is None
    assert not objective.exhausted(points[:2])
    assert objective.improved(points)
    assert not objective.exhausted(points)
    assert objective.exhausted([*points, {"step": 6, "loss": 1.6}])
    assert objective.kept([*points, {"step": 6, "loss": 1.6}]) == points[-1]


def made(data, out, wiring="standard", seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    shape |= {"vocab_size": 300, "tie_word_embeddings": True} | changes
    info = {"model": "toy", "wiring": wiring, "variant": "pretrained", "seed": 3}
    save(LadderForCausalLM(LadderConfig(wiring=wiring, **shape)), data / "tokenizer", out, info)
    return out


@pytest.fixture(scope="module")
def original(data, tmp_path_factory):
    """A standard model that has learnt something."""
    out = tmp_path_factory.mktemp("original")
    torch.manual_seed(0)
    start = made(data, out / "start")
    words = adapt(start, data, out, "--steps", "30", "--lr", "3e-2", "--warmup", "5", "--evaluate-every", "30")
    assert cli.main(words) == 0
    return out / "model"


@pytest.fixture(scope="module")
def converted(original, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "model"
    assert cli.main(["convert", str(original), str(out), "--wiring", "ladder"]) == 0
    return out


def adapt(checkpoint, data, out, *more) -> list[str]:
    where = [checkpoint, out / "model", "--chat", data / "chat", "--work", out / "work"]
    return ["adapt", *map(str, where), "--record", str(out / "record.json"), *SMALL.split(), *map(str, more)]


def test_distill(original, converted, data, tmp_path):
    before = {name: (original / name).read_bytes() for name in ("model.safetensors", "ladder.json")}
    words = adapt(converted, data, tmp_path, "--method", "distill", "--teacher", original, "--hidden-weight", "0.1")
    assert cli.main([*words, "--lr", "3e-3", "--steps", "8"]) == 0
    record = records.read(tmp_path / "record.json")
    first, *_, last = record["curves"]["validation"]
    assert last["kl"] < 0.8 * first["kl"]
    assert last["hidden"] < first["hidden"]
    assert all(row["variant"] == "distilled" and row["wiring"] == "ladder" for row in record["rows"])
    rows = {row["metric"]: row["value"] for row in record["rows"]}
    assert rows["validation_kl"] == last["kl"]
    assert rows["validation_loss"] == last["loss"]
    assert record["settings"].items() >= {"method": "distill", "hidden_weight": 0.1}.items()
    assert reading.read_json(tmp_path / "model/ladder.json")["variant"] == "distilled"
    assert before == {name: (original / name).read_bytes() for name in before}


def test_progressive_distillation_ends_under_the_full_wiring(original, converted, data, tmp_path):
    words = adapt(converted, data, tmp_path, "--method", "progressive", "--group", 2, "--teacher", original)
    assert cli.main(words) == 0
    record = records.read(tmp_path / "record.json")
    assert record["settings"]["phases"] == ["ladder@2-3", "ladder"]
    assert "validation_kl" in {row["metric"] for row in record["rows"]}
    assert load(tmp_path / "model")[0].config.wiring == "ladder"
    assert reading.read_json(tmp_path / "model/ladder.json")["variant"] == "progressive"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--method kd", "unknown method 'kd'; known: anneal, distill, lora, progressive, sft"),
        ("--method distill --rank 4", "--rank is of --method lora; --method distill takes none"),
        ("--method progressive --minutes 1", "--minutes 1: the phases of --method progressive need --steps"),
        ("--teacher x", "--method sft has no teacher; drop --teacher"),
        ("--temperature 2", "--temperature is of distillation, which needs --teacher"),
        ("--group 2", "--group is of --method progressive; --method sft takes none"),
        ("--method distill --teacher x --temperature 0", "--temperature 0.0 must be above 0"),
        ("--method distill --teacher x --sft-weight -1", "--sft-weight -1.0 must be at least 0"),
        ("--method progressive --group 0", "--group 0 must be at least 1"),
        ("--patience 0", "--patience 0 must be at least 1"),
        ("--method distill --teacher x", "x: no such checkpoint directory"),
        ("--method progressive --steps 3 --warmup 1", "--steps 3 are fewer than the 4 groups of layers"),
        ("--method progressive --order x.json", "x.json: no such file"),
    ],
)
def test_refused_flags(converted, data, tmp_path, capsys, flags, sentence):
    assert cli.main(adapt(converted, data, tmp_path, *flags.split())) == 1
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        ({"wiring": "ladder"}, "its wiring is 'ladder', that of"),
        ({"hidden_size": 16}, "its hidden_size 16 is not the 32 of"),
        ({"num_hidden_layers": 2}, "its num_hidden_layers 2 is not the 4 of"),
        ({"vocab_size": 310}, "its vocab_size 310 is not the 300 of"),
        ({"max_position_embeddings": 32}, "--sequence 64 is longer than the 32 positions of"),
    ],
)
def test_refused_teachers(converted, data, tmp_path, capsys, teacher, sentence):
    made(data, tmp_path / "teacher", **teacher)
    words = adapt(converted, data, tmp_path / "out", "--method", "distill", "--teacher", tmp_path / "teacher")
    assert cli.main(words) == 1
    assert sentence in capsys.readouterr().err


def test_a_teacher_of_another_tokenizer(original, converted, data, tmp_path, capsys):
    shutil.copytree(original, tmp_path / "teacher")
    file = tmp_path / "teacher/tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    file.write_text(json.dumps(content))
    words = adapt(converted, data, tmp_path / "out", "--method", "distill", "--teacher", tmp_path / "teacher")
    assert cli.main(words) == 1
    assert "its tokenizer is not that of" in capsys.readouterr().err


def test_nothing_to_rewire(original, data, tmp_path, capsys):
    assert cli.main(adapt(original, data, tmp_path, "--method", "progressive")) == 1
    assert "the checkpoint's wiring is 'standard': there is no layer to rewire" in capsys.readouterr().err


def test_the_teacher_is_the_checkpoint_before_its_conversion(original, converted, data, tmp_path, capsys):
    for name, more in (("named", ["--teacher", original]), ("self", [])):
        assert cli.main(adapt(converted, data, tmp_path / name, "--method", "distill", *more)) == 0
    curves = [records.read(tmp_path / name / "record.json")["curves"] for name in ("named", "self")]
    assert curves[0]["validation"] == curves[1]["validation"]
    assert cli.main(adapt(tmp_path / "self/model", data, tmp_path / "again", "--method", "distill")) == 1
    assert "name that with --teacher" in capsys.readouterr().err


def hybrid(original, out):
    assert cli.main(["convert", str(original), str(out), "--wiring", "ladder@1,3"]) == 0
    return out


def changed(before, after) -> set[str]:
    old, new = (load(folder)[0].state_dict() for folder in (before, after))
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize("more", [["--method", "lora", "--rank", "4"], ["--method", "distill", "--freeze"]])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_part_is_trained(original, data, tmp_path, more, precision):
    source = hybrid(original, tmp_path / "hybrid")
    words = adapt(source, data, tmp_path, *more, "--lr", "1e-2", "--steps", "8", "--precision", precision)
    assert cli.main(words) == 0
    record = records.read(tmp_path / "record.json")
    first, *_, last = record["curves"]["validation"]
    assert last["kl"] < 0.9 * first["kl"]
    rows = {row["metric"]: row["value"] for row in record["rows"]}
    assert rows["trained_parameters"] < rows["parameters"]
    if precision == "fp32":
        names = changed(source, tmp_path / "model")
        assert all(name.startswith(("model.layers.1.", "model.layers.3.")) for name in names)
        assert len(names) == (14 if "lora" in more else 18)


@pytest.mark.parametrize("objective", [{"method": "lora", "rank": 2}, {"method": "anneal"}, {"method": "distill"}])
def test_a_killed_part_goes_on_exactly(objective, tmp_path):
    def made():
        chosen = Recipe(**objective, freeze=True).objective("ladder@1", 2, None, 6, teacher=model(wiring="standard"))
        net = model(wiring="ladder@1")
        chosen.prepare(net)
        return {"objective": chosen, "net": net}

    whole, weights = run(tmp_path / "whole", **made(), evaluate_every=1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Tracking({4: killed}), **made(), evaluate_every=1)
    state, again = run(tmp_path / "killed", **made(), evaluate_every=1)
    assert numbers(state) == numbers(whole)
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_the_lag_waits_for_the_loss():
    objective = Recipe("anneal").objective("ladder", 2, None, 40)
    start = {"step": 0, "kl": 2.0, "late": 1.0}
    late = [objective.late(step, 40, [start]) for step in (0, 1, 15, 30, 40)]
    assert late == pytest.approx([1, 1 / 30, 0.5, 1, 1])
    fine, poor = ({"step": 10, "kl": kl, "late": 0.4} for kl in (0.39, 0.41))
    assert objective.late(20, 40, [start, fine]) == pytest.approx(0.4 + 0.6 / 2)
    assert objective.late(20, 40, [start, poor]) == 0.4
    assert objective.late(30, 40, [start, poor]) == 1
    ends = [{"step": step, "kl": kl, "loss": 3.0, "late": 1.0} for step, kl in ((30, 0.5), (40, 0.4))]
    assert objective.best([start, fine]) is None
    assert objective.best([start, fine, *ends]) == ends[1]


@pytest.mark.parametrize(
    ("method", "wiring", "words"),
    [
        ("anneal", "parallel", "not one that only delays"),
        ("anneal", "standard", "'standard'"),
        ("lora", "standard", "no layer to rewire"),
        ("lora", "spd", "at 2 ranks"),
    ],
)
def test_wirings_that_a_method_does_not_fit(method, wiring, words):
    with pytest.raises(UserError, match=words):
        Recipe(method).objective(wiring, 4, 2 if wiring == "spd" else None, 8)


def test_every_method_has_a_name_of_its_own():
    assert len({row.variant for row in METHODS.values()}) == len(METHODS)
