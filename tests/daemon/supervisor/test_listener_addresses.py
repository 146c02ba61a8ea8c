"""A listener whose address changes: at a reload, a restart with the service manager's store, a take-over.

Each pair of forms of an address in both directions; IPv4 and IPv6 clients before and after.
"""

import contextlib
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import pytest
from support import networks
from support.running import daemons, reloads, stores

PORT: Final = 2525  # in a namespace every port is free
IPV4: Final = "127.0.0.1"
IPV6: Final = "::1"
# whom each form lets in
FORMS: Final = {
    "*": {IPV4, IPV6},
    "0.0.0.0": {IPV4},
    "::": {IPV6},
    "127.0.0.1": {IPV4},
    "::1": {IPV6},
}
# each form becomes each other one once
CIRCUIT: Final = [*itertools.chain.from_iterable(itertools.combinations(FORMS, 2)), "*"]

pytestmark = pytest.mark.peer


class Stage(NamedTuple):
    """Holds a daemon's folder, and the files that it leaves when the test ends."""

    folder: pathlib.Path
    stack: contextlib.ExitStack


@pytest.fixture
def stage(tmp_path: pathlib.Path) -> Iterator[Stage]:
    with networks.new(), contextlib.ExitStack() as stack:
        yield Stage(tmp_path, stack)


def service(address: str, port: int = PORT) -> str:
    return f"""
        [services.test]
        program = ["/bin/echo", "in"]
        listeners = [{{ address = "{address}", port = {port} }}]
        """


def answered() -> set[str]:
    """The addresses at which a client is served; at the others it is refused."""
    found = set()
    for address in (IPV4, IPV6):
        with contextlib.suppress(ConnectionRefusedError), daemons.connect(PORT, address) as client:
            assert daemons.read(client) == b"in\n", address
            found.add(address)
    return found


def reload(stage: Stage, addresses: list[str]) -> Iterator[daemons.Daemon]:
    """One daemon that takes on one address after the other."""
    daemon = reloads.Daemon(stage.folder, service(addresses[0]))
    yield stage.stack.enter_context(daemon)
    for address in addresses[1:]:
        daemon.change(service(address))
        yield daemon


def restart(stage: Stage, addresses: list[str]) -> Iterator[daemons.Daemon]:
    """Daemons that follow each other with one store."""
    stored = stage.stack.enter_context(stores.store())
    for number, address in enumerate(addresses):
        daemon = stores.activated(stage.folder / str(number), service(address), stored)
        with daemon:
            yield daemon
            daemons.until(lambda: len(stored) == 1, "one socket in the store")


def take_over(stage: Stage, addresses: list[str]) -> Iterator[daemons.Daemon]:
    """Daemons that take over from each other."""
    before = None
    for number, address in enumerate(addresses):
        folder = stage.folder / str(number)
        folder.mkdir()
        (folder / "run").symlink_to(stage.folder)
        daemon = daemons.Daemon(
            folder,
            service(address),
            arguments=["--take-over"] if before else [],
        )
        stage.stack.enter_context(daemon)
        if before is not None:
            assert before.process.wait(daemons.SECONDS) == 0
        yield daemon
        before = daemon


WAYS: Final[dict[str, Callable[[Stage, list[str]], Iterator[daemons.Daemon]]]] = {
    "reload": reload,
    "restart": restart,
    "take-over": take_over,
}


def test_the_circuit_has_every_pair() -> None:
    assert len(set(itertools.pairwise(CIRCUIT))) == len(FORMS) * (len(FORMS) - 1) == len(CIRCUIT) - 1


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way == "reload" else pytest.mark.slow) for way in WAYS]
)
def test_an_address_becomes_another_one(way: str, stage: Stage) -> None:
    before = "nothing"
    for address, _ in zip(CIRCUIT, WAYS[way](stage, CIRCUIT), strict=True):
        assert answered() == FORMS[address], f"{before} -> {address}"
        before = address
