"""Each command is logged with the user and the process that have sent it."""

import contextlib
import os
import pathlib

import pytest
from support.running import daemons, reloads

from tcpdconf.daemon.control import client as control_client
from tcpdconf.daemon.control.client import ControlError

ECHO = 'program = ["/bin/echo", "in"]'


@pytest.mark.parametrize("command", ["status", "connections", "compare"])
def test_reads_are_logged_for_debugging_only(tmp_path: pathlib.Path, command: str) -> None:
    """Monitoring sends them all the time."""
    service = reloads.service(daemons.free_port(), ECHO)
    with reloads.Daemon(tmp_path, service) as daemon:
        daemon.ask(command)
        daemon.change(service, f'{reloads.ALONE}log_level = "debug"\n')
        assert not any(f"name={command}" in line for line in daemon.log)
        daemon.ask(command)
        (line,) = daemon.await_log(f"^command name={command} ")
        assert line == f"command name={command} socket=control.sock uid={os.geteuid()} pid={os.getpid()}"


def test_changes_are_logged_with_their_caller(tmp_path: pathlib.Path) -> None:
    service = reloads.service(daemons.free_port(), ECHO)
    with reloads.Daemon(tmp_path, service) as daemon:
        daemon.reload()
        daemon.await_log(f"^command name=reload socket=control.sock uid={os.geteuid()} pid={os.getpid()}$")
        with contextlib.suppress(ControlError):
            control_client.ask(daemon.runtime, {"command": "x\ny=1 \x1b[0m" + "z" * 100})
        (line,) = daemon.await_log("^command refused ")
        assert line.startswith(r'command refused name="x\ny=1 \x1b[0m')
        assert line.count("z") < 40
        control_client.ask(daemon.runtime, {"command": "stop"})
        daemon.process.wait(daemons.SECONDS)
        assert any(line.startswith("command name=stop ") for line in daemon.log)
