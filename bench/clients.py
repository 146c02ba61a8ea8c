"""What the measurements share: a daemon on free ports, clients, medians."""

import contextlib
import os
import pathlib
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

SECONDS = 30.0
HELLO = r"""#include <unistd.h>
int main(void) { return write(1, "hello\n", 6) != 6; }
"""


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def static_program(folder: pathlib.Path) -> str:
    """A static program that writes a line and ends: what a connection costs is then not its own."""
    source, program = folder / "hello.c", folder / "hello"
    source.write_text(HELLO)
    subprocess.run(["cc", "-O2", "-static", "-o", str(program), str(source)], check=True)
    return str(program)


@contextlib.contextmanager
def daemon(text: str) -> Iterator[pathlib.Path]:
    """A running tcpdconf with this configuration, `bench.toml` in the folder; it logs to nowhere."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        folder = pathlib.Path(name)
        (folder / "bench.toml").write_text(text)
        manager.bind(f"{name}/notify")
        command = [sys.executable, "-m", "tcpdconf", "run", name, "--runtime-dir", f"{name}/run"]
        environment = {**os.environ, "NOTIFY_SOCKET": f"{name}/notify"}
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        try:
            ready, _, _ = select.select([manager], [], [], SECONDS)
            if not ready or not manager.recv(4096).startswith(b"READY=1"):
                sys.exit("tcpdconf does not start")
            manager.close()
            yield folder
        finally:
            process.terminate()
            process.wait(SECONDS)


def connect_to_eof(port: int, say: bytes = b"", source: str = "127.0.0.1") -> float:
    """Seconds from the connect to the end of what the program writes."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), SECONDS, (source, 0)) as client:
        if say:
            client.sendall(say)
        while client.recv(4096):
            pass
    return time.perf_counter() - began


def rounds(cases: Mapping[str, Callable[[], float]], *, times: int, each: int) -> dict[str, list[float]]:
    """The medians of every round, the cases in turn (A B C A B C): a machine's moods then hit all alike."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(times):
        for name, measure in cases.items():
            found[name].append(statistics.median(measure() for _ in range(each)))
    return found


def report(found: Mapping[str, Sequence[float]], against: str) -> None:
    """Print each case's median of the rounds in microseconds, the spread, and the ratio to one of them."""
    base = statistics.median(found[against])
    for name, medians in found.items():
        middle = statistics.median(medians)
        spread = f"{min(medians) * 1e6:.0f}..{max(medians) * 1e6:.0f}"
        print(f"{name:32} {middle * 1e6:7.0f} us  ({spread})  {middle / base:.2f}")
