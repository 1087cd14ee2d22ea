"""`vllm serve` of a converted model on two ranks: completions, many clients at once, a killed rank."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served import PROMPTS

pytest.importorskip("vllm.version", reason="needs vLLM: make test-vllm")

pytestmark = [pytest.mark.slow, pytest.mark.ranks]
NEW, REQUESTS, CLIENTS = 16, 200, 16


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """(process, address, file of its log) of a server that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    log = tmp_path_factory.mktemp("server") / "log"
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    environment.pop("VLLM_WORKER_MULTIPROC_METHOD", None)
    command = [Path(sys.executable).with_name("vllm"), "serve", model("ladder"), "--tensor-parallel-size", "2"]
    command += ["--dtype", "float32", "--max-model-len", "128", "--host", "127.0.0.1", "--port", port]
    with log.open("w") as out:
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/health")
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, log.read_text()
                time.sleep(1)
        yield process, address, log
    finally:
        process.terminate()
        process.wait(60)


def complete(address: str, prompt: list[int]) -> list[int]:
    asked = {"prompt": prompt, "max_tokens": NEW, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["choices"][0]["token_ids"]


def test_completions_of_many_clients(server, model, expected):
    _, address, _ = server
    wanted = [answer.tokens for answer in expected(model("ladder"), new=NEW)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        turns = [n % len(PROMPTS) for n in range(REQUESTS)]
        answers = list(clients.map(lambda turn: complete(address, PROMPTS[turn]), turns))
    assert answers == [wanted[turn] for turn in turns]


def test_killed_rank_ends_the_server(server):
    process, _, log = server
    tree = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [(int(pid), int(parent), name) for pid, parent, name in (line.split(None, 2) for line in tree.splitlines())]
    family = {process.pid}
    for _ in range(4):
        family |= {pid for pid, parent, _ in rows if parent in family}
    worker = next(pid for pid, _, name in rows if pid in family and "Worker_TP1" in name)
    os.kill(worker, signal.SIGKILL)
    process.wait(120)
    assert "Worker proc VllmWorker-1 died unexpectedly" in log.read_text()
