"""Keeps a service's counters and its running programs in memory that outlives the worker.

The ledger is a memfd of the supervisor: counters, and a record of every running program. After a crash the
next worker reads the records, so that the limits still hold. The supervisor reads the counters without asking
the worker. A worker can write anything into the ledger, so a reader takes it for numbers and no more.

A program is recorded some microseconds after its start, or after another program's start. If the worker is
killed in between, the next worker does not count that program.
"""

import math
import mmap
import os
import struct
import time
from typing import Final, NamedTuple, Protocol, get_args

from tcpdconf.daemon.messages.worker import Counter
from tcpdconf.daemon.process import procfs
from tcpdconf.policy import connection
from tcpdconf.policy.access import table as access_table

REASONS: Final[tuple[connection.Reason, ...]] = get_args(connection.Reason)
COUNTERS: Final[tuple[Counter, ...]] = get_args(Counter)
_COUNTER: Final = struct.Struct("=Q")
_OFFSETS: Final = {name: index * _COUNTER.size for index, name in enumerate(COUNTERS)}
_HEADER: Final = 256
_RECORD: Final = struct.Struct("=IHBxd16s")  # pid, port, version, start (boot time), address
_READ: Final = 100_000  # most records that are read; more are usually a worker's lie
_MOST: Final = _HEADER + _READ * _RECORD.size  # bytes
_LARGEST: Final = (1 << 8 * _COUNTER.size) - 1


class Held(NamedTuple):
    """Records one running program; `started` is in seconds since boot."""

    record: int
    pid: int
    peer: connection.Endpoint
    started: float


class Books(Protocol):
    """Records running programs and counts events; usually it is a `Ledger`."""

    def set(self, name: Counter, value: int) -> None:
        """Set a counter."""

    def count(self, name: Counter) -> None:
        """Add one to a counter."""

    def hold(self, pid: int, peer: connection.Endpoint) -> Held:
        """Record a program that was started just now."""

    def release(self, held: Held) -> None:
        """Forget a program that has ended."""


def boot_time() -> float:
    """Return the seconds since boot, the clock of `Held.started`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def create() -> int:
    """Return the descriptor of a new, empty ledger."""
    return os.memfd_create("tcpdconf-ledger", os.MFD_CLOEXEC)


class Ledger:
    """Maps a ledger into memory. Record numbers are dense: a freed one is used again first."""

    def __init__(self, fd: int, capacity: int) -> None:
        self._fd = fd
        self._free: list[int] = []
        self._next = 0
        self.grow(capacity)

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` records; a ledger never shrinks.

        If it is larger than it can have grown, only the beginning is used.
        """
        size, found = _HEADER + capacity * _RECORD.size, os.fstat(self._fd).st_size
        if found < size:
            os.ftruncate(self._fd, size)
        self._map = mmap.mmap(self._fd, max(size, min(found, _MOST)))
        self._end = (len(self._map) - _HEADER) // _RECORD.size

    def set(self, name: Counter, value: int) -> None:
        """Set a counter."""
        _COUNTER.pack_into(self._map, _OFFSETS[name], value)

    def count(self, name: Counter) -> None:
        """Add one to a counter."""
        at = _OFFSETS[name]
        _COUNTER.pack_into(self._map, at, min(_COUNTER.unpack_from(self._map, at)[0] + 1, _LARGEST))

    def counts(self) -> dict[str, int]:
        """Return all counters by name."""
        return {name: _COUNTER.unpack_from(self._map, at)[0] for name, at in _OFFSETS.items()}

    def hold(self, pid: int, peer: connection.Endpoint, started: float | None = None) -> Held:
        """Record a program that was started now, or at `started` (seconds since boot)."""
        if self._free:
            index = self._free.pop()
        else:
            index = self._next
            self._next += 1
            if index >= self._end:  # a program of an earlier worker, beyond this one's slots
                self.grow(2 * self._end + 1)
        held = Held(index, pid, peer, boot_time() if started is None else started)
        address = peer.value.to_bytes(16)
        _RECORD.pack_into(self._map, self._at(index), pid, peer.port, peer.version, held.started, address)
        return held

    def release(self, held: Held) -> None:
        """Forget a program that has ended."""
        self._clear(held.record)
        self._free.append(held.record)

    def take_over(self, lineage: procfs.Lineage) -> list[tuple[Held, procfs.Process]]:
        """Return the programs of earlier workers that still run; call it once, before `hold`.

        If two records have the same pid, the later one counts: the earlier one was for another process,
        which has ended. Other records are cleared.
        """
        found: dict[int, tuple[Held, procfs.Process]] = {}
        written = set()
        for index in range(self._end):
            pid, port, version, started, address = _RECORD.unpack_from(self._map, self._at(index))
            peer = _peer(version, address, port) if pid else None
            if pid:
                written.add(index)
            runs = procfs.look(pid) if peer is not None else None
            if (
                peer is None
                or runs is None
                or runs.ended
                or not runs.fits(started)
                or not lineage.counts(runs)
            ):
                continue
            if pid not in found or found[pid][0].started < started:
                found[pid] = (Held(index, pid, peer, started), runs)
        used = {held.record for held, _ in found.values()}
        self._next = max(used, default=-1) + 1
        self._free = [index for index in range(self._next) if index not in used]
        for index in written - used:
            self._clear(index)
        return list(found.values())

    def _clear(self, index: int) -> None:
        _RECORD.pack_into(self._map, self._at(index), 0, 0, 0, 0.0, b"")

    def _at(self, index: int) -> int:
        return _HEADER + index * _RECORD.size


def _peer(version: int, address: bytes, port: int) -> connection.Endpoint | None:
    """Return the endpoint in a record, or None if it is not valid."""
    value = int.from_bytes(address)
    if version not in access_table.BITS or value >= 1 << access_table.BITS[version]:
        return None
    return connection.endpoint(version, value, port)


class Snapshot(NamedTuple):
    """Holds the contents of a ledger at one moment; a worker may have written anything."""

    counts: dict[str, int]
    held: list[Held]


def snapshot(fd: int) -> Snapshot:
    """Read a ledger that another process writes."""
    data = os.pread(fd, min(os.fstat(fd).st_size, _MOST), 0)
    if len(data) < _HEADER:
        return Snapshot(dict.fromkeys(COUNTERS, 0), [])
    counts: dict[str, int] = {name: _COUNTER.unpack_from(data, at)[0] for name, at in _OFFSETS.items()}
    held = []
    for index in range((len(data) - _HEADER) // _RECORD.size):
        pid, port, version, started, address = _RECORD.unpack_from(data, _HEADER + index * _RECORD.size)
        peer = _peer(version, address, port) if pid else None
        if peer is not None and 0 <= started < math.inf:
            held.append(Held(index, pid, peer, started))
    return Snapshot(counts, held)
