"""Reports of toy records, made once for all tests that look at them; a plugin of tests/conftest.py."""

import pytest
import toy_records

from ladder.analysis import build as analysis
from ladder.analysis import frames
from ladder.files import digest
from ladder.pages.build import build

PUBLISHED = "reports/published"


@pytest.fixture(scope="session")
def published(request):
    return request.config.rootpath / PUBLISHED


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    return toy_records.everything(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """Records of other hardware."""
    return toy_records.kept(tmp_path_factory.mktemp("other") / "measured")


@pytest.fixture(scope="session")
def full(records, published, measured):
    return frames.read([records], published, measured)


@pytest.fixture(scope="session")
def bare(tmp_path_factory, published):
    """No records of our own at all."""
    return frames.read([tmp_path_factory.mktemp("nothing")], published)


@pytest.fixture(scope="session")
def reports(records, published, measured, tmp_path_factory):
    """(directory, summary) of a complete report."""
    out = tmp_path_factory.mktemp("reports")
    run = {"name": "default", "digest": digest({"name": "default"})}
    return out, build([records], published, run, out, measured=measured)


@pytest.fixture(scope="session")
def tables(reports):
    """The derived tables of the toy records."""
    return analysis.read(reports[0] / "analysis")
