"""The commands that talk to a daemon, with one whose answers are scripted."""

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from support.running import controls

from tcpdconf.cli import main as cli
from tcpdconf.daemon.control.server import Command

STATUS = {
    "pid": 1,
    "version": "1.2",
    "config": {"dir": "/conf.d", "hash": "0", "loaded_at": 0.0},
    "last_reload": None,
    "services": {},
}
PROBLEM = {
    "severity": "error", "code": "wrong-value", "file": "conf.d/a.toml", "line": 3, "column": 5,
    "key": "services.a.user", "message": 'there is no user "x"', "hint": "did you mean y?",
}  # fmt: skip
RELOADED: dict[str, Any] = {"ok": True, "at": 0.0, "changed": [], "details": [], "problems": []}


def daemon(folder: pathlib.Path, **answers: Mapping[str, object]) -> controls.Server:
    """A daemon with these answers, by command."""

    def command(name: str) -> Command:
        return lambda request, reply: reply({**answers[name], "request": request})

    return controls.Server(folder, {name: command(name) for name in answers})


def run(folder: pathlib.Path, *arguments: str) -> int:
    return cli.main([*arguments, "--runtime-dir", str(folder)])


def test_status(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(tmp_path, status=STATUS):
        assert run(tmp_path, "status") == 0
        assert capsys.readouterr().out.startswith(
            "tcpdconf       1.2, pid 1\nconfiguration  /conf.d, loaded "
        )
        assert run(tmp_path, "status", "--format", "json") == 0
        assert json.loads(capsys.readouterr().out) == {**STATUS, "request": {"command": "status"}}


def test_status_again_and_again_until_ctrl_c(tmp_path: pathlib.Path) -> None:
    # the tests themselves may have been started in the background, where SIGINT is ignored
    command = ["env", "--default-signal=INT", sys.executable, "-m", "tcpdconf"]
    command += ["status", "--watch", "--format", "json"]
    with (
        daemon(tmp_path, status=STATUS),
        subprocess.Popen(
            [*command, "--runtime-dir", str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        shown = [json.loads(process.stdout.readline())["version"] for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(controls.SECONDS) == 0

    assert shown == ["1.2", "1.2", "1.2"]


def test_connections(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    each = {"pid": 77, "peer": "192.0.2.1:4000", "service": "smtp", "started": 0.0, "age": 5.0}
    with daemon(tmp_path, connections={"connections": [each]}):
        assert run(tmp_path, "connections") == 0
        assert capsys.readouterr().out.splitlines()[1] == "77   192.0.2.1:4000  smtp     5 s"
        assert run(tmp_path, "connections", "--format", "json") == 0
        assert json.loads(capsys.readouterr().out)["connections"] == [each]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({}, "nothing has changed\n"),
        (
            {"changed": ["smtp"], "details": ["smtp: limits.max_per_ip 4 -> 8"]},
            "smtp: limits.max_per_ip 4 -> 8\n",
        ),
        ({"changed": ["smtp", "imap"]}, "changed: smtp, imap\n"),
    ],
)
def test_reload(
    answer: dict[str, Any], said: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon(tmp_path, reload={**RELOADED, **answer}):
        assert run(tmp_path, "reload") == 0
    assert capsys.readouterr() == (said, "")


def test_a_reload_that_is_rejected(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(tmp_path, reload={**RELOADED, "ok": False, "problems": [PROBLEM, PROBLEM]}):
        assert run(tmp_path, "reload") == 1
    shown = 'conf.d/a.toml:3:5: error: services.a.user: there is no user "x"\nhint: did you mean y?\n'
    end = "rejected: the previous configuration stays in effect\n"
    assert capsys.readouterr() == ("", f"{shown}\n{shown}{end}")


def test_a_warning_is_shown_with_what_has_changed(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warning = {**PROBLEM, "severity": "warning", "hint": None}
    with daemon(tmp_path, reload={**RELOADED, "problems": [warning]}):
        assert run(tmp_path, "reload") == 0
    shown = 'conf.d/a.toml:3:5: warning: services.a.user: there is no user "x"\n'
    assert capsys.readouterr() == ("nothing has changed\n", shown)


@pytest.mark.parametrize("command", ["status", "connections", "reload", "stop"])
def test_without_a_daemon(command: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, command) == 1
    assert capsys.readouterr() == (
        "", f"error: no daemon runs: {tmp_path}/control.sock: No such file or directory\n",
    )  # fmt: skip


@pytest.mark.parametrize("drain", [None, 2.5])
def test_stop_waits_for_the_end(drain: float | None, tmp_path: pathlib.Path) -> None:
    """The daemon is a process of its own here: it ends half a second after its answer."""
    script = f"""
from tcpdconf.daemon.control import server as control; from tcpdconf.daemon.process import loop
events = loop.Loop()
def stop(request, reply):
    print(request["drain"], flush=True)
    reply({{"ok": True, "pid": 1}})
    events.after(0.5, events.stop)
control.Control(events, {str(tmp_path)!r}, {{"stop": stop}})
print("ready", flush=True)
events.run()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        arguments = [] if drain is None else ["--drain", str(drain)]
        assert run(tmp_path, "stop", *arguments) == 0
        assert os.waitpid(process.pid, os.WNOHANG)[0] == process.pid
        process.returncode = 0
        assert process.stdout.readline() == f"{drain}\n"


@pytest.mark.parametrize("text", ["-1", "x", "nan", "604801", ""])
def test_wrong_seconds(text: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, "stop", f"--drain={text}")
    assert ended.value.code == 2
    assert "must be seconds from 0 to 604800" in capsys.readouterr().err
