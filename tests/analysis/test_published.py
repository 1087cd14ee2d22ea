"""The published numbers that the repository ships are complete, numeric, and sourced."""

import pandas as pd
import pytest

from ladder.analysis import frames
from ladder.errors import UserError

ROWS = {
    "author_logs": 628,
    "blog_tables": 33,
    "fig2_70b_throughput": 70,
    "fig3_405b_speedup": 24,
    "others_quality": 9,
    "table1_speedup_by_model_size": 14,
    "table2_latency_breakdown_70b": 18,
    "table3_pretraining": 48,
    "table4_adaptation": 44,
    "table5_larger_ladder": 12,
}


def test_every_file_is_read_whole(published):
    numbers, claims = frames.read_published(published)
    assert numbers["file"].value_counts().to_dict() == ROWS
    assert len(claims) == 15
    assert set(numbers["origin"]) == {"published"}


def test_every_number_is_positive_and_has_a_source_and_a_unit(published):
    numbers, _ = frames.read_published(published)
    assert (numbers["value"] > 0).all()
    assert (numbers["source"] != "").all()
    assert set(numbers["unit"]) == {"x", "percent", "tokens/s", "perplexity", "s", "GB"}


def test_averages_of_table_3_recompute(published):
    rows = frames.read([], published).paper("table3_pretraining", unit="percent")
    for _, group in rows.groupby(["model", "wiring"]):
        average = group.loc[group["metric"] == "Average", "value"].item()
        assert group.loc[group["metric"] != "Average", "value"].mean() == pytest.approx(average, abs=0.01)


def test_second_version_of_table_4_is_kept_apart(bare):
    assert len(bare.paper("table4_adaptation")) == 40
    assert bare.published["version"].str.startswith("B:").sum() == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="source"), "its columns must be"),
        (lambda f: f.assign(value="much"), "'value' must hold numbers"),
        (lambda f: f.assign(value=""), "has no value"),
    ],
)
def test_a_broken_file_is_named(published, tmp_path, change, words):
    path = tmp_path / "table3_pretraining.csv"
    whole = pd.read_csv(published / path.name, dtype=str, keep_default_na=False)
    change(whole).to_csv(path, index=False)
    with pytest.raises(UserError, match=words) as error:
        frames.read_published(tmp_path)
    assert str(path) in str(error.value)


def test_missing_directories_are_named(published, tmp_path):
    with pytest.raises(UserError, match="no CSV files"):
        frames.read_published(tmp_path)
    with pytest.raises(UserError, match="no such file or directory"):
        frames.read([tmp_path / "nowhere"], published)
