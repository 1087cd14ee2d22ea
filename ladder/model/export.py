"""Write a checkpoint that loads on a machine without this package.

in:  a checkpoint directory of `ladder pretrain`, `ladder convert` or `ladder adapt`
out: OUT/ with the same weights, tokenizer and generation defaults; config.json with the wiring's rows; one modelling
     file; README.md that says what the model is and how to load it; ladder.json with the digests

    ladder export results/default/adapt/tiny-ladder@5-9-s0/model published

The modelling file is put together from the sources of this package; that of another family than Llama rewires the
layers of transformers' own model. A `standard` checkpoint needs none: it is a plain model of its family.
"""

import argparse
import ast
import re
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from symtable import symtable

import ladder
from ladder.files import atomic_write, need_disk, write_json
from ladder.model.checkpoint import seal
from ladder.model.convert import check, copy
from ladder.model.families import PREFIX, SERVED, Family
from ladder.model.opened import Checkpoint
from ladder.model.weights import total_size
from ladder.outputs import OutputModel
from ladder.records import git_commit
from ladder.residual import Row
from ladder.wiring import Wiring, spell_layers

MODULE = "modeling_ladder"
AUTO = {"AutoConfig": "LadderConfig", "AutoModel": "LadderModel", "AutoModelForCausalLM": "LadderForCausalLM"}
# Where the modelling file comes from. Of two definitions of a name the first counts.
SOURCES = ("errors.py", "residual.py", "model/forms.py", "model/slicing.py", "model/virtual.py", "model/rewire.py")
LLAMA = "model/modeling.py"
CONFIG = '''
from huggingface_hub.dataclasses import strict
from {config_module} import {config}


@strict
class {ours}({config}):
    """{config} with the wiring of the residual stream.

    wiring: its name. wiring_rows: attention and MLP of each layer in turn, the fields of its :class:`Row` that are not
    the default. tensor_parallel_size: the number of ranks T, if the wiring belongs to one.
    """

    model_type = "{kind}"
    wiring: str = "standard"
    wiring_rows: list | None = None
    tensor_parallel_size: int | None = None

    def rows(self) -> Table:
        return Table(Row(**row) for row in self.wiring_rows)
'''
# The model of another family. The names of its weights in files are those of the family.
FAMILY = '''
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from {module} import {model}


class Ladder{model}({model}):
    """{model}, its layers run by the wiring's rows."""

    config_class = Ladder{config}

    def __init__(self, config):
        super().__init__(config)
        run_by(self, config.rows(), config.wiring, config.tensor_parallel_size or 1)
        # Weights that transformers renames or joins when it loads this family are so here, under another model type.
        names = get_checkpoint_conversion_mapping("{model}") or get_checkpoint_conversion_mapping("{name}") or []
        register_checkpoint_conversion_mapping(config.model_type, names, overwrite=True)
'''
WIDTH = 120  # of a line of code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, help="directory of `ladder pretrain`, `ladder convert`, `ladder adapt`"
    )
    parser.add_argument("out", action=OutputModel, help="directory to write")


def main(args: argparse.Namespace) -> None:
    export(args.checkpoint, args.out)


def export(source: Path, out: Path) -> None:
    """Write ``source`` so that transformers alone loads it from ``out``, whole or not at all. Raises UserError."""
    checkpoint = Checkpoint.open(source)
    wiring, tp = checkpoint.config.get("wiring", "standard"), checkpoint.config.get("tensor_parallel_size")
    info = check(source, wiring, tp)
    found, config = checkpoint.tensors, checkpoint.rewired(wiring, tp)
    need_disk(out, total_size(found))
    with atomic_write(out, directory=True) as part:
        digests = copy(source, part, found, checkpoint.signal(wiring, tp), info)
        if wiring != "standard":
            rows = Wiring.parse(wiring, tp).table(checkpoint.config["num_hidden_layers"])
            auto = {name: f"{MODULE}.{target}" for name, target in classes(checkpoint.family).items()}
            config |= {"auto_map": auto, "wiring_rows": [_not_default(row) for row in rows]}
            (part / f"{MODULE}.py").write_text(modelling_file(wiring, tp, checkpoint.family), encoding="utf-8")
        write_json(part / "config.json", config)
        (part / "README.md").write_text(readme(info, wiring, tp, checkpoint.family), encoding="utf-8")
        seal(part, {key: value for key, value in info.items() if key not in ("sha256", "commit")}, digests)


def _not_default(row: Row) -> dict:
    default = asdict(Row())
    return {key: value for key, value in asdict(row).items() if value != default[key]}


def classes(family: Family | None) -> dict[str, str]:
    """{Auto class: the modelling file's}, of Llama or another family."""
    if family is None:
        return AUTO
    config, model = type(family.config).__name__, family.model_class.__name__
    return {"AutoConfig": f"Ladder{config}", "AutoModelForCausalLM": f"Ladder{model}"}


def modelling_file(wiring: str, tp: int | None, family: Family | None = None) -> str:
    """The source of the model without this package: what its classes need of our sources, and nothing else."""
    sources = SOURCES if family else (*SOURCES, LLAMA)
    commit = git_commit()[0]
    degree = "" if tp is None else f" at tensor-parallel degree {tp}"
    made = f"Made by `ladder export` (ladder {ladder.__version__}" + (f", commit {commit})" if commit else ")")
    doc = f'''"""A {_called(family)} whose residual stream is wired as `{wiring}`{degree}.

{made} from these of its sources:
{", ".join(sources)}.

`wiring_rows` of config.json says how each attention and MLP reads and writes the stream; `run_by`
lets the layers of transformers' own model go by them. Where that depends on the number of ranks T, T virtual ones are
computed in one process.
Shapes: B batch, S new tokens, T ranks, D hidden size, V vocabulary.
"""
'''
    texts = [(Path(ladder.__file__).parent / file).read_text(encoding="utf-8") for file in sources]
    texts.insert(len(SOURCES), _own_text(family))
    imports, definitions = _read_sources(texts)
    todo, needed = list(classes(family).values()), set()
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += _names(definitions[name]) & definitions.keys() if name in definitions else ()
    kept = [text for name, text in definitions.items() if name in needed]
    used = set().union(*map(_names, kept)) - definitions.keys()
    return "\n\n\n".join([f"{doc}\n{_import_lines(imports, used)}", *kept]) + "\n"


def _called(family: Family | None) -> str:
    return family.name if family else "Llama"


def _own_text(family: Family | None) -> str:
    """What stands in the place of the package's own configuration, and the class of another family's model."""
    if family is None:
        return CONFIG.format(kind="ladder", config="LlamaConfig", config_module="transformers", ours="LadderConfig")
    config, model = type(family.config), family.model_class
    names = {"config": config.__name__, "config_module": config.__module__, "kind": PREFIX + family.name}
    names |= {"model": model.__name__, "module": model.__module__, "name": family.name}
    return (CONFIG + FAMILY).format(ours=f"Ladder{config.__name__}", **names)


def _read_sources(texts: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """({name: module it is imported from, "" for a module itself}, {name: source of its definition}), in order."""
    imports: dict[str, str] = {}
    definitions: dict[str, str] = {}
    for text in texts:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import):
                imports |= {alias.name: "" for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imports |= {alias.name: node.module for alias in node.names if not node.module.startswith("ladder")}
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                definitions.setdefault(node.name, _source(text, node))
            elif isinstance(node, ast.Assign):
                definitions.setdefault(node.targets[0].id, _source(text, node))
    return imports, definitions


def _source(text: str, node: ast.stmt) -> str:
    """The lines of a definition, with its decorators; what it calls as ``virtual.x`` is called ``x`` in one file."""
    lines = text.splitlines()
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    return re.sub(r"(?<![\w.])virtual\.(?=\w)", "", "\n".join(lines[first - 1 : node.end_lineno]))


def _names(source: str) -> set[str]:
    """The names that a definition takes from around it."""
    scopes, found = [symtable(source, "", "exec")], set()
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        found |= {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global()}
    return found


def _import_lines(imports: dict[str, str], used: set[str]) -> str:
    """In the usual order: standard library first, whole modules before names."""
    taken: dict[tuple[bool, str], list[str]] = {}
    for name in sorted(used & imports.keys(), key=lambda name: (name.islower(), name)):
        taken.setdefault((imports[name] != "", imports[name] or name), []).append(name)
    groups: tuple[list[str], list[str]] = ([], [])
    for (names_only, module), names in sorted(taken.items()):
        line = f"from {module} import {', '.join(names)}" if names_only else f"import {module}"
        if len(line) > WIDTH:
            line = f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"
        groups[module.partition(".")[0] not in sys.stdlib_module_names].append(line)
    return "\n\n".join("\n".join(lines) for lines in groups)


def readme(info: dict, wiring: str, tp: int | None, family: Family | None = None) -> str:
    """The model card."""
    chosen = Wiring.parse(wiring, tp)
    scope = f"; layers {spell_layers(chosen.layers)}, the others standard" if chosen.layers else ""
    source = (info.get("source") or {}).get("path")
    facts = {
        "wiring": f"`{wiring}`: {chosen.summary}{scope}",
        "tensor-parallel degree": "any" if tp is None else f"{tp}; at another one it would be another function",
        "variant": info.get("variant"),
        "from": None if source is None else Path(source).name if Path(source).is_absolute() else source,
        "seed": info.get("seed"),
        "commit": info.get("commit"),
        "transformers": metadata.version("transformers"),
    }
    remote = wiring != "standard"
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items() if value is not None)
    how = ", trust_remote_code=True" if remote else ""
    why = (
        f"`trust_remote_code=True` lets transformers run `{MODULE}.py`, which it does not know. Read the file first: "
        "it is the whole model, and imports only torch, transformers and huggingface_hub."
        if remote
        else f"It is a plain {_called(family)}: no code comes with it."
    )
    if remote:
        backend = "refuses it" if tp else "runs it, but waits for each sum over ranks at once: nothing overlaps"
        why += f"\n\nvLLM's Transformers backend {backend}."
        if classes(family)["AutoModelForCausalLM"] in SERVED:
            why += ' With `pip install "ladder-residual[vllm]"` vLLM serves it, and hides those sums.'
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [{_called(family).lower()}, ladder-residual]
---

# {info["model"]}, {wiring}

| | |
|---|---|
{table}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this directory, or the name under which it is published
model = AutoModelForCausalLM.from_pretrained(folder{how})
tokenizer = AutoTokenizer.from_pretrained(folder{how})
```

{why}
"""
