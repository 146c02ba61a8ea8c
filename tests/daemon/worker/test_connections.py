"""Tests a running daemon with a defect in the middle of a connection."""

import contextlib
import errno
import os
import resource
import signal
import socket
import subprocess
import time

import pytest
from support.running import daemons, processes

from tcpdconf.config.model.service import Service
from tcpdconf.daemon.process import loop, procfs
from tcpdconf.daemon.worker import children, launcher, ledger, program
from tcpdconf.daemon.worker.children import AdoptedProgram, Children
from tcpdconf.daemon.worker.connection import Serving
from tcpdconf.daemon.worker.connections import Connections
from tcpdconf.policy import connection


class Broken:
    """Lookups with a defect."""

    def begin(self, *_: object) -> None:
        """Fail."""
        raise ZeroDivisionError


class Made:
    """A server of one service that runs /bin/true, with a listener; `slots` are those it has."""

    def __init__(self, slots: int, lookups: object = None, runner: object = None) -> None:
        limits = {"max_connections": slots, "max_per_ip": slots, "max_per_network": slots}
        service = Service.model_validate(
            {"program": ["/bin/true"], "listeners": [{"port": 1}], "limits": limits}
        )
        self.events = loop.Loop()
        self.fd = ledger.create()
        self.held = ledger.Ledger(self.fd, slots)
        listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        serving = Serving(
            service=service,
            sources=[],
            base={},
            runner=runner or program.make(program.Setting(["/bin/true"], {}, "inherit")),  # type: ignore[arg-type]
            lookups=lookups,  # type: ignore[arg-type] # its only use is to fail
            messages={},
        )
        lineage = procfs.Lineage(os.getppid(), [os.getpid()])
        self.server = Connections("test", self.events, self.held, lineage)
        self.server.serve(serving, [(listener, None)])

    def run(self, seconds: float = 0.05) -> None:
        """Serve for a while."""
        self.events.after(seconds, self.events.stop)
        self.events.run()
        self.server.children.reap()


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
    assert all("ZeroDivisionError" in line and "test_connections.py" in line for line in told)


class NoProcess:
    """A program for which no process is to be had."""

    def __init__(self) -> None:
        self.tries = 0

    def start(self, *_: object) -> None:
        """Start nothing.

        Raises:
            BlockingIOError: always.
        """
        self.tries += 1
        raise BlockingIOError(errno.EAGAIN, "no process")


class Slow:
    """A program that waits for its exec for ever, and has no process that could be killed."""

    def __init__(self) -> None:
        self.tries = 0

    def start(self, *_: object) -> tuple[int, int]:
        """Start something that does not get far."""
        self.tries += 1
        return 2**22 + self.tries, self.tries

    def outcome(self, _: int) -> str:
        """Return what has become of it."""
        return "pending"


@pytest.mark.parametrize(
    ("runner", "served", "tries"), [(NoProcess(), 0, 3), (Slow(), launcher.AT_ONCE, launcher.AT_ONCE)]
)
def test_who_waits_for_a_process_when_it_closes_is_let_go(
    runner: NoProcess | Slow, served: int, tries: int
) -> None:
    """Meanwhile further clients wait in the kernel's queue."""
    made = Made(200, runner=runner)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemons.connect(made.port)) for _ in range(served + 3)]
        end = time.monotonic() + daemons.SECONDS
        while runner.tries < tries and time.monotonic() < end:
            made.run(0.05)
        assert runner.tries >= tries
        assert made.held.counts()["connections"] == served + 1
        made.server.close()
        assert clients[served].recv(1) == b""

    assert made.held.counts()["connections"] == served
    assert (made.held.counts()["accepted"], made.held.counts()["spawn"]) == (0, 1)


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


PEERS = [connection.endpoint(4, 0xC0000200 + number, number) for number in range(4)]


def test_what_others_say_is_of_adopted_programs_only() -> None:
    """A program of its own may have the number of one whose end is told late, or not yet."""
    sleeps = program.make(program.Setting(["/bin/sleep", "1000"], {}, "inherit"))
    made = Made(10, runner=sleeps)
    with daemons.connect(made.port):
        made.run()
        (own,) = made.server.children.running
        runs = procfs.look(own.pid)
        assert runs is not None
        made.server.adopt(own.pid, PEERS[0], 1.5, 150)
        made.server.adopt(own.pid, PEERS[1], 2.5, 250)  # from another worker, before the end of the first
        made.server.adopt(own.pid, PEERS[1], 2.5, 250)
        assert made.held.counts()["connections"] == 3

        made.server.children.adopted_ended(own.pid, runs.start, 0)
        made.server.children.adopted_ended(own.pid, 0, 0)
        made.server.children.adopted_released(own.pid, own.started)
        assert made.held.counts()["connections"] == 3
        made.server.children.adopted_released(own.pid, 1.5)
        made.server.children.adopted_released(own.pid, 1.5)
        assert peers_of(made) == {own.peer, PEERS[1]}
        made.server.children.adopted_ended(own.pid, 250, 0)
        assert peers_of(made) == {own.peer}
        assert made.server.children.running == [own]

        os.kill(own.pid, signal.SIGKILL)
        daemons.until(lambda: processes.over(own.pid), "its end")
        made.server.children.reap()
        assert peers_of(made) == set()
        assert not made.server.busy
    made.server.close()


def peers_of(made: Made) -> set[connection.Endpoint]:
    """The clients that are counted, and recorded."""
    found = ledger.snapshot(made.fd)
    assert found.counts["connections"] == len(found.held)
    return {each.peer for each in found.held}


def test_adopted_programs_whose_worker_has_ended_are_looked_for() -> None:
    made = Made(10)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as runs, subprocess.Popen(["true"]) as ended:
        daemons.until(lambda: processes.over(ended.pid), "its end")
        starts = [procfs.look(each.pid) for each in (runs, ended)]
        for peer, found in zip(PEERS, starts, strict=False):
            assert found is not None
            made.server.adopt(found.pid, peer, ledger.boot_time(), found.start)
        made.server.adopt(runs.pid, PEERS[2], 1.0, 1)
        made.server.children.recount()
        made.run(children._REPORTED + 0.1)
        assert peers_of(made) == set(PEERS[:2])  # of the other one the supervisor is still to be told
        ended.wait()
        made.server.children.recount()
        assert peers_of(made) == set(PEERS[:2])  # the supervisor may be about to tell
        made.run(children._REPORTED + 0.1)
        assert peers_of(made) == {PEERS[0]}
    made.server.close()


def test_a_signal_goes_to_the_program_that_was_adopted_and_to_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not to one that has got its number since, and not to what a ledger only claims."""
    groups: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda *given: groups.append(given))
    programs = Children(
        "test",
        loop.Loop(),
        ledger.Ledger(ledger.create(), 10),
        ended=lambda _, __: None,
        reaped=lambda _: None,
    )
    with contextlib.ExitStack() as stack:
        cats = [stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE)) for _ in range(3)]
        for cat, later, proven in zip(cats, (0, 1, 0), (True, True, False), strict=True):
            runs = procfs.look(cat.pid)
            assert runs is not None
            held = ledger.Held(0, cat.pid, PEERS[0], ledger.boot_time())
            programs.adopt(AdoptedProgram(held, runs.start + later, proven))
        programs.terminate()
        assert groups == [(0, signal.SIGTERM)]  # its own programs
        assert cats[0].wait(daemons.SECONDS) == -signal.SIGTERM
        for cat in cats[1:]:
            assert cat.stdin is not None
            cat.stdin.close()
            assert cat.wait(daemons.SECONDS) == 0
