"""Networks other than the host's, for what cannot choose its ports; needs root.

A thread enters one, and so do the threads and programs that it starts there.
"""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from typing import Final

from support import peers

_NETWORK: Final = 0x40000000  # CLONE_NEWNET (sched.h)
_OWN: Final = "/proc/thread-self/ns/net"
_C: Final = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def new() -> Iterator[None]:
    """Be in a network of one's own, which is a loopback."""
    peers.need_root()
    peers.need("ip")
    with _returning():
        try:
            _check(_C.unshare(_NETWORK))
        except OSError as error:
            peers.without(f"network namespaces ({error.strerror})")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield


@contextlib.contextmanager
def of(pid: int) -> Iterator[None]:
    """Be in the network of a process."""
    with _returning(), open(f"/proc/{pid}/ns/net", "rb") as network:
        _check(_C.setns(network.fileno(), _NETWORK))
        yield


@contextlib.contextmanager
def _returning() -> Iterator[None]:
    with open(_OWN, "rb") as before:
        try:
            yield
        finally:
            _check(_C.setns(before.fileno(), _NETWORK))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
