"""What a record says is text wherever it is shown: pages, drawings, spreadsheets."""

import json

import pandas as pd
import pytest
import toy_records

from ladder import markup
from ladder.pages.build import build
from ladder.redact import redact

HOSTILE = '=HYPERLINK("http://evil/")\'&"><script>alert(1)</script><!-- $\\frac{'
NAMES = ("run", "model", "link", "dtype", "backend", "compute", "note", "task", "variant")


def test_no_page_or_table_holds_what_a_record_says_as_markup(tmp_path, published):
    toy_records.training(tmp_path / "in", "pretrain", "tiny", "ladder", 0, 5.4)
    toy_records.evaluation(tmp_path / "in", "tiny", "ladder", "pretrained", 0, 5.0, 0.4)
    toy_records.ranks(tmp_path / "in")
    toy_records.sensitivity(tmp_path / "in")
    for path in (tmp_path / "in").rglob("*.json"):
        record = json.loads(path.read_text())
        record["rows"] = [
            row | {key: HOSTILE for key in NAMES if key in row} | {"note": HOSTILE} for row in record["rows"]
        ]
        words = ("commit", "profile", "config_digest", "hardware", "mlflow_run_id", "started")
        record["provenance"] |= dict.fromkeys(words, HOSTILE) | {"versions": {HOSTILE: HOSTILE}}
        path.write_text(json.dumps(record))
    out = tmp_path / "reports"
    build([tmp_path / "in"], published, {"name": HOSTILE, "digest": HOSTILE}, out)
    for path in [*out.rglob("*.html"), *out.rglob("*.svg")]:
        assert "<script" not in path.read_text(), path
        assert "http://evil/%22" not in path.read_text()
    assert set(pd.read_csv(out / "records.csv")["hardware"]) == {f"'{HOSTILE}"}
    for path in [path for path in out.rglob("*.csv") if path.stat().st_size > 2]:
        cells = pd.read_csv(path, dtype=str, keep_default_na=False).to_numpy().ravel()
        assert not [cell for cell in cells if cell.startswith("=")], path


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-cmd", "@x", "\tx", "\rx"])
def test_a_cell_that_a_spreadsheet_would_execute_is_text(tmp_path, text):
    markup.write_csv(pd.DataFrame({"word": [text, "-1.5", "plain", None], "value": [-1.5, 2, 3, None]}), tmp_path / "a")
    frame = pd.read_csv(tmp_path / "a", lineterminator="\n")
    assert frame["word"].tolist()[:3] == [f"'{text}", "-1.5", "plain"]
    assert frame["value"].tolist()[:3] == [-1.5, 2, 3]


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "//evil", "mlflow"])
def test_only_web_addresses_become_links(address):
    assert markup.link(address, "<b>") == "&lt;b&gt;"


@pytest.mark.parametrize("text", ["</script>", "<!--", "<script>"])
def test_json_in_a_page_cannot_end_its_element(text):
    line = markup.script("x", {text: text})
    inside = line.partition(">")[2].rpartition("</script>")[0]
    assert "<" not in inside
    assert json.loads(inside) == {text: text}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("postgresql://me:p@ss/w?rd@db:5432/x", "postgresql://db:5432/x"),
        ("(http://token@host/a) and https://u:p@h", "(http://host/a) and https://h"),
        ("sqlite:///a/b.db http://127.0.0.1:5000/#/experiments/1", "sqlite:///a/b.db http://127.0.0.1:5000/#/experiments/1"),
        ("mysql://h/d?ssl=1&password=x&b=2", "mysql://h/d?ssl=1&password=...&b=2"),
        ("mail me@there", "mail me@there"),
    ],
)  # fmt: skip
def test_secrets_are_taken_out_of_any_text(text, left):
    assert redact(text) == left
