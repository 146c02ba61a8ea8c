"""The pid file of the drop-in: who is signalled, when, and what a writer of its folder can make of it."""

import contextlib
import fcntl
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, Self

import pytest
from support import peers
from support.courier import realtcpd
from support.running import daemons

from tcpdconf.daemon.process import pidfile

OURS: Final = [sys.executable, "-m", "tcpdconf.couriertcpd"]
ENV: Final = "/usr/bin/env"

# Read by every interpreter that has it in its path: one that is about to serve says so, and waits. Each wish
# for a reload is noted afterwards.
HOLD: Final = """
import importlib.abc, os, sys, time
class Hold(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "tcpdconf.daemon.run":
            sys.meta_path.remove(self)
            from tcpdconf.daemon.supervisor.reload import queue as reloads
            request = reloads.ReloadQueue.request
            def noted(*given, **more):
                open({folder!r} + "/restarted", "w").close()
                request(*given, **more)
            reloads.ReloadQueue.request = noted
            open({folder!r} + "/held", "w").close()
            end = time.monotonic() + 30
            while not os.path.exists({folder!r} + "/go") and time.monotonic() < end:
                time.sleep(0.005)
sys.meta_path.insert(0, Hold())
"""


class Start:
    """The start of a daemon, held when it has its lock and before it serves; `go` lets it go on."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.file = str(folder / "pid")
        self.port = daemons.free_port()

    def __enter__(self) -> Self:
        path = self.folder / "python"
        path.mkdir()
        (path / "sitecustomize.py").write_text(HOLD.format(folder=str(self.folder)))
        words = [f"-pid={self.file}", "-nodnslookup", f"127.0.0.1.{self.port}", ENV]
        self.starter = subprocess.Popen([*OURS, *words], env={"PYTHONPATH": str(path)})
        daemons.until((self.folder / "held").exists, "the start")
        return self

    def __exit__(self, *_: object) -> None:
        self.go()
        assert signalled(self.file, "-stop").wait(daemons.SECONDS) == 0

    def go(self) -> None:
        """Let it go on, and wait until it serves or has ended."""
        (self.folder / "go").touch()
        assert self.starter.wait(daemons.SECONDS) == 0


def signalled(file: str, action: str, *command: str) -> "subprocess.Popen[bytes]":
    """A -stop or -restart on its way."""
    return subprocess.Popen([*(command or OURS), f"-pid={file}", action], env={})


def run(*words: str, umask: str = "022") -> "subprocess.CompletedProcess[str]":
    """A command line of the drop-in to its end."""
    script = f'umask {umask}; exec "$@"'
    command = ["/bin/sh", "-c", script, "sh", *OURS, *words]
    return subprocess.run(
        command, env={}, check=False, timeout=daemons.SECONDS, text=True, stderr=subprocess.PIPE
    )


def serve(file: object, port: int, umask: str = "022") -> "subprocess.CompletedProcess[str]":
    """The start of a daemon."""
    return run(f"-pid={file}", "-nodnslookup", f"127.0.0.1.{port}", ENV, umask=umask)


@contextlib.contextmanager
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is nobody's business."""
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        try:
            yield process
        finally:
            process.kill()


def holder(file: str) -> int | None:
    """Return the pid that holds the lock, from the kernel (proc(5), locks)."""
    inode = os.stat(file + ".lock").st_ino
    for line in pathlib.Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "POSIX" and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    return None


@pytest.mark.parametrize("umask", ["0", "022", "0777"])
def test_its_mode_is_that_of_every_pid_file(umask: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pid"
    try:
        assert serve(file, daemons.free_port(), umask=umask).returncode == 0
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        assert stat.S_IMODE((tmp_path / "pid.lock").stat().st_mode) & 0o077 == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["pid", "pid.lock"]
    finally:
        run(f"-pid={file}", "-stop")


def test_links_in_its_folder_lead_nowhere(tmp_path: pathlib.Path) -> None:
    """FILE.PID was the name of the new file: whoever could write there could guess it."""
    folder, victim = tmp_path / "writable", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("precious\n")
    (folder / "pid").symlink_to(victim)
    with stranger() as process:
        for pid in range(process.pid, process.pid + 3000):
            (folder / f"pid.{pid}").symlink_to(victim)
    try:
        assert serve(folder / "pid", daemons.free_port()).returncode == 0
        assert victim.read_text() == "precious\n"
        assert not (folder / "pid").is_symlink()
    finally:
        run(f"-pid={folder}/pid", "-stop")


@pytest.mark.parametrize("action", ["start", "-stop", "-restart"])
@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (lambda lock, _: lock.mkdir(), "pid.lock: Is a directory"),
        (lambda lock, _: os.mkfifo(lock), "pid.lock: it must be a regular file"),
        (
            lambda lock, victim: lock.symlink_to(victim),
            "pid.lock: it is a symbolic link, and must be a regular file",
        ),
    ],
    ids=["directory", "FIFO", "link"],
)
def test_a_lock_that_is_no_file(
    plant: Callable[[pathlib.Path, pathlib.Path], object],
    said: str,
    action: str,
    tmp_path: pathlib.Path,
) -> None:
    victim = tmp_path / "victim"
    plant(tmp_path / "pid.lock", victim)
    file = tmp_path / "pid"
    done = serve(file, daemons.free_port()) if action == "start" else run(f"-pid={file}", action)

    assert done.returncode == 1
    assert said in done.stderr
    assert not victim.exists()
    assert not file.exists()


def test_stop_during_a_first_start_ends_it(tmp_path: pathlib.Path) -> None:
    with Start(tmp_path) as start:
        pid = holder(start.file)
        stop = signalled(start.file, "-stop")
        daemons.until(lambda: handled(pid), "the signal")
        start.go()
        assert stop.wait(daemons.SECONDS) == 0
        assert holder(start.file) is None
        with pytest.raises(ConnectionRefusedError):
            daemons.connect(start.port)


def handled(pid: int | None) -> bool:
    """Return whether a process has been signalled: its signals wait in a pipe of its own."""
    for entry in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            if "pipe:" in os.readlink(entry.parent.parent / "fd" / entry.name) and waiting(entry):
                return True
    return False


def waiting(entry: pathlib.Path) -> int:
    """Bytes in a pipe of another process."""
    fd = os.open(entry.parent.parent / "fd" / entry.name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int.from_bytes(fcntl.ioctl(fd, 0x541B, bytes(4)), sys.byteorder)  # FIONREAD
    finally:
        os.close(fd)


def test_restart_during_a_start_is_not_lost(tmp_path: pathlib.Path) -> None:
    with Start(tmp_path) as start:
        pid = holder(start.file)
        assert signalled(start.file, "-restart").wait(daemons.SECONDS) == 0
        assert not (tmp_path / "restarted").exists()
        start.go()
        daemons.until((tmp_path / "restarted").exists, "the restart")
        assert daemons.talk(start.port)
        assert holder(start.file) == pid


@pytest.mark.peer
@pytest.mark.parametrize("action", ["-stop", "-restart"])
@pytest.mark.parametrize("command", [OURS, [realtcpd.COURIERTCPD]], ids=["ours", "theirs"])
def test_a_stale_number_signals_nobody_during_a_start(
    action: str, command: list[str], tmp_path: pathlib.Path
) -> None:
    if command != OURS:
        peers.need(realtcpd.COURIERTCPD)
    with stranger() as other:
        (tmp_path / "pid").write_text(f"{other.pid}\n")
        with Start(tmp_path) as start:
            done = signalled(start.file, action, *command)
            if action == "-restart":
                assert done.wait(daemons.SECONDS) == 0
            start.go()
            assert done.wait(daemons.SECONDS) == 0
            assert (holder(start.file) is None) == (action == "-stop")
        assert other.poll() is None


def test_a_number_that_somebody_has_written_signals_nobody(tmp_path: pathlib.Path) -> None:
    """A user who can write the file could otherwise make root signal any process."""
    file = tmp_path / "pid"
    assert serve(file, daemons.free_port()).returncode == 0
    with stranger() as other:
        file.write_text(f"{other.pid}\n")
        assert run(f"-pid={file}", "-restart").returncode == 0
        assert run(f"-pid={file}", "-stop").returncode == 0
        assert other.poll() is None
    assert holder(str(file)) is None


def test_stop_and_restart_keep_nobody_from_starting(tmp_path: pathlib.Path) -> None:
    """They look at the lock without taking it: a start that met them took itself for the second."""
    file, port = tmp_path / "pid", daemons.free_port()
    end = tmp_path / "end"
    loop = f'until [ -e {end} ]; do "$@"; done'
    command = ["/bin/sh", "-c", loop, "sh", *OURS, f"-pid={file}", "-restart"]
    with subprocess.Popen(command, env={}) as restarts:
        try:
            for _ in range(5):
                assert serve(file, port).returncode == 0
                assert daemons.talk(port)
                assert run(f"-pid={file}", "-stop").returncode == 0
        finally:
            end.touch()
            restarts.wait(daemons.SECONDS)


LOCK: Final = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(file: pathlib.Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has the lock, until its standard input is closed."""
    command = [sys.executable, "-c", LOCK, f"{file}.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


@pytest.mark.parametrize("again", [False, True], ids=["free", "another daemon"])
def test_a_pid_that_is_used_again_gets_no_signal(
    again: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon ends when its pid has been looked up, and a stranger gets that pid."""
    file = tmp_path / "pid"
    real = os.pidfd_open
    opened: list[int] = []
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(stranger())
        first = stack.enter_context(locked(file))

        def reused(pid: int) -> int:
            opened.append(pid)
            if len(opened) > 1:
                return real(pid)
            first.communicate()
            if again:
                stack.callback(stack.enter_context(locked(file)).communicate)
            return real(other.pid)

        monkeypatch.setattr(os, "pidfd_open", reused)
        assert pidfile.PidFile(str(file)).send(signal.SIGTERM) is again
        assert opened[0] == first.pid
        assert len(opened) == 1 + again
        assert other.poll() is None


@pytest.mark.peer
def test_a_daemon_of_another_pid_namespace_is_said(tmp_path: pathlib.Path) -> None:
    peers.need_root()
    peers.need("unshare")
    file = tmp_path / "pid"
    with locked(file) as daemon:
        for action in ("-stop", "-restart"):
            command = ["unshare", "--pid", "--fork", *OURS, f"-pid={file}", action]
            done = subprocess.run(
                command, env={"PATH": os.defpath}, text=True, capture_output=True, check=False
            )
            assert done.returncode == 1
            assert "pid.lock: a process that is not visible here holds the lock: " in done.stderr
        assert daemon.poll() is None


@pytest.mark.peer
def test_who_may_not_signal_says_so() -> None:
    peers.need_other_users()
    with daemons.public_folder() as folder:
        folder.chmod(0o777)
        with locked(folder / "pid") as daemon:
            (folder / "pid.lock").chmod(0o666)
            as_user = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
            command = [*as_user, *OURS, f"-pid={folder}/pid", "-stop"]
            done = subprocess.run(
                command, env={"PATH": os.defpath}, text=True, capture_output=True, check=False
            )
            assert (done.returncode, done.stderr) == (
                1,
                f"cannot signal by {folder}/pid: Operation not permitted\n",
            )
            assert daemon.poll() is None


def test_a_daemon_that_does_not_end_is_killed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pidfile, "_PATIENCE", 0.1)
    with locked(tmp_path / "pid") as daemon:
        os.kill(daemon.pid, signal.SIGSTOP)  # SIGTERM waits
        state = pathlib.Path(f"/proc/{daemon.pid}/stat")
        daemons.until(lambda: state.read_text().rpartition(") ")[2].startswith("T"), "its stop")
        began = time.monotonic()
        pidfile.PidFile(str(tmp_path / "pid")).stop()
        assert time.monotonic() - began < 5
        assert daemon.wait(daemons.SECONDS) == -signal.SIGKILL
