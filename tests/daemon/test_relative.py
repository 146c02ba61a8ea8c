"""A daemon that was started with relative paths from a directory that is gone, or has no name."""

import os
import pathlib
from collections.abc import Sequence

import pytest
from support.running import daemons, reloads

from tcpdconf.daemon import run as daemon_run
from tcpdconf.daemon.control import client as control_client

OLD = 'program = ["/bin/echo", "old"]'
NEW = 'program = ["/bin/echo", "new"]'


def begun(directory: pathlib.Path, conf: str, runtime: str) -> Sequence[str]:
    """Return the start of a test's command with relative paths, from a directory of its own."""
    script = f'cd "$0" && exec "$1" -m tcpdconf run {conf} --runtime-dir {runtime}'
    return ["/bin/sh", "-c", script, str(directory)]


@pytest.mark.parametrize("settings", ["watch = true", 'watch = "poll"'])
def test_its_directory_may_be_removed(settings: str, tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    start = tmp_path / "a/b"
    start.mkdir(parents=True)
    text = f"[daemon]\n{settings}\n"
    before = begun(start, "../../conf.d", "../../run")
    with daemons.Daemon(tmp_path, text + reloads.service(port, OLD), before=before) as daemon:
        start.rmdir()
        (tmp_path / "a").rmdir()
        status = control_client.ask(daemon.runtime, {"command": "status"})
        assert status["config"]["dir"] == str(daemon.conf)
        (daemon.conf / "test.toml").write_text(text + reloads.service(port, NEW))
        daemon.await_log("^reloaded changed=test$")
        assert daemons.talk(port) == b"new\n"
        assert control_client.ask(daemon.runtime, {"command": "reload"})["ok"]


def test_its_configuration_may_be_removed_with_it(tmp_path: pathlib.Path) -> None:
    """A reload is refused, and taken on when it is there again."""
    port = daemons.free_port()
    with daemons.Daemon(
        tmp_path,
        reloads.ALONE + reloads.service(port, OLD),
        before=begun(tmp_path, "conf.d", "run"),
    ) as daemon:
        away = tmp_path / "away"
        daemon.conf.rename(away)
        assert not control_client.ask(daemon.runtime, {"command": "reload"})["ok"]
        assert control_client.ask(daemon.runtime, {"command": "status"})["config"]["dir"] == str(daemon.conf)
        away.rename(daemon.conf)
        assert control_client.ask(daemon.runtime, {"command": "reload"})["ok"]
        assert daemons.talk(port) == b"old\n"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("conf.d", "/a/b/conf.d"),
        ("./conf.d/", "/a/b/conf.d"),
        (".", "/a/b"),
        ("../conf.d", "/a/conf.d"),
        ("../..", ""),
        ("link/../conf.d", "/a/b/link/../conf.d"),  # where a symbolic link leads is not looked up
    ],
)
def test_a_path_is_that_from_where_it_started(
    path: str, expected: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")

    assert daemon_run.absolute(path) == f"{tmp_path}{expected}"
    assert daemon_run.absolute(f"/etc/../{path}") == f"/etc/../{path}"


def test_a_directory_without_a_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = daemon_run.absolute("conf.d")
    monkeypatch.chdir("/")

    assert found == "/proc/self/cwd/conf.d"
    assert os.path.isabs(found)
