"""A configuration: one YAML per profile, checked whole before any work starts."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ladder.bench.options import Options as BenchOptions
from ladder.errors import UserError
from ladder.evaluate import offline
from ladder.evaluate.sensitivity import scannable
from ladder.links import link
from ladder.model.sizes import Size, origin, size
from ladder.options import COUNT, RANKS, OptionError, schemas, select
from ladder.plan import CHOSEN, listed
from ladder.reading import check_values, read_yaml
from ladder.train.methods import METHODS, Recipe
from ladder.train.options import Options
from ladder.wiring import Wiring, table

SCHEMA = Path(__file__).parents[1] / "workflow" / "schemas" / "config.schema.yaml"
DECLARED = {"training": Options, "method": Recipe, "bench": BenchOptions}


def read(path: str | Path) -> dict:
    """The configuration in a YAML file, checked. Raises UserError naming file, key and value."""
    config = read_yaml(path)
    check(config, str(path))
    return config


def check(config: dict, where: str) -> None:
    """Refuse what the schema or the tables refuse. ``where`` is the file named in errors."""
    import jsonschema

    check_values(config, where)
    for key, text in _texts(config):
        if re.search(r"[\x00-\x1f\x7f]", text):
            raise UserError(f"{where}: {key}: {text[:80]!r} holds a control character, such as a line break; drop it")
    if errors := sorted(_validator().iter_errors(config), key=lambda error: str(error.json_path)):
        error = jsonschema.exceptions.best_match(errors)
        raise UserError(f"{where}: {_key(error.absolute_path)}: {_sentence(error)}")
    for key, problem in _problems(config):
        raise UserError(f"{where}: {key}: {problem}")


@cache
def _validator():
    """A validator to which 2.0 is no whole number: it would be written ``--steps 2.0``."""
    import jsonschema
    import yaml

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    content = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    content["$defs"] |= {"count": {"type": "integer"} | COUNT, "ranks": {"type": "integer"} | RANKS}
    content["$defs"] |= {name: schemas(declared, profile=False) for name, declared in DECLARED.items()}
    _add_options(content)
    return jsonschema.validators.extend(base, type_checker=types)(content)


def _add_options(schema) -> None:
    """Give the objects with ``options: NAME`` all options of DECLARED[NAME] as properties."""
    if isinstance(schema, dict) and "options" in schema:
        schema["properties"] |= schemas(DECLARED[schema["options"]])
    for entry in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _add_options(entry)


def _texts(value, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, text) of every text in a configuration, its keys too."""
    if isinstance(value, str):
        yield key, value
    for name, entry in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        if isinstance(name, str):
            yield key or "top level", name
        yield from _texts(entry, f"{key}[{name}]" if isinstance(name, int) else f"{key}.{name}".lstrip("."))


def _key(path) -> str:
    parts = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return parts.lstrip(".") or "top level"


def _sentence(error) -> str:
    """What the schema says, without dumping the schema."""
    if error.validator == "additionalProperties":
        allowed = error.schema["properties"]
        unknown = sorted(set(error.instance) - set(allowed))
        return f"unknown key {', '.join(map(repr, unknown))}; known: {', '.join(sorted(allowed))}"
    if error.validator == "required":
        missing = sorted(set(error.validator_value) - set(error.instance))
        return f"the key {', '.join(map(repr, missing))} is missing"
    if error.validator == "oneOf":
        keys = [" and ".join(sorted(option["required"])) for option in error.validator_value]
        return f"{json.dumps(error.instance)[:200]} is not understood; give {' or '.join(keys)}"
    return error.message if len(error.message) <= 300 else error.message[:300] + "..."


def _problems(config: dict) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of everything that a schema cannot know."""
    yield from _corpus(config["corpus"])
    yield from _source("adapt.chat", config["adapt"].get("chat", {"kind": "corpus"}))
    texts = [path for path in config["adapt"].get("text", []) if path != "corpus"]
    yield from _source("adapt.text", {"kind": "files", "path": texts})
    data = config["evaluate"].get("data", offline.HUB)
    if data != offline.HUB and not Path(data).is_dir():
        yield "evaluate.data", f"{data}: no such folder; `ladder fetch TASK ... --out {data}` makes it"
    if ("vocab" in config["tokenizer"]) == ("from" in config["tokenizer"]):
        yield "tokenizer", "give exactly one of 'vocab' (train one) and 'from' (take one)"

    pretrain, adapt = config["pretrain"], config["adapt"]
    for i, run in enumerate(pretrain["runs"]):
        key = f"pretrain.runs[{i}]"
        yield from _attempt(f"{key}.size", size, run["size"])
        yield from _wiring(f"{key}.wiring", run["wiring"], run["size"], size(run["size"]), "pretrain", pretrain)
        yield from _attempt(key, _training, pretrain | run, config)
        yield from _nodes(f"{key}.gpus", (pretrain | run).get("gpus", 1), config)
        if config["sequence"] > size(run["size"]).positions:
            yield "sequence", f"{config['sequence']} is longer than the {size(run['size']).positions} of {run['size']}"
    if len({(run["size"], run["wiring"]) for run in pretrain["runs"]}) < len(pretrain["runs"]):
        yield "pretrain.runs", "a size with the same wiring is listed twice"

    source = adapt["from"]
    yield from _attempt("adapt.from.size", origin, source)
    if "wiring" in source:
        if not any((run["size"], run["wiring"]) == (source["size"], source["wiring"]) for run in pretrain["runs"]):
            yield "adapt.from", f"{source['size']} {source['wiring']} is not among pretrain.runs; add it there"
        if Wiring.parse(source["wiring"]).tied and adapt.get("tp") != pretrain.get("tp"):
            yield "adapt.tp", f"{adapt.get('tp')} is not the {pretrain.get('tp')} that adapt.from was pretrained for"
        if missing := sorted(set(adapt["seeds"]) - set(pretrain["seeds"])):
            yield "adapt.seeds", f"seeds {missing} are not among pretrain.seeds {pretrain['seeds']}"
    if "chat" not in adapt and ("text" not in adapt or adapt["wirings"]):
        yield "adapt.chat", "is missing: adapt.wirings are finetuned on it; or leave those empty, and give adapt.text"
    for i, wiring in enumerate(adapt["wirings"]):
        yield from _adapted(f"adapt.wirings[{i}]", wiring, config)
    yield from _attempt("adapt", _training, adapt, config)
    yield from _nodes("adapt.gpus", adapt.get("gpus", 1), config)
    yield from _methods(config)

    sensitivity = config.get("sensitivity", {"wirings": []})
    if sensitivity["wirings"] and source.get("wiring", "standard") != "standard":
        yield "sensitivity", f"scans a standard model, and adapt.from is a {source['wiring']!r} one; leave it out"
    for i, wiring in enumerate(sensitivity["wirings"]):
        yield from _attempt(f"sensitivity.wirings[{i}]", scannable, wiring)
        yield from _wiring(f"sensitivity.wirings[{i}]", wiring, *origin(source), "sensitivity", sensitivity)

    bench = config["bench"]
    for needed in ("standard", "upper_bound"):
        if needed not in bench["wirings"]:
            yield "bench.wirings", f"{needed!r} is missing: speed-ups and hidden shares refer to it"
    for kind in ("emulated", "ranks"):
        for i, point in enumerate(bench.get(kind, [])):
            yield from _bench(f"bench.{kind}[{i}]", point, {**bench, **point}["wirings"])
    for i, point in enumerate(bench.get("ranks", []) if config["device"] == "cuda" else []):
        yield from _nodes(f"bench.ranks[{i}].tp", max(listed(point["tp"])), config)


def _adapted(key: str, wiring: str, config: dict) -> Iterator[tuple[str, str]]:
    """What is wrong with a wiring to which ``adapt.from`` is converted."""
    adapt, scan = config["adapt"], config.get("sensitivity", {"wirings": []})
    if not (chosen := CHOSEN.fullmatch(wiring)):
        yield from _wiring(key, wiring, *origin(adapt["from"]), "adapt", adapt)
    elif chosen[1] not in scan["wirings"]:
        yield key, f"{wiring!r} names layers that a scan chooses, and {chosen[1]!r} is not among sensitivity.wirings"
    elif (shape := origin(adapt["from"])[1]) and int(chosen[2]) > shape.layers:
        yield key, f"{wiring!r} wants more layers than the {shape.layers} of adapt.from"


def _methods(config: dict) -> Iterator[tuple[str, str]]:
    adapt, seen = config["adapt"], set()
    source = adapt["from"]
    for i, entry in enumerate(adapt.get("methods", [])):
        key, name = f"adapt.methods[{i}]", entry["method"]
        if name == "sft":
            yield f"{key}.method", "'sft' is how adapt.wirings are adapted; name the wirings there"
        if METHODS[name].teacher and not entry.get("teacher", True):
            yield f"{key}.teacher", f"{name!r} always has one; drop the key"
        taught = entry.get("teacher", True) and METHODS[name].teacher is None
        how = select(entry, Recipe) | {"teacher": "the original" if taught else None}
        yield from _attempt(key, lambda how: Recipe(**how), how)
        for j, wiring in enumerate(entry["wirings"]):
            where = f"{key}.wirings[{j}]"
            if wiring == source.get("wiring", "standard"):
                yield where, f"{wiring!r} is the original itself; name what it is converted to"
            yield from _adapted(where, wiring, config)
            if (name, wiring) in seen:
                yield where, f"{wiring!r} is adapted by {name} twice"
            seen.add((name, wiring))


def _bench(key: str, point: dict, wirings: list[str]) -> Iterator[tuple[str, str]]:
    for name in listed(point["size"]):
        yield from _attempt(f"{key}.size", size, name)
        for tp in listed(point["tp"]):
            yield from _degree(f"{key}.tp", tp, name, size(name), point.get("replicate_kv", False))
            for j, wiring in enumerate(wirings):
                where = f"{key}.wirings[{j}]" if "wirings" in point else f"bench.wirings[{j}]"
                yield from _attempt(where, table, wiring, point.get("layers", size(name).layers), tp)
    for j, name in enumerate(point.get("link", [])):
        yield from _attempt(f"{key}.link[{j}]", link, name)
    if not point.get("rho") and not point.get("link") and key.startswith("bench.emulated") and point["tp"] != 1:
        yield key, "an emulated link is set by 'rho' or by 'link': give one of them"


def _attempt(key: str, call, *args) -> Iterator[tuple[str, str]]:
    try:
        call(*args)
    except OptionError as error:
        yield f"{key}.{error.name}", error.problem
    except UserError as error:
        yield key, str(error)


def _wiring(
    key: str, wiring: str, model: str, shape: Size | None, section: str, settings: dict
) -> Iterator[tuple[str, str]]:
    """What is wrong with a wiring that a section wants of a model computed, and with the section's ``tp`` for it."""
    yield from _attempt(key, Wiring.parse, wiring)
    chosen, layers = Wiring.parse(wiring), shape and shape.layers
    if chosen.timing_only or not chosen.tied:
        yield from _attempt(key, chosen.of_model, layers)
    elif "tp" not in settings:
        yield f"{section}.tp", f"is missing; wiring {wiring!r} is another function at every tensor-parallel degree"
    else:
        yield from _attempt(key, Wiring.parse(wiring, settings["tp"]).of_model, layers)
        if shape:
            yield from _degree(f"{section}.tp", settings["tp"], model, shape)


def _corpus(corpus: dict | list[dict]) -> Iterator[tuple[str, str]]:
    mixed = isinstance(corpus, list)
    for i, source in enumerate(listed(corpus)):
        key = f"corpus[{i}]" if mixed else "corpus"
        yield from _source(key, source)
        if source["validation"] + source["test"] >= 1:
            yield key, "validation + test must leave documents for training"
        for name in ("label", "weight"):
            if mixed and name not in source:
                yield f"{key}.{name}", "is missing; every source of a mixture has a label and a weight"
            if not mixed and name in source:
                yield f"{key}.{name}", "is for a mixture; give a list of sources, or leave it out"
        if source.get("limit", math.inf) < source.get("parts", 1):
            yield f"{key}.parts", f"{source['parts']} are more than the {source['limit']} documents of limit"
    labels = [source["label"] for source in corpus] if mixed else []
    if len(set(labels)) < len(labels):
        yield "corpus", f"labels {labels} name a source twice"


def _source(key: str, source: dict) -> Iterator[tuple[str, str]]:
    if source["kind"] == "huggingface" and "name" not in source:
        yield f"{key}.name", "kind 'huggingface' needs the name of a dataset"
    if source["kind"] == "files" and "path" not in source:
        yield f"{key}.path", "kind 'files' needs a list of paths"
    for path in source.get("path", []):
        if not Path(path).exists():
            yield f"{key}.path", f"{path}: no such file or directory"
        elif Path(path).is_file() and not Path(path).stat().st_size:
            yield f"{key}.path", f"{path}: the file is empty"


def _training(run: dict, config: dict) -> None:
    Options(**select({"sequence": config["sequence"], **run}, Options)).check(run.get("gpus", 1))


def _nodes(key: str, gpus: int, config: dict) -> Iterator[tuple[str, str]]:
    per_node = config.get("gpus_per_node", 8)
    if gpus > per_node and gpus % per_node:
        yield key, f"{gpus} GPUs are more than one node has and not whole nodes of gpus_per_node ({per_node})"


def _degree(key: str, tp: int, model: str, shape: Size, replicate_kv: bool = False) -> Iterator[tuple[str, str]]:
    for name in ("heads", "kv_heads", "intermediate"):
        if name == "kv_heads" and replicate_kv and tp % shape.kv_heads == 0:
            continue  # several ranks hold the same one
        if getattr(shape, name) % tp:
            yield key, f"{tp} does not divide the {name} ({getattr(shape, name)}) of {model}"


def check_machine(config: dict, disk: float) -> None:
    """Refuse a GPU profile without a GPU, and a run of ``disk`` bytes that does not fit. For runs on this machine."""
    if config["device"] == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                f"the profile {config['name']!r} has device: cuda, but torch {torch.__version__} sees no GPU here; "
                "use config/default.yaml, or a machine with one"
            )
    free = shutil.disk_usage(".").free
    if disk > free:
        raise UserError(
            f"the profile {config['name']!r} will write about {disk / 1e9:,.0f} GB under results/, "
            f"but {free / 1e9:,.0f} GB are free here"
        )
