"""A real redis-server for tests: on a Unix socket, on TCP or on TLS, ended by its own pid."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time
from types import TracebackType
from typing import Any, Self

import hiredis
from support import peers

SECONDS = 10.0  # the longest that anything is waited for
# of the user that the documentation makes, with a password
RIGHTS = (
    "on >secret resetkeys resetchannels &tcpdconf:* ~tcpdconf:* -@all +auth +ping +select +script|load"
    " +evalsha +time +hgetall +hset +hdel +hscan +get +set +expire +pexpire +subscribe +publish"
)


class Engine:
    """A server without persistence, on FOLDER/redis.sock and perhaps on a port of an address."""

    def __init__(
        self, folder: pathlib.Path, *options: str, port: int = 0, address: str = "127.0.0.1"
    ) -> None:
        peers.need("redis-server")
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.log = folder / "redis.log"
        self._command = ["redis-server", "--port", str(port), "--unixsocket", str(self.socket)]
        self._command += ["--unixsocketperm", "777", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        self._command += ["--bind", address, "--logfile", str(self.log), "--hz", "100", *options]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it answers; whatever it had is gone."""
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        end = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(OSError):
                self.ask("PING")
                return
            assert self.process.poll() is None, self.log.read_text() if self.log.exists() else "it ended"
            assert time.monotonic() < end, "redis-server does not start"
            time.sleep(0.005)

    def stop(self) -> None:
        """End it, even where it is stopped."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def halt(self) -> None:
        """Let it do nothing any more, as if the host had frozen."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it work again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def ask(self, *command: str | int, login: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 (whatever it answers)
        """Return its answer to a command, over a separate connection."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(str(self.socket))
            reader = hiredis.Reader()
            answer: Any = None
            for each in ([("AUTH", *login)] if login else []) + [command]:
                client.sendall(hiredis.pack_command(each))  # type: ignore[arg-type]
                while (answer := reader.gets()) is False:
                    data = client.recv(65536)
                    if not data:
                        raise ConnectionError("closed")
                    reader.feed(data)
            if isinstance(answer, hiredis.ReplyError):
                raise answer
            return answer

    def names(self, pattern: str = "*") -> list[str]:
        """The names of keys, sorted."""
        return sorted(key.decode() for key in self.ask("KEYS", pattern))

    def counted(self, prefix: str = "tcpdconf:") -> dict[str, int]:
        """The connections of all daemons that have a lease, by key; what dead ones have left counts not."""
        seconds, micros = self.ask("TIME")
        now = (int(seconds) * 1_000_000 + int(micros)) // 1000
        leases = self.ask("HGETALL", f"{prefix}leases")
        pairs = zip(leases[::2], leases[1::2], strict=True)
        alive = {life for life, value in pairs if int(value.split(b" ")[0]) > now}
        found = {}
        for key in self.names(f"{prefix}c:*"):
            fields = self.ask("HGETALL", key)
            pairs = zip(fields[::2], fields[1::2], strict=True)
            found[key] = sum(int(count) for life, count in pairs if life in alive)
        return {key: count for key, count in found.items() if count}


def certificates(folder: pathlib.Path) -> None:
    """An authority, and certificates of the engine (127.0.0.1) and of a host, made by it."""
    peers.need("openssl")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2"
    )
    for name in ("engine", "host"):
        (folder / f"{name}.ext").write_text("subjectAltName = IP:127.0.0.1\n")
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext"),
        )
