"""Defects of the supervisor, made on purpose: each costs what it must, and the daemon goes on.

A test names functions of a running daemon that fail while a file is there.
"""

import contextlib
import os
import pathlib
from typing import Any, Final

import pytest
from support.running import daemons, reloads

from tcpdconf.daemon.control.client import ControlError

pytestmark = pytest.mark.slow

OLD: Final = 'program = ["/bin/echo", "old"]'
NEW: Final = 'program = ["/bin/echo", "new"]'
DEFECT: Final = "a defect of tcpdconf: see the log"

# Read by the daemon's interpreter before anything else.
BREAK: Final = """
import importlib, os, sys
def broken(where, name):
    modules = [place for place in where if place.islower()]
    owner = importlib.import_module(".".join(["tcpdconf", *modules]))
    for step in where[len(modules):]:
        owner = getattr(owner, step)
    real = getattr(owner, name)
    def fails(*given, **more):
        file = {folder!r} + "/" + name
        if not os.path.exists(file):
            return real(*given, **more)
        if open(file).read() == "once":
            os.unlink(file)
            real(*given, **more)
        raise ZeroDivisionError("on purpose")
    setattr(owner, name, fails)
if "run" in sys.argv:
    for path in {paths!r}:
        *where, name = path.split(".")
        broken(where, name)
"""


class Daemon(reloads.Daemon):
    """One in which these functions fail, from `break_` to `mend` (`folder.module.Class.function`)."""

    def __init__(self, folder: pathlib.Path, text: str, *paths: str, **more: Any) -> None:  # noqa: ANN401
        self._paths = paths
        self._made = folder / "python"
        self._made.mkdir()
        (self._made / "sitecustomize.py").write_text(BREAK.format(folder=str(folder), paths=paths))
        super().__init__(folder, text, environment={"PYTHONPATH": str(self._made)}, **more)

    def break_(self, *, once: bool = False) -> None:
        """Let them fail from now on, or once, and then when they have done their work."""
        for path in self._paths:
            (self.folder / path.rpartition(".")[2]).write_text("once" if once else "")

    def mend(self) -> None:
        """Let them fail no more."""
        for path in self._paths:
            (self.folder / path.rpartition(".")[2]).unlink()

    def defects(self) -> int:
        """Return the number of log lines about defects."""
        return sum("ZeroDivisionError: on purpose at=" in line for line in self.log)


def goes_on(daemon: Daemon, port: int) -> None:
    """It serves, answers, and takes on another configuration."""
    daemon.change(reloads.service(port, OLD, more=", backlog = 7"))
    assert daemons.talk(port) == b"old\n"
    assert daemon.change(reloads.service(port, NEW)) == ["test"]
    assert daemons.talk(port) == b"new\n"


@pytest.mark.parametrize(
    "path",
    [
        "daemon.supervisor.reload.transaction.Reload.begin",
        "daemon.supervisor.reload.transaction.Reload.prepared",
        "daemon.supervisor.reload.transaction.Reload._commit",
        "daemon.supervisor.listeners.Opening.commit",
        "daemon.supervisor.service.managed.ManagedService.prepare",
        "config.changes.between",
        "daemon.run.chosen",
    ],
)
def test_a_reload_that_breaks_is_refused_and_the_next_is_done(path: str, tmp_path: pathlib.Path) -> None:
    port, other = daemons.free_port(), daemons.free_port()
    with Daemon(tmp_path, reloads.service(port, OLD), path) as daemon:
        pid = daemon.uses()["pid"]
        fds = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        daemon.break_()
        (said,) = daemon.refusal(reloads.service(port, NEW) + reloads.service(other, NEW, name="more"))
        assert said in {DEFECT, "cannot be loaded: on purpose"}
        assert daemons.talk(port) == b"old\n"
        daemon.mend()
        assert daemon.uses()["pid"] == pid
        daemons.until(lambda: len(os.listdir(f"/proc/{daemon.process.pid}/fd")) <= fds, "what was opened")
        goes_on(daemon, port)


def test_a_service_that_cannot_take_its_part_on_is_started_again_with_it(tmp_path: pathlib.Path) -> None:
    """The configuration is in effect once all other services have adopted it, so it is not undone."""
    port, other = daemons.free_port(), daemons.free_port()
    both = reloads.service(port, OLD) + reloads.service(other, OLD, name="more")
    with Daemon(tmp_path, both, "daemon.supervisor.service.managed.ManagedService.commit") as daemon:
        before = daemon.uses()["pid"], daemon.uses("more")["pid"]
        daemon.write(both.replace("old", "new"))
        daemon.break_(once=True)
        assert daemon.reload() == ["more", "test"]
        assert daemons.talk(port) == daemons.talk(other) == b"new\n"
        assert (daemon.uses()["pid"] != before[0]) + (daemon.uses("more")["pid"] != before[1]) == 1
        assert daemon.defects() == 1
        goes_on(daemon, port)


def test_a_report_of_a_reload_that_breaks_takes_nothing_back(tmp_path: pathlib.Path) -> None:
    """The configuration counts: a service that it has added goes on."""
    port, other = daemons.free_port(), daemons.free_port()
    both = reloads.service(port, NEW) + reloads.service(other, NEW, name="more")
    with Daemon(tmp_path, reloads.service(port, OLD), "config.changes.lines") as daemon:
        daemon.write(both)
        daemon.break_()
        assert daemon.reload() == ["more", "test"]
        daemon.mend()
        assert daemons.talk(port) == daemons.talk(other) == b"new\n"
        assert daemon.defects() == 1
        goes_on(daemon, port)


@pytest.mark.parametrize(
    "path",
    [
        "daemon.supervisor.main.Supervisor._begin",
        "daemon.watch.client.WatchClient.watch",
        "daemon.supervisor.notify.Notifier.reloading",
    ],
)
def test_what_follows_a_reload_may_break(path: str, tmp_path: pathlib.Path) -> None:
    """The caller of the reload gets an answer."""
    port = daemons.free_port()
    with Daemon(tmp_path, reloads.service(port, OLD), path) as daemon:
        daemon.break_()
        assert daemon.change(reloads.service(port, NEW)) == ["test"]
        assert daemon.change(reloads.service(port, OLD)) == ["test"]
        assert daemons.talk(port) == b"old\n"
        daemons.until(lambda: daemon.defects() > 0, "the line about it")
        assert daemon.defects() == 1
        daemon.mend()
        goes_on(daemon, port)


@pytest.mark.parametrize("command", ["status", "connections"])
def test_a_command_that_breaks_says_so(command: str, tmp_path: pathlib.Path) -> None:
    """More often than there are places."""
    port = daemons.free_port()
    with Daemon(tmp_path, reloads.service(port, OLD), "daemon.worker.ledger.snapshot") as daemon:
        daemon.break_()
        for _ in range(20):
            with pytest.raises(ControlError, match=f"says: {DEFECT}"):
                daemon.ask(command)
        daemon.mend()
        daemon.ask(command)
        goes_on(daemon, port)


def test_a_worker_that_cannot_be_started_is_tried_again(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with Daemon(
        tmp_path, reloads.service(port, OLD), "daemon.supervisor.service.place.Place._open"
    ) as daemon:
        worker = daemon.worker("test")
        daemon.break_()
        os.kill(worker, 9)
        daemon.await_log("cannot start worker of test: ZeroDivisionError: on purpose at=", 2)
        daemon.mend()
        assert daemons.talk(port) == b"old\n"
        goes_on(daemon, port)


@pytest.mark.parametrize("path", ["daemon.process.child.Child.ended", "daemon.worker.books.parts"])
def test_one_process_whose_end_breaks_costs_no_other(path: str, tmp_path: pathlib.Path) -> None:
    port, other = daemons.free_port(), daemons.free_port()
    both = reloads.service(port, OLD) + reloads.service(other, OLD, name="more")
    with Daemon(tmp_path, both, path) as daemon:
        first, second = daemon.worker("test"), daemon.worker("more")
        daemon.break_()
        os.kill(first, 9)
        daemons.until(daemon.defects, "the defect")
        daemon.mend()
        os.kill(second, 9)
        daemon.await_log("^ready service=more ", 2)
        assert daemons.talk(other) == b"old\n"
        assert daemon.stop() == 0


def test_a_defect_in_stopping_does_not_keep_it_from_that(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    paths = (
        "daemon.supervisor.notify.Notifier.stopping",
        "daemon.watch.client.WatchClient.close",
        "daemon.supervisor.reload.queue.ReloadQueue.close",
    )
    with Daemon(tmp_path, reloads.service(port, OLD), *paths) as daemon:
        (tmp_path / "stopping").touch()
        (tmp_path / "close").touch()
        assert daemon.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            daemons.connect(port)


def test_a_message_that_breaks_neither_keeps_it_busy_nor_fills_the_log(tmp_path: pathlib.Path) -> None:
    """The channel stays ready as long as nobody can read it. Workers, which nothing guards, start anew."""
    port = daemons.free_port()
    with Daemon(tmp_path, reloads.service(port, OLD), "daemon.process.channel.Channel.receive") as daemon:
        supervisor = daemon.process.pid
        daemon.break_()
        with contextlib.suppress(ProcessLookupError):  # it may have met the defect first
            os.kill(daemon.worker("test"), 9)
        daemons.until(daemon.defects, "the defect")
        before = used(supervisor)
        daemon.quiet(2)
        assert used(supervisor) - before < 0.5
        assert len(daemon.await_log("^error: a defect of tcpdconf: ")) == 1
        daemon.mend()
        daemon.await_log("^ready service=test ", 2)
        assert daemons.talk(port) == b"old\n"


def used(pid: int) -> float:
    """Seconds of processor time (proc(5), stat)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_before_it_serves_a_defect_is_the_end(tmp_path: pathlib.Path) -> None:
    """Nothing goes on that could; a service manager tries again."""
    (tmp_path / "commit").touch()
    daemon = Daemon(
        tmp_path, reloads.service(daemons.free_port(), OLD), "daemon.supervisor.listeners.Opening.commit"
    )
    with pytest.raises(AssertionError, match="ZeroDivisionError: on purpose"), daemon:
        pass
    assert daemon.process.returncode == 1
