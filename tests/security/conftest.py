"""A name server for the tests of what it may say."""

from collections.abc import Iterator

import dnsservers
import pytest


@pytest.fixture
def server() -> Iterator[dnsservers.Server]:
    with dnsservers.Server() as made:
        yield made
