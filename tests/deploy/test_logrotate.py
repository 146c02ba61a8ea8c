"""deploy/logrotate with Debian's logrotate: no line is lost, and the files are written by those who may."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Final

import pytest
from support import loglines, peers
from support.running import daemons, reloads

pytestmark = pytest.mark.peer

SHIPPED: Final = pathlib.Path(__file__).parents[2] / "deploy/logrotate/tcpdconf"
NOBODY: Final = 65534
SAYS: Final = """
program = ["/bin/sh", "-c", "echo said >&2; echo in; read line; echo $line"]
user = "nobody"
"""


def rotate(folder: pathlib.Path, runtime: str) -> subprocess.CompletedProcess[str]:
    """Run logrotate by force with the shipped file, for logs in a folder."""
    text = SHIPPED.read_text()
    assert text.count("/var/log/tcpdconf/*.log") == 1
    command = f"{shlex.join([sys.executable, '-m', 'tcpdconf'])} reload --runtime-dir {runtime}"
    text = text.replace("/var/log/tcpdconf", str(folder / "logs"))
    text = text.replace("/opt/tcpdconf/bin/tcpdconf reload", command)
    (folder / "logrotate.conf").write_text(text)
    (folder / "logrotate.conf").chmod(0o644)
    return subprocess.run(
        ["logrotate", "--force", "--state", str(folder / "rotated"), str(folder / "logrotate.conf")],
        capture_output=True,
        text=True,
        timeout=daemons.SECONDS,
        check=False,
    )


def words(path: pathlib.Path) -> list[str]:
    return [line.partition(" ")[0] for line in loglines.without_times(path.read_text()).splitlines()]


def test_both_logs_go_on_in_new_files() -> None:
    peers.need("logrotate")
    peers.need_root()
    with daemons.public_folder() as folder:
        logs = folder / "logs"
        logs.mkdir(mode=0o755)
        own, program = logs / "tcpdconf.log", logs / "program.log"
        for path, owner in ((own, 0), (program, NOBODY)):
            path.touch(0o640)
            os.chown(path, owner, owner)
        port = daemons.free_port()
        text = reloads.service(port, f'{SAYS}\nstderr = {{ file = "{program}" }}')
        with (
            own.open("ab") as stderr,
            reloads.Daemon(folder, text, stderr=stderr.fileno()) as daemon,
        ):
            for number in range(1, 4):
                with daemons.connect(port) as client:
                    assert daemons.line(client) == b"in\n"
                    done = rotate(folder, daemon.runtime)
                    assert done.returncode == 0, done.stderr
                    assert reloads.lives(client)
                daemons.until(lambda: "end" in words(own), "the end in the new file")
                with daemons.connect(port) as client:
                    assert daemons.line(client) == b"in\n"
                    assert reloads.lives(client)
                daemons.until(lambda: words(own).count("end") == 2, "the next end")
                assert program.read_text() == "said\n"
                assert len(list(logs.glob("*.log.*"))) == 2 * number
        for path, owner in ((own, 0), (program, NOBODY)):
            assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (owner, 0o640)


def test_a_daemon_that_does_not_run_is_told_of(tmp_path: pathlib.Path) -> None:
    peers.need("logrotate")
    peers.need_root()
    (tmp_path / "logs").mkdir(mode=0o755)
    (tmp_path / "logs/tcpdconf.log").write_text("x\n")
    done = rotate(tmp_path, str(tmp_path / "run"))
    assert done.returncode != 0
    assert re.search("error: ", done.stderr)
    assert (tmp_path / "logs/tcpdconf.log.1").read_text() == "x\n"
