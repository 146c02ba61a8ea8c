"""Reloads one after the other while clients come all the time: nothing is refused, mixed or leaked.

TCPDCONF_RELOADS says how many; the default is short.
"""

import collections
import contextlib
import os
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from support.running import daemons

from tcpdconf.daemon.control import client as control_client

RELOADS = int(os.environ.get("TCPDCONF_RELOADS", "26"))
CLIENTS = 4
PAUSE = 0.008  # seconds between two visits of one client
BY_FILE = 20  # one reload in this number is not requested, but follows a changed file

# The program prints its configuration: its arguments, its environment, and the variables of an access rule.
SERVICE = """
    [services.{name}]
    program = ["/bin/sh", "-c", "echo {generation} $GENERATION $RULE"]
    environment = {{ GENERATION = "{generation}" }}
    umask = {umask}
    listeners = [{listeners}]
    access = [{{ rules = [
        {{ network = "127.0.0.9/32", action = "allow", environment = {{ RULE = "held" }} }},
        {{ network = "0.0.0.0/0", action = "allow", environment = {{ RULE = "{generation}" }} }},
    ] }}]
    limits = {{ max_connections = 200 }}
"""
HELD = """
    [services.held]
    program = ["/bin/sh", "-c", "echo here; read line; echo $line"]
    umask = {umask}
    listeners = [{listeners}]
"""


class Ports:
    """One for each kind of listener."""

    def __init__(self) -> None:
        self.kept, self.moved, self.replaced, self.other, self.passing, self.held = (
            daemons.free_port() for _ in range(6)
        )


def configuration(generation: int, ports: Ports) -> str:
    """Every generation changes all services; every second one moves, adds and removes listeners."""

    def service(name: str, *numbers: int, umask: str = '"022"', form: str = SERVICE) -> str:
        listeners = ", ".join(f'{{ address = "127.0.0.1", port = {number} }}' for number in numbers)
        return form.format(name=name, generation=generation, umask=umask, listeners=listeners)

    odd = generation % 2 == 1
    other_umask = '"027"' if odd else '"022"'
    parts = [
        '[daemon]\nlog_level = "warning"\nsettle = 0.05\n',
        service("kept", ports.kept, *([ports.moved] if odd else [])),
        service("other", ports.other, *([] if odd else [ports.moved])),
        service("replaced", ports.replaced, umask=other_umask),
        service("held", ports.held, umask=other_umask, form=HELD),
    ]
    if odd:
        parts.append(service("passing", ports.passing))
    return "\n".join(parts)


class Storm:
    """A daemon whose configuration goes from generation to generation."""

    def __init__(self, daemon: daemons.Daemon, ports: Ports) -> None:
        self.daemon = daemon
        self.ports = ports
        self.generation = 0  # that counts for sure

    def ask(self, command: str) -> dict[str, Any]:
        """Return the answer to the command."""
        return control_client.ask(str(self.daemon.folder / "run"), {"command": command}, daemons.SECONDS)

    def advance(self) -> None:
        """Go on to the next generation, which counts when this returns."""
        number = self.generation + 1
        before = self._hash()
        new = self.daemon.folder / "new"
        new.write_text(configuration(number, self.ports))
        new.rename(self.daemon.conf / "test.toml")
        if number % BY_FILE:
            self.daemon.process.send_signal(signal.SIGHUP)
        daemons.until(lambda: self._hash() != before, f"generation {number}")
        assert self.ask("reload")["ok"]  # after the one that is on its way
        self.generation = number

    def _hash(self) -> object:
        return self.ask("status")["config"]["hash"]

    def connections(self) -> dict[str, int]:
        """The slots in use, by service."""
        return {name: each["connections"] for name, each in self.ask("status")["services"].items()}


# The kernel resets a client that connects after the last accept of a listener and before its close.
_NOBODY = (ConnectionRefusedError, ConnectionResetError)


class Load:
    """Clients who come one after the other; what has become of them, by port."""

    def __init__(self, storm: Storm) -> None:
        self.answered: collections.Counter[int] = collections.Counter()
        self.failed: list[str] = []
        self.refused = 0  # where nobody listens at times
        self._storm = storm
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._come, args=(number,)) for number in range(CLIENTS)]

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """They come in the meantime."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(daemons.SECONDS)

    def _come(self, number: int) -> None:
        ports = self._storm.ports
        turns = [ports.kept, ports.moved, ports.replaced, ports.other, ports.passing]
        while not self._over.wait(PAUSE):
            number += 1
            self._visit(turns[number % len(turns)])

    def _visit(self, port: int) -> None:
        least = self._storm.generation
        try:
            answer = daemons.talk(port).split()
        except OSError as error:
            if port == self._storm.ports.passing and isinstance(error, _NOBODY):
                self.refused += 1
            else:
                self.failed.append(f"{self._name(port)}: {error}")
            return
        if not answer and port == self._storm.ports.passing:
            self.refused += 1  # its end came before it was accepted
        elif len(answer) != 3 or len(set(answer)) != 1 or int(answer[0]) < least:
            self.failed.append(f"{self._name(port)}: {answer!r} in generation {least}")
        self.answered[port] += 1

    def _name(self, port: int) -> str:
        return next(name for name, each in vars(self._storm.ports).items() if each == port)


def descendants(pid: int) -> list[int]:
    """A process and all that it has started."""
    return [pid, *(found for child in daemons.children(pid) for found in descendants(child))]


def descriptors(pids: list[int]) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def resident(pid: int) -> int:
    """Memory that the process has for itself, in kB."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


def test_nobody_is_refused_and_nothing_is_mixed_or_leaks(tmp_path: pathlib.Path) -> None:
    ports = Ports()
    with (
        daemons.Daemon(tmp_path, configuration(0, ports)) as daemon,
        socket.create_connection(("127.0.0.1", ports.held), daemons.SECONDS) as held,
    ):
        assert daemons.line(held) == b"here\n"
        storm = Storm(daemon, ports)
        load = Load(storm)
        with load.going_on():
            storm.advance()
            storm.advance()
        pid = daemon.process.pid
        daemons.until(lambda: sum(storm.connections().values()) == 1, "the end of the first clients")
        # watcher, a worker each, the one that is kept by its client, and its program
        daemons.until(lambda: len(descendants(pid)) == 1 + 1 + 4 + 2, "the first processes")
        before = descriptors(descendants(pid))
        memory = resident(pid)

        load = Load(storm)
        began = time.monotonic()
        with load.going_on():
            for _ in range(RELOADS):
                storm.advance()
        seconds = time.monotonic() - began

        assert load.failed == []
        daemons.until(lambda: sum(storm.connections().values()) == 1, "the end of the last clients")
        daemons.until(lambda: len(descendants(pid)) == 1 + 1 + 4 + 2, "the end of all others")
        held.sendall(b"still there\n")
        assert daemons.read(held) == b"still there\n"
        daemons.until(lambda: sum(storm.connections().values()) == 0, "the end of the one that was held")
        daemons.until(lambda: len(descendants(pid)) == 1 + 1 + 4, "the end of its worker")
        after = descriptors(descendants(pid))
        grown = resident(pid) - memory
        print(
            f"{RELOADS} reloads in {seconds:.1f} s, {sum(load.answered.values()) / seconds:.0f} clients/s, "
            f"{load.refused} refused where nobody listens at times, descriptors {before} -> {after}, "
            f"{grown:+} kB in the supervisor"
        )
        assert after < before
        assert set(load.answered) == {ports.kept, ports.moved, ports.replaced, ports.other, ports.passing}
        assert not [line for line in daemon.log if "ended with" in line or "defect" in line]
