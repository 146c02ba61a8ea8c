"""Reloads of a daemon that cannot have what it needs: descriptors, processes, room on the disk, inotify."""

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest
from support import peers
from support.running import daemons, processes, reloads

from tcpdconf.daemon.control.client import ControlConnection

pytestmark = pytest.mark.slow

OLD = 'program = ["/bin/echo", "old"]'
NEW = 'program = ["/bin/echo", "new"]'
NOBODY = 54321  # whose processes and inotify instances nobody else counts with
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]


def limited(pid: int, spare: int) -> contextlib.AbstractContextManager[object]:
    """A process that can have only so many further descriptors meanwhile."""
    stack = contextlib.ExitStack()
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = [number for number in range(max(used) + spare + 2) if number not in used]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[spare], limits[1]))
    stack.callback(resource.prlimit, pid, resource.RLIMIT_NOFILE, limits)
    return stack


def test_a_supervisor_without_descriptors(tmp_path: pathlib.Path) -> None:
    """However many there are: all is taken on, or nothing."""
    ports = daemons.free_port(), daemons.free_port()
    logger = f'stderr = {{ logger = ["/bin/sh", "-c", "cat >> {tmp_path}/log"] }}'
    old = reloads.service(ports[0], OLD)
    new = reloads.service(ports[0], f'{NEW}\numask = "027"\n{logger}')
    new += reloads.service(ports[1], NEW, name="more")
    outcomes = []
    with (
        reloads.Daemon(tmp_path, old) as daemon,
        ControlConnection(str(tmp_path / "run")) as control,
    ):
        pid = daemon.process.pid
        control.ask({"command": "status"})  # then it has been accepted
        for spare in range(20):
            daemon.write(new)
            with limited(pid, spare):
                answer = control.ask({"command": "reload"}, daemons.SECONDS)
            outcomes.append(answer["ok"])
            assert daemons.talk(ports[0]) == (b"new\n" if answer["ok"] else b"old\n")
            if not answer["ok"]:
                assert [each for each in answer["problems"] if each["severity"] == "error"]
            daemon.change(old)
        assert daemon.change(new) == ["more", "test"]
        assert [daemons.talk(port) for port in ports] == [b"new\n"] * 2
    assert outcomes[0] is False
    assert outcomes[-1] is True


def test_a_worker_without_descriptors(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with (
        reloads.Daemon(tmp_path, reloads.service(port, reloads.HOLD)) as daemon,
        reloads.held(port) as client,
    ):
        pid = daemon.uses()["pid"]
        for spare in range(3):
            with limited(pid, spare):
                said = daemon.refusal(reloads.service(port, NEW))
            assert said == ["its worker cannot prepare: Too many open files"] or spare
            assert daemon.uses()["pid"] == pid
        assert daemon.change(reloads.service(port, NEW)) == ["test"]
        assert daemons.talk(port) == b"new\n"
        assert reloads.lives(client)


def limit_processes(pid: int, soft: str) -> None:
    """Set RLIMIT_NPROC of a process of that user, as that user."""
    subprocess.run([*AS_NOBODY, "prlimit", f"--pid={pid}", f"--nproc={soft}"], check=True)


@pytest.mark.peer
@pytest.mark.parametrize(
    ("limited", "more", "said"),
    [
        ("supervisor", 'umask = "027"', "cannot start its worker: Resource temporarily unavailable"),
        ("worker", "", "its worker cannot prepare: can't start new thread"),
    ],
)
def test_without_processes(limited: str, more: str, said: str) -> None:
    peers.need_other_users()
    port = daemons.free_port()
    with daemons.public_folder() as folder:
        folder.chmod(0o777)
        with reloads.Daemon(folder, reloads.service(port, OLD), before=AS_NOBODY) as daemon:
            pid = daemon.uses()["pid"]
            which = daemon.process.pid if limited == "supervisor" else pid
            limit_processes(which, "1:")
            assert daemon.refusal(reloads.service(port, f"{NEW}\n{more}")) == [said]
            limit_processes(which, "1000:")
            assert daemons.talk(port) == b"old\n"
            assert daemon.uses()["pid"] == pid
            assert daemon.reload() == ["test"]
            assert daemons.talk(port) == b"new\n"


@pytest.mark.peer
def test_a_full_disk(tmp_path: pathlib.Path) -> None:
    """The end of a file that is written there is cut off; a log file cannot be made."""
    peers.need_root()
    port = daemons.free_port()
    disk, copy = tmp_path / "conf.d", tmp_path / "copy"
    script = (
        'cp -r "$0" "$1"; mount -t tmpfs -o size=8k,nr_inodes=3 none "$0"; cp "$1"/* "$0"; shift; exec "$@"'
    )
    before = ["unshare", "-m", "sh", "-c", script, str(disk), str(copy)]
    with reloads.Daemon(tmp_path, reloads.service(port, OLD), before=before) as daemon:
        daemon.conf = pathlib.Path(f"/proc/{daemon.process.pid}/root{disk}")
        pid = daemon.uses()["pid"]
        (daemon.conf / "fill").write_bytes(bytes(4096))
        new = reloads.service(port, f'{NEW}\nstderr = {{ file = "{disk}/log" }}')
        with pytest.raises(OSError, match="No space left on device"):
            daemon.write(f"{' ' * 4000}{new}")
        assert daemon.ask("reload")["ok"] is False
        assert daemon.refusal(new) == [f"cannot open {disk}/log: No space left on device"]
        assert daemon.uses()["pid"] == pid
        assert daemons.talk(port) == b"old\n"
        (daemon.conf / "fill").unlink()
        assert daemon.reload() == ["test"]
        assert daemons.talk(port) == b"new\n"


@pytest.mark.peer
def test_no_inotify_instance_is_left() -> None:
    """The files are looked at instead, which is said once."""
    peers.need_other_users()
    port = daemons.free_port()
    take = """
import ctypes, time
inotify = ctypes.CDLL(None).inotify_init
while inotify() >= 0: pass
print("none is left", flush=True)
input()
"""
    with daemons.public_folder() as folder:
        folder.chmod(0o777)
        with subprocess.Popen(
            [*AS_NOBODY, sys.executable, "-c", take], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as taker:
            assert taker.stdin is not None
            assert taker.stdout is not None
            assert taker.stdout.readline() == "none is left\n"
            with daemons.Daemon(folder, reloads.service(port, OLD), before=AS_NOBODY) as daemon:
                daemon.await_log("^warning: cannot use inotify, checking files every 2 s: ")
                (daemon.conf / "test.toml").write_text(reloads.service(port, NEW))
                daemon.await_log("^reloaded changed=test$")
                assert daemons.talk(port) == b"new\n"
            taker.stdin.close()


def test_a_new_daemon_takes_the_ports_of_one_that_was_killed(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = reloads.service(port, f'{reloads.HOLD}\nstderr = "socket"')
    with reloads.Daemon(tmp_path, text) as daemon, reloads.held(port) as client:
        worker = daemon.uses()["pid"]
        daemon.stop(signal.SIGKILL)
        daemons.until(lambda: processes.over(worker), "the end of its worker")
        folder = tmp_path / "second"
        folder.mkdir()
        (folder / "run").symlink_to(tmp_path / "run")
        with reloads.Daemon(folder, text), reloads.held(port) as second:
            assert reloads.lives(client)
            assert reloads.lives(second)
