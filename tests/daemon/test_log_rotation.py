"""The daemon's own log as a file that is rotated: a reload opens it anew, in all processes."""

import os
import pathlib

import pytest
from support import loglines
from support.running import daemons, reloads

SAYS = 'program = ["/bin/sh", "-c", "echo said >&2; echo in; read line; echo $line"]'


class Logged(reloads.Daemon):
    """A daemon whose log is a file from the start."""

    def __init__(self, folder: pathlib.Path, text: str) -> None:
        self.file = folder / "log"
        self._fd = os.open(self.file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        super().__init__(folder, text, stderr=self._fd)

    def rotate(self) -> pathlib.Path:
        """Rename the file, as logrotate does."""
        return self.file.rename(self.file.with_suffix(".1"))

    def logs(self, words: str) -> bool:
        """Return whether the file has a line that begins so."""
        lines = loglines.without_times(self.file.read_text()).splitlines()
        return any(line.startswith(words) for line in lines)

    def await_line(self, words: str) -> None:
        """Wait for a line that begins so."""
        daemons.until(lambda: self.logs(words), words)


def users(path: pathlib.Path) -> set[int]:
    """The processes whose standard error it is."""
    found = set()
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.path.samefile(entry / "fd/2", path):
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def test_a_reload_writes_to_the_new_file(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with Logged(tmp_path, reloads.service(port, SAYS)) as daemon:
        os.close(daemon._fd)
        daemon.change(reloads.service(port, SAYS), "[daemon]\n")  # it watches files now
        daemons.until(lambda: len(daemons.children(daemon.process.pid)) == 2, "worker and watcher")
        before = daemons.children(daemon.process.pid)
        with daemons.connect(port) as client:
            assert daemons.line(client) == b"in\n"
            old = daemon.rotate()
            assert daemon.reload() == []
            daemons.until(lambda: users(daemon.file) == {daemon.process.pid, *before}, "the new file")
            assert daemons.children(daemon.process.pid) == before
            assert reloads.lives(client)
            daemon.await_line("end service=test ")
        with daemons.connect(port) as client:
            assert daemons.line(client) == b"in\n"
            daemon.await_line("said")  # what the program has inherited
            assert reloads.lives(client)
        kept = old.read_text()
        daemon.rotate()
        assert daemon.reload() == []
        daemon.await_line("reloaded changed=nothing")
    assert "accept service=test" in kept
    assert daemon.logs("stopping signal=SIGTERM")


def test_the_http_process_logs_to_the_new_file(tmp_path: pathlib.Path) -> None:
    """It takes no messages, so another one takes its place; clients that come meanwhile wait."""
    http, text = daemons.free_port(), reloads.service(daemons.free_port())
    own = f'{reloads.ALONE}http = {{ listen = "127.0.0.1:{http}", user = "nobody" }}\n'
    with Logged(tmp_path, text) as daemon:
        os.close(daemon._fd)
        daemon.change(text, own)
        daemon.await_line("http ready ")
        daemon.rotate()
        daemon.reload()
        assert daemons.talk(http, say=b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
        daemon.await_line("http ready ")
        before = daemon.file.read_text().count("http ready")
        daemon.reload()
        daemon.change(text, own + 'log_format = "json"\n')
        daemons.until(lambda: '"event":"http ready"' in daemon.file.read_text(), "the object")
        assert daemon.file.read_text().count("http ready") == before + 1 == 2
        assert " ended with " not in daemon.file.read_text()


def test_a_file_that_stays_is_not_opened_again(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with Logged(tmp_path, reloads.service(port)) as daemon:
        os.close(daemon._fd)
        count = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        for _ in range(3):
            daemon.reload()
        daemon.file.with_suffix(".1").write_bytes(daemon.file.read_bytes())
        os.truncate(daemon.file, 0)  # copytruncate
        daemon.reload()
        daemon.await_line("reloaded ")
        assert len(os.listdir(f"/proc/{daemon.process.pid}/fd")) <= count + 1


@pytest.mark.parametrize("how", ["a directory", "no directory"])
def test_a_file_that_cannot_be_opened_leaves_the_log_where_it_is(how: str, tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    (tmp_path / "logs").mkdir()
    with Logged(tmp_path, reloads.service(port)) as daemon:
        os.close(daemon._fd)
        old = daemon.rotate()
        if how == "a directory":
            daemon.file.mkdir()
        else:
            daemon.file.symlink_to(tmp_path / "none/log")
        daemon.reload()
        daemons.until(lambda: "warning: cannot reopen the log: " in old.read_text(), "the warning")
        assert daemon.ask("status")["last_reload"]["ok"]


def test_a_rejected_reload_reopens_it_as_well(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with Logged(tmp_path, reloads.service(port)) as daemon:
        os.close(daemon._fd)
        old = daemon.rotate()
        daemon.write("x = 1")
        assert not daemon.ask("reload")["ok"]
        daemon.await_line("error: reload rejected")
        assert "reload rejected" not in old.read_text()
