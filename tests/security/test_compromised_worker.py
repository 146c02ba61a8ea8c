"""What a worker that has been taken over can do: spoil its own service, and nothing else."""

import json
import pathlib
import sys
import time
from typing import Any

import daemons
import pytest
from security import compromised

from tcpdconf.daemon import controlclient

SCRIPT = pathlib.Path(compromised.__file__)
ENDED = {"garbage", "huge", "endless", "endless_pongs"}  # attacks that cost the worker its life
SLOWEST = 1.0  # seconds for an answer of the supervisor while it is attacked


class Attacked(daemons.Daemon):
    """A daemon under attack, with the service `good` beside `evil`."""

    def __init__(self, folder: pathlib.Path, attack: str) -> None:
        self.good, self.evil = daemons.free_port(), daemons.free_port()
        services = (
            f"""
            [services.{name}]
            program = ["/bin/echo", "in"]
            listeners = [{{ address = "127.0.0.1", port = {port} }}]
            """
            for name, port in (("good", self.good), ("evil", self.evil))
        )
        before = [sys.executable, str(SCRIPT), attack]
        rest = """
            dns_lists = [{ zone = "bl.example", action = "block", variable = "B", probe = false }]
            [dns]
            servers = ["127.0.0.1:1"]
        """
        super().__init__(folder, "".join(services) + rest, before=before)

    def ask(self, command: str) -> dict[str, Any]:
        """The answer of the supervisor, which must come soon."""
        return controlclient.ask(str(self.folder / "run"), {"command": command}, SLOWEST + 1.5)

    def serves(self) -> None:
        """See that everybody else is served, and the supervisor answers."""
        assert daemons.talk(self.good) == b"in\n"
        page = self.ask("status")
        json.dumps(page, allow_nan=False)
        assert page["services"]["good"]["accepted"] > 0
        assert set(page["services"]) == {"good", "evil"}
        json.dumps(self.ask("connections"), allow_nan=False)


@pytest.mark.parametrize("attack", sorted(compromised.ATTACKS))
def test_the_others_are_served_and_the_supervisor_answers(tmp_path: pathlib.Path, attack: str) -> None:
    with Attacked(tmp_path, attack) as daemon:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            daemon.serves()
        if attack in ENDED:
            daemon.await_log("^error: worker of evil ended with signal 9 ")
        if attack == "descriptors":  # a kernel that cannot refuse them leaves that to the supervisor
            daemon.await_log(
                "^(error: worker of evil ended with signal|attack ends: Operation not permitted)"
            )
        daemon.serves()
        assert not [said for said in daemon.notified if said.startswith("MAINPID")]
        assert not [line for line in daemon.log if line.startswith("<1>")]
        assert "a process of the daemon fails" not in "\n".join(daemon.log)


def test_a_ledger_that_is_spoiled(tmp_path: pathlib.Path) -> None:
    with Attacked(tmp_path, "ledger") as daemon:
        assert daemons.talk(daemon.evil) in {b"in\n", b""}
        daemon.serves()
        assert daemon.ask("status")["services"]["good"]["connections"] <= 1
