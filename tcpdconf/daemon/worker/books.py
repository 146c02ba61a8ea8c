"""Passes program starts and exits from a retired worker to its successor, and validates them.

A retired worker no longer writes to the ledger. It reports its programs to the supervisor, which passes the
entries to the successor. The supervisor drops each claim of a program that the retired worker has not
started, as /proc shows. Many programs may end at once, and a channel holds only some hundred messages.
Therefore one message carries many entries.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal, TypeVar

from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.measures import Measure
from tcpdconf.daemon.messages.worker import Adopt, Claim, Counted, Counter, Observed, Relay, Released
from tcpdconf.daemon.process import channel, loop, procfs
from tcpdconf.daemon.worker import ledger
from tcpdconf.policy import connection

_PART: Final = 300  # entries in a message, none longer than 215 bytes

_Entry = TypeVar("_Entry")


def parts(entries: Sequence[_Entry]) -> Iterator[Sequence[_Entry]]:
    """Yield the entries in parts, each small enough for one message."""
    for start in range(0, len(entries), _PART):
        yield entries[start : start + _PART]


class RelayedBooks:
    """Implements `ledger.Books` by reporting to the successor, once in a turn of the loop."""

    def __init__(self, events: loop.Loop, post: channel.Channel) -> None:
        self._loop = events
        self._post = post
        self._entries: list[Claim | Released | Counted | Observed] = []

    def set(self, name: Counter, value: int) -> None:
        """Do nothing: the successor has a count of its own."""

    def count(self, name: Counter) -> None:
        """Report an event for the successor to count."""
        self._add(Counted(name))

    def observe(self, name: Measure, seconds: float) -> None:
        """Report a time for the successor's histogram."""
        self._add(Observed(name, max(0.0, seconds)))

    def hold(self, pid: int, peer: connection.Endpoint, lasts: float | None = None) -> ledger.Held:
        """Report a program that was started just now, for the successor to record."""
        started = ledger.boot_time()
        held = ledger.Held(-1, pid, peer, started, ledger.NEVER if lasts is None else started + lasts)
        self.tell(held)
        return held

    def tell(self, held: ledger.Held) -> None:
        """Report a running program, which the successor records unless it has done so."""
        peer = held.peer
        version: Literal[4, 6] = 4 if peer.version == 4 else 6
        until = None if held.until == ledger.NEVER else held.until
        self._add(Claim(held.pid, version, peer.value, peer.port, held.started, until))

    def release(self, held: ledger.Held) -> None:
        """Report that a program has ended."""
        self._add(Released(held.pid, held.started))

    def flush(self) -> None:
        """Send the collected entries."""
        entries, self._entries = self._entries, []
        with contextlib.suppress(channel.ChannelError):  # the supervisor is gone: the loop notices that too
            for some in parts(entries):
                self._post.send(wire.written(Relay(tuple(some))))

    def _add(self, entry: Claim | Released | Counted | Observed) -> None:
        if not self._entries:
            self._loop.after(0, self.flush)
        self._entries.append(entry)


def verified(
    entries: Iterable[Claim | Released | Counted | Observed], lineage: procfs.Lineage
) -> list[Adopt | Released | Counted | Observed]:
    """Return the entries, with each claim made an `Adopt` if a running program of this lineage proves it.

    Other claims are dropped.
    """
    found = (_adopted(entry, lineage) if isinstance(entry, Claim) else entry for entry in entries)
    return [entry for entry in found if entry is not None]


def _adopted(claim: Claim, lineage: procfs.Lineage) -> Adopt | None:
    found = procfs.look(claim.pid)
    if found is None or not lineage.proves(found) or not found.fits(claim.started):
        return None
    return Adopt(claim, found.start)
