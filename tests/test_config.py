"""Profiles, their plan, and every wrong configuration: one sentence before any work."""

import copy
import gc
import json
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import yaml

from ladder import config as configuration
from ladder.budget import disk, gpu_hours, summary
from ladder.cli import COMMANDS, main
from ladder.config import check, check_machine, read
from ladder.errors import UserError
from ladder.evaluate import offline
from ladder.model.imported import PACKAGED
from ladder.model.sizes import SIZES, size
from ladder.plan import Plan, flags
from ladder.train.methods import Recipe
from ladder.train.options import Options

PROFILES = sorted(Path("config").glob("*.yaml"))
TOY = yaml.safe_load(Path("tests/toy.yaml").read_text())
DEFAULT = TOY | {"name": "default", "corpus": {"kind": "python-docs", "validation": 0.04, "test": 0.08}}
DEFAULT["adapt"] = TOY["adapt"] | {"methods": [{"method": "distill", "wirings": ["ladder@5-9"]}]}
SMOLLM2 = {"from": {"checkpoint": "smollm2"}, "wirings": [], "text": ["corpus"]}


def changed(path, value):
    config = copy.deepcopy(DEFAULT)
    *parents, last = path
    place = config
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return config


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_every_profile_is_valid_and_has_a_plan(path):
    plan = Plan(read(path))
    assert all(hours >= 0 for hours in gpu_hours(plan).values())
    assert sum(disk(plan).values()) > 0
    assert plan.config["name"] in summary(plan)
    assert len(plan.records()) == len(set(plan.records()))


WRONG = [
    (("pretrian",), {}, "top level: unknown key 'pretrian'; known: adapt, bench"),
    (("pretrain", "stepz"), 3, "pretrain: unknown key 'stepz'"),
    (("sequence",), None, "top level: the key 'sequence' is missing"),
    (("pretrain", "precision"), True, "pretrain.precision: True is not one of ['fp32', 'bf16', 'auto']"),
    (("pretrain", "warmup"), 10**400, "pretrain.warmup: 1000"),
    (("pretrain", "keep"), 3, "pretrain: unknown key 'keep'"),
    (("pretrain", "runs", 0, "shard"), 2, "pretrain.runs[0].shard: 2 does not divide the 1 rank of this job"),
    (("pretrain", "betas"), [0.9, 1], "pretrain.betas[1]: 1 is greater than or equal to the maximum of 1"),
    (("pretrain", "seeds"), [-1], "pretrain.seeds[0]: -1 is less than the minimum of 0"),
    (("adapt", "clip"), -1, "adapt.clip: -1 is less than the minimum of 0"),
    (("bench", "ranks", 0, "new_tokens"), 1, "bench.ranks[0].new_tokens: 1 is less than the minimum of 2"),
    (("bench", "ranks", 0, "backend"), "ncl", "bench.ranks[0].backend: 'ncl' is not one of ['gloo', 'nccl'"),
    (("pretrain", "steps"), 0, "pretrain.steps: 0 is less than the minimum of 1"),
    (("pretrain", "lr"), "3e-4", "pretrain.lr: '3e-4' is not of type 'number'"),
    (("pretrain", "runs", 1, "wiring"), "laddr", "pretrain.runs[1].wiring: unknown wiring 'laddr'; known: desync"),
    (("pretrain", "runs", 1, "wiring"), "ladder@8-10", "layer 10 in '8-10' is outside the model"),
    (("pretrain", "runs", 1, "wiring"), "upper_bound", "is for timing only: no model computes it"),
    (("pretrain", "runs", 0, "size"), "tinny", "pretrain.runs[0].size: unknown size 'tinny'"),
    (("pretrain", "warmup"), 1000, "pretrain.runs[0].warmup: 1000 is more than the 4 steps"),
    (("pretrain", "micro_batch"), 3, "pretrain.runs[0].batch: 2 is not a multiple of 3 (micro-batch 3 x 1 rank)"),
    (("sequence",), 4096, "sequence: 4096 is longer than the 512 of tiny"),
    (("adapt", "wirings"), ["ladder@99"], "adapt.wirings[0]: layer 99"),
    (("adapt", "from"), {"size": "tiny", "wiring": "ladder-7"}, "is not among pretrain.runs"),
    (("adapt", "from"), {"sise": "tiny"}, "is not understood"),
    (("adapt", "seeds"), [7], "seeds [7] are not among pretrain.seeds"),
    (("pretrain", "tp"), None, "pretrain.tp: is missing; wiring 'spd' is another function at every"),
    (("pretrain", "tp"), 3, "pretrain.tp: 3 does not divide the heads (4) of tiny"),
    (("adapt", "wirings"), ["ladder", "spd"], "adapt.tp: is missing; wiring 'spd'"),
    (("adapt", "from"), {"size": "tiny", "wiring": "spd"}, "adapt.tp: None is not the 2 that adapt.from"),
    (("adapt", "methods"), [{"method": "kd", "wirings": ["ladder"]}], "adapt.methods[0].method: 'kd' is not one of"),
    (("adapt", "methods"), [{"method": "sft", "wirings": ["ladder"]}], "adapt.methods[0].method: 'sft' is how"),
    (("adapt", "methods"), [{"method": "distill", "wirings": ["ladder"], "group": 2}], "--group is of --method prog"),
    (("adapt", "methods"), [{"method": "distill", "wirings": ["spd@chosen-11"]}], "more layers than the 10 of"),
    (("adapt", "wirings"), ["fal@chosen-3"], "'fal' is not among sensitivity.wirings"),
    (("adapt", "chat"), None, "adapt.chat: is missing"),
    (("adapt", "text"), ["no.txt"], "adapt.text.path: no.txt: no such file"),
    (("evaluate", "data"), "nowhere", "evaluate.data: nowhere: no such folder; `ladder fetch"),
    (("adapt", "methods"), [{"method": "distill", "wirings": ["ladder"], "teacher": False}], "always has one"),
    (("adapt", "methods"), [{"method": "distill", "wirings": ["standard"]}], "'standard' is the original itself"),
    (("adapt", "methods"), [{"method": "distill", "wirings": ["ladder"]}] * 2, "'ladder' is adapted by distill twice"),
    (("sensitivity", "wirings"), ["ladder@1-2"], "sensitivity.wirings[0]: wiring 'ladder@1-2' names layers"),
    (("sensitivity", "wirings"), ["upper_bound"], "sensitivity.wirings[0]: wiring 'upper_bound' is for timing only"),
    (("sensitivity", "tp"), None, "sensitivity.tp: is missing; wiring 'spd'"),
    (("sensitivity", "windows"), 1, "sensitivity.windows: 1 is less than the minimum of 2"),
    (("bench", "emulated", 0, "tp"), 5, "bench.emulated[0].tp: 5 does not divide the heads (4) of tiny"),
    (("bench", "wirings"), ["ladder"], "'standard' is missing"),
    (("corpus",), {"kind": "files", "path": ["no.txt"], "validation": 0.1, "test": 0.1}, "no.txt: no such file"),
    (("corpus",), {"kind": "files", "validation": 0.1, "test": 0.1}, "needs a list of paths"),
    (("corpus",), {"kind": "huggingface", "validation": 0.1, "test": 0.1}, "needs the name of a dataset"),
    (("corpus", "parts"), 0, "corpus.parts: 0 is less than the minimum of 1"),
    (("corpus", "weight"), 2, "corpus.weight: is for a mixture"),
    (
        ("corpus",),
        DEFAULT["corpus"] | {"limit": 3, "parts": 4},
        "corpus.parts: 4 are more than the 3 documents of limit",
    ),
    (
        ("corpus",),
        [DEFAULT["corpus"], DEFAULT["corpus"] | {"label": "a", "weight": 0}],
        "corpus[1].weight: 0 is less than or equal to",
    ),
    (("corpus",), [DEFAULT["corpus"] | {"label": "a", "weight": 1}] * 2, "labels ['a', 'a'] name a source twice"),
    (("corpus",), [DEFAULT["corpus"] | {"label": "a"}] * 2, "corpus[0].weight: is missing; every source of a mixture"),
    (("corpus",), [DEFAULT["corpus"], DEFAULT["corpus"] | {"kind": "web"}], "corpus[1].kind: 'web' is not one of"),
    (("tokenizer",), {"vocab": 300, "from": "x"}, "give exactly one of 'vocab'"),
]


@pytest.mark.parametrize(("path", "value", "words"), WRONG, ids=[w[2][:40] for w in WRONG])
def test_a_wrong_configuration_is_one_sentence(path, value, words):
    with pytest.raises(UserError) as error:
        check(changed(path, value), "mine.yaml")
    text = str(error.value)
    assert text.startswith("mine.yaml: ")
    assert words in text
    assert "\n" not in text


def test_ranks_of_tensor_parallelism_share_a_micro_batch():
    run = {"size": "tiny", "wiring": "standard", "gpus": 4, "tp_ranks": 2, "micro_batch": 1}
    check(changed(("pretrain", "runs", 0), run), "mine.yaml")
    with pytest.raises(UserError, match=r"runs\[0\].tp_ranks: 3 does not divide the 4 ranks"):
        check(changed(("pretrain", "runs", 0), run | {"tp_ranks": 3}), "mine.yaml")


def test_an_empty_corpus_file_is_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    corpus = {"kind": "files", "path": [str(tmp_path / "a.txt")], "validation": 0.1, "test": 0.1}
    with pytest.raises(UserError, match=r"a\.txt: the file is empty"):
        check(changed(("corpus",), corpus), "mine.yaml")


def test_a_gpu_profile_without_a_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"device: cuda, but torch .* sees no GPU here"):
        check_machine({"name": "paper", "device": "cuda"}, 0)


def test_no_disk_for_the_planned_output(monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 10**9)
    monkeypatch.setattr(configuration.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="will write about 5 GB under results/, but 1 GB are free here"):
        check_machine({"name": "default", "device": "cpu"}, 5e9)


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(UserError, match=r"x\.yaml: no such file"):
        read(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        read(tmp_path / "x.yaml")


def test_parts_are_jobs_and_one_part_is_none():
    plan = Plan(DEFAULT)
    assert not plan.parts
    assert plan.corpus["flags"] == "--kind python-docs --test 0.08 --validation 0.04"
    source = DEFAULT["corpus"]
    web, code = source | {"label": "web", "weight": 3, "parts": 2}, source | {"label": "code", "weight": 1}
    plan = Plan(DEFAULT | {"corpus": [web, code]})
    assert list(plan.parts) == ["web-1", "web-2", "code-1"]
    assert plan.parts["web-2"]["flags"].startswith("--kind python-docs --label web --part 2/2 --test")
    folders = " ".join(f"results/default/tokens/parts/{name}" for name in plan.parts)
    assert plan.tokens["flags"] == f"--merge {folders} --weight web=3 code=1"
    assert len(Plan(read("config/paper.yaml")).parts) == 128


def test_a_seed_changes_only_its_own_jobs():
    before, after = (
        Plan(DEFAULT),
        Plan(changed(("pretrain", "seeds"), [0, 2]) | {"adapt": DEFAULT["adapt"] | {"seeds": [0]}}),
    )
    for name in before.pretrain:
        if name.endswith("-s0"):
            assert before.pretrain[name]["flags"] == after.pretrain[name]["flags"]
    assert set(before.pretrain) - set(after.pretrain) == {n for n in before.pretrain if n.endswith("-s1")}


def test_methods_of_adaptation_are_jobs_of_their_own():
    methods = [{"method": "distill", "wirings": ["ladder"], "lr": 0.002}]
    methods += [{"method": "progressive", "wirings": ["ladder"], "group": 2, "teacher": False}]
    settings = DEFAULT["adapt"] | {"wirings": ["standard", "ladder"], "seeds": [0], "methods": methods}
    plan = Plan(DEFAULT | {"adapt": settings})
    found = {name: (job["taught"], job["lr"]) for name, job in plan.adapt.items()}
    assert found == {
        "tiny-standard-s0": (False, settings["lr"]),
        "tiny-ladder-s0": (False, settings["lr"]),
        "tiny-ladder-distill-s0": (True, 0.002),
        "tiny-ladder-progressive-s0": (False, settings["lr"]),
    }
    assert list(plan.convert) == ["tiny-ladder-s0"]
    assert {job["checkpoint"] for name, job in plan.adapt.items() if "ladder" in name} == {
        "results/default/convert/tiny-ladder-s0/model"
    }
    words = plan.adapt["tiny-ladder-distill-s0"]["flags"]
    assert all(flag in words for flag in ("--method distill ", "--steps 2 "))
    assert "--teacher" not in words  # it is the checkpoint, before its conversion
    assert set(found) == {name.removeprefix("adapted-") for name in plan.evaluate["adapted-s0"]["checkpoints"]} - {
        "converted-tiny-ladder-s0"
    }


@pytest.fixture
def packages(monkeypatch):
    """Whether the packages of the model and of the evaluation data are installed, as the test wants it."""

    def are(there: bool):
        version = "gguf" if there else "no-such-package"
        monkeypatch.setitem(PACKAGED, "smollm2", (version, "1.0", "it.gguf"))
        monkeypatch.setattr(offline, "packaged", lambda: Path("data") if there else None)

    return are


def test_an_installed_model_is_imported_scanned_converted_and_distilled_on_text(packages):
    packages(True)
    methods = [{"method": "distill", "wirings": ["ladder@15-29", "ladder@chosen-15"]}]
    plan = Plan(DEFAULT | {"adapt": DEFAULT["adapt"] | SMOLLM2 | {"methods": methods, "seeds": [0, 1]}})
    assert not plan.missing
    root = "results/default"
    original, scan = f"{root}/convert/smollm2-standard/model", f"{root}/sensitivity/smollm2/record.json"
    assert {name: (job["source"], job["files"]) for name, job in plan.convert.items()} == {
        "smollm2-standard": ("smollm2", []),
        "smollm2-ladder@15-29": (original, [original]),
        "smollm2-ladder@chosen-15": (original, [original, scan]),
    }
    chosen = plan.convert["smollm2-ladder@chosen-15"]["flags"]
    assert chosen == f"--layers 15 --layers-from {scan} --model smollm2 --wiring ladder"
    assert (plan.sensitivity["smollm2"]["source"], plan.sensitivity["smollm2"]["files"]) == (original, [original])
    assert len(plan.adapt) == 2 * 2
    job = plan.adapt["smollm2-ladder@chosen-15-distill-s1"]
    assert (job["data"]["flag"], job["data"]["paths"]) == ("--text", [f"{root}/corpus/train.jsonl"])
    assert job["checkpoint"] == f"{root}/convert/smollm2-ladder@chosen-15/model"
    assert "converted-smollm2-standard" in plan.evaluate["adapted-s0"]["checkpoints"]


def test_a_profile_goes_on_without_what_is_not_installed(packages):
    packages(False)
    tasks = {"adapt": ["heldout_perplexity", "piqa"], "pretrain": ["heldout_perplexity", "arc_easy:5"]}
    wanted = DEFAULT | {"adapt": DEFAULT["adapt"] | SMOLLM2, "evaluate": DEFAULT["evaluate"] | tasks}
    plan = Plan(wanted)
    assert (plan.adapt, plan.convert, plan.sensitivity) == ({}, {}, {})
    assert {tuple(group["tasks"]) for group in plan.evaluate.values()} == {("heldout_perplexity",)}
    assert [word for word in ("no-such-package", "piqa", "arc_easy") if word not in "".join(plan.missing)] == []
    with_data = Plan(wanted | {"evaluate": wanted["evaluate"] | {"data": "here"}})
    assert all("--data here" in group["flags"] for group in with_data.evaluate.values())


def test_runs_that_one_process_trains():
    together = Plan(changed(("pretrain", "together"), True)).together
    assert list(together) == ["s0", "s1"]
    assert together["s1"] == ["tiny-standard-s1", "tiny-ladder-s1", "tiny-spd-s1"]
    assert not Plan(DEFAULT).together


@pytest.mark.parametrize("kind", ["directory", "name", "gguf"])
def test_a_checkpoint_needs_no_row_of_the_table(kind, tmp_path):
    path = {"directory": tmp_path / "my llama", "name": "me/my llama", "gguf": tmp_path / "my llama.gguf"}[kind]
    if kind == "directory":
        path.mkdir()
        shape = size("tiny").config(num_hidden_layers=3)
        (path / "config.json").write_text(json.dumps(shape | {"model_type": "llama"}))
    methods = [{"method": "progressive", "wirings": ["ladder@1-2"]}]
    changes = {"from": {"checkpoint": str(path)}, "wirings": ["ladder@1-2"], "seeds": [0], "methods": methods}
    config = DEFAULT | {"adapt": DEFAULT["adapt"] | changes}
    check(config, "mine.yaml")
    plan = Plan(config)
    assert list(plan.adapt) == ["my-llama-ladder@1-2-s0", "my-llama-ladder@1-2-progressive-s0"]
    imported = "results/default/convert/my-llama-standard/model"  # once for all conversions
    assert plan.convert["my-llama-ladder@1-2"]["source"] == (imported if kind == "gguf" else str(path))
    start = "results/default/convert/my-llama-ladder@1-2/model"
    assert f"--teacher {start}" in plan.adapt["my-llama-ladder@1-2-progressive-s0"]["flags"]
    assert summary(plan)
    if kind == "directory":
        with pytest.raises(UserError, match="layer 5"):
            check(config | {"adapt": config["adapt"] | {"wirings": ["ladder@5"]}}, "mine.yaml")


def test_only_wirings_that_depend_on_tp_get_it():
    adapt = DEFAULT["adapt"] | {"wirings": ["standard", "ladder", "spd@5-9"], "methods": [], "tp": 4}
    plan = Plan(DEFAULT | {"adapt": adapt})
    given = {job["wiring"]: re.findall(r"--tp \d+", job["model"]) for job in plan.pretrain.values()}
    tied = {"partial", "spd", "desync-2x"}
    assert given == {run["wiring"]: ["--tp 2"] * (run["wiring"] in tied) for run in DEFAULT["pretrain"]["runs"]}
    given = {job["wiring"]: re.findall(r"--tp \d+", job["flags"]) for job in plan.convert.values()}
    assert given == {"ladder": [], "spd@5-9": ["--tp 4"]}
    assert not any("--tp" in job["flags"] for job in plan.adapt.values())  # the checkpoint knows


@pytest.mark.parametrize(
    ("source", "job"),
    [
        (
            {"size": "tiny", "wiring": "standard"},
            ("tiny-standard-s0", "results/default/pretrain/tiny-standard-s0/model"),
        ),
        ({"checkpoint": "me/llama", "size": "llama-3.2-1b"}, ("llama-3.2-1b", "me/llama")),
    ],
)
def test_sensitivity_scans_what_adapt_starts_from(source, job):
    plan = Plan(DEFAULT | {"adapt": DEFAULT["adapt"] | {"from": source, "wirings": ["ladder"]}})
    assert [(name, scan["source"]) for name, scan in plan.sensitivity.items()] == [job]
    assert f"results/default/sensitivity/{job[0]}/record.json" in plan.records()
    without = {key: value for key, value in DEFAULT.items() if key != "sensitivity"}
    check(without, "mine.yaml")
    assert not Plan(without).sensitivity


def test_flags():
    assert flags(
        {"new_tokens": 60, "emulate": True, "seed": 0, "compile": False, "rho": [0.4, 0.8], "limit": None}
    ) == ("--emulate --new-tokens 60 --rho 0.4 0.8 --seed 0")
    settings = {"seed": 0, "steps": 3, "gpus": 2, "betas": [0.9, 0.99], "teacher": None, "method": "distill"}
    assert flags(settings, Recipe, Options) == "--method distill --seed 0 --steps 3 --betas 0.9 0.99"


def test_larger_sizes_are_30_percent_larger():
    assert size("tiny-larger").layers == 1.3 * size("tiny").layers
    assert size("paper-1b-larger").layers == 1.3 * size("paper-1b").layers


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        *(("paper-1b", 1.2), ("paper-1b-larger", 1.55), ("paper-3b", 3.5), ("paper-3b-larger", 4.5)),
        *(("llama-3.2-1b", 1.24), ("llama-3.2-3b", 3.21), ("llama-3.1-8b", 8.03), ("codellama-34b", 33.7)),
        *(("llama-3-70b", 70.6), ("llama-3.1-405b", 405.9)),
    ],
)
def test_sizes_have_the_published_number_of_parameters(name, billions):
    assert SIZES[name].parameters / 1e9 == pytest.approx(billions, rel=0.03)


@pytest.mark.slow
def test_parameters_are_counted_as_torch_counts():
    from ladder.model.modeling import LadderConfig, LadderForCausalLM

    for name in ("tiny", "paper-1b-8l"):
        model = LadderForCausalLM(LadderConfig(**size(name).config()))
        assert sum(parameter.numel() for parameter in model.parameters()) == size(name).parameters


def test_the_command_line(capsys):
    assert main(["laddr"]) == 1
    assert "unknown command 'laddr'; known: adapt, bench" in capsys.readouterr().err
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert f"ladder {command}" in capsys.readouterr().out
    assert gc.isenabled()


def test_light_commands_load_no_torch():
    """Starting costs: torch and transformers take seconds, most commands need neither."""
    code = "import sys; sys.argv = ['ladder']; import ladder.cli, ladder.budget; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_init_writes_run_json(tmp_path):
    assert main(["init", "--config", "tests/toy.yaml", "--out", str(tmp_path / "run.json")]) == 0
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["digest"] == Plan(TOY).digest
