"""`tcpdconf run` whose service "evil" has a worker that turns on the supervisor as soon as it serves.

Run as `python compromised.py ATTACK python -m tcpdconf run ...`: put before the command of a daemon.
"""

import array
import itertools
import json
import os
import pathlib
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final

from tcpdconf.cli import main as cli
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.worker import (
    Claim,
    ListStatus,
    Pong,
    Relay,
    Released,
    Reported,
    Retired,
    Stop,
)
from tcpdconf.daemon.process import channel
from tcpdconf.daemon.worker import main as worker
from tcpdconf.daemon.worker.connections import Connections
from tcpdconf.daemon.worker.serving import ServingBuilder

VICTIMS: Final = "VICTIMS"  # the variable that names a file of pids
_RECORD: Final = struct.Struct("=IHBxd16s")  # of a ledger
KINDS: Final = (
    "prepared",
    "failed",
    "committed",
    "tried",
    "reported",
    "retired",
    "pong",
    "relay",
    "stopped",
)
LIST: Final = ListStatus("up", "", 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, (1,) * 13, 1.0)
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


def say(end: socket.socket, message: wire.Parsed | bytes | dict[str, Any]) -> None:
    """Send a message, or whatever else, however long the supervisor lets us wait."""
    match message:
        case bytes():
            end.sendall(message)
        case dict():
            end.sendall(json.dumps(message).encode())
        case _:
            end.sendall(wire.written(message))


def garbage(end: socket.socket, _: int) -> None:
    """No message at all."""
    say(end, b"\xff\0{")


def huge(end: socket.socket, _: int) -> None:
    """More than a message may be."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    say(end, Reported({str(key): LIST for key in range(1500)}, None, None, ()))


def endless(end: socket.socket, _: int) -> None:
    """Messages that mean nothing, without end."""
    while True:
        say(end, Retired())


def endless_pongs(end: socket.socket, _: int) -> None:
    """Messages that are read to the end, without end, and large ones among them."""
    for number in itertools.count():
        say(end, Pong())
        if not number % 50:
            say(end, Reported({str(key): LIST for key in range(300)}, None, None, ()))


def endless_reports(end: socket.socket, _: int) -> None:
    """Messages as large as they may be, without end."""
    message = wire.written(Reported({str(key): LIST for key in range(400)}, None, None, ()))
    while True:
        say(end, message)


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


def unknown(end: socket.socket, _: int) -> None:
    """A message of a kind that there is not."""
    say(end, {"kind": "nothing"})


def commanding(end: socket.socket, _: int) -> None:
    """A message that only the supervisor may send."""
    say(end, Stop(0, 0))


def more(end: socket.socket, _: int) -> None:
    """A message with a field too many."""
    say(end, {"kind": "pong", "number": 1})


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
        nested = '{"kind": "reported", "lists": {"zone": ' + "[" * depth + "]" * depth + "}}"
        say(end, nested.encode())


def news(end: socket.socket, _: int) -> None:
    """A failure that is written for the log and the service manager."""
    text = "x\nMAINPID=1\n<1>alert: forged\x1b[2J"
    for number in range(1, 50):
        failure = {"key": ["a\nb", 3], "text": text, "place": None}
        say(end, {"kind": "failed", "number": number, "failures": [failure] * 50})


def pretending(end: socket.socket, _: int) -> None:
    """Send the message of a replaced worker, with processes that are not its own."""
    for pid in range(2, 3000):
        say(end, Relay((Claim(pid, 4, 1, 1, 1.0), Released(pid, 1.0))))


ATTACKS: Final[dict[str, Callable[[socket.socket, int], None]]] = {
    attack.__name__: attack
    for attack in (
        garbage, huge, unknown, commanding, more, endless, endless_pongs, endless_reports, descriptors,
        lingering, nonsense, deep, news, pretending,
    )
}  # fmt: skip


def main() -> int:
    """Run the daemon."""
    attack = sys.argv[1]
    serve, retire = worker._Worker._commit, worker._Worker._retire

    def turned(self: worker._Worker, found: ServingBuilder, workers: tuple[int, ...]) -> None:
        serve(self, found, workers)
        if found.task.name != "evil":
            return
        if attack in IN_LEDGER:
            IN_LEDGER[attack](self)
            return
        if attack in ATTACKS:
            _attack(ATTACKS[attack], self)

    def replaced(self: worker._Worker, serving: Connections, kept: tuple[int, ...]) -> None:
        retire(self, serving, kept)
        if attack in WHEN_REPLACED:
            _attack(WHEN_REPLACED[attack], self)

    worker._Worker._commit = turned  # type: ignore[method-assign]
    worker._Worker._retire = replaced  # type: ignore[method-assign]
    del sys.argv[1 : sys.argv.index("tcpdconf") + 1]
    return cli.main()


def _attack(attack: Callable[[socket.socket, int], None], self: worker._Worker) -> None:
    end = self._post._socket
    end.setblocking(True)
    try:
        attack(end, self._wanted)
    except OSError as error:
        sys.stderr.write(f"attack ends: {error.strerror}\n")
    end.setblocking(False)


def adopting(end: socket.socket, _: int) -> None:
    """Send the message of a replaced worker, with foreign processes and their true start times."""
    claims = tuple(Claim(pid, 4, 1, pid % 65536, started) for pid, started in victims())
    released = tuple(Released(claim.pid, claim.started) for claim in claims)
    for entries in (claims, released, claims):
        say(end, Relay(entries))


def claiming(end: socket.socket, _: int) -> None:
    """Programs without end, each of which has to be looked for."""
    claim = Claim(os.getppid(), 4, 1, 1, 1.0)
    while True:
        say(end, Relay((claim,) * 700))


def repeating(end: socket.socket, _: int) -> None:
    """Its own programs, as often as they fit a message: what is handed on of each is longer."""
    claims = tuple(Claim(pid, 4, 1, 1, started) for pid, started in victims())
    times = channel.LARGEST // len(wire.written(Relay(claims)))
    say(end, Relay(claims * times))


WHEN_REPLACED: Final = {"adopting": adopting, "claiming": claiming, "repeating": repeating}


def spoil(self: worker._Worker) -> None:
    """Make the ledger as large as a file can be, with records that nobody can believe."""
    record = _RECORD.pack(os.getpid(), 1, 4, float("-inf"), bytes(16))
    os.pwrite(_ledger(self), b"\xff" * 256 + record * 5000 + bytes(range(256)) * 4096, 0)
    os.ftruncate(_ledger(self), 1 << 50)


def naming(self: worker._Worker) -> None:
    """Name processes in the ledger that it has not started, and leave that to the next worker."""
    records = [_RECORD.pack(pid, 1, 4, started, bytes(16)) for pid, started in victims()]
    if records:
        os.pwrite(_ledger(self), b"".join(records), 256)
        pathlib.Path(os.environ[VICTIMS]).unlink()
        os.kill(os.getpid(), signal.SIGKILL)


IN_LEDGER: Final = {"ledger": spoil, "naming": naming}


def victims() -> list[tuple[int, float]]:
    """The processes that a test has named by now, each with the time at which its record would be made."""
    try:
        pids = map(int, pathlib.Path(os.environ[VICTIMS]).read_text().split())
    except FileNotFoundError:
        return []
    ticks = os.sysconf("SC_CLK_TCK")
    starts = ((pid, pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]) for pid in pids)
    return [(pid, int(fields.split()[19]) / ticks + 0.1) for pid, fields in starts]


def _ledger(self: worker._Worker) -> int:
    assert self._server is not None
    return self._server._ledger._fd


if __name__ == "__main__":
    sys.exit(main())
