"""What the machine and the control groups around a process leave it."""

import pytest

from ladder import memory

MACHINE = {"proc/meminfo": "MemTotal:  9000 kB\nMemAvailable:  4000 kB\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MACHINE, 4000 * 1024),
        (
            MACHINE
            | {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/memory.max": "3000000\n",
                "sys/fs/cgroup/job/memory.current": "1000000\n",
                "sys/fs/cgroup/job/memory.stat": "anon 900000\ninactive_file 100000\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/step/memory.current": "1000000\n",
            },
            2100000,
        ),
        (
            MACHINE
            | {
                "proc/self/cgroup": "5:devices:/\n4:memory:/elsewhere\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "2500000\n",
            },
            0,
        ),
    ],
    ids=["unknown", "machine", "group", "group of the older kind, seen from inside"],
)
def test_available(tmp_path, monkeypatch, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "SYSTEM", tmp_path)
    assert memory.available("cpu") == expected
