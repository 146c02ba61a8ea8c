"""The daemon and its watcher: when it dies, when there is no inotify, when nothing is to be watched."""

import os
import pathlib
import re
import signal

import pytest
from support import peers
from support.running import daemons


def service(port: int, mark: str, watch: str = "true") -> str:
    return f"""
        [daemon]
        watch = {watch}
        [services.test]
        program = ["/usr/bin/env", "-0"]
        environment = {{ MARK = "{mark}" }}
        [[services.test.listeners]]
        address = "127.0.0.1"
        port = {port}
    """


def mark(port: int) -> str | None:
    return daemons.environment(daemons.talk(port)).get("MARK")


def watcher(daemon: daemons.Daemon) -> int:
    """The pid of the watcher: the child that always has threads, a worker has some at times."""
    found: list[int] = []

    def has_threads() -> list[int]:
        workers = {
            int(line.rpartition("pid=")[2]) for line in daemon.log if line.startswith("ready service=")
        }
        others = set(daemons.children(daemon.process.pid)) - workers
        found[:] = [child for child in others if len(os.listdir(f"/proc/{child}/task")) > 1]
        return found

    daemons.until(has_threads, "the watcher")
    return found[0]


def runs(pid: int) -> bool:
    """Return whether a process runs; one that has ended may wait for its parent."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_a_watcher_that_dies_is_started_again_and_has_missed_nothing(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(port, "old")) as daemon:
        pid = watcher(daemon)
        os.kill(pid, signal.SIGSTOP)
        (daemon.conf / "test.toml").write_text(service(port, "new"))
        os.kill(pid, signal.SIGKILL)
        daemon.await_log(r"^error: watcher ended with signal 9 ")
        daemon.await_log(r"^reloaded changed=test$")

        assert mark(port) == "new"
        assert watcher(daemon) != pid


@pytest.mark.peer
def test_without_inotify_the_daemon_polls_and_says_so_once(tmp_path: pathlib.Path) -> None:
    peers.need("unshare")
    peers.need_root()
    peers.need_kernel_settings()
    script = 'echo 0 >/proc/sys/user/max_inotify_instances && exec "$@"'
    before = ["unshare", "--user", "--map-root-user", "/bin/sh", "-c", script, "sh"]
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(port, "old"), before=before) as daemon:
        daemon.await_log("inotify instance limit reached")
        for new in ("new", "newer"):
            (daemon.conf / "test.toml").write_text(service(port, new))
            daemons.until(lambda new=new: mark(port) == new, "the change")  # type: ignore[misc]

        assert len([line for line in daemon.log if "inotify instance" in line]) == 1


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_signals_do_not_end_the_watcher(number: int, tmp_path: pathlib.Path) -> None:
    """They reach it when somebody signals the whole process group."""
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(port, "old")) as daemon:
        pid = watcher(daemon)
        os.kill(pid, number)
        (daemon.conf / "test.toml").write_text(service(port, "new"))
        daemon.await_log(r"^reloaded changed=test$")

        assert watcher(daemon) == pid
    daemons.until(lambda: not runs(pid), "the watcher's end")


def test_watching_can_be_turned_off_and_on(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(port, "old")) as daemon:
        pid = watcher(daemon)
        (daemon.conf / "test.toml").write_text(service(port, "old", "false"))
        daemons.until(lambda: not runs(pid), "the watcher's end")
        (daemon.conf / "test.toml").write_text(service(port, "new", "true"))
        daemon.quiet(1.0)
        assert mark(port) == "old"
        daemon.process.send_signal(signal.SIGHUP)
        daemon.await_log(r"^reloaded changed=test$")
        assert watcher(daemon) != pid
        (daemon.conf / "test.toml").write_text(service(port, "newer"))
        daemon.await_log(r"^reloaded changed=test$", 2)

        assert mark(port) == "newer"
        assert not [line for line in daemon.log if re.search(r"watcher ended", line)]
