"""Runs the clients and the served programs of a measurement, all written in C, so that they cost little."""

import ipaddress
import itertools
import pathlib
import socket
import subprocess
import tempfile
import time
from typing import Final, NamedTuple

SECONDS: Final = 60.0
HOLDING: Final = "127.0.0.2"  # for clients from here, the program runs until they close
_FRESH: Final = itertools.count(int(ipaddress.ip_address("127.16.0.0")), 4096)


class Load(NamedTuple):
    """Holds the results of clients: total seconds, median seconds of a connection, number of served ones."""

    seconds: float
    median: float
    served: int


class Tools:
    """Compiles the programs into a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self.load = self._compiled("load")
        self.accept = self._compiled("accept")
        self.static = self._compiled("hello", "static", "-static")
        self.dynamic = self._compiled("hello", "dynamic")
        self.bare = self._compiled("bare", "bare", "-static", "-nostartfiles")

    def _compiled(self, source: str, name: str = "", *options: str) -> str:
        program = str(self._folder / (name or source))
        path = pathlib.Path(__file__).with_name(f"{source}.c")
        subprocess.run(["cc", "-O2", *options, "-o", program, str(path)], check=True)
        return program

    def run(
        self,
        port: int,
        count: int,
        at_once: int,
        *,
        source: str = "127.0.0.1",
        fresh: bool = False,
        say: str = "",
    ) -> Load:
        """Make `count` connections, `at_once` at a time, from `source` or, if `fresh`, from new addresses."""
        first, step = (next(_FRESH), 1) if fresh else (int(ipaddress.ip_address(source)), 0)
        command = [self.load, *map(str, (port, count, at_once, first, step)), *([say] if say else [])]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=SECONDS, text=True)
        seconds, median, served = ran.stdout.split()
        return Load(float(seconds), float(median), int(served))


def folder() -> "tempfile.TemporaryDirectory[str]":
    """Return a temporary folder that all users can read, because rbldnsd refuses to run as root."""
    made = tempfile.TemporaryDirectory()
    pathlib.Path(made.name).chmod(0o755)
    return made


def fresh() -> str:
    """Return an address that no client has used."""
    return str(ipaddress.ip_address(next(_FRESH)))


def hold(port: int) -> socket.socket:
    """Return a connection that is served and stays open."""
    client = socket.create_connection(("127.0.0.1", port), SECONDS, (HOLDING, 0))
    if client.recv(6) != b"hello\n":
        raise RuntimeError(f"port {port} does not serve")
    return client


def first_byte(port: int, source: str) -> float:
    """Return the seconds from the connect to the first byte of the program."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), SECONDS, (source, 0)) as client:
        if not client.recv(4096):
            raise RuntimeError(f"port {port} does not serve")
    return time.perf_counter() - began


def connect_to_eof(port: int) -> float:
    """Return the seconds from the connect to the end of the program's output."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
        while client.recv(4096):
            pass
    return time.perf_counter() - began


def free_port() -> int:
    """Return an unused port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int) -> None:
    """Wait until the port accepts connections."""
    end = time.monotonic() + SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > end:
            raise TimeoutError(f"nobody listens on port {port}")
        time.sleep(0.01)
