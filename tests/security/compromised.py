"""`tcpdconf run` whose service "evil" has a worker that turns on the supervisor as soon as it serves.

Run as `python compromised.py ATTACK python -m tcpdconf run ...`: put before the command of a daemon.
"""

import array
import itertools
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final

from tcpdconf import cli
from tcpdconf.daemon import equipment, worker

KINDS: Final = (
    "prepared",
    "failed",
    "serving",
    "tried",
    "report",
    "retired",
    "pong",
    "relay",
)
_MEANT: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    2**64,
    1.5,
    "x",
    [],
    {},
    [[]],
    {"x": []},
    [["x"], "y"],
    "\ud800\n",
)


def say(end: socket.socket, message: object) -> None:
    """Send a message as it is, however long the supervisor lets us wait."""
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    end.sendall(data)


def garbage(end: socket.socket, _: int) -> None:
    """No message at all."""
    say(end, b"\xff\0{")


def huge(end: socket.socket, _: int) -> None:
    """More than a message may be."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    say(end, {"kind": "report", "lists": "x" * 150_000})


def endless(end: socket.socket, _: int) -> None:
    """Messages that mean nothing, without end."""
    while True:
        say(end, {"kind": "nothing"})


def endless_pongs(end: socket.socket, _: int) -> None:
    """Messages that are read to the end, without end, and large ones among them."""
    for number in itertools.count():
        say(end, {"kind": "pong", "number": number})
        if not number % 50:
            say(end, {"kind": "report", "lists": {str(key): {"state": "up"} for key in range(1500)}})


def descriptors(end: socket.socket, _: int) -> None:
    """Descriptors, which a worker has none to give of."""
    sent = array.array("i", [0] * 250)
    while True:
        end.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])


def lingering(end: socket.socket, _: int) -> None:
    """A socket that takes whoever closes it last an hour."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        kept, _ = listener.accept()
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    there.setblocking(False)
    there.send(bytes(8 << 20))
    socket.send_fds(end, [b'{"kind": "pong"}'], [there.fileno()])
    os.close(there.detach())
    kept.detach()


def nonsense(end: socket.socket, number: int) -> None:
    """Messages of every kind with whatever there is in them."""
    for kind in KINDS:
        for value in _MEANT:
            keys = ("lists", "failures", "entries")
            say(end, {"kind": kind, "number": number, **dict.fromkeys(keys, value)})
            say(end, {"kind": kind, "number": value})


def deep(end: socket.socket, _: int) -> None:
    """Lists that are nested almost too deeply to be read."""
    for depth in range(700, 1000):
        nested = '{"kind": "report", "lists": {"zone": ' + "[" * depth + "]" * depth + "}}"
        say(end, nested.encode())


def news(end: socket.socket, _: int) -> None:
    """A failure that is written for the log and the service manager."""
    text = "x\nMAINPID=1\n<1>alert: forged\x1b[2J\ud800"
    for number in range(1, 50):
        say(end, {"kind": "failed", "number": number, "failures": [[["a\nb", 3], text]] * 50})


def pretending(end: socket.socket, _: int) -> None:
    """What only a worker that is replaced says: other people's processes."""
    for pid in range(2, 3000):
        entry = {"kind": "adopt", "pid": pid, "peer": [4, 1, 1], "started": 1.0}
        say(end, {"kind": "relay", "entries": [entry, {"kind": "release", "pid": pid}]})


ATTACKS: Final[dict[str, Callable[[socket.socket, int], None]]] = {
    attack.__name__: attack
    for attack in (
        garbage, huge, endless, endless_pongs, descriptors, lingering, nonsense, deep, news, pretending
    )
}  # fmt: skip


def main() -> int:
    """Run the daemon."""
    attack = ATTACKS.get(sys.argv[1])
    serve = worker._Worker._commit

    def turned(self: worker._Worker, found: equipment.Equipment) -> None:
        serve(self, found)
        if found.task.name != "evil":
            return
        if attack is None:
            _spoil(self)
            return
        end = self._post._socket
        end.setblocking(True)
        try:
            attack(end, self._wanted)
        except OSError as error:
            sys.stderr.write(f"attack ends: {error.strerror}\n")
        end.setblocking(False)

    worker._Worker._commit = turned  # type: ignore[method-assign]
    del sys.argv[1 : sys.argv.index("tcpdconf") + 1]
    return cli.main()


def _spoil(self: worker._Worker) -> None:
    """Make the ledger as large as a file can be, with records that nobody can believe."""
    assert self._server is not None
    fd = self._server._ledger._fd
    record = struct.pack("=IHBxd16s", os.getpid(), 1, 4, float("-inf"), bytes(16))
    os.pwrite(fd, b"\xff" * 256 + record * 5000 + bytes(range(256)) * 4096, 0)
    os.ftruncate(fd, 1 << 50)


if __name__ == "__main__":
    sys.exit(main())
