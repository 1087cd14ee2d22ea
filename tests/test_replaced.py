"""What is replaced and what is kept: marks, records, sources, and what the pipeline writes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_outputs import _apart, check, tree  # noqa: F401

from ladder import cli, outputs, records
from ladder.errors import UserError
from ladder.files import MARK

ROOT = Path(__file__).parent.parent
BENCH = "--tp 2 --size tiny --layers 2 --emulate --rho 0.4 --prompt 4 --new-tokens 4"


def test_a_record_must_not_be_a_file_of_the_folder(tmp_path):
    parser, _ = cli.command("corpus")
    check(parser, out=tmp_path / "new", record=tmp_path / "new/record.json")
    with pytest.raises(UserError, match=r"--record .*train.jsonl.*--out"):
        check(parser, out=tmp_path / "new", record=tmp_path / "new/train.jsonl")


def test_corpus_into_its_source(tmp_path, monkeypatch, capsys):
    """Once overwrote the user's D/train.jsonl."""
    monkeypatch.setenv("LADDER_TRACKING", "off")
    (tmp_path / "train.jsonl").write_text('{"text": "mine"}\n')
    for out in (tmp_path, tmp_path / "out"):
        line = f"corpus --kind files --path {tmp_path} --out {out} --record {tmp_path}-r.json"
        assert cli.main(line.split()) == 1
        assert "the input" in capsys.readouterr().err
    assert (tmp_path / "train.jsonl").read_text() == '{"text": "mine"}\n'
    assert not (tmp_path / "out").exists()


def test_a_folder_is_written_again_but_not_what_was_added(tmp_path, monkeypatch, capsys):
    """What the mark lists is replaced; a file of the user's beside it stays, and stops what would replace it."""
    monkeypatch.setenv("LADDER_TRACKING", "off")
    out = tmp_path / "out"
    line = f"corpus --limit 60 --validation 0.2 --test 0.2 --out {out} --record {out}/r.json".split()
    assert cli.main(line) == 0
    (out / "precious.txt").write_text("mine")
    assert cli.main(line) == 0
    splits = {f"{split}.jsonl" for split in ("train", "validation", "test")}
    assert set((out / MARK).read_text().split()) == splits | {"manifest.json", "r.json"}
    (out / "tokenizer.json").write_text("mine")
    again = f"tokenizer --corpus {out} --vocab 300 --out {out} --record {tmp_path}/t.json".split()
    assert cli.main(again) == 1
    assert "is the input" in capsys.readouterr().err
    shutil.copytree(out, tmp_path / "corpus")
    again[2] = str(tmp_path / "corpus")
    assert cli.main(again) == 1
    assert "'tokenizer.json' is there" in capsys.readouterr().err
    with (out / MARK).open("a") as file:
        file.write("*\n")
    assert cli.main(again) == 0
    assert (out / "precious.txt").read_text() == "mine"


def test_a_file_that_is_no_record_is_not_replaced(tmp_path):
    path = tmp_path / "one.json"
    outputs.check_record(path)
    path.write_text('{"mine": 1}')
    with pytest.raises(UserError, match="no record"):
        outputs.check_record(path)
    (tmp_path / MARK).write_text("one.json\n")  # written by this package, damaged since
    outputs.check_record(path)
    (tmp_path / MARK).unlink()
    records.write(path, [], {"mlflow_run_id": None})
    outputs.check_record(path)


def test_evaluate_and_bench_keep_files_that_are_no_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LADDER_TRACKING", "off")
    out = tmp_path / "out"
    out.mkdir()
    from ladder.bench import grid

    monkeypatch.setattr(grid, "name", lambda *_: "one")
    (tmp_path / "model/one").mkdir(parents=True)
    for line in (["evaluate", f"{tmp_path}/model/one", "--task", "cloze"], ["bench", *BENCH.split()]):
        (out / "one.json").write_text('{"mine": 1}')
        assert cli.main([*line, "--out", str(out)]) == 1
        assert "one.json: is there and is no record" in capsys.readouterr().err
        assert tree(out) == {"one.json": '{"mine": 1}'}


def test_names_stay_in_the_folder(tmp_path, capsys):
    line = f"evaluate {tmp_path} --names ../x --task cloze --out {tmp_path}-out".split()
    assert cli.main(line) == 1
    assert "'../x'" in capsys.readouterr().err


def test_what_the_pipeline_does_is_not_refused(tmp_path):
    """Each shell line of the toy plan, where nothing is there yet and where all of its outputs are there already."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("Snakefile", "workflow", "config", "reports", "tests"):
        (project / name).symlink_to(ROOT / name)
    command = [Path(sys.executable).parent / "snakemake", "-n", "-p", "reports/all", "--configfile", "tests/toy.yaml"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([*command, "--forceall"], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (project / "reports").unlink()
    os.chdir(project)
    lines = re.findall(r"ladder (\w.*?)(?: 2>>? |\)? > | && ladder|$)", done.stdout, re.MULTILINE)
    lines += re.findall(r"&& ladder (calibrate.*?)\) 2>", done.stdout)
    seen = set()
    for line in lines:
        line = shlex.split(line)
        name = " ".join(line[:2]) if " ".join(line[:2]) in cli.COMMANDS else line[0]
        parser, _ = cli.command(name)
        outputs.check(parser, parser.parse_args(line[len(name.split()) :]))
        seen.add(name)
    optional = {"init", "fetch", "together", "export", "plan", "simulate"}
    optional |= {"bench train", "bench link", "bench network", "bench serve", "campaign"}
    assert seen == set(cli.COMMANDS) - optional
