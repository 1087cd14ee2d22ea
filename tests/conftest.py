"""Offline, one thread, no tracking: what every test relies on; which tests share a worker; which tools are missing."""

import contextlib
import os
import resource
import shutil
from collections import Counter

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compiling processes for each worker
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("LADDER_TRACKING", "off")

from hypothesis import HealthCheck, settings

pytest_plugins = ["toy_reports"]

# The same examples on every machine, however slow it is.
settings.register_profile("ladder", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ladder")

# What runs on one worker is a file, or a folder whose files share fixtures. The longest begin first.
TOGETHER = ("tests/pages", "tests/analysis", "tests/site")
LONGEST = ["tests/test_workflow.py", "tests/pages", "tests/site", "tests/parallel/test_parallelize.py"]
LONGEST += ["tests/bench/test_bench.py", "tests/inference/test_engine.py", "tests/model/test_wheel.py"]
LONGEST += ["tests/train/test_ranks.py", "tests/test_tracking.py", "tests/train/test_failures.py"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """The cores that this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def worker_group(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return worker_group(nodeid)

    config.option.loadscopereorder = False  # it would begin with the group of the most tests
    return Groups(config, log)


def pytest_collection_modifyitems(items):
    ranks = {group: n for n, group in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(worker_group(item.nodeid), len(ranks)))


def pytest_runtest_setup(item):
    if item.get_closest_marker("browser") and not (os.environ.get("CHROMIUM") or shutil.which("chromium")):
        pytest.skip("needs chromium: apt-get install chromium, or CHROMIUM=/path/to/it")


def pytest_terminal_summary(terminalreporter):
    """What was not tested for want of a tool: a reason names the tool and what installs it."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")


@pytest.fixture
def limited_files():
    """``with limited_files(bytes):`` no file can grow beyond that: every library fails as on a full disk."""

    @contextlib.contextmanager
    def limited(size: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
