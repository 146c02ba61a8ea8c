"""What workers are told of programs that they have not started, and how what a worker says of them is read.

A worker that is being replaced has no ledger any more: what becomes of its connections it tells the
supervisor, which hands it to the worker that has. What is not of the right form is not handed on, and neither
is a program that this worker has not started, as /proc shows. Many programs may end in one moment, and a
channel holds some hundred messages: so a message tells of many.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

from tcpdconf.daemon.process import channel, loop, procfs
from tcpdconf.daemon.worker import ledger
from tcpdconf.policy import connection
from tcpdconf.policy.access import table as access_table

_LAST_PID: Final = 1 << 22  # PID_MAX_LIMIT (proc(5))
_PART: Final = 400  # entries in a message, none longer than 150 bytes

_Entry = TypeVar("_Entry")


def parts(entries: Sequence[_Entry]) -> Iterator[Sequence[_Entry]]:
    """As many at a time as one message holds."""
    for start in range(0, len(entries), _PART):
        yield entries[start : start + _PART]


class Relay:
    """Books kept by the successor: see `ledger.Books`. It sends once in a turn of the loop."""

    def __init__(self, events: loop.Loop, post: channel.Channel) -> None:
        self._loop = events
        self._post = post
        self._entries: list[dict[str, Any]] = []

    def set(self, name: str, value: int) -> None:
        """Nothing: the successor has a count of its own."""

    def count(self, name: str) -> None:
        """Let the successor count."""
        self._add("count", name=name)

    def hold(self, pid: int, peer: connection.Endpoint) -> ledger.Held:
        """Let the successor record a program that was started just now."""
        held = ledger.Held(-1, pid, peer, ledger.boot_time())
        self.tell(held)
        return held

    def tell(self, held: ledger.Held) -> None:
        """Let the successor record a program that runs, if it has not."""
        peer = held.peer
        self._add("adopt", pid=held.pid, peer=[peer.version, peer.value, peer.port], started=held.started)

    def release(self, held: ledger.Held) -> None:
        """Let the successor forget a program that has ended."""
        self._add("release", pid=held.pid, started=held.started)

    def flush(self) -> None:
        """Send what was written."""
        entries, self._entries = self._entries, []
        with contextlib.suppress(channel.ChannelError):  # the supervisor is gone: the worker hears of it
            for some in parts(entries):
                self._post.send("relay", (), entries=some)

    def _add(self, kind: str, **content: object) -> None:
        if not self._entries:
            self._loop.after(0, self.flush)
        self._entries.append({"kind": kind, **content})


def checked(message: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The entries of a relay's message that are of the right form, without anything else in them."""
    match message:
        case {"kind": "relay", "entries": [*entries]}:
            found = [_checked(entry) for entry in entries]
            return [entry for entry in found if entry is not None]
    return None


def _checked(entry: Any) -> dict[str, Any] | None:  # noqa: ANN401 (JSON)
    match entry:
        case {"kind": "count", "name": str(name)} if name in ledger.COUNTERS:
            return {"kind": "count", "name": name}
        case {"kind": "release", "pid": int(pid), "started": float(started)} if (
            1 < pid <= _LAST_PID and 0 <= started < math.inf
        ):
            return {"kind": "release", "pid": pid, "started": started}
        case {
            "kind": "adopt",
            "pid": int(pid),
            "peer": [int(version), int(value), int(port)],
            "started": float(started),
        } if (
            1 < pid <= _LAST_PID
            and version in access_table.BITS
            and 0 <= value < 1 << access_table.BITS[version]
            and 0 <= port < 1 << 16
            and 0 <= started < math.inf
        ):
            return {"kind": "adopt", "pid": pid, "peer": [version, value, port], "started": started}
    return None


def verified(entries: list[dict[str, Any]], lineage: procfs.Lineage) -> list[dict[str, Any]]:
    """The entries without programs that are not, or no more, of this lineage; others get their `start`."""
    return [found for found in (_verified(entry, lineage) for entry in entries) if found is not None]


def _verified(entry: dict[str, Any], lineage: procfs.Lineage) -> dict[str, Any] | None:
    if entry["kind"] != "adopt":
        return entry
    found = procfs.look(entry["pid"])
    if found is None or not lineage.proves(found) or not found.fits(entry["started"]):
        return None
    return {**entry, "start": found.start}
