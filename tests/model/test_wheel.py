"""The wheel works outside the checkout, with nothing but the four packages that the core needs."""

import os
import shutil
import subprocess
import sys

import pytest

from ladder.cli import main

pytestmark = pytest.mark.slow
# What only the extras install (torch or transformers would use the rest of these where they are there).
NOT_CORE = ("accelerate", "datasets", "jsonschema", "lm_eval", "matplotlib", "mlflow", "pandas")
NOT_CORE += ("pyarrow", "scipy", "sklearn", "snakemake")


@pytest.fixture(scope="module")
def installed(request, tmp_path_factory):
    """A folder with the installed wheel, in which the extras' packages cannot be imported."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "target"))
    root = request.config.rootpath
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    shutil.copytree(root / "ladder", source / "ladder", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source], check=True)
    (wheel,) = wheels.glob("ladder_residual-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    (target / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({NOT_CORE})\n")
    return target


@pytest.fixture
def ladder(installed, tmp_path):
    """Run a subcommand of the wheel in an empty directory."""

    def run(*words):
        command = [sys.executable, "-m", "ladder", *map(str, words)]
        environment = os.environ | {"PYTHONPATH": str(installed)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_it_simulates_converts_and_times(ladder, llama, tmp_path):
    done = ladder(*["simulate", "--model", "llama-3-70b", "--tp", "8", "--hardware", "h200", "--link", "nvlink"])
    assert done.returncode == 0, done.stderr
    assert "llama-3-70b" in done.stdout
    done = ladder("convert", llama(), "converted", "--wiring", "ladder", "--record", "convert.json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "converted" / "config.json").exists()
    words = "bench --size tiny --layers 1 --tp 2 --prompt 4 --new-tokens 4 --prefills 2 --emulate --rho 0.8 --out bench"
    done = ladder(*words.split(), "--wirings", "standard", "upper_bound")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("bench/*.json"))) == 1


def test_calibration_names_its_extra(ladder, tmp_path):
    assert main(["simulate", "rows", "--out", str(tmp_path / "rows.csv")]) == 0
    done = ladder("calibrate", "rows.csv")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "ladder-residual[calibrate]" in done.stderr
