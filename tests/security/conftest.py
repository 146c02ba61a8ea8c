"""A name server for the tests of what it may say."""

from collections.abc import Iterator

import pytest
from support.dns import dnsservers


@pytest.fixture
def server() -> Iterator[dnsservers.Server]:
    with dnsservers.Server() as made:
        yield made
