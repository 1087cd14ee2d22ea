"""Groups of ranks, each started by the first test that needs it, for all tests of a worker."""

from functools import cache

import pytest
from over_ranks import Ranks


@pytest.fixture(scope="session")
def groups(tmp_path_factory):
    """groups(number of ranks): Ranks"""
    started = []

    @cache
    def of(world):
        started.append(Ranks(world, tmp_path_factory.mktemp("ranks") / "store"))
        return started[-1]

    yield of
    for group in started:
        group.stop()


@pytest.fixture(params=[2, 4])
def ranks(request, groups):
    return groups(request.param)


@pytest.fixture
def two(groups):
    return groups(2)
