"""A control socket with scripted commands, for tests of either side."""

import pathlib
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tcpdconf.daemon.control.server import Command, Control
from tcpdconf.daemon.process import loop

SECONDS = 10.0


class Threaded:
    """A loop that runs in a thread."""

    def __init__(self) -> None:
        self.loop = loop.Loop()
        self._do: list[Callable[[], None]] = []
        self._wake, self._woken = socket.socketpair()
        self.loop.watch(self._woken, self._work)
        self._thread = threading.Thread(target=self.loop.run)

    def _work(self) -> None:
        self._woken.recv(1)
        self._do.pop(0)()

    def do(self, work: Callable[[], None]) -> None:
        """Do it in the loop's thread."""
        self._do.append(work)
        self._wake.send(b"x")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(self.loop.stop)
        self._thread.join(SECONDS)
        self._wake.close()
        self._woken.close()


class Server(Threaded):
    """A control socket whose loop runs in a thread; `commands` are those of a test."""

    def __init__(self, directory: pathlib.Path, commands: Mapping[str, Command]) -> None:
        super().__init__()
        self.directory = directory
        self.control = Control(self.loop, str(directory), commands)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, value, trace)
        self.control.close()
        for client in list(self.control._clients):
            client.close()

    def connect(self) -> socket.socket:
        """A client's end."""
        end = socket.socket(socket.AF_UNIX)
        end.settimeout(SECONDS)
        end.connect(str(self.directory / "control.sock"))
        return end
