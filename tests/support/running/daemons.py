"""A real daemon for tests: started on free ports, awaited by sd_notify, ended by its own pid."""

import contextlib
import itertools
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from support import loglines

_PORTS = range(10_000, 32_768)  # below net.ipv4.ip_local_port_range: the kernel gives them to no client
SECONDS = 20.0  # the longest that anything is waited for


def children(pid: int) -> list[int]:
    """Return the children of all threads of a process (proc(5), children); none if it has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, pathlib.Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def _in_turn() -> Iterator[int]:
    """All ports that no other process of this test run takes, in an order that nobody else has."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = _PORTS[number::processes]
    return itertools.cycle(random.SystemRandom().sample(ports, len(ports)))


_next = _in_turn()


def free_port(address: str = "127.0.0.1") -> int:
    """A port on which nobody listens, and which no other test is given."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in itertools.islice(_next, 100):
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((address, port))
            return port
    raise AssertionError(f"no free port of {_PORTS} on {address}")


def configure(folder: pathlib.Path, text: str) -> pathlib.Path:
    """A conf.d with one file."""
    conf = folder / "conf.d"
    conf.mkdir()
    (conf / "test.toml").write_text(text)
    return conf


@contextlib.contextmanager
def public_folder() -> Iterator[pathlib.Path]:
    """A folder that every user gets into; those of pytest are its own user's."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        yield folder


def until(true: Callable[[], object], what: str) -> None:
    """Wait for a state of the world that nothing announces."""
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, f"still waiting for {what}"
        time.sleep(0.005)


class Daemon:
    """`tcpdconf run` over FOLDER/conf.d, made of one text or there already; READY has been said when entered.

    `log` is what it wrote to standard error so far, without the times of its lines; `raw` has them as well.
    `notified` is what it told its service manager.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        text: str | None,
        *,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        arguments: Sequence[str] = (),
        stderr: int | None = None,
        pass_fds: Sequence[int] = (),
        stored: dict[str, list[int]] | None = None,
        ready: bool = True,
    ) -> None:
        self.folder = folder
        self.conf = folder / "conf.d" if text is None else configure(folder, text)
        chosen = {name: os.environ[name] for name in ("TCPDCONF_SPAWN",) if name in os.environ}
        own = {"PATH": os.defpath, "STATE_DIRECTORY": str(folder / "state")}
        self._environment = {**own, **chosen, **(environment or {})}
        self._command = [*before, sys.executable, "-m", "tcpdconf", "run", str(self.conf), *arguments]
        self.runtime = str(folder / "run")
        self._command += ["--runtime-dir", self.runtime]
        self._stderr = stderr
        self._pass_fds = pass_fds
        self._lines: list[str] = []
        self.raw: list[str] = []
        self._grown = threading.Condition()
        self._attention = threading.Lock()
        self.notified: list[str] = []
        self._ready = ready  # whether to wait for READY
        self.stored = stored  # what is in the service manager's store, if it has one; the test closes it

    def __enter__(self) -> Self:
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(self.folder / "notify"))
        (self.folder / "notify").chmod(0o777)  # whoever the daemon runs as
        self.process = subprocess.Popen(
            self._command,
            env={**self._environment, "NOTIFY_SOCKET": self._manager.getsockname()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if self._stderr is None else self._stderr,
            pass_fds=self._pass_fds,
        )
        self._listener = threading.Thread(target=self._receive_notices, daemon=True)
        self._listener.start()
        if self._stderr is None:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        try:
            if self._ready:
                self.await_notice("READY=1")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._manager.getsockname())
        self._listener.join(SECONDS)
        self._manager.close()

    def _receive_notices(self) -> None:
        """Receives what a service manager is told until the daemon has ended."""
        while (received := socket.recv_fds(self._manager, 4096, 1))[0]:
            said = received[0].decode().split("\n")
            with self._attention, self._grown:
                self.notified += said
                self._keep(dict(line.partition("=")[::2] for line in said), received[1])
                self._grown.notify_all()

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """Let the service manager take no message, after more than it has room for."""
        with self._attention, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"X_NOISE=1", self._manager.getsockname())
            yield

    def _keep(self, said: dict[str, str], fds: list[int]) -> None:
        """Do as systemd with FDSTORE, FDSTOREREMOVE and BARRIER; without a store close whatever comes."""
        if self.stored is not None and "FDSTORE" in said:
            self.stored.setdefault(said["FDNAME"], []).extend(fds)
            return
        if self.stored is not None and "FDSTOREREMOVE" in said:
            fds = self.stored.pop(said["FDNAME"], [])
        for fd in fds:
            os.close(fd)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._grown:
                    self.raw.append(line.decode(errors="backslashreplace").rstrip("\n"))
                    self._lines.append(loglines.without_times(self.raw[-1]))
                    self._grown.notify_all()

    @property
    def log(self) -> list[str]:
        """The lines of the log so far."""
        with self._grown:
            return list(self._lines)

    def await_log(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until that many lines match; returns them."""
        wanted = re.compile(pattern)
        found: list[str] = []
        looked_at = 0

        def enough() -> bool:
            nonlocal looked_at
            found.extend(line for line in self._lines[looked_at:] if wanted.search(line))
            looked_at = len(self._lines)
            return len(found) >= count

        with self._grown:
            assert self._grown.wait_for(enough, SECONDS), "\n".join(self._lines)
        return found

    def await_notice(self, text: str, count: int = 1) -> None:
        """Wait until the service manager was told this, so many times."""
        end = time.monotonic() + SECONDS
        with self._grown:
            while self.notified.count(text) < count:
                self._grown.wait(0.1)
                assert self.process.poll() is None, "\n".join(self._lines)
                assert time.monotonic() < end, f"no {text}: " + "\n".join(self._lines)

    def quiet(self, seconds: float) -> None:
        """Hear for so long only what the service manager is told from now on."""
        self.notified.clear()
        time.sleep(seconds)

    def worker(self, service: str) -> int:
        """The pid of a service's worker, the newest."""
        line = self.await_log(rf"^ready service={service} ")[-1]
        return int(line.rpartition("pid=")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it as an administrator does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(SECONDS)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        if self._stderr is None:
            self._reader.join(SECONDS)
        return status


def connect(port: int, address: str = "127.0.0.1", source: str | None = None) -> socket.socket:
    """A client's connection, perhaps from a chosen loopback address."""
    where = None if source is None else (source, 0)
    with _held_up(port):
        return socket.create_connection((address, port), SECONDS, where)


def talk(port: int, address: str = "127.0.0.1", source: str | None = None, say: bytes = b"") -> bytes:
    """Connect, send, and read to the end."""
    with connect(port, address, source) as client, _held_up(port):
        if say:
            client.sendall(say)
            with contextlib.suppress(OSError):  # what was said may have made the daemon reset the connection
                client.shutdown(socket.SHUT_WR)
        return read(client)


@contextlib.contextmanager
def _held_up(port: int) -> Iterator[None]:
    """Say of a client that waits too long who has the sockets of its port, and what those do."""
    try:
        yield
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{_holders(port)}") from None


def _holders(port: int) -> str:
    """Return the output of ss(8) for a port, with proc(5) of the processes that it names."""
    command = ["ss", "-Htanpo", f"sport = :{port} or dport = :{port}"]
    sockets = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False).stdout
    calls = []
    for pid in sorted(set(re.findall(r"pid=(\d+)", sockets))):
        for thread in pathlib.Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                calls.append(f"{pid}/{thread.name} {(thread / 'syscall').read_text().strip()}\n")
    return sockets + "".join(calls)


def read(client: socket.socket) -> bytes:
    """Read to the end."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            found += data
    return found


def line(client: socket.socket) -> bytes:
    """Read one line, byte by byte."""
    found = b""
    while not found.endswith(b"\n") and (byte := client.recv(1)):
        found += byte
    return found


def environment(answer: bytes) -> dict[str, str]:
    """Return the output of env -0."""
    pairs = (item.decode().partition("=") for item in answer.split(b"\0") if item)
    return {name: value for name, _, value in pairs}
