"""The site of toy records, built strictly in a copy, served on the loopback, and a browser to look at it."""

import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

# No first-run pages, no update checks, no sandbox (containers), no GPU.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--no-first-run", "--no-default-browser-check"]


def run_mkdocs(folder: Path) -> subprocess.CompletedProcess:
    """Builds it from another directory, as ``mkdocs build -f`` may be called."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", folder / "mkdocs.yml"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="session")
def mkdocs():
    """Builds the site below a directory; returns the finished process."""
    return run_mkdocs


@pytest.fixture(scope="session")
def project(request, tmp_path_factory):
    """A copy of the site's sources with reports of toy records."""
    import toy_records

    from ladder.cli import main
    from ladder.pages.build import build

    root, copy = request.config.rootpath, tmp_path_factory.mktemp("project")
    shutil.copytree(root / "site", copy / "site", symlinks=True)
    for name in ("mkdocs.yml", "CHANGELOG.md"):
        shutil.copy(root / name, copy)
    shutil.copytree(root / "reports" / "published", copy / "reports" / "published")
    measured = toy_records.kept(copy / "reports" / "measured")
    records = toy_records.everything(copy / "results")
    for n, path in enumerate(sorted(records.rglob("*.json"))):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "provenance" in content:
            content["provenance"]["mlflow_run_id"] = f"{n:032x}"
            path.write_text(json.dumps(content), encoding="utf-8")
    build([records], copy / "reports" / "published", {}, copy / "reports", measured=measured)
    main(["simulate", "page", "--out", str(copy / "reports" / "whatif.html")])
    main(["families", "qwen3", "gemma2", "opt", "--out", str(copy / "reports" / "families")])
    return copy


@pytest.fixture(scope="session")
def built(project):
    done = run_mkdocs(project)
    assert done.returncode == 0, done.stderr
    return project / "build" / "site"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files; 404.html for what is none, as the hosts of static sites do."""

    def log_message(self, *_):
        pass

    def send_error(self, code, *_):
        page = next(
            (p for p in (Path(self.directory), *Path(self.directory).iterdir()) if (p / "404.html").is_file()), None
        )
        text = (page / "404.html").read_bytes() if page else b""
        self.send_response(code)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextlib.contextmanager
def serve(folder: Path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def served():
    """Serves a folder on the loopback, for as long as the block lasts."""
    return serve


@pytest.fixture(scope="session")
def address(built):
    with serve(built) as where:
        yield where


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make setup")
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")  # tests/conftest.py skips where there is none
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield chromium
        chromium.close()
