"""Two nodes behind a real HAProxy that asks their agents: one is emptied and comes back."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Self

import pytest
from support import peers
from support.running import daemons, haproxies, reloads

pytestmark = [pytest.mark.peer, pytest.mark.slow]

# every client gets its answer and is waited for a moment later; one that says `hold` stays
PROGRAM = 'program = ["/bin/sh", "-c", "read word; echo {name}; test $word != hold || read line; echo $line"]'
# HAProxy itself tries nothing twice: a client of a node that refuses is refused
BACKEND = """
frontend front
    bind 127.0.0.1:{front}
    default_backend nodes
backend nodes
    balance roundrobin
    retries 0
    no option redispatch
{servers}
"""
SERVER = (
    "    server {name} 127.0.0.1:{port} weight 100 check inter 200ms fall 2"
    " agent-check agent-port {agent} agent-inter 100ms{more}"
)


class Node:
    """A tcpdconf with one service and its agent, to be started more than once."""

    def __init__(self, folder: pathlib.Path, name: str, announce: str) -> None:
        self.name, self.port, self.agent = name, daemons.free_port(), daemons.free_port()
        self._folder = folder
        self._runs = 0
        self._text = (
            reloads.service(
                self.port,
                PROGRAM.format(name=name),
                limits="max_connections = 40\nmax_per_ip = 40",
            )
            + f'[services.test.agent]\nlisten = "127.0.0.1:{self.agent}"\nannounce = "{announce}"\n'
        )

    def running(self) -> reloads.Daemon:
        """One run of it."""
        self._runs += 1
        folder = self._folder / f"{self.name}{self._runs}"
        folder.mkdir()
        return reloads.Daemon(folder, self._text)

    def server(self, more: str = "") -> str:
        """Its line in HAProxy's configuration."""
        return SERVER.format(name=self.name, port=self.port, agent=self.agent, more=more)


class Clients:
    """Some clients at once, each one connection after the other; `answers` counts what they have got."""

    def __init__(self, port: int, count: int = 4) -> None:
        self.answers: Counter[str] = Counter()
        self._port = port
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._come) for _ in range(count)]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join(daemons.SECONDS)

    def await_more(self, name: str, count: int = 20) -> None:
        """Wait for more answers of a node."""
        wanted = self.answers[name] + count
        daemons.until(lambda: self.answers[name] >= wanted, f"answers of {name}")

    def _come(self) -> None:
        while not self._over.wait(0.005):
            try:
                with daemons.connect(self._port) as client:
                    client.sendall(b"x\n")
                    found = client.recv(100)  # a reset is an error here
                    while found and not found.endswith(b"\n\n") and (more := client.recv(100)):
                        found += more
                text = found.decode().strip() or "nothing"
            except OSError as error:
                text = str(error)
            with self._lock:
                self.answers[text] += 1


@contextlib.contextmanager
def balanced(folder: pathlib.Path, *servers: str) -> Iterator[tuple[haproxies.Admin, int]]:
    """A HAProxy in front of these, and its port."""
    front = daemons.free_port()
    with haproxies.running(folder, BACKEND.format(front=front, servers="\n".join(servers))) as admin:
        yield admin, front


def until_server(admin: haproxies.Admin, name: str, **wanted: str) -> None:
    """Wait until HAProxy says this of a server."""

    def said() -> bool:
        row = admin.servers()["nodes", name]
        return all(row[key] == value for key, value in wanted.items())

    daemons.until(said, f"{name}: {wanted}")


def test_a_node_is_emptied_before_it_stops_and_comes_back(tmp_path: pathlib.Path) -> None:
    peers.need("haproxy")
    one, two = (Node(tmp_path, name, "2s") for name in ("one", "two"))
    with (
        two.running(),
        one.running() as leaving,
        balanced(tmp_path, one.server(), two.server()) as (admin, front),
        contextlib.ExitStack() as stack,
    ):
        for name in ("one", "two"):
            until_server(admin, name, status="UP", check_status="L4OK", agent_status="L7OK", weight="100")
        clients = stack.enter_context(Clients(front))
        clients.await_more("one")
        clients.await_more("two")
        with daemons.connect(one.port) as held:
            held.sendall(b"hold\n")
            assert daemons.line(held) == b"one\n"
            command = [sys.executable, "-m", "tcpdconf", "stop", "--drain", "10"]
            with subprocess.Popen([*command, "--runtime-dir", leaving.runtime]) as stop:
                until_server(admin, "one", status="DRAIN (agent)")
                drained_at = len(leaving.log)
                clients.await_more("two", 100)
                assert stop.poll() is None
                until_server(admin, "one", check_status="L4CON")
                # whoever is there may stay, and only for him it waits
                daemons.until(lambda: leaving.uses()["connections"] == 1, "the end of the others")
                assert leaving.uses()["draining"]
                held.sendall(b"bye\n")
                assert daemons.read(held) == b"bye\n"
                assert stop.wait(daemons.SECONDS) == 0
        assert leaving.process.wait(daemons.SECONDS) == 0
        # HAProxy had a connection on its way at most, when it heard of it
        accepted = [line for line in leaving.log[drained_at:] if line.startswith("accept ")]
        assert len(accepted) <= 4
        clients.await_more("two")
        with one.running():
            until_server(admin, "one", status="UP", weight="100")
            clients.await_more("one")
            stack.close()
    assert set(clients.answers) == {"one", "two"}


def test_haproxy_reads_the_configurations_of_the_documentation(tmp_path: pathlib.Path) -> None:
    peers.need("haproxy")
    page = (pathlib.Path(__file__).parents[3] / "docs/how-to/proxy-protocol.md").read_text()
    fences = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
    found = [text for word, text in fences if not word and "backend smtp" in text]
    assert ["agent-check" in text for text in found] == [False, True]
    for text in found:
        file = tmp_path / "haproxy.cfg"
        file.write_text(text)
        said = subprocess.run(["haproxy", "-c", "-f", str(file)], capture_output=True, text=True, check=False)
        assert (said.returncode, said.stderr) == (0, "")


def test_clients_are_refused_where_nothing_is_announced(tmp_path: pathlib.Path) -> None:
    """So the test above would notice."""
    peers.need("haproxy")
    one, two = (Node(tmp_path, name, "0s") for name in ("one", "two"))
    with (
        two.running(),
        one.running() as leaving,
        balanced(tmp_path, one.server(), two.server()) as (admin, front),
    ):
        for name in ("one", "two"):
            until_server(admin, name, status="UP", check_status="L4OK", agent_status="L7OK")
        with Clients(front) as clients:
            clients.await_more("one")
            command = [sys.executable, "-m", "tcpdconf", "stop", "--drain", "10"]
            subprocess.run([*command, "--runtime-dir", leaving.runtime], check=True)
            clients.await_more("two", 100)
    assert set(clients.answers) > {"one", "two"}


def test_the_weight_follows_the_slots_and_a_worker_that_does_not_stay_up_is_down(
    tmp_path: pathlib.Path,
) -> None:
    """Also with agent-send, of which nothing is read."""
    peers.need("haproxy")
    node = Node(tmp_path, "one", "0s")
    with (
        node.running() as daemon,
        balanced(tmp_path, node.server(r" agent-send one\n")) as (admin, _),
        contextlib.ExitStack() as stack,
    ):
        until_server(admin, "one", status="UP", weight="100")
        for taken in range(1, 41):
            client = stack.enter_context(daemons.connect(node.port))
            client.sendall(b"hold\n")
            if taken in {8, 20, 40}:
                until_server(admin, "one", status="UP", weight=str(max(1, 100 * (40 - taken) // 40)))
        stack.close()
        until_server(admin, "one", status="UP", weight="100")
        for count in (1, 2):
            os.kill(daemon.worker("test"), signal.SIGKILL)
            daemon.await_log("^ready ", count + 1)
        until_server(admin, "one", status="DOWN (agent)")
        until_server(admin, "one", status="UP", weight="100")
