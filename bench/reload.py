"""Measures reloads: of many services, of a large access list under load, of many rules while `status` asks.

python -m bench.reload
"""

import pathlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from bench import clients, servers
from tcpdconf.daemon.control import client as control_client
from tcpdconf.daemon.control.client import ControlConnection

SERVICES = 200
NETWORKS = 1_000_000
RULES = 5_400  # inline rules, about as many as a configuration may have
TIMES = 5


def reload(folder: pathlib.Path, changed: list[str]) -> float:
    """Return the seconds from the command to its answer, which must name these services."""
    with ControlConnection(str(folder / "run")) as daemon:
        began = time.perf_counter()
        answer = daemon.ask({"command": "reload"}, clients.SECONDS)
    if not answer["ok"] or answer["changed"] != changed:
        sys.exit(f"not the reload that was to be measured: {answer}")
    return time.perf_counter() - began


def service(number: int, said: str) -> str:
    """Return the TOML of one of many services."""
    return f"""
        [services.s{number}]
        program = ["/bin/echo", "{said}"]
        user = "nobody"
        listeners = [{{ address = "127.0.0.1", port = {20000 + number} }}]
        access = [{{ rules = [
            {{ network = "192.0.2.0/24", action = "deny" }},
            {{ network = "127.0.0.1", action = "allow", environment = {{ R = "1" }} }},
        ] }}]
        limits = {{ max_connections = 10, max_per_ip = 5, max_per_network = 8 }}
    """


def many() -> None:
    """Reload many services, first without a change and then with one changed service."""
    others = "".join(service(number, "x") for number in range(1, SERVICES))
    with servers.daemon("daemon.watch = false" + service(0, "first") + others) as daemon:
        time.sleep(1)  # lets the new workers come to rest
        same = [reload(daemon.folder, []) for _ in range(TIMES)]
        one = []
        for number in range(TIMES):
            (daemon.folder / "bench.toml").write_text(
                "daemon.watch = false" + service(0, str(number)) + others
            )
            one.append(reload(daemon.folder, ["s0"]))
    print(f"{SERVICES} services, nothing changed: {statistics.median(same):.3f} s (worst {max(same):.3f})")
    print(f"{SERVICES} services, one changed:     {statistics.median(one):.3f} s (worst {max(one):.3f})")


class Visits(threading.Thread):
    """Connects one client after the other; `seconds` has the time from each connect to its end."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._port = port
        self._over = threading.Event()

    def run(self) -> None:
        """Connect until `stop` is called."""
        while not self._over.is_set():
            self.seconds.append(clients.connect_to_eof(self._port))

    def stop(self) -> None:
        """Stop connecting."""
        self._over.set()
        self.join()


class Questions(threading.Thread):
    """Asks for the status all the time; `seconds` has the time until each answer."""

    def __init__(self, runtime: str) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._runtime = runtime
        self._over = threading.Event()

    def run(self) -> None:
        """Ask until `stop` is called."""
        while not self._over.is_set():
            began = time.perf_counter()
            control_client.ask(self._runtime, {"command": "status"}, clients.SECONDS)
            self.seconds.append(time.perf_counter() - began)

    def stop(self) -> None:
        """Stop asking."""
        self._over.set()
        self.join()


def inline(last: int) -> str:
    """Return the TOML of a service with the most inline rules; `last` makes the last rule differ."""
    rules = [f'{{ network = "{16 + (i >> 8)}.{i & 255}.0.0/16", action = "deny" }},\n' for i in range(RULES)]
    return service(0, "x").replace(
        "rules = [", f'rules = [\n{"".join(rules)}{{ network = "192.0.2.{last}", action = "deny" }},\n'
    )


def answers() -> None:
    """Ask for the status while the largest configuration is loaded."""
    with servers.daemon("daemon.watch = false" + inline(0)) as daemon:
        questions = Questions(str(daemon.folder / "run"))
        questions.start()
        took, waited = [], []
        for number in range(1, TIMES + 1):
            (daemon.folder / "bench.toml").write_text("daemon.watch = false" + inline(number))
            questions.seconds.clear()
            took.append(reload(daemon.folder, ["s0"]))
            waited.append(max(questions.seconds))
        questions.stop()
    print(f"{RULES} rules in place: {statistics.median(took):.2f} s (worst {max(took):.2f})")
    longest = ", ".join(f"{seconds * 1000:.0f}" for seconds in waited)
    print(f"status, asked all the time: the longest answer of each reload {longest} ms")


def networks(last: int) -> Iterator[str]:
    """Yield the lines of a list of networks; `last` makes the last line differ."""
    for number in range(NETWORKS):
        yield f"{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.0/24\n"
    yield f"192.0.2.{last}\n"


def large() -> None:
    """Reload a large list while clients connect."""
    port = clients.free_port()
    with tempfile.TemporaryDirectory() as name:
        file = pathlib.Path(name) / "networks"
        file.write_text("".join(networks(0)))
        text = f"""
            daemon.watch = false
            [services.large]
            program = ["{clients.Tools(pathlib.Path(name)).static}"]
            listeners = [{{ address = "127.0.0.1", port = {port} }}]
            access = [{{ file = "{file}", format = "cidr", action = "deny" }}]
            """
        with servers.daemon(text) as daemon:
            visits = Visits(port)
            visits.start()
            time.sleep(1)
            before, took, waited = list(visits.seconds), [], []
            for number in range(1, TIMES + 1):
                file.write_text("".join(networks(number)))
                visits.seconds.clear()
                took.append(reload(daemon.folder, ["large"]))
                waited.append(max(visits.seconds))
            visits.stop()
    print(f"{NETWORKS} networks: {statistics.median(took):.2f} s (worst {max(took):.2f})")
    longest = ", ".join(f"{seconds * 1000:.0f}" for seconds in waited)
    usual = statistics.median(before) * 1000
    print(f"a client's time, connect to end: {usual:.1f} ms before; the longest of each reload {longest} ms")


if __name__ == "__main__":
    many()
    large()
    answers()
