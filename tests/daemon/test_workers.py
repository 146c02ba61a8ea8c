"""Several workers of a service, and services of a group, apply their limits together."""

import asyncio
import contextlib
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from support.running import daemons, reloads

from tcpdconf.daemon.control import client as control_client

PROGRAM = """program = ["/bin/sh", "-c", "echo $PPID; read line; echo $line"]"""
GREETING = PROGRAM.replace("read line; echo $line", "")


def service(port: int, limits: str, workers: int = 3, *, name: str = "test", program: str = PROGRAM) -> str:
    return reloads.service(port, f"{program}\nworkers = {workers}", name=name, limits=limits)


class Client:
    """A client that is served until it leaves; `worker` is the pid of its worker, or 0 if it was refused."""

    def __init__(self, port: int) -> None:
        self.began = time.monotonic()
        self.socket = daemons.connect(port)

    def greet(self) -> int:
        """Wait for the program, or for the end; return the pid of the worker, or 0."""
        try:
            self.worker = int(daemons.line(self.socket) or 0)
        except ConnectionResetError:
            self.worker = 0
        self.waited = time.monotonic() - self.began
        if not self.worker:
            self.socket.close()
        return self.worker

    def leave(self) -> None:
        """Let the program end, and wait until it has."""
        with contextlib.suppress(OSError):
            self.socket.sendall(b"\n")
            daemons.read(self.socket)
        self.socket.close()


def greeted(port: int) -> Client:
    made = Client(port)
    made.greet()
    return made


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def status(daemon: reloads.Daemon, name: str = "test") -> dict[str, object]:
    found: dict[str, object] = daemon.ask("status")["services"][name]
    return found


def pids(daemon: reloads.Daemon, name: str = "test") -> list[int]:
    found = status(daemon, name)["pids"]
    assert isinstance(found, list)
    return found


def fill(port: int, most: int) -> list[Client]:
    """Connect until somebody is refused; exactly `most` clients are served then."""
    held = []
    while (client := greeted(port)).worker:
        held.append(client)
        assert len(held) <= most
    assert len(held) == most
    return held


def test_a_limit_holds_while_workers_are_killed_and_stopped(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, service(port, "max_per_ip = 8")) as daemon:
        held = fill(port, 8)
        before = pids(daemon)
        assert len(before) == 3
        assert {client.worker for client in held} <= {*before}
        assert status(daemon)["connections"] == 8

        victim = held[0].worker
        os.kill(victim, signal.SIGKILL)
        daemon.await_log(r"^ready service=test worker=", 4)
        assert len({*pids(daemon)} & {*before}) == 2
        assert greeted(port).worker == 0  # the programs of the killed worker are counted
        assert status(daemon)["connections"] == 8
        for client in held:  # nobody else has lost a connection, nor have its own clients
            client.leave()
        daemons.until(lambda: status(daemon)["connections"] == 0, "all slots to be free")

        with stopped(pids(daemon)[1]):
            waited = []
            for _ in range(20):
                client = greeted(port)
                waited.append(client.waited)
                client.leave()
            assert statistics.median(waited) < 0.1  # a busy machine may delay some
            assert max(waited) < 5
            others = fill(port, 8)
        for client in others:
            client.leave()
        daemons.until(lambda: status(daemon)["connections"] == 0, "all slots to be free")

        held = fill(port, 8)
        os.kill(held[0].worker, signal.SIGKILL)
        daemon.await_log(r"^ready service=test worker=", 5)
        assert len(daemon.ask("connections")["connections"]) == 8
        request = {"command": "disconnect", "networks": ["127.0.0.1"]}
        assert control_client.ask(daemon.runtime, request)["ended"] == {"test": 8}
        for client in held:
            assert daemons.read(client.socket) == b""
            client.socket.close()
        daemons.until(lambda: status(daemon)["connections"] == 0, "all slots to be free")


def waits(port: int) -> Client:
    """A client that is not served, because all slots are taken."""
    client = Client(port)
    client.socket.settimeout(0.15)
    with pytest.raises(TimeoutError):
        daemons.line(client.socket)
    client.socket.settimeout(daemons.SECONDS)
    client.began = time.monotonic()
    return client


def spread(port: int, count: int) -> list[Client]:
    """So many clients, not all of one worker."""
    for _ in range(100):
        held = [Client(port) for _ in range(count)]
        if len({client.greet() for client in held}) > 1:
            return held
        for client in held:
            client.leave()
    raise AssertionError("one worker has accepted all of them")


def test_a_freed_slot_is_used_at_once(tmp_path: pathlib.Path) -> None:
    """All workers pause when the last slot is taken, and go on when one of them frees a slot."""
    port = daemons.free_port()
    limits = "max_connections = 4"
    with reloads.Daemon(tmp_path, service(port, limits)) as daemon:
        held = spread(port, 4)
        for _ in range(6):
            waiting = waits(port)
            held.pop(0).leave()
            assert waiting.greet()
            assert waiting.waited < 2
            held.append(waiting)
        for client in held:
            client.leave()

        held = spread(port, 4)
        first = pids(daemon)[0]
        with stopped(first):
            waiting = waits(port)
            other = next(client for client in held if client.worker != first)
            held.remove(other)
            other.leave()
            assert waiting.greet()
            assert waiting.waited < 2
        for client in (*held, waiting):
            client.leave()

        held = spread(port, 4)
        daemon.change(service(port, limits, 1))
        waiting = waits(port)
        other = next(client for client in held if client.worker != first)
        held.remove(other)
        other.leave()  # its worker accepts nobody any more, and wakes the one that does
        assert waiting.greet() == first
        assert waiting.waited < 2
        for client in (*held, waiting):
            client.leave()


def test_a_reload_changes_the_number_of_workers(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    limits = "max_per_ip = 6"
    with reloads.Daemon(tmp_path, service(port, limits, 1)) as daemon:
        held = fill(port, 6)
        (first,) = pids(daemon)
        assert daemon.change(service(port, limits, 4)) == ["test"]
        assert len(pids(daemon)) == 4
        assert pids(daemon)[0] == first
        assert greeted(port).worker == 0
        for client in held[:4]:
            client.leave()
        daemons.until(lambda: status(daemon)["connections"] == 2, "slots to be free")
        held = held[4:] + fill(port, 4)
        daemons.until(lambda: status(daemon)["accepted"] == 10, "programs to run")

        assert daemon.change(service(port, limits, 1)) == ["test"]
        assert pids(daemon) == [first]
        assert greeted(port).worker == 0  # workers that accept no more still count their clients
        assert status(daemon)["connections"] == 6
        for client in held:
            client.leave()
        # they end with their last client, and what they have counted stays
        daemons.until(lambda: len(daemons.children(daemon.process.pid)) == 1, "surplus workers to end")
        for client in fill(port, 6):
            assert client.worker == first
            client.leave()
        daemons.until(lambda: status(daemon)["accepted"] == 16, "all to be counted")


def test_services_of_a_group_count_an_address_together(tmp_path: pathlib.Path) -> None:
    imap, pop = daemons.free_port(), daemons.free_port()
    both = service(imap, 'max_per_ip = 4\ngroup = "mail"', 2, name="imap")
    both += service(pop, 'max_per_ip = 2\nmax_per_network = 5\ngroup = "mail"', 1, name="pop")
    with reloads.Daemon(tmp_path, both) as daemon:
        first = greeted(pop)
        held = [first, *fill(imap, 3)]
        assert greeted(pop).worker == 0
        alone = both.replace('max_per_ip = 2\nmax_per_network = 5\ngroup = "mail"', "max_per_ip = 2")
        assert daemon.change(alone) == ["imap", "pop"]
        held.append(greeted(pop))
        assert held[-1].worker
        assert daemon.change(both) == ["imap", "pop"]
        daemon.write(both.replace("network = 5", "network = 6"))
        assert daemon.ask("compare")["details"] == ["pop: limits.max_per_network 5 -> 6"]
        daemon.write(both.replace("max_per_network = 5", 'rate = "90/min"'))
        imap_too = "imap: other services of its group have changed"
        assert imap_too in daemon.ask("compare")["details"]
        assert imap_too in daemon.ask("reload")["details"]
        assert daemon.change(both) == ["imap", "pop"]
        held[1].leave()
        daemons.until(lambda: status(daemon, "imap")["connections"] == 2, "a slot to be free")
        assert greeted(pop).worker == 0  # 4 are held by both, 2 are allowed
        assert explained(daemon, "pop") == ["2 of 40", "4 of 2 from 127.0.0.1", "4 of 5 from 127.0.0.0/24"]
        assert explained(daemon, "imap") == ["2 of 40", "4 of 4 from 127.0.0.1"]
        for client in held:
            client.leave()
        daemons.until(lambda: status(daemon, "imap")["connections"] == 0, "all slots to be free")
        daemons.until(lambda: status(daemon, "pop")["connections"] == 0, "all slots to be free")
        for client in fill(imap, 4):
            client.leave()
        os.kill(pids(daemon, "imap")[1], signal.SIGKILL)
        began = time.monotonic()
        assert daemon.change(service(pop, "max_per_ip = 2", 1, name="pop")) == ["imap", "pop"]
        assert time.monotonic() - began < 5  # no worker is waited for in vain


def explained(daemon: reloads.Daemon, name: str) -> list[str]:
    """Return the use of the limits by 127.0.0.1 from `tcpdconf explain`."""
    command = [sys.executable, "-m", "tcpdconf", "explain", name, "127.0.0.1", "--format", "json"]
    command += ["--conf", str(daemon.conf), "--runtime-dir", daemon.runtime]
    said = subprocess.run(command, capture_output=True, check=False, timeout=daemons.SECONDS).stdout
    return [each["text"] for each in json.loads(said)["steps"] if each["step"] == "limit"]


class Crowd:
    """Clients who come all the time until told to stop, and count what they get."""

    def __init__(self, port: int) -> None:
        self.answers: Counter[str] = Counter()
        self._port = port
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._come) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _come(self) -> None:
        while not self._over.is_set():
            try:
                found = "served" if daemons.talk(self._port) else "nothing"
            except OSError as error:
                found = str(error)
            self.answers[found] += 1

    def stop(self) -> None:
        """Let no more come."""
        self._over.set()
        for thread in self._threads:
            thread.join(daemons.SECONDS)


@pytest.mark.slow
def test_a_reload_or_a_killed_worker_loses_no_client_in_the_queue(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    texts = [service(port, "max_connections = 30", workers, program=GREETING) for workers in (3, 2, 4, 1)]
    moved = [text.replace("[services.test]", '[services.test]\numask = "027"') for text in texts]
    with reloads.Daemon(tmp_path, texts[0]) as daemon:
        crowd = Crowd(port)
        try:
            for text in (*texts, *moved, *texts[:3]):
                daemon.change(text)
                time.sleep(0.1)
            reloaded = crowd.answers.copy()
            for _ in range(5):
                os.kill(random.choice(pids(daemon)), signal.SIGKILL)  # noqa: S311
                time.sleep(0.3)
        finally:
            crowd.stop()
    assert reloaded["served"] > 100
    assert {*reloaded} == {"served"}
    # a client that a killed worker has accepted, and that has no program yet, is lost
    assert crowd.answers.total() - crowd.answers["served"] <= 5 * 2


@pytest.mark.slow
def test_a_daemon_with_workers_is_followed_by_another_one(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = service(port, "max_connections = 30", program=GREETING)
    with reloads.Daemon(tmp_path, text) as old:
        crowd = Crowd(port)
        try:
            folder = tmp_path / "second"
            folder.mkdir()
            (folder / "run").symlink_to(old.folder / "run")
            with daemons.Daemon(folder, text, arguments=["--take-over"]):
                assert old.process.wait(daemons.SECONDS) == 0
                time.sleep(0.5)
                crowd.stop()
        finally:
            crowd.stop()
    assert {*crowd.answers} == {"served"}


@pytest.mark.slow
def test_bursts_of_500_clients_never_exceed_a_limit(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    limits = "max_connections = 60\nmax_per_ip = 20\nmax_per_network = 50"
    with reloads.Daemon(tmp_path, service(port, limits)) as daemon:
        served = asyncio.run(bursts(port, daemon))
        assert served > 200
        daemons.until(lambda: status(daemon)["connections"] == 0, "all slots to be free")
        for client in fill(port, 20):
            client.leave()


async def bursts(port: int, daemon: reloads.Daemon) -> int:
    """Let 500 clients of five addresses come at once, again and again; return how many were served."""
    held: Counter[str] = Counter()
    served = 0

    async def client(source: str) -> None:
        nonlocal served
        for _ in range(6):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            except OSError:
                continue
            with contextlib.suppress(ConnectionResetError):
                if await asyncio.wait_for(reader.readline(), 60):
                    served += 1
                    held[source] += 1
                    assert held[source] <= 20
                    assert held.total() <= 50
                    await asyncio.sleep(random.random() * 0.2)  # noqa: S311
                    held[source] -= 1
                    writer.write(b"\n")
                    await writer.drain()
                    await reader.read()
            writer.close()

    async def trouble() -> None:
        for _ in range(4):
            await asyncio.sleep(0.7)
            victim = random.choice(await asyncio.to_thread(pids, daemon))  # noqa: S311
            with stopped(victim):
                await asyncio.sleep(0.2)

    tasks = [client(f"127.0.0.{2 + number % 5}") for number in range(500)]
    await asyncio.gather(*tasks, trouble())
    return served
