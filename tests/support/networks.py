"""Networks other than the host's, for what cannot choose its ports; needs root.

A thread enters one, and so do the threads and programs that it starts there.
"""

import contextlib
import ctypes
import os
import pathlib
import subprocess
from collections.abc import Iterator, Mapping
from typing import Final

from support import peers
from support.running import daemons

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
        ip("link set lo up")
        yield


@contextlib.contextmanager
def of(pid: int) -> Iterator[None]:
    """Be in the network of a process."""
    with _returning(), open(f"/proc/{pid}/ns/net", "rb") as network:
        _check(_C.setns(network.fileno(), _NETWORK))
        yield


@contextlib.contextmanager
def linked(here: str, there: str, *, beyond: str | None = None, name: str = "here") -> Iterator[int]:
    """Yield the pid of a process in another network, which a link joins with this one.

    `here` and `there` are the addresses of its two ends, the interfaces `name` and `there`. `beyond` is a
    network of which every address belongs to the other end.
    """
    with apart() as pid:
        ip(f"link add {name} type veth peer name there netns {pid}")
        ip(f"address add {here}/24 dev {name}")
        ip(f"link set {name} up")
        with of(pid):
            ip(f"address add {there}/24 dev there")
            ip("link set there up")
            if beyond is not None:
                ip("link set lo up")
                ip(f"route add local {beyond} dev lo")
                ip(f"route add default via {here}")
        if beyond is not None:
            ip(f"route add {beyond} via {there}")
        yield pid


@contextlib.contextmanager
def bridged(addresses: Mapping[str, str]) -> Iterator[dict[str, int]]:
    """Yield the pids of processes in networks of their own, by name; a bridge of this network joins them.

    `addresses` has the address of each. There its interface is `uplink`; its port of the bridge has its name.
    """
    ip("link add name bridge type bridge")
    ip("link set bridge up")
    with contextlib.ExitStack() as stack:
        pids = {name: stack.enter_context(apart()) for name in addresses}
        for name, pid in pids.items():
            ip(f"link add {name} type veth peer name uplink netns {pid}")
            ip(f"link set {name} master bridge up")
            with of(pid):
                ip("link set lo up")
                ip(f"address add {addresses[name]}/24 dev uplink")
                ip("link set uplink up")
        yield pids


@contextlib.contextmanager
def apart() -> Iterator[int]:
    """Yield the pid of a process in another network, where nothing is up yet."""
    # it ends with the test, however that ends
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE) as holder:
        try:
            mine = pathlib.Path(_OWN).readlink()
            theirs = pathlib.Path(f"/proc/{holder.pid}/ns/net")
            daemons.until(lambda: theirs.readlink() != mine, "another network")
            yield holder.pid
        finally:
            holder.kill()


def ip(words: str) -> None:
    """Run a command of iproute2 in this network."""
    subprocess.run(["ip", *words.split()], check=True)


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
