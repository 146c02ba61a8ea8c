"""Measures limits over several hosts: python -m bench.cluster prints figures as JSON.

It starts redis-server (or uses --url) and one tcpdconf, on Unix sockets and loopback. `latency` is the time
from a worker's request to its answer, with one request at a time. `latency_busy` is the same with as many
requests as possible. `connections` are connections a second, each with a program, alternately with scope =
"host" and "cluster".
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from tcpdconf.config.model import tables, values
from tcpdconf.daemon.cluster import hub, layout
from tcpdconf.daemon.cluster.engine import Access
from tcpdconf.daemon.cluster.hosts import Description
from tcpdconf.daemon.cluster.share import ClusterShare
from tcpdconf.daemon.process import channel, loop
from tcpdconf.policy import connection

LIMITS = tables.Limits(max_per_ip=100_000, max_per_network=1_000_000)
DEADLINE = 1.0


class Asker:
    """A worker's share in this process; `serve` answers in another one, as in the daemon."""

    def __init__(self, serve: Callable[[channel.Channel], None]) -> None:
        ours, theirs = channel.Channel.pair()
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                serve(theirs)
            os._exit(0)
        theirs.close()
        self.loop = loop.Loop()
        self.share = ClusterShare(self.loop, (), DEADLINE, lost=lambda: None, penalised=lambda _: None)
        self.share.settle(layout.of(LIMITS), DEADLINE)
        self.share.use(ours.detach())
        while not self.share.asks:
            self.loop.after(0.01, self.loop.stop)
            self.loop.run()

    def close(self) -> None:
        """End the other process."""
        self.share.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def times(self, seconds: float, at_once: int) -> list[float]:
        """Return the seconds that each request waited, with `at_once` requests on their way."""
        found: list[float] = []
        end = time.perf_counter() + seconds
        number = 0

        def ask() -> None:
            nonlocal number
            if time.perf_counter() > end:
                self.loop.stop()
                return
            number += 1
            peer = connection.endpoint(4, (10 << 24) + number % 50_000, 1)
            begun = time.perf_counter()

            def then(_: object) -> None:
                found.append(time.perf_counter() - begun)
                self.share.release(peer)
                ask()

            self.share.ask(peer, None, then)

        for _ in range(at_once):
            ask()
        self.loop.run()
        return found


def _hub(url: str, theirs: channel.Channel) -> None:
    events = loop.Loop()
    place = hub.Place(Description(name="bench", host="0" * 16, daemon="0" * 16), os.urandom(8).hex(), True)
    access = Access(values.engine_url(url), None, None, None)
    made = hub.Hub(events, access, prefix="bench:", deadline=DEADLINE, place=place, changed=lambda _: None)
    made.start()
    made.members.add("bench", "bench", theirs, made.serving)
    events.run()


def latency(url: str, seconds: float) -> dict[str, object]:
    """Return the milliseconds that connections wait for the engine."""
    asker = Asker(functools.partial(_hub, url))
    try:
        alone, busy = asker.times(seconds, 1), asker.times(seconds, 64)
    finally:
        asker.close()
    return {
        "latency": _quantiles(alone),
        "latency_busy": _quantiles(busy),
        "requests_per_second": round(len(busy) / seconds),
    }


def _quantiles(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {"p50_ms": round(cuts[49] * 1000, 3), "p99_ms": round(cuts[98] * 1000, 3), "count": len(times)}


def memory(url: str, clients: int) -> dict[str, object]:
    """Return the engine's bytes for each client with a connection, counted by address and network."""
    path = url.removeprefix("unix://")
    asker = Asker(functools.partial(_hub, url))
    try:
        before = _used(path)
        for number in range(clients):
            asker.share.hold(connection.endpoint(4, (10 << 24) + number, 1))
        while int(_ask(path, "DBSIZE")) < clients:
            asker.loop.after(0.05, asker.loop.stop)
            asker.loop.run()
        asker.loop.after(0.5, asker.loop.stop)
        asker.loop.run()
        used = _used(path) - before
    finally:
        asker.close()
    return {"bytes_per_client": round(used / clients), "clients": clients}


def _ask(path: str, *command: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(" ".join(command).encode() + b"\r\n")
        client.settimeout(1)
        found = b""
        while not found.endswith(b"\r\n"):
            found += client.recv(65536)
        return found.decode().lstrip(":").strip()


def _used(path: str) -> int:
    text = _ask(path, "INFO", "memory")
    return next(int(line.partition(":")[2]) for line in text.splitlines() if line.startswith("used_memory:"))


CONF = """
[daemon]
watch = false
log_level = "warning"
[cluster]
url = "{url}"
deadline = "1s"
[services.bench]
program = ["/bin/true"]
user = "{user}"
listeners = [{{ address = "127.0.0.1", port = {port} }}]
[services.bench.limits]
max_connections = 500
max_per_ip = 500
scope = "{scope}"
"""


@contextlib.contextmanager
def daemon(url: str, scope: str) -> Iterator[tuple[int, pathlib.Path]]:
    """Run a daemon; yield its port and its runtime directory."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "conf.d").mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        user = "nobody" if os.geteuid() == 0 else str(os.geteuid())
        (folder / "conf.d/a.toml").write_text(CONF.format(url=url, port=port, scope=scope, user=user))
        command = [sys.executable, "-m", "tcpdconf", "run", str(folder / "conf.d")]
        process = subprocess.Popen(
            [*command, "--runtime-dir", str(folder / "run")], env={"STATE_DIRECTORY": str(folder / "state")}
        )
        try:
            while _status(folder) is None:
                if process.poll() is not None:
                    raise RuntimeError("tcpdconf does not start")
                time.sleep(0.05)
            yield port, folder
        finally:
            process.terminate()
            process.wait()


def _status(folder: pathlib.Path) -> dict[str, Any] | None:
    command = [
        sys.executable,
        "-m",
        "tcpdconf",
        "status",
        "--format",
        "json",
        "--runtime-dir",
        f"{folder}/run",
    ]
    said = subprocess.run(command, capture_output=True, check=False).stdout
    found: dict[str, Any] = json.loads(said) if said else {}
    return found if found and (found["cluster"] or {}).get("state") == "up" else None


def rate(url: str, scope: str, seconds: float) -> dict[str, float]:
    """Return the connections a second, and the awaited requests for each connection."""
    with daemon(url, scope) as (port, folder):
        count, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            batch = [socket.create_connection(("127.0.0.1", port)) for _ in range(16)]
            for client in batch:
                client.recv(1)
                client.close()
            count += len(batch)
        time.sleep(1.1)
        told = _status(folder)
        if told is None:
            raise RuntimeError("tcpdconf has lost its engine")
        return {"rate": count / seconds, "asked": told["cluster"]["asked"] / count}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="unix:// of an engine that runs; its database is written to")
    parser.add_argument("--seconds", type=float, default=3, help="how long each case takes")
    parser.add_argument("--clients", type=int, default=100_000, help="for the memory of the engine")
    parser.add_argument("--rounds", type=int, default=3, help="how often connections are measured")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = asked.url or stack.enter_context(_engine())
        found = {**latency(url, asked.seconds), **memory(url, asked.clients)}
        rounds = [
            (rate(url, "host", asked.seconds), rate(url, "cluster", asked.seconds))
            for _ in range(asked.rounds)
        ]
    found["connections_host"] = round(statistics.median(one["rate"] for one, _ in rounds))
    found["connections_cluster"] = round(statistics.median(other["rate"] for _, other in rounds))
    found["requests_per_connection"] = round(statistics.median(other["asked"] for _, other in rounds), 3)
    print(json.dumps(found, indent=2))


@contextlib.contextmanager
def _engine() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        pathlib.Path(name).chmod(0o755)
        path = f"{name}/redis.sock"
        options = ["--port", "0", "--unixsocket", path, "--unixsocketperm", "777", "--save", ""]
        process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL, cwd=name)
        try:
            while not os.path.exists(path):
                time.sleep(0.01)
            yield f"unix://{path}"
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
