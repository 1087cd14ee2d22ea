"""From a configuration to named jobs: what each stage runs, on what, and roughly at what cost."""

import shlex
from dataclasses import dataclass, field

from ladder.bench import grid
from ladder.errors import UserError
from ladder.files import digest
from ladder.model.sizes import row, size
from ladder.wiring import tied

PEAK, MFU = 989e12, 0.4  # bf16 FLOP/s of an H100, and the share of it assumed for estimates
TRAINING_KEYS = (
    *("steps", "batch", "micro_batch", "lr", "warmup", "min_lr", "weight_decay", "betas", "eps", "clip", "precision"),
    *("shard", "activation_checkpointing", "compile", "evaluate_every", "validation_windows", "checkpoint_every"),
)


@dataclass
class Plan:
    """The jobs of a configuration, by name. A name is also a path's last part, so it says what the job is.

    Each job holds what its rule needs: ``flags`` of the command line, ``launch`` (what starts it), ``gpus``, ``row``
    (its row of the table of sizes: a changed row reruns what depends on it), and the paths it reads.
    """

    config: dict
    pretrain: dict[str, dict] = field(default_factory=dict)
    convert: dict[str, dict] = field(default_factory=dict)
    adapt: dict[str, dict] = field(default_factory=dict)
    evaluate: dict[str, dict] = field(default_factory=dict)
    sensitivity: dict[str, dict] = field(default_factory=dict)
    bench: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self):
        self.digest = digest(self.config)
        self.root = f"results/{self.config['name']}"
        self._pretrain()
        self._adapt()
        self._evaluate()
        self._sensitivity()
        self._bench()

    def _pretrain(self) -> None:
        settings = self.config["pretrain"]
        for run in settings["runs"]:
            for seed in settings["seeds"]:
                name = f"{run['size']}-{run['wiring']}-s{seed}"
                tp = settings["tp"] if tied(run["wiring"]) else None
                model = flags({"size": run["size"], "wiring": run["wiring"], "tp": tp})
                self.pretrain[name] = self._training({"seed": seed, **settings, **run}) | {"model": model}

    def _adapt(self) -> None:
        settings = self.config["adapt"]
        source = settings["from"]
        for seed in settings["seeds"]:
            for wiring in settings["wirings"]:
                name = f"{source['size']}-{wiring}-s{seed}"
                if "checkpoint" in source:  # one conversion serves all seeds
                    origin, converted = source["checkpoint"], f"{source['size']}-{wiring}"
                else:
                    origin = f"{self.root}/pretrain/{source['size']}-{source['wiring']}-s{seed}/model"
                    converted = name
                self.adapt[name] = self._training({"seed": seed, **settings, "wiring": wiring, "size": source["size"]})
                if wiring == source.get("wiring"):  # the original, as it was trained
                    self.adapt[name]["checkpoint"] = origin
                    continue
                words = {"wiring": wiring, "model": source["size"], "chat_template": settings.get("chat_template")}
                words["tp"] = settings["tp"] if tied(wiring) else None
                self.convert[converted] = {
                    "wiring": wiring,
                    "size": source["size"],
                    "seed": seed,  # with whose models it is evaluated
                    "source": origin,
                    "files": [] if "checkpoint" in source else [origin],
                    "flags": flags(words),
                }
                self.adapt[name]["checkpoint"] = f"{self.root}/convert/{converted}/model"

    def _training(self, run: dict) -> dict:
        """A training run with what its rule needs."""
        run = {"sequence": self.config["sequence"], **run}
        gpus = run.get("gpus", 1)
        chosen = {key: run[key] for key in ("seed", "sequence", *TRAINING_KEYS) if key in run}
        return run | {
            "flags": flags(chosen | {"device": self.config["device"]}),
            "launch": self._launcher(gpus),
            "gpus": gpus if self.config["device"] == "cuda" else 0,
            "row": row(run["size"]),
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
            words += [f"--task {task}" for task, _, _ in tasks]
            words += [f"--fewshot {task}={shots}" for task, _, shots in tasks if shots]
            group |= {"flags": " ".join(words), "names": ",".join(names), "paths": list(group["checkpoints"].values())}
            group["records"] = [f"{self.root}/evaluate/{folder}/{name}.json" for name in names]

    def _sensitivity(self) -> None:
        """One scan of the checkpoint that adaptation starts from, on test documents through its own tokenizer."""
        settings, source = self.config.get("sensitivity"), self.config["adapt"]["from"]
        if settings is None:
            return
        if "checkpoint" in source:
            name, origin = source["size"], source["checkpoint"]
        else:
            name = f"{source['size']}-{source['wiring']}-s{self.config['adapt']['seeds'][0]}"
            origin = f"{self.root}/pretrain/{name}/model"
        chosen = {key: settings.get(key) for key in ("windows", "batch")}
        chosen["sequence"] = self.config["adapt"].get("sequence", self.config["sequence"])
        chosen["tp"] = settings["tp"] if any(map(tied, settings["wirings"])) else None
        self.sensitivity[name] = {
            "source": origin,
            "files": [] if "checkpoint" in source else [origin],
            "flags": flags(
                chosen | {"wiring": settings["wirings"], "model": source["size"], "device": self.config["device"]}
            ),
        }

    def _bench(self) -> None:
        """Jobs of one command each, which may time several points and writes a record for each of them."""
        settings, device = self.config["bench"], self.config["device"]
        for kind in ("emulated", "ranks"):
            for entry in settings.get(kind, []):
                entry = {"wirings": settings["wirings"], "device": device, **entry, "emulate": kind == "emulated"}
                entry.setdefault("dtype", "bf16" if device == "cuda" else "fp32")
                shapes = {field: listed(entry[field]) for field in grid.Shape._fields}
                ranks = max(shapes["tp"]) if kind == "ranks" else 1
                on = {} if kind == "ranks" else {key: entry.get(key, []) for key in ("rho", "link")}
                on["backend"] = entry.get("backend", "nccl" if device == "cuda" else "gloo")
                found = grid.points(shapes, entry["emulate"], **on)
                name = bench_name(shapes, kind, entry)
                if name in self.bench:
                    raise UserError(f"bench.{kind}: two entries would be called {name}; join them")
                many = ranks > self.config.get("gpus_per_node", 8)  # on one node the command starts its own ranks
                flagged = {k: v for k, v in entry.items() if k != "device" or v == "cuda"}
                self.bench[name] = entry | {
                    "flags": flags(flagged),
                    "launch": self._launcher(ranks if many and device == "cuda" else 1),
                    "gpus": ranks if device == "cuda" else 0,
                    "row": [row(size) for size in shapes["size"]],
                    "records": [
                        f"{self.root}/bench/{name}/{grid.record(shape, what, entry['dtype'], entry.get('layers'))}"
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

    def _launcher(self, gpus: int) -> str:
        """What starts a training command on ``gpus`` ranks."""
        per_node = self.config.get("gpus_per_node", 8)
        if gpus == 1:
            return "ladder"
        if gpus <= per_node:
            return f"torchrun --standalone --nproc-per-node {gpus} -m ladder"
        nodes = -(-gpus // per_node)
        head = "$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1):29500"
        return (
            f"srun --nodes {nodes} --ntasks-per-node 1 torchrun --nnodes {nodes} --nproc-per-node {per_node} "
            f"--rdzv-backend c10d --rdzv-id $SLURM_JOB_ID --rdzv-endpoint {head} -m ladder"
        )

    # Estimates, for people who must ask for hours and disk.

    def gpu_hours(self) -> dict[str, float]:
        """Estimated H100 hours by stage: 6 x parameters x tokens at 40 % of peak for training."""

        def train(run: dict) -> float:
            shape = size(run["size"])
            per_token = 6 * shape.parameters + 6 * shape.layers * shape.hidden * run["sequence"]  # causal attention
            return run["steps"] * run["batch"] * run["sequence"] * per_token / (PEAK * MFU) / 3600

        checkpoints = sum(len(group["checkpoints"]) for group in self.evaluate.values())
        points = sum(job["gpus"] * len(job["records"]) for job in self.bench.values())
        return {
            "pretrain": sum(map(train, self.pretrain.values())),
            "adapt": sum(map(train, self.adapt.values())),
            "evaluate": checkpoints * self.config["evaluate"].get("gpu_hours", 0.1),
            "bench": points * self.config["bench"].get("gpu_hours", 0.2),
        }

    def disk(self) -> dict[str, float]:
        """Estimated bytes by stage at the peak: final models, and a running job's checkpoints (fp32 and optimizer)."""

        def final(names) -> float:
            return sum(4.0 * size(name).parameters for name in names)

        running = [12.0 * size(run["size"]).parameters * 3 for run in (*self.pretrain.values(), *self.adapt.values())]
        tokens = max(
            (run["steps"] * run["batch"] * run["sequence"] for run in self.pretrain.values()),
            default=0,
        )
        return {
            "tokens": 2.0 * tokens + (4.5 * tokens if self.config["corpus"]["kind"] == "huggingface" else 0),
            "pretrain": final(run["size"] for run in self.pretrain.values()),
            "convert": final(job["size"] for job in self.convert.values()),
            "adapt": final(run["size"] for run in self.adapt.values()),
            "checkpoints": max(running, default=0.0),
        }

    def summary(self) -> str:
        """One line of jobs, GPU hours and disk."""
        stages = {"pretrain": self.pretrain, "convert": self.convert, "adapt": self.adapt}
        jobs = ", ".join(f"{len(jobs)} {stage}" for stage, jobs in (stages | {"bench": self.bench}).items())
        checkpoints = sum(len(group["checkpoints"]) for group in self.evaluate.values())
        line = f"profile {self.config['name']}: {jobs}, {checkpoints} checkpoints to evaluate"
        if self.config["device"] == "cuda":
            hours = self.gpu_hours()
            parts = ", ".join(f"{stage} {value:,.0f}" for stage, value in hours.items())
            line += f"; about {sum(hours.values()):,.0f} H100 hours ({parts})"
        return line + f"; about {sum(self.disk().values()) / 1e9:,.1f} GB of disk"


def bench_name(shapes: dict, kind: str, entry: dict) -> str:
    """``paper-1b-8l-tp8-b1+4+16-p8-n12-fp32-emulated``"""
    values = ["+".join(map(str, shapes[field])) for field in grid.Shape._fields]
    parts = [prefix + value for prefix, value in zip(("", "tp", "b", "p", "n"), values, strict=True)]
    if "layers" in entry:
        parts[0] += f"-{entry['layers']}l"
    return "-".join([*parts, *entry.get("compute", []), entry["dtype"], entry.get("backend", kind)])


def listed(value) -> list:
    return value if isinstance(value, list) else [value]


def flags(settings: dict) -> str:
    """``{"new_tokens": 60, "emulate": True}`` -> ``--emulate --new-tokens 60``: sorted, so that moving a key in a
    configuration reruns nothing."""
    words = []
    for key, value in sorted(settings.items()):
        option = "--" + key.replace("_", "-")
        if value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [option, *map(str, value)]
        elif value is not None and value is not False:
            words += [option, str(value)]
    return shlex.join(words)
