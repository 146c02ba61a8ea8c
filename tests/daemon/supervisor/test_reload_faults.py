"""Tests failing reloads: running services continue, and command, log, status and manager get the reason."""

import contextlib
import os
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.running import daemons, processes, reloads

pytestmark = pytest.mark.slow

OLD = 'program = ["/bin/echo", "old"]'
NEW = 'program = ["/bin/echo", "new"]'

# Text that follows a valid service, and the problem that it causes.
WRONG = {
    "half written": ('[services.more]\nprogram = ["/bin/e', "a string is not closed on its line"),
    "invalid": ('[services.more]\nprogram = ["/bin/echo"]\nno_such_key = 1', "unknown key"),
    "an unknown user": (
        '[services.more]\nprogram = ["/bin/echo"]\nuser = "nobody-here"\nlisteners = []',
        'unknown user "nobody-here"',
    ),
    "a missing file": (
        '[services.more]\nprogram = ["/bin/echo"]\naccess = [{ file = "/nothing" }]',
        "cannot read /nothing: No such file or directory",
    ),
}


def goes_on(daemon: reloads.Daemon, port: int, pid: int) -> None:
    """The old configuration counts, with the worker that there was; the next one is taken on."""
    assert daemons.talk(port) == b"old\n"
    assert daemon.uses()["pid"] == pid
    assert daemon.change(reloads.service(port, NEW)) == ["test"]
    assert daemons.talk(port) == b"new\n"


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_configuration(fault: str, tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text, said = WRONG[fault]
    with reloads.Daemon(tmp_path, reloads.service(port, OLD)) as daemon:
        pid = daemon.uses()["pid"]
        assert said in daemon.refusal(f"{reloads.service(port, NEW)}\n{text}")
        goes_on(daemon, port, pid)


def test_a_configuration_that_cannot_be_read(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    more = tmp_path / "conf.d/more.toml"
    with reloads.Daemon(tmp_path, reloads.service(port, OLD)) as daemon:
        pid = daemon.uses()["pid"]
        more.symlink_to(tmp_path / "nothing")
        assert "No such file or directory" in daemon.refusal(reloads.service(port, NEW))[0]
        more.unlink()
        goes_on(daemon, port, pid)


def test_a_port_in_use(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        reloads.Daemon(tmp_path, reloads.service(port, OLD)) as daemon,
    ):
        pid, taken = daemon.uses()["pid"], other.getsockname()[1]
        more = reloads.service(taken, NEW, name="more") + reloads.service(
            daemons.free_port(), NEW, name="most"
        )
        text = f"cannot bind 127.0.0.1:{taken}: Address already in use"
        assert daemon.refusal(reloads.service(port, NEW) + more) == [text]
        fds = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        assert daemon.refusal(reloads.service(port, NEW) + more) == [text]
        daemons.until(lambda: len(os.listdir(f"/proc/{daemon.process.pid}/fd")) <= fds, "what was opened")
        goes_on(daemon, port, pid)


def test_a_missing_program_is_a_warning(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, OLD)) as daemon:
        daemon.write(reloads.service(port, 'program = ["/nothing"]'))
        answer = daemon.ask("reload")
        assert (answer["ok"], answer["changed"]) == (True, ["test"])
        assert "missing-program" in [each["code"] for each in answer["problems"]]
        assert daemons.talk(port) == b""


def test_an_access_file_that_the_worker_cannot_use(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    bad = tmp_path / "bad.dat"
    bad.write_bytes(b"\xce\x9a\x57\x13" + bytes(100))
    with reloads.Daemon(tmp_path, reloads.service(port, OLD)) as daemon:
        pid = daemon.uses()["pid"]
        for _ in range(20):  # the successors that it discards do not get into each other's way
            said = daemon.refusal(
                reloads.service(port, f'{NEW}\naccess = [{{ file = "{bad}" }}]\numask = "027"')
            )
            assert said[0].startswith(f"cannot load access rules: {bad}: offset ")
        goes_on(daemon, port, pid)


@contextlib.contextmanager
def reloading(daemon: reloads.Daemon) -> Iterator[list[dict[str, Any]]]:
    """A reload meanwhile; the list has its answer afterwards."""
    answer: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answer.append(daemon.ask("reload")))
    thread.start()
    try:
        yield answer
    finally:
        thread.join(daemons.SECONDS)


def errors(answer: list[dict[str, Any]]) -> list[str]:
    """Return the problems in an answer to a reload."""
    return [each["message"] for each in answer[0]["problems"] if each["severity"] == "error"]


class Slow:
    """A shell file that is not read to its end before the test says so."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._pipe = folder / "pipe"
        os.mkfifo(self._pipe)
        self.file = folder / "slow"
        self.file.write_text(f"read word < {self._pipe}\n")
        self.setting = f'environment_files = [{{ path = "{self.file}", shell = true }}]'
        self._end = -1

    def await_reader(self) -> None:
        """Wait until it is being read."""
        daemons.until(self._has_reader, "the shell")

    def _has_reader(self) -> bool:
        try:
            self._end = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    def let_go(self) -> None:
        """Let it be read."""
        os.close(self._end)


def test_a_worker_that_is_killed_before_it_has_prepared(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    slow = Slow(tmp_path)
    with reloads.Daemon(tmp_path, reloads.service(port, OLD)) as daemon:
        daemon.write(reloads.service(port, f"{NEW}\n{slow.setting}"))
        with reloading(daemon) as answer:
            slow.await_reader()
            assert daemons.talk(port) == b"old\n"  # nobody waits for it
            os.kill(daemon.uses()["pid"], signal.SIGKILL)
        slow.let_go()
        assert errors(answer) == ["the worker ended before it was ready; see the log"]
        daemon.await_log("^ready service=test ", 2)
        goes_on(daemon, port, daemon.uses()["pid"])


def test_a_worker_that_is_killed_after_it_has_prepared(tmp_path: pathlib.Path) -> None:
    """The one that takes its place knows the old configuration only."""
    port, other = daemons.free_port(), daemons.free_port()
    slow = Slow(tmp_path)
    text = reloads.service(port, OLD) + reloads.service(other, OLD, name="slow")
    with reloads.Daemon(tmp_path, text) as daemon:
        pid = daemon.uses()["pid"]
        fds = len(os.listdir(f"/proc/{pid}/fd"))
        daemon.write(
            reloads.service(port, NEW) + reloads.service(other, f"{NEW}\n{slow.setting}", name="slow")
        )
        with reloading(daemon) as answer:
            slow.await_reader()
            daemons.until(lambda: len(os.listdir(f"/proc/{pid}/fd")) > fds, "its descriptors")
            time.sleep(0.3)  # it has said that it is prepared
            os.kill(pid, signal.SIGKILL)
            daemon.await_log("^ready service=test ", 2)
            assert daemons.talk(port) == b"old\n"
            slow.let_go()
        assert errors(answer) == ["the worker ended before it was ready; see the log"]
        assert (daemons.talk(port), daemons.talk(other)) == (b"old\n", b"old\n")
        slow.file.write_text("")
        assert daemon.reload() == ["slow", "test"]
        assert (daemons.talk(port), daemons.talk(other)) == (b"new\n", b"new\n")


def test_a_worker_that_is_killed_when_what_it_has_prepared_counts(tmp_path: pathlib.Path) -> None:
    """Its predecessor still accepts: who takes its place does not begin before that has stopped."""
    port = daemons.free_port()
    hold = reloads.HOLD + '\nenvironment = { WORD = "old" }'
    new = reloads.HOLD + '\nenvironment = { WORD = "new" }\numask = "027"'
    with (
        reloads.Daemon(tmp_path, reloads.service(port, hold)) as daemon,
        reloads.held(port, "old") as client,
    ):
        elder = daemon.uses()["pid"]
        daemon.write(reloads.service(port, new))
        os.kill(elder, signal.SIGSTOP)
        try:
            with reloading(daemon) as answer:
                daemons.until(lambda: daemon.uses()["pid"] not in {elder, None}, "the commit")
                first = daemon.uses()["pid"]
                os.kill(first, signal.SIGKILL)
                daemons.until(lambda: daemon.uses()["pid"] not in {elder, first, None}, "another one")
                time.sleep(0.3)  # it could begin now
                assert len(daemon.await_log("^ready service=test ")) == 1
                os.kill(elder, signal.SIGCONT)
        finally:
            os.kill(elder, signal.SIGCONT)
        assert answer[0]["ok"]
        with reloads.held(port, "new") as second:
            assert daemon.uses()["connections"] == 2
            assert reloads.lives(client)
            daemons.until(lambda: daemon.uses()["connections"] == 1, "that its end is known")
            daemons.until(lambda: processes.over(elder), "the end of the first worker")
            assert reloads.lives(second)


def test_a_program_that_a_replaced_worker_starts_while_nobody_hears_of_it(tmp_path: pathlib.Path) -> None:
    """Its client's PROXY header comes when the successor has been killed: the next one counts it as well."""
    port = daemons.free_port()
    more = ', haproxy = { trusted = ["127.0.0.1"], timeout = 60 }'
    text = reloads.service(port, more=more)
    header = b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n"
    with reloads.Daemon(tmp_path, text) as daemon, daemons.connect(port) as early:
        elder = daemon.uses()["pid"]
        early.sendall(header[:10])
        with daemons.connect(port) as late:
            late.sendall(header + b"bye\n")
            assert daemons.read(late) == b"\nbye\n"  # then the other has arrived too
        assert daemon.change(reloads.service(port, f'{reloads.HOLD}\numask = "027"', more=more)) == ["test"]
        worker = daemon.uses()["pid"]
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            os.kill(worker, signal.SIGKILL)
            daemons.until(lambda: processes.over(worker), "its end")
            early.sendall(header[10:])
            assert daemons.line(early) == b"\n"
            daemons.until(lambda: daemon.log[-1].startswith("accept "), "that it is told")
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
        daemon.await_log("^ready service=test ", 3)
        daemons.until(lambda: daemon.uses()["connections"] == 1, "that it is counted")
        assert [each["peer"] for each in daemon.ask("connections")["connections"]] == ["192.0.2.7:1"]
        assert reloads.lives(early)
        daemons.until(lambda: daemon.uses()["connections"] == 0, "that its end is known")
        daemons.until(lambda: processes.over(elder), "the end of the first worker")


def test_a_reload_while_a_worker_waits_to_be_started_again(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    rules = tmp_path / "rules"
    rules.write_text("127\tallow\n")
    with reloads.Daemon(
        tmp_path, reloads.service(port, f'{OLD}\naccess = [{{ file = "{rules}" }}]')
    ) as daemon:
        rules.unlink()
        os.kill(daemon.uses()["pid"], signal.SIGKILL)
        daemon.await_log("^error: cannot start worker of test: a file that it needs cannot be opened", 3)
        with daemons.connect(port) as waiting:
            assert daemon.refusal(reloads.service(port, f'{NEW}\naccess = [{{ file = "{rules}" }}]')) == [
                f"cannot read {rules}: No such file or directory"
            ]
            assert daemon.change(reloads.service(port, NEW)) == ["test"]
            assert daemons.read(waiting) == b"new\n"


@pytest.mark.parametrize("change", ["killed", "replaced"])
def test_many_programs_that_end_at_once(change: str, tmp_path: pathlib.Path) -> None:
    """Those of a worker that has gone, or retires, of which another one has to hear."""
    port, other = daemons.free_port(), daemons.free_port()
    count = 600
    limits = "max_connections = 1000\nmax_per_ip = 1000"

    def text(umask: str) -> str:
        settings = f'program = ["/bin/cat"]\numask = "{umask}"'
        return reloads.service(port, settings, limits=limits) + reloads.service(other, OLD, name="other")

    with reloads.Daemon(tmp_path, text("022")) as daemon, contextlib.ExitStack() as clients:
        clients.enter_context(contextlib.ExitStack())
        for _ in range(count):
            clients.enter_context(daemons.connect(port))
        daemons.until(lambda: daemon.uses()["accepted"] == count, "the programs")
        first, neighbour = daemon.uses()["pid"], daemon.uses("other")["pid"]
        if change == "killed":
            os.kill(first, signal.SIGKILL)
            daemon.await_log("^ready service=test ", 2)
            teller = daemon.process.pid
        else:
            assert daemon.change(text("027")) == ["test"]
            teller = first
        second = daemon.uses()["pid"]
        assert daemon.uses()["connections"] == count
        programs = [each["pid"] for each in daemon.ask("connections")["connections"]]
        with contextlib.ExitStack() as waking:
            for pid in (second, neighbour):  # who hears of it has something else to do
                os.kill(pid, signal.SIGSTOP)
                waking.callback(os.kill, pid, signal.SIGCONT)
            os.kill(teller, signal.SIGSTOP)
            for pid in programs:
                os.kill(pid, signal.SIGKILL)
            os.kill(teller, signal.SIGCONT)
            daemons.until(lambda: not any(map(_exists, programs)), "their end")
        daemons.until(lambda: daemon.uses()["connections"] == 0, "that their end is known")
        assert (daemon.uses()["pid"], daemon.uses("other")["pid"]) == (second, neighbour)


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def test_sighups_at_once_are_one_reload(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    slow = Slow(tmp_path)
    with reloads.Daemon(tmp_path, reloads.service(port, OLD)) as daemon:
        daemon.notified.clear()
        daemon.write(reloads.service(port, f"{NEW}\n{slow.setting}"))
        daemon.process.send_signal(signal.SIGHUP)
        slow.await_reader()
        slow.file.write_text("")
        for _ in range(50):
            daemon.process.send_signal(signal.SIGHUP)
        slow.let_go()
        daemon.reload()
        daemon.await_notice("READY=1", 2)
        said = [line for line in daemon.notified if line in {"RELOADING=1", "READY=1"}]
        assert said[:2] == ["RELOADING=1", "READY=1"]
        assert len(said) <= 6  # those that came meanwhile, and the command
        assert any(line.startswith("MONOTONIC_USEC=") for line in daemon.notified)
        assert daemons.talk(port) == b"new\n"
