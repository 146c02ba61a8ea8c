"""Tests names of files that lead to other kinds of files, or to endless ones."""

import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from support.running import daemons, reloads

pytestmark = pytest.mark.slow

MEMORY = 200 << 20  # bytes that no process of the daemon may exceed
SOON = 15.0  # seconds in which a daemon that starts or reloads has said what is wrong
TEXT = 'program = ["/bin/echo", "served"]'


def fifo(path: pathlib.Path) -> None:
    os.mkfifo(path)


def zero(path: pathlib.Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: pathlib.Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS = [fifo, zero, sparse]
WHERE = {
    "environment": 'environment_files = ["{}"]',
    "shell": 'environment_files = [{{ path = "{}", shell = true }}]',
    "access": 'access = [{{ file = "{}" }}]',
    "zone": 'dns_lists = [{{ zone_file = "{}", display_zone = "x", action = "block" }}]',
}
REASON = r": ([Nn]ot a regular file|larger than \d+ bytes)$"


@pytest.mark.parametrize("odd", KINDS)
@pytest.mark.parametrize("where", WHERE)
def test_a_start(tmp_path: pathlib.Path, where: str, odd: Callable[[pathlib.Path], None]) -> None:
    odd(tmp_path / "odd")
    settings = WHERE[where].format(tmp_path / "odd")
    conf = daemons.configure(
        tmp_path,
        reloads.service(daemons.free_port(), f"{TEXT}\n{settings}") + "[dns]\nservers = ['127.0.0.1']\n",
    )
    command = ["prlimit", f"--data={MEMORY}", sys.executable, "-m", "tcpdconf", "run", str(conf)]
    command += ["--runtime-dir", str(tmp_path / "run")]
    begin = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)

    assert ended.returncode == 78
    assert re.search(f"{tmp_path}/odd{REASON}", ended.stderr, re.MULTILINE), ended.stderr
    assert time.monotonic() - begin < SOON


@pytest.mark.parametrize("odd", KINDS)
@pytest.mark.parametrize("where", ["environment", "access", "directory"])
def test_a_file_of_a_running_daemon(
    tmp_path: pathlib.Path, where: str, odd: Callable[[pathlib.Path], None]
) -> None:
    """It is watched, so that the watcher looks at it as well."""
    files = tmp_path / "files"
    files.mkdir()
    file = files / "file"
    file.write_text("A=1\n" if where == "environment" else "192.0.2\tdeny\n")
    settings = WHERE["access"].format(files) if where == "directory" else WHERE[where].format(file)
    port = daemons.free_port()
    before = ("prlimit", f"--data={MEMORY}")
    with daemons.Daemon(tmp_path, reloads.service(port, f"{TEXT}\n{settings}"), before=before) as daemon:
        file.unlink()
        odd(file)
        daemon.await_log(f"services.test.*{file}{REASON}")

        assert daemons.talk(port) == b"served\n"
        file.unlink()
        file.write_text("A=2\n" if where == "environment" else "192.0.3\tdeny\n")
        daemon.await_log("^reloaded changed=test")


@pytest.mark.parametrize("odd", [fifo, zero])
def test_a_configuration_file_of_a_running_daemon(
    tmp_path: pathlib.Path, odd: Callable[[pathlib.Path], None]
) -> None:
    port = daemons.free_port()
    before = ("prlimit", f"--data={MEMORY}")
    with daemons.Daemon(tmp_path, reloads.service(port, TEXT), before=before) as daemon:
        odd(tmp_path / "conf.d/x.toml")
        daemon.await_log(r"conf.d/x.toml: error: cannot read: Not a regular file$")

        assert daemons.talk(port) == b"served\n"


@pytest.mark.parametrize("how", ["run", "reload"])
def test_a_wrong_line_of_an_environment_file_is_told_with_its_number(
    tmp_path: pathlib.Path, how: str
) -> None:
    file = tmp_path / "variables"
    file.write_text("A=1\nexport B=1\n")
    said = f"{file}:2: must be NAME=VALUE or a comment"
    settings = f"{TEXT}\n{WHERE['environment'].format(file)}"
    text = reloads.service(daemons.free_port(), settings)
    if how == "run":
        command = [sys.executable, "-m", "tcpdconf", "run", str(daemons.configure(tmp_path, text))]
        command += ["--runtime-dir", str(tmp_path / "run")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)
        assert (ended.returncode, said in ended.stderr) == (78, True)
        assert "test.toml:" in ended.stderr
    else:
        with reloads.Daemon(tmp_path, reloads.service(daemons.free_port(), TEXT)) as daemon:
            assert daemon.refusal(text) == [said]
