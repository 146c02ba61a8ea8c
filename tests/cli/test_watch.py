"""`status --watch` on a terminal: whole frames, and a terminal that is as it was before."""

import contextlib
import copy
import os
import pathlib
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import terminals
from support.running import controls, daemons

from tcpdconf.cli import screen

ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l"
LEAVE = b"\x1b[?7h\x1b[?25h\x1b[?1049l"
FRAME = re.compile(rb"\x1b\[\?2026h\x1b\[H(.*?)\x1b\[J\x1b\[\?2026l", re.DOTALL)
ENVIRONMENT = {"PATH": os.defpath, "TERM": "xterm", "NO_COLOR": "1"}
ADDRESSES = [{"address": f"192.0.2.{number}", "refused": 100 - number} for number in range(10)]
STATUS: dict[str, Any] = {
    "pid": 1,
    "version": "1.2",
    "config": {"dir": "/conf.d", "hash": "0", "loaded_at": 0.0},
    "last_reload": {"ok": True, "at": 0.0, "changed": [], "problems": []},
    "services": {},
    "refused_by_address": ADDRESSES,
}


class Watched:
    """`status --watch` on a terminal, with a daemon whose answer a test changes."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.status = copy.deepcopy(STATUS)
        self.daemon = contextlib.ExitStack()
        server = controls.Server(folder, {"status": lambda _, reply: reply(self.status)})
        self.daemon.enter_context(server)
        # the tests themselves may have been started in the background, where SIGINT is ignored
        command = ["env", "--default-signal=INT", sys.executable, "-m", "tcpdconf", "status", "--watch"]
        self.pty = terminals.Pty([*command, "--runtime-dir", str(folder)], ENVIRONMENT, (80, 24))

    def frames(self) -> list[bytes]:
        """The whole frames so far, with the line ends that were written: the terminal adds a return."""
        return FRAME.findall(self.pty.read.replace(b"\r\r\n", b"\r\n"))

    def await_frames(self, count: int) -> None:
        """Wait for so many whole frames."""
        self.pty.await_output(lambda _: len(self.frames()) >= count)

    def close(self) -> None:
        """End what still runs."""
        if self.pty.process.poll() is None:
            self.pty.process.kill()
        self.pty.close()
        self.daemon.close()


@pytest.fixture
def watched(tmp_path: pathlib.Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    try:
        yield found
    finally:
        found.close()


def stop(found: Watched) -> int:
    """Its exit status; the terminal must have its settings back."""
    status = found.pty.process.wait(daemons.SECONDS)
    assert found.pty.settings() == found.pty.before
    return status


def test_each_frame_is_whole_and_nothing_is_outside(watched: Watched) -> None:
    watched.await_frames(3)
    watched.pty.press(b"\x03")
    assert stop(watched) == 0
    watched.pty.await_output(lambda read: read.endswith(LEAVE))
    read = watched.pty.read.removeprefix(ENTER).removesuffix(LEAVE)

    assert FRAME.sub(b"", read) == b""
    for frame in watched.frames():
        assert b"\x1b[2J" not in frame
        lines = frame.split(b"\r\n")
        assert all(line.endswith(b"\x1b[K") and line.count(b"\x1b") == 1 for line in lines)
        assert lines[0].startswith(b"tcpdconf ")
        assert lines[-1].startswith(b"192.0.2.9 ")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_gives_the_terminal_back(watched: Watched, number: signal.Signals, status: int) -> None:
    watched.await_frames(1)
    assert not watched.pty.settings()[3] & termios.ECHO
    watched.pty.press(b"rm -rf x\n")  # the shell must not get this
    daemons.until(lambda: watched.pty.pending() == 9, "the keys")
    watched.pty.process.send_signal(number)

    assert stop(watched) == status
    assert watched.pty.pending() == 0
    watched.pty.await_output(lambda read: read.endswith(LEAVE))


def test_the_terminal_is_given_back_while_it_is_stopped(watched: Watched) -> None:
    watched.await_frames(1)
    watched.pty.process.send_signal(signal.SIGTSTP)
    watched.pty.await_output(lambda read: read.endswith(LEAVE))
    _, status = os.waitpid(watched.pty.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert watched.pty.settings() == watched.pty.before

    before = len(watched.frames())
    watched.pty.process.send_signal(signal.SIGCONT)
    watched.await_frames(before + 1)
    assert watched.pty.read.count(ENTER) == 2
    watched.pty.press(b"\x03")
    assert stop(watched) == 0


def test_another_size_shows_at_once(watched: Watched) -> None:
    watched.await_frames(1)
    began = time.monotonic()
    for lines in (6, 24, 5, 24, 7, 24, 8):  # each would take a second
        watched.pty.resize(80, lines)
        await_height(watched, min(lines, 15))
        assert (watched.frames()[-1].endswith(b"\n...\x1b[K")) == (lines < 15)
    assert time.monotonic() - began < 4


def await_height(found: Watched, lines: int) -> None:
    found.pty.await_output(lambda _: found.frames()[-1].count(b"\r\n") + 1 == lines)


def test_a_rejected_reload_is_the_first_and_the_last_line(watched: Watched) -> None:
    problem = {"file": "a.toml", "line": 1, "key": "", "message": "wrong", "severity": "error"}
    watched.status["last_reload"] = {"ok": False, "at": 0.0, "changed": [], "problems": [problem] * 12}
    watched.status["last_reload"]["at"] = time.time()
    watched.pty.await_output(lambda _: any(b"REJECTED" in frame for frame in watched.frames()))
    lines = watched.frames()[-1].split(b"\r\n")

    assert len(lines) == 24
    assert lines[0].startswith(b"RELOAD REJECTED ")
    assert lines[11].startswith(b"  and 2 more: see tcpdconf check")
    assert lines[-1].startswith(b"RELOAD REJECTED ")


def test_the_end_of_the_daemon_shows_on_the_terminal_as_it_was(watched: Watched) -> None:
    watched.await_frames(1)
    watched.daemon.close()
    assert stop(watched) == 1
    watched.pty.await_output(lambda read: b"error: the daemon (pid " in read.partition(LEAVE)[2])


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}])
def test_a_terminal_without_control_sequences(tmp_path: pathlib.Path, environment: dict[str, str]) -> None:
    """One page after another, as to a pipe."""
    command = [sys.executable, "-m", "tcpdconf", "status", "--watch", "--runtime-dir", str(tmp_path)]
    with controls.Server(tmp_path, {"status": lambda _, reply: reply(STATUS)}):
        pty = terminals.Pty(command, {"PATH": os.defpath, **environment}, (80, 24))
        pty.await_output(lambda read: read.count(b"\r\n\r\ntcpdconf  ") >= 1)
        pty.process.kill()
        pty.close()
    assert b"\x1b" not in pty.read


def test_pages_in_a_pipe(tmp_path: pathlib.Path) -> None:
    status = {**STATUS, "last_reload": {"ok": False, "at": 0.0, "changed": [], "problems": []}}
    command = [sys.executable, "-m", "tcpdconf", "status", "--watch", "--runtime-dir", str(tmp_path)]
    with (
        controls.Server(tmp_path, {"status": lambda _, reply: reply(status)}),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        page = [process.stdout.readline() for _ in range(20)]
        process.kill()
    assert page[0].startswith("RELOAD REJECTED ")
    assert page[17:] == [page[0], "\n", page[0]]  # the end of a page, and the beginning of the next one


def test_a_frame_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    written: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        assert fd == slave
        written.append(data)
        return len(data)

    with os.fdopen(slave, "w") as stdout, os.fdopen(master, "rb"):
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(os, "write", write)
        with screen.Screen() as shown:
            shown.show("a\nb\n", "")
            shown.show("a\n" * 100, "the end")
    assert len(written) == 3
    assert written[0] == ENTER + b"\x1b[?2026h\x1b[Ha\x1b[K\r\nb\x1b[K\x1b[J\x1b[?2026l"
    assert written[1].endswith(b"a\x1b[K\r\nthe end\x1b[K\x1b[J\x1b[?2026l")
    assert written[1].count(b"\r\n") == 23  # a terminal that does not know its size
    assert written[2] == LEAVE


def test_a_signal_just_after_the_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler runs before the write returns to the caller."""
    master, slave = os.openpty()
    written: list[bytes] = []

    def write(_fd: int, data: bytes) -> int:
        written.append(data)
        if len(written) == 1:
            raise SystemExit(143)
        return len(data)

    with os.fdopen(slave, "w") as stdout, os.fdopen(master, "rb"):
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(SystemExit), screen.Screen() as shown:
            shown.show("a\n", "")
    assert written[0].startswith(ENTER)
    assert written[1:] == [LEAVE]
