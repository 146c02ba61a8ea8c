"""What a running daemon cannot be made to do: a defect in the middle of a connection."""

import contextlib
import resource
import socket

import daemons
import pytest

from tcpdconf.config import model, tables
from tcpdconf.daemon import ledger, loop, program, server


class Broken:
    """Lookups with a defect."""

    def begin(self, *_: object) -> None:
        """Fail."""
        raise ZeroDivisionError


class Made:
    """A server of one service that runs /bin/true, with a listener; `slots` are those it has."""

    def __init__(self, slots: int, lookups: object = None, runner: object = None) -> None:
        limits = {"max_connections": slots, "max_per_ip": slots, "max_per_network": slots}
        service = model.Service.model_validate(
            {"program": ["/bin/true"], "listeners": [{"port": 1}], "limits": limits}
        )
        self.events = loop.Loop()
        self.held = ledger.Ledger(ledger.create(), slots)
        listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        serving = server.Serving(
            service=service,
            sources=[],
            base={},
            runner=runner or program.Program(["/bin/true"], {}, "inherit", tables.Rlimits()),  # type: ignore[arg-type]
            lookups=lookups,  # type: ignore[arg-type] # its only use is to fail
            messages={},
        )
        self.server = server.Server("test", self.events, self.held)
        self.server.serve(serving, [(listener, None)])

    def run(self, seconds: float = 0.05) -> None:
        """Serve for a while."""
        self.events.after(seconds, self.events.stop)
        self.events.run()
        self.server.reap()


def test_a_defect_costs_one_connection_and_not_its_slot(capfd: pytest.CaptureFixture[str]) -> None:
    made = Made(1, lookups=Broken())
    for _ in range(3):
        with daemons.connect(made.port) as client:
            made.run()
            assert client.recv(1) == b""
    made.server.close()

    assert made.held.counts()["connections"] == 0
    assert capfd.readouterr().err.count("error: cannot serve 127.0.0.1:") == 3


class BrokenProgram:
    """A program with a defect."""

    def start(self, *_: object) -> int:
        """Fail."""
        raise ZeroDivisionError


def test_a_defect_at_a_start_is_told_with_its_place(capfd: pytest.CaptureFixture[str]) -> None:
    made = Made(20, runner=BrokenProgram())
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemons.connect(made.port)) for _ in range(20)]
        made.run()
        assert [client.recv(1) for client in clients] == [b""] * 20
    made.server.close()

    assert made.held.counts()["connections"] == 0
    told = [line for line in capfd.readouterr().err.splitlines() if "cannot serve" in line]
    assert len(told) == 20
    assert all("ZeroDivisionError" in line and "test_server.py" in line for line in told)


def test_who_is_ready_when_it_closes_is_let_go() -> None:
    made = Made(20)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemons.connect(made.port)) for _ in range(3)]
        made.events.after(0, made.server.close)  # in the turn in which they are accepted
        made.run()
        assert [client.recv(1) for client in clients] == [b""] * 3

    assert not made.server.busy
    assert (made.held.counts()["connections"], made.held.counts()["spawn"]) == (0, 3)


def test_who_waits_at_a_listener_that_is_given_up_needs_no_descriptor_of_his_own() -> None:
    """Each is served and let go before many more are accepted."""
    made = Made(100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemons.connect(made.port)) for _ in range(60)]
        few = max(client.fileno() for client in clients) + 15
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        try:
            made.server.drain()
            made.run()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert made.held.counts()["accepted"] == 60
        made.run(0.2)
    made.server.close()
