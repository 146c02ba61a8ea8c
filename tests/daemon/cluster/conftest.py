"""Provides the fixtures of tests with several hosts in one process."""

import pathlib
from collections.abc import Iterator

import pytest
from support import clusters, engines


@pytest.fixture
def engine(tmp_path: pathlib.Path) -> Iterator[engines.Engine]:
    """A server on a Unix socket."""
    with engines.Engine(tmp_path) as found:
        yield found


@pytest.fixture
def world() -> Iterator[clusters.World]:
    """The loop of all hosts."""
    found = clusters.World()
    yield found
    found.close()
