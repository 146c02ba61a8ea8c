"""What workers are told of programs that they have not started, and what is believed of it.

A worker that is being replaced has no ledger any more: what becomes of its connections it tells the
supervisor, which hands it to the worker that has. A program that this worker has not started, as /proc shows,
is not handed on. Many programs may end in one moment, and a channel
holds some hundred messages: so a message tells of many.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.worker import Adopt, Claim, Counted, Counter, Relay, Released
from tcpdconf.daemon.process import channel, loop, procfs
from tcpdconf.daemon.worker import ledger
from tcpdconf.policy import connection

_PART: Final = 300  # entries in a message, none longer than 200 bytes

_Entry = TypeVar("_Entry")


def parts(entries: Sequence[_Entry]) -> Iterator[Sequence[_Entry]]:
    """As many at a time as one message holds."""
    for start in range(0, len(entries), _PART):
        yield entries[start : start + _PART]


class RelayedBooks:
    """Books kept by the successor: see `ledger.Books`. It sends once in a turn of the loop."""

    def __init__(self, events: loop.Loop, post: channel.Channel) -> None:
        self._loop = events
        self._post = post
        self._entries: list[Claim | Released | Counted] = []

    def set(self, name: Counter, value: int) -> None:
        """Nothing: the successor has a count of its own."""

    def count(self, name: Counter) -> None:
        """Let the successor count."""
        self._add(Counted(name))

    def hold(self, pid: int, peer: connection.Endpoint) -> ledger.Held:
        """Let the successor record a program that was started just now."""
        held = ledger.Held(-1, pid, peer, ledger.boot_time())
        self.tell(held)
        return held

    def tell(self, held: ledger.Held) -> None:
        """Let the successor record a program that runs, if it has not."""
        peer = held.peer
        self._add(Claim(held.pid, 4 if peer.version == 4 else 6, peer.value, peer.port, held.started))

    def release(self, held: ledger.Held) -> None:
        """Let the successor forget a program that has ended."""
        self._add(Released(held.pid, held.started))

    def flush(self) -> None:
        """Send what was written."""
        entries, self._entries = self._entries, []
        with contextlib.suppress(channel.ChannelError):  # the supervisor is gone: the worker hears of it
            for some in parts(entries):
                self._post.send(wire.written(Relay(tuple(some))))

    def _add(self, entry: Claim | Released | Counted) -> None:
        if not self._entries:
            self._loop.after(0, self.flush)
        self._entries.append(entry)


def verified(
    entries: Iterable[Claim | Released | Counted], lineage: procfs.Lineage
) -> list[Adopt | Released | Counted]:
    """The entries without claims of programs that are not, or no more, of this lineage."""
    found = (_adopted(entry, lineage) if isinstance(entry, Claim) else entry for entry in entries)
    return [entry for entry in found if entry is not None]


def _adopted(claim: Claim, lineage: procfs.Lineage) -> Adopt | None:
    found = procfs.look(claim.pid)
    if found is None or not lineage.proves(found) or not found.fits(claim.started):
        return None
    return Adopt(claim, found.start)
