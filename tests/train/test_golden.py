"""Loss curves that a change which is not about numerics must reproduce.

Where torch's version and the processor are those of the recording, to the last digit; elsewhere kernels add in another
order, and curves agree to 1e-5. After a change that is meant to change numbers, record anew and say so in the commit:

    python tests/train/test_golden.py
"""

import json
import platform
import re
import tempfile
from pathlib import Path

import pytest
import torch
from toy import Tracking, model, run

FOLDER = Path(__file__).parent / "golden"
WIRINGS = {"standard": None, "ladder": None, "partial": 2}  # wiring: tensor-parallel degree


def machine() -> dict[str, str]:
    """What decides the last digit: on one thread, kernels and the instructions that they are chosen for."""
    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        first = dict(re.findall(r"^(.+?)\s*: (.*)$", info.read_text().partition("\n\n")[0], re.MULTILINE))
        processor = ", ".join(f"{key} {first.get(key)}" for key in ("vendor_id", "cpu family", "model"))
    return {"torch": torch.__version__, "processor": processor, "simd": torch.backends.cpu.get_cpu_capability()}


def curve(wiring: str, folder: Path) -> dict[str, list[float]]:
    """Losses and gradient norms of ten steps on the CPU, validation losses of three."""
    torch.set_num_threads(1)
    state, _ = run(folder, Tracking(), net=model(wiring=wiring, tp=WIRINGS[wiring]), steps=10)
    training = {key: [point[key] for point in state.training] for key in ("loss", "grad_norm")}
    return training | {"validation": [point["loss"] for point in state.validation]}


@pytest.mark.parametrize("wiring", WIRINGS)
def test_a_curve_is_the_recorded_one(wiring, tmp_path):
    golden = json.loads((FOLDER / f"{wiring}.json").read_text())
    expected = golden["curve"]
    if golden["machine"] != machine():
        expected = {key: pytest.approx(values, rel=1e-5) for key, values in expected.items()}
    assert curve(wiring, tmp_path) == expected


def test_wirings_have_curves_of_their_own():
    """A recording of the wrong wiring would go unnoticed otherwise."""
    curves = [json.loads((FOLDER / f"{wiring}.json").read_text())["curve"]["loss"] for wiring in WIRINGS]
    for n, one in enumerate(curves):
        assert len(one) == 10
        assert all(one[-1] != pytest.approx(other[-1], rel=1e-3) for other in curves[:n])


if __name__ == "__main__":
    for name in WIRINGS:
        with tempfile.TemporaryDirectory() as work:
            content = {"wiring": name, "machine": machine(), "curve": curve(name, Path(work))}
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
