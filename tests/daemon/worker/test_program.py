"""Starting programs: one, and several at once."""

import contextlib
import errno
import fcntl
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from support.running import daemons

from tcpdconf.config import dialect
from tcpdconf.config.model import tables
from tcpdconf.daemon.process import background_thread
from tcpdconf.daemon.worker import program


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(daemons.SECONDS)
    with ours, theirs:
        yield ours, theirs


def said(
    argv: list[str],
    variables: dict[str, str],
    base: dict[str, str] | None = None,
    ways: dialect.Dialect = dialect.TOML,
) -> bytes:
    """What a program writes to its connection, which has ended."""
    made = program.Program(argv, base or {}, "socket", tables.Rlimits(), ways)
    with connected() as (ours, theirs):
        pid = made.start(theirs.fileno(), variables)
        theirs.close()
        found = daemons.read(ours)
        assert os.waitpid(pid, 0) == (pid, 0)
    return found


def test_a_program_has_its_connection_and_its_environment() -> None:
    script = "printenv | sort; echo error >&2"
    found = said(
        ["/bin/sh", "-c", script], {"B": "2", "C": "one\udce9\nC=2"}, {"A": "1", "B": "1", "PATH": "/bin"}
    )

    assert found == b"A=1\nB=2\nC=2\nC=one\xe9\nPATH=/bin\nPWD=" + os.getcwdb() + b"\nerror\n"


SIGNALS = ["/bin/grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"]


def masks(text: bytes) -> dict[str, set[int]]:
    """The signals of proc(5), status, by name of the field."""
    found: dict[str, set[int]] = {}
    for line in text.decode().splitlines():
        name, mask = line.split()
        found[name] = {int(number) for number in signal.valid_signals() if int(mask, 16) >> (number - 1) & 1}
    return found


def test_the_signals_of_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is ignored or blocked; with the drop-in they are as its own were, but for those it sets itself."""
    script = (
        "import signal, sys\n"
        "for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(number, signal.SIG_DFL)\n"  # a shell may have had some ignored
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR2])\n"
        "import test_program; test_program.tell(sys.argv[1])"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    toml, dropin = (
        masks(subprocess.run([sys.executable, "-c", script, name], check=True, capture_output=True).stdout)
        for name in ("TOML", "COURIERTCPD")
    )

    assert toml == {"SigBlk:": set(), "SigIgn:": set()}
    assert dropin == {"SigBlk:": {signal.SIGUSR2}, "SigIgn:": {signal.SIGUSR1}}


def tell(ways: str) -> None:
    """Show a program's signals."""
    sys.stdout.buffer.write(said(SIGNALS, {}, ways=getattr(dialect, ways)))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("missing", errno.ENOENT), ("plain", errno.EACCES), ("garbage", errno.ENOEXEC)],
)
def test_what_cannot_be_run(tmp_path: pathlib.Path, path: str, expected: int) -> None:
    (tmp_path / "plain").touch(0o600)
    (tmp_path / "garbage").write_bytes(b"\0\1")
    (tmp_path / "garbage").chmod(0o700)
    made = program.Program([str(tmp_path / path)], {}, "inherit", tables.Rlimits())
    with connected() as (_, theirs), pytest.raises(OSError, match=path) as raised:
        made.start(theirs.fileno(), {})

    assert raised.value.errno == expected


def test_a_connection_beyond_the_limit_of_descriptors_has_to_wait() -> None:
    """Somebody has lowered the limit since: there is no lower descriptor to be had now."""
    made = program.Program(["/bin/true"], {}, "inherit", tables.Rlimits())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with connected() as (_, theirs):
        resource.setrlimit(resource.RLIMIT_NOFILE, (theirs.fileno(), hard))
        try:
            with pytest.raises(OSError, match="Too many open files") as raised:
                made.start(theirs.fileno(), {})
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert raised.value.errno == errno.EMFILE


def test_a_nul_does_not_end_a_variable() -> None:
    made = program.Program(["/bin/true"], {}, "inherit", tables.Rlimits())
    with connected() as (_, theirs), pytest.raises(ValueError, match="null byte"):
        made.start(theirs.fileno(), {"A": "b\0c"})


def test_other_threads_go_on_while_a_program_is_started(tmp_path: pathlib.Path) -> None:
    """An exec waits until who has a lease of the file gives it up (fcntl(2)): this thread."""
    path = tmp_path / "program"
    path.write_text("#!/bin/true\n")
    path.chmod(0o700)
    made = program.Program([str(path)], {}, "inherit", tables.Rlimits())
    started: list[int] = []
    with connected() as (_, theirs), path.open() as lease:
        fcntl.fcntl(lease, fcntl.F_SETSIG, signal.SIGURG)  # that it is wanted; of itself it does nothing
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        thread = background_thread.start(lambda: started.append(made.start(theirs.fileno(), {})))
        daemons.until(lambda: fcntl.fcntl(lease, fcntl.F_GETLEASE) != fcntl.F_WRLCK, "the exec")
        assert not started
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        thread.join(daemons.SECONDS)

        assert os.waitpid(started[0], 0) == (started[0], 0)


def test_several_are_started_at_once() -> None:
    """By two threads: each start waits for another one."""
    both = threading.Barrier(2, timeout=daemons.SECONDS)

    def start(number: int) -> Callable[[], int]:
        def wait() -> int:
            both.wait()
            return number

        return wait

    found = list(program.Starter().start([start(number) for number in range(8)]))
    assert sorted(found) == [(number, number) for number in range(8)]


def test_one_that_cannot_be_started_does_not_keep_the_others() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    starter = program.Starter()
    for _ in range(10):
        found = dict(starter.start([fail, lambda: 1, fail, fail, lambda: 2]))
        assert found.keys() == set(range(5))
        assert (found[1], found[4]) == (1, 2)
        assert {type(found[place]) for place in (0, 2, 3)} == {ZeroDivisionError}


def test_without_a_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is wanted again with the next ones."""
    wanted: list[Callable[[], None]] = []

    def start(work: Callable[[], None]) -> threading.Thread:
        wanted.append(work)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(background_thread, "start", start)
    starter = program.Starter()

    assert list(starter.start([lambda: 1])) == [(0, 1)]
    assert not wanted
    assert list(starter.start([lambda: 1, lambda: 2])) == [(0, 1), (1, 2)]
    assert list(starter.start([lambda: 3, lambda: 4])) == [(0, 3), (1, 4)]
    assert len(wanted) == 2
