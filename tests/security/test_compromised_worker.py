"""Tests that a compromised worker can harm its own service only."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import compromised
from support.running import daemons, processes, reloads

from tcpdconf.daemon.control import client as control_client

SCRIPT = pathlib.Path(compromised.__file__)
ENDED = {
    "garbage",
    "huge",
    "unknown",
    "commanding",
    "more",
    "nonsense",
    "deep",
    "endless",
    "endless_pongs",
    "endless_reports",
}  # attacks that cost the worker its life
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
        return control_client.ask(str(self.folder / "run"), {"command": command}, SLOWEST + 1.5)

    def serves(self) -> None:
        """See that everybody else is served, and the supervisor answers."""
        assert daemons.talk(self.good) == b"in\n"
        daemons.until(lambda: self.ask("status")["services"]["good"]["accepted"] > 0, "the count of it")
        page = self.ask("status")
        json.dumps(page, allow_nan=False)
        assert set(page["services"]) == {"good", "evil"}
        json.dumps(self.ask("connections"), allow_nan=False)


QUICK = {"commanding", "garbage", "huge", "news", "pretending"}  # the others are as many again


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(attack, marks=[] if attack in QUICK else [pytest.mark.slow])
        for attack in sorted(compromised.ATTACKS)
    ],
)
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
        assert "a process of the daemon failed" not in "\n".join(daemon.log)


def test_programs_without_end_are_not_looked_for_without_end(tmp_path: pathlib.Path) -> None:
    """The supervisor answers meanwhile, and ends the worker that names them."""
    with Naming(tmp_path, "claiming") as daemon:
        elder = daemon.uses("evil")["pid"]
        daemon.write(daemon.text('umask = "027"'), daemon.OWN)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.await_log("^ready service=evil ", 2)
        slowest = 0.0
        while not processes.over(elder):
            began = time.monotonic()
            control_client.ask(daemon.runtime, {"command": "status"}, SLOWEST + 1.5)
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < SLOWEST + 1.5
        with reloads.held(daemon.ports["good"]), reloads.held(daemon.ports["evil"]):
            assert daemon.uses("evil")["connections"] == 1


def test_a_program_that_is_named_many_times_costs_nobody_a_worker(tmp_path: pathlib.Path) -> None:
    with Naming(tmp_path, "repeating") as daemon:
        with reloads.held(daemon.ports["evil"]):
            daemon.await_log("^accept service=evil ")
            elder, programs = daemon.uses("evil")["pid"], daemon.programs("evil")
            daemon.name(programs)
            assert daemon.change(daemon.text('umask = "027"'), daemon.OWN) == ["evil"]
            daemon.await_log("^ready service=evil ", 2)
            assert daemon.programs("evil") == programs
        daemons.until(lambda: processes.over(elder), "the end of the worker that lies")
        with reloads.held(daemon.ports["evil"]):
            daemon.await_log("^accept service=evil ", 2)
            assert daemon.uses("evil")["connections"] == 1
        assert "worker of evil ended" not in "\n".join(daemon.log)


def test_a_ledger_that_is_spoiled(tmp_path: pathlib.Path) -> None:
    with Attacked(tmp_path, "ledger") as daemon:
        assert daemons.talk(daemon.evil) in {b"in\n", b""}
        daemon.serves()
        assert daemon.ask("status")["services"]["good"]["connections"] <= 1


class Naming(reloads.Daemon):
    """A daemon whose worker `evil` claims processes that it has not started, once the test has named them."""

    OWN = "[daemon]\nwatch = false\ndrain_timeout = 0\nstop_timeout = 1\n"

    def __init__(self, folder: pathlib.Path, attack: str) -> None:
        self.ports = {"good": daemons.free_port(), "evil": daemons.free_port()}
        self._names = folder / "victims"
        environment = {compromised.VICTIMS: str(self._names)}
        before = [sys.executable, str(SCRIPT), attack]
        super().__init__(folder, self.text(), environment=environment, before=before)

    def text(self, evil: str = "") -> str:
        """Both services; `evil` are further settings of that one."""
        return "".join(
            reloads.service(self.ports[name], f"{reloads.HOLD}\n{more}", name=name)
            for name, more in (("good", ""), ("evil", evil))
        )

    def name(self, victims: list[int]) -> None:
        """Let the worker know whom to claim."""
        self._names.write_text(" ".join(map(str, victims)))

    def programs(self, service: str) -> list[int]:
        """The pids of a service's programs, as far as they count."""
        found = self.ask("connections")["connections"]
        return [each["pid"] for each in found if each["service"] == service]


@contextlib.contextmanager
def outsider() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not the daemon's."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("attack", "change"), [("adopting", 'umask = "027"'), ("naming", 'messages = { access = "no" }')]
)
def test_processes_that_it_has_not_started_are_neither_counted_nor_signalled(
    tmp_path: pathlib.Path, attack: str, change: str
) -> None:
    """A stranger, another service's program, one whose worker was killed, and another service's worker."""
    with (
        Naming(tmp_path, attack) as daemon,
        reloads.held(daemon.ports["good"]) as orphan,
        outsider() as stranger,
    ):
        daemon.await_log("^accept service=good ")
        first = daemon.uses("good")["pid"]
        os.kill(first, signal.SIGKILL)
        daemon.await_log("^ready service=good ", 2)
        with reloads.held(daemon.ports["good"]) as client:
            daemon.await_log("^accept service=good ", 2)
            worker, programs = daemon.uses("good")["pid"], daemon.programs("good")
            elder = daemon.uses("evil")["pid"]
            daemon.name([stranger.pid, *programs, worker])
            assert daemon.change(daemon.text(change), daemon.OWN) == ["evil"]
            daemons.until(lambda: processes.over(elder), "the end of the worker that lies")
            daemon.await_log("^ready service=evil ", 2)
            with reloads.held(daemon.ports["evil"]):
                daemons.until(lambda: daemon.uses("evil")["accepted"], "that it serves")
                assert not set(daemon.programs("evil")) & {stranger.pid, *programs}
            good = reloads.service(daemon.ports["good"], reloads.HOLD + "\n", name="good")
            assert daemon.change(good, daemon.OWN) == ["evil"]
            assert daemon.programs("good") == programs
            assert daemon.uses("good")["pid"] == worker
            assert stranger.poll() is None
            assert reloads.lives(client)
            assert reloads.lives(orphan)
