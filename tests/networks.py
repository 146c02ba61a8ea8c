"""A network namespace of its own, in which a test may bind every address: only loopback is there."""

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

import daemons
import peers

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_HOLD: Final = "ip link set lo up && echo up && exec cat"  # as long as somebody holds its standard input

_Result = TypeVar("_Result")


class Network:
    """The namespace. `before` are the words that run a command in it; needs root."""

    def __enter__(self) -> Self:
        peers.need_root()
        peers.need("unshare", "nsenter", "ip")
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"
        self._path = f"/proc/{self._holder.pid}/ns/net"
        self.before = ["nsenter", f"--net={self._path}"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.communicate(timeout=daemons.SECONDS)

    def do(self, work: Callable[[], _Result]) -> _Result:
        """Do it in a thread that is in the namespace; sockets stay where they were made."""
        found: list[_Result] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self._enter()
                found.append(work())
            except BaseException as error:  # noqa: BLE001 (raised below)
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(daemons.SECONDS)
        if failed:
            raise failed[0]
        return found[0]

    def connect(self, port: int, address: str) -> socket.socket:
        """A client's connection."""
        return self.do(lambda: daemons.connect(port, address))

    def _enter(self) -> None:
        """Move this thread into the namespace (setns(2)); os.setns came with Python 3.12."""
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(fd, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)
