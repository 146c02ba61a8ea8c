"""Name servers for the tests of the resolver."""

from collections.abc import Iterator

import pytest
from support.dns import dnsservers


@pytest.fixture
def server() -> Iterator[dnsservers.Server]:
    with dnsservers.Server() as made:
        yield made


@pytest.fixture
def second() -> Iterator[dnsservers.Server]:
    with dnsservers.Server("127.0.0.2") as made:
        yield made
