"""From a configuration to named jobs: what each stage runs, and on what."""

import shlex
from dataclasses import dataclass, field

from ladder.bench import grid
from ladder.bench.options import Options as BenchOptions
from ladder.bench.options import defaults
from ladder.data.documents import SPLITS
from ladder.errors import UserError
from ladder.files import digest
from ladder.model.sizes import Size, origin, row, size
from ladder.options import flag, select
from ladder.train.methods import METHODS, Recipe
from ladder.train.options import Options
from ladder.wiring import Wiring


@dataclass
class Plan:
    """The jobs of a configuration, by name. A name is also a path's last part, so it says what the job is.

    Each job holds what its rule needs: ``flags`` of the command line, ``launch`` (what starts it), ``gpus``, ``place``
    (snakemake's resources for them), ``row`` (its row of the table of sizes: a changed row reruns what depends on it),
    and the paths it reads.
    """

    config: dict
    corpus: dict = field(default_factory=dict)
    tokenizer: dict = field(default_factory=dict)
    tokens: dict = field(default_factory=dict)
    parts: dict[str, dict] = field(default_factory=dict)
    pretrain: dict[str, dict] = field(default_factory=dict)
    convert: dict[str, dict] = field(default_factory=dict)
    adapt: dict[str, dict] = field(default_factory=dict)
    evaluate: dict[str, dict] = field(default_factory=dict)
    sensitivity: dict[str, dict] = field(default_factory=dict)
    bench: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self):
        self.digest = digest(self.config)
        self.root = f"results/{self.config['name']}"
        self._corpus()
        self._pretrain()
        self._adapt()
        self._evaluate()
        self._sensitivity()
        self._bench()

    def _corpus(self) -> None:
        """One job that gathers and one that packs; or both for each part, and then jobs that join what they made."""
        sources, root, tokenizer = listed(self.config["corpus"]), self.root, self.config["tokenizer"]
        trained = "vocab" in tokenizer  # one that is taken needs no documents
        self.tokenizer = {"flags": flags(tokenizer | ({"corpus": f"{root}/corpus"} if trained else {}))}
        self.tokenizer["files"] = [f"{root}/corpus/manifest.json"] if trained else []
        gathered = [{key: source[key] for key in source if key not in ("parts", "weight")} for source in sources]
        if len(sources) == sources[0].get("parts", 1) == 1:
            self.corpus = {"flags": flags(gathered[0]), "files": sources[0].get("path", []), "splits": SPLITS}
            self.tokens = {"flags": flags({"corpus": f"{root}/corpus", "tokenizer": f"{root}/tokenizer"})}
            return
        for source, words in zip(sources, gathered, strict=True):
            label, of = source.get("label", "corpus"), source.get("parts", 1)
            for number in range(1, of + 1):
                part = flags(words | {"part": f"{number}/{of}"})
                self.parts[f"{label}-{number}"] = {"flags": part, "files": source.get("path", [])}
        folders = {kind: [f"{root}/{kind}/parts/{name}" for name in self.parts] for kind in ("corpus", "tokens")}
        weights = [f"{source['label']}={source['weight']}" for source in sources if "weight" in source]
        self.corpus = {"flags": flags({"merge": folders["corpus"]}), "files": [], "splits": SPLITS[1:]}
        self.tokens = {"flags": flags({"merge": folders["tokens"], "weight": weights or None})}

    def _pretrain(self) -> None:
        settings = self.config["pretrain"]
        for run in settings["runs"]:
            for seed in settings["seeds"]:
                name = f"{run['size']}-{run['wiring']}-s{seed}"
                tp = settings["tp"] if Wiring.parse(run["wiring"]).tied else None
                model = flags({"size": run["size"], "wiring": run["wiring"], "tp": tp})
                shape = size(run["size"])
                self.pretrain[name] = self._training({"seed": seed, **settings, **run}, shape) | {"model": model}

    def _adapt(self) -> None:
        settings = self.config["adapt"]
        source = settings["from"]
        model, shape = origin(source)
        plain = {key: value for key, value in settings.items() if key not in ("wirings", "methods", "from")}
        for seed in settings["seeds"]:
            for wiring, how in adaptations(settings):
                converted = f"{model}-{wiring}-s{seed}"
                name = f"{model}-{wiring}-{how['method']}-s{seed}" if "method" in how else converted
                if "checkpoint" in source:  # one conversion serves all seeds
                    original, converted = source["checkpoint"], f"{model}-{wiring}"
                else:
                    original = f"{self.root}/pretrain/{model}-{source['wiring']}-s{seed}/model"
                here = [] if "checkpoint" in source else [original]
                kept = wiring == source.get("wiring")  # the original, as it was trained
                start = original if kept else f"{self.root}/convert/{converted}/model"
                method = METHODS[how.get("method", "sft")]
                taught = method.teacher is not False and how.get("teacher", True)
                # Where a teacher may be: the weights before their conversion.
                teacher = start if taught and method.teacher is None else None
                run = {"seed": seed, **plain, **how, "wiring": wiring, "size": model, "teacher": teacher}
                self.adapt[name] = self._training(run, shape) | {"checkpoint": start, "taught": taught}
                if kept:
                    continue
                words = {"wiring": wiring, "model": model, "chat_template": settings.get("chat_template")}
                words["tp"] = settings["tp"] if Wiring.parse(wiring).tied else None
                self.convert[converted] = {
                    "wiring": wiring,
                    "shape": shape,
                    "seed": seed,  # with whose models it is evaluated
                    "source": original,
                    "files": here,
                    "flags": flags(words),
                }

    def _training(self, run: dict, shape: Size | None) -> dict:
        """A training run with what its rule needs."""
        run = {"sequence": self.config["sequence"], **run}
        gpus = run.get("gpus", 1)
        return run | {
            "flags": flags(run | {"device": self.config["device"]}, Recipe, Options),
            "launch": self._launcher(gpus),
            "gpus": gpus if self.config["device"] == "cuda" else 0,
            "place": self._place(gpus),
            "shape": shape,
            "row": row(shape),
        }

    def _evaluate(self) -> None:
        """Groups of checkpoints that one process evaluates: lm-eval's start costs more than a small evaluation."""
        settings = self.config["evaluate"]

        def add(group: str, name: str, path: str, stage: str) -> None:
            group = group if settings.get("together", True) else name
            # No longer windows than the model was trained on.
            length = self.config[stage].get("sequence", self.config["sequence"])
            new = {"checkpoints": {}, "tasks": settings[stage], "max_length": length}
            self.evaluate.setdefault(group, new)["checkpoints"][name] = path

        for name, run in self.pretrain.items():
            add(f"pretrained-s{run['seed']}", f"pretrained-{name}", f"{self.root}/pretrain/{name}/model", "pretrain")
        for name, run in self.convert.items():
            add(f"adapted-s{run['seed']}", f"converted-{name}", f"{self.root}/convert/{name}/model", "adapt")
        for name, run in self.adapt.items():
            add(f"adapted-s{run['seed']}", f"adapted-{name}", f"{self.root}/adapt/{name}/model", "adapt")
        for folder, group in self.evaluate.items():
            names = list(group["checkpoints"])
            tasks = [task.partition(":") for task in group["tasks"]]
            chosen = {"batch": settings["batch"], "limit": settings.get("limit"), "max_length": group["max_length"]}
            chosen |= {"device": self.config["device"], "run_generated_code": settings.get("run_generated_code")}
            words = [flags(chosen)]
            words += [flags({"task": task}) for task, _, _ in tasks]
            words += [flags({"fewshot": f"{task}={shots}"}) for task, _, shots in tasks if shots]
            group |= {"flags": " ".join(words), "names": ",".join(names), "paths": list(group["checkpoints"].values())}
            group["records"] = [f"{self.root}/evaluate/{folder}/{name}.json" for name in names]

    def _sensitivity(self) -> None:
        """One scan of the checkpoint that adaptation starts from, on test documents through its own tokenizer."""
        settings, source = self.config.get("sensitivity"), self.config["adapt"]["from"]
        if settings is None:
            return
        name = model = origin(source)[0]
        if "checkpoint" not in source:
            name = f"{model}-{source['wiring']}-s{self.config['adapt']['seeds'][0]}"
        original = source.get("checkpoint", f"{self.root}/pretrain/{name}/model")
        chosen = {key: settings.get(key) for key in ("windows", "batch")} | {"device": self.config["device"]}
        chosen |= {"wiring": settings["wirings"], "model": model}
        chosen["sequence"] = self.config["adapt"].get("sequence", self.config["sequence"])
        chosen["tp"] = settings["tp"] if any(Wiring.parse(w).tied for w in settings["wirings"]) else None
        self.sensitivity[name] = {
            "source": original,
            "files": [] if "checkpoint" in source else [original],
            "flags": flags(chosen),
        }

    def _bench(self) -> None:
        """Jobs of one command each, which may time several points and writes a record for each of them."""
        settings, device = self.config["bench"], self.config["device"]
        for kind in ("emulated", "ranks"):
            for entry in settings.get(kind, []):
                usual = {"wirings": settings["wirings"], "device": device, "dtype": defaults(device)["dtype"]}
                entry = usual | entry | {"emulate": kind == "emulated"}
                shapes = {field: listed(entry[field]) for field in grid.Shape._fields}
                ranks = max(shapes["tp"]) if kind == "ranks" else 1
                on = {key: entry[key] for key in ("rho", "link", "backend") if key in entry}
                found = grid.points(shapes, entry["emulate"], **{"backend": defaults(device)["backend"]} | on)
                name = bench_name(shapes, kind, entry)
                if name in self.bench:
                    raise UserError(f"bench.{kind}: two entries would be called {name}; join them")
                # On one node the command starts its own ranks.
                alone = device == "cpu" or self._nodes(ranks) == 1
                flagged = {k: v for k, v in entry.items() if k != "device" or v == "cuda"}
                self.bench[name] = entry | {
                    "flags": flags(flagged, BenchOptions),
                    "launch": "ladder" if alone else self._launcher(ranks),
                    "gpus": ranks if device == "cuda" else 0,
                    # Ranks on the CPU share a node, whatever a node has of GPUs.
                    "place": self._place(ranks) if device == "cuda" else self._place(1) | {"cpus_per_task": ranks},
                    "row": [row(size(name)) for name in shapes["size"]],
                    "records": [
                        f"{self.root}/bench/{name}/{grid.name(shape, what, entry['dtype'], entry.get('layers'))}.json"
                        for shape, what in found
                    ],
                }

    def records(self) -> list[str]:
        """Every record that the reports read."""
        stages = {"pretrain": self.pretrain, "convert": self.convert, "adapt": self.adapt}
        made = [f"{self.root}/{stage}/{name}/record.json" for stage, jobs in stages.items() for name in jobs]
        made += [record for group in self.evaluate.values() for record in group["records"]]
        made += [f"{self.root}/sensitivity/{name}/record.json" for name in self.sensitivity]
        made += [record for job in self.bench.values() for record in job["records"]]
        made += [f"{self.root}/simulate/{name}/record.json" for name in ("validation", "study")]
        return [*made, *(f"{self.root}/{name}/record.json" for name in ("corpus", "tokenizer", "tokens"))]

    def _nodes(self, gpus: int) -> int:
        return -(-gpus // self.config.get("gpus_per_node", 8))

    def _launcher(self, gpus: int) -> str:
        """What starts a training command on ``gpus`` ranks. Over several nodes it runs in the SLURM job's script, which
        is on the first of them."""
        if gpus == 1:
            return "ladder"
        nodes = self._nodes(gpus)
        if nodes == 1:
            return f"torchrun --standalone --nproc-per-node {gpus} -m -- ladder"
        return (
            f"srun --nodes {nodes} --ntasks-per-node 1 --cpu-bind none "
            f"torchrun --nnodes {nodes} --nproc-per-node {gpus // nodes} "
            "--rdzv-backend c10d --rdzv-id $SLURM_JOB_ID --rdzv-endpoint $(hostname):29500 -m -- ladder"
        )

    def _place(self, gpus: int) -> dict:
        """Snakemake's resources of a job of ``gpus`` ranks, as its SLURM executor reads them. ``mpi`` has it leave
        srun to the job; ``tasks`` are the launchers, one a node, and not, as it would have it, a number per GPU."""
        nodes = self._nodes(gpus)
        over = {"mpi": "srun", "tasks": nodes, "tasks_per_gpu": 0} if nodes > 1 else {}
        if self.config["device"] == "cuda":
            return {"gpu": gpus, "nodes": nodes} | over
        return {"gpu": 0, "nodes": nodes, "cpus_per_task": gpus // nodes} | over


def bench_name(shapes: dict, kind: str, entry: dict) -> str:
    """``paper-1b-8l-tp8-b1+4+16-p8-n12-fp32-emulated``"""
    several = grid.Shape(*("+".join(map(str, shapes[field])) for field in grid.Shape._fields))
    computed = "-".join([*entry.get("compute", []), entry["dtype"]])
    return grid.name(several, entry.get("backend", kind), computed, entry.get("layers"))


def adaptations(settings: dict) -> list[tuple[str, dict]]:
    """(wiring, settings of its method) of every adaptation: all are finetuned, some adapted in other ways too."""
    found = [(wiring, {}) for wiring in settings["wirings"]]
    for entry in settings.get("methods", []):
        how = {key: value for key, value in entry.items() if key != "wirings"}
        found += [(wiring, how) for wiring in entry["wirings"]]
    return found


def listed(value) -> list:
    return value if isinstance(value, list) else [value]


def flags(settings: dict, *declared: type) -> str:
    """``{"new_tokens": 60, "emulate": True}`` -> ``--emulate --new-tokens 60``: the options that classes declare, in
    that order; or all, by name. So moving a key in a configuration reruns nothing."""
    chosen, words = select(settings, *declared) if declared else dict(sorted(settings.items())), []
    for key, value in chosen.items():
        if value is True:
            words.append(flag(key))
        elif isinstance(value, list):
            words += [flag(key), *map(str, value)]
        elif value is not None and value is not False:
            words += [flag(key), str(value)]
    return shlex.join(words)
