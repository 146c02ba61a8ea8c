"""Keeps a service's counters and its running programs in memory that outlives the worker.

The ledger is a memfd of the supervisor: a header of numbers, and a record of every running program. After a
crash the next worker reads the records, so that the limits still hold. The supervisor reads the counters
without asking the worker. A worker can write anything into the ledger, so a reader takes it for numbers and
no more.

The header has counters, gauges and histograms, each number in 8 bytes. Its layout follows from the names. No
ledger outlives the daemon that made it. The name of the memfd has the version of the layout all the same: a
worker cannot change it, and it says what a descriptor is that a later release may hand to another daemon.
Raise `LAYOUT` with a change of the header or of a record.

A number is written through a view: `struct.pack_into` would set it to 0 first, and a reader may read at any
time.

A program is recorded some microseconds after its start, or after another program's start. If the worker is
killed in between, the next worker does not count that program.
"""

import bisect
import math
import mmap
import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple, Protocol, get_args

from tcpdconf.daemon.messages.measures import BOUNDS, Measure
from tcpdconf.daemon.messages.worker import Counter
from tcpdconf.daemon.process import procfs
from tcpdconf.policy import connection
from tcpdconf.policy.access import table as access_table

REASONS: Final[tuple[connection.Reason, ...]] = get_args(connection.Reason)
COUNTERS: Final[tuple[Counter, ...]] = get_args(Counter)
Gauge = Literal[
    "headers", "parked", "lost_lines", "cpu_milliseconds", "resident_bytes", "descriptors", "started"
]
"""Names a number that a worker sets about itself now and then; `started` is in seconds of Unix time.

`parked` are the connections that wait for a slot after their PROXY header; it is set whenever it changes.
"""
GAUGES: Final[tuple[Gauge, ...]] = get_args(Gauge)
_NUMBER: Final = 8  # bytes
_PLACES: Final = {name: index for index, name in enumerate((*COUNTERS, *GAUGES))}


class _Place(NamedTuple):
    """Tells where a histogram is: its first bucket and its sum, a float, as indices of numbers."""

    first: int
    sum: int
    bounds: tuple[float, ...]


def _laid_out() -> Iterator[tuple[Measure, _Place]]:
    first = len(_PLACES)
    for name, bounds in BOUNDS.items():
        yield name, _Place(first, first + len(bounds) + 1, bounds)
        first += len(bounds) + 2


_HISTOGRAMS: Final = dict(_laid_out())
HEADER: Final = -(-_NUMBER * (1 + max(each.sum for each in _HISTOGRAMS.values())) // 64) * 64  # bytes
LAYOUT: Final = 1
_NAME: Final = f"tcpdconf-ledger-{LAYOUT}"
_RECORD: Final = struct.Struct("=IHBxdd16s")  # pid, port, version, start and last moment (boot time), address
_READ: Final = 100_000  # most records that are read; more are usually a worker's lie
_MOST: Final = HEADER + _READ * _RECORD.size  # bytes
_LARGEST: Final = (1 << 8 * _NUMBER) - 1
NEVER: Final = math.inf


class Held(NamedTuple):
    """Records one running program; it `started` and must end (`until`) at these seconds since boot."""

    record: int
    pid: int
    peer: connection.Endpoint
    started: float
    until: float = NEVER


class LedgerError(Exception):
    """Reports that a descriptor is no ledger of this layout; the text says which it is."""


class Books(Protocol):
    """Records running programs and counts events; usually it is a `Ledger`."""

    def set(self, name: Counter, value: int) -> None:
        """Set a counter."""

    def count(self, name: Counter) -> None:
        """Add one to a counter."""

    def observe(self, name: Measure, seconds: float) -> None:
        """Add a time to a histogram."""

    def hold(self, pid: int, peer: connection.Endpoint, lasts: float | None = None) -> Held:
        """Record a program that was started just now; it may run for `lasts` seconds, or for ever."""

    def release(self, held: Held) -> None:
        """Forget a program that has ended."""


def boot_time() -> float:
    """Return the seconds since boot, the clock of `Held.started`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def create() -> int:
    """Return the descriptor of a new, empty ledger."""
    return os.memfd_create(_NAME, os.MFD_CLOEXEC)


class Ledger:
    """Maps a ledger into memory. Record numbers are dense: a freed one is used again first.

    Raises:
        LedgerError: it has another layout; it is left as it is.
    """

    def __init__(self, fd: int, capacity: int) -> None:
        found = os.readlink(f"/proc/self/fd/{fd}").removeprefix("/memfd:").removesuffix(" (deleted)")
        if found != _NAME:
            raise LedgerError(f"cannot use the ledger {found}: this version of tcpdconf knows {_NAME}")
        self._fd = fd
        self._free: list[int] = []
        self._next = 0
        self.grow(capacity)

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` records; a ledger never shrinks.

        If it is larger than it can have grown, only the beginning is used.
        """
        size, found = HEADER + capacity * _RECORD.size, os.fstat(self._fd).st_size
        if found < size:
            os.ftruncate(self._fd, size)
        self._map = mmap.mmap(self._fd, max(size, min(found, _MOST)))
        self._end = (len(self._map) - HEADER) // _RECORD.size
        header = memoryview(self._map)[:HEADER]
        self._numbers = header.cast("Q")
        self._sums = header.cast("d")

    def set(self, name: Counter | Gauge, value: int) -> None:
        """Set a counter or a gauge."""
        self._numbers[_PLACES[name]] = value

    def count(self, name: Counter) -> None:
        """Add one to a counter."""
        numbers, at = self._numbers, _PLACES[name]
        numbers[at] = min(numbers[at] + 1, _LARGEST)

    def observe(self, name: Measure, seconds: float) -> None:
        """Add a time to a histogram."""
        first, total, bounds = _HISTOGRAMS[name]
        numbers, at = self._numbers, first + bisect.bisect_left(bounds, seconds)
        numbers[at] = min(numbers[at] + 1, _LARGEST)
        self._sums[total] += seconds

    def counts(self) -> dict[str, int]:
        """Return all counters by name."""
        return {name: self._numbers[_PLACES[name]] for name in COUNTERS}

    def hold(self, pid: int, peer: connection.Endpoint, lasts: float | None = None) -> Held:
        """Record a program that was started just now; it may run for `lasts` seconds, or for ever."""
        started = boot_time()
        return self.record(pid, peer, started, NEVER if lasts is None else started + lasts)

    def record(self, pid: int, peer: connection.Endpoint, started: float, until: float = NEVER) -> Held:
        """Record a program that was started at `started`, and must end at `until` (seconds since boot)."""
        if self._free:
            index = self._free.pop()
        else:
            index = self._next
            self._next += 1
            if index >= self._end:  # a program of an earlier worker, beyond this one's slots
                self.grow(2 * self._end + 1)
        address = peer.value.to_bytes(16)
        _RECORD.pack_into(self._map, self._at(index), pid, peer.port, peer.version, started, until, address)
        return Held(index, pid, peer, started, until)

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
            pid, port, version, started, until, address = _RECORD.unpack_from(self._map, self._at(index))
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
                until = until if until >= started else NEVER  # a lie, and perhaps no number
                found[pid] = (Held(index, pid, peer, started, until), runs)
        used = {held.record for held, _ in found.values()}
        self._next = max(used, default=-1) + 1
        self._free = [index for index in range(self._next) if index not in used]
        for index in written - used:
            self._clear(index)
        return list(found.values())

    def _clear(self, index: int) -> None:
        _RECORD.pack_into(self._map, self._at(index), 0, 0, 0, 0.0, 0.0, b"")

    def _at(self, index: int) -> int:
        return HEADER + index * _RECORD.size


def _peer(version: int, address: bytes, port: int) -> connection.Endpoint | None:
    """Return the endpoint in a record, or None if it is not valid."""
    value = int.from_bytes(address)
    if version not in access_table.BITS or value >= 1 << access_table.BITS[version]:
        return None
    return connection.endpoint(version, value, port)


class Histogram(NamedTuple):
    """Holds how many times were in each bucket of a histogram, and their sum in seconds."""

    counts: tuple[int, ...]
    total: float


class Snapshot(NamedTuple):
    """Holds the contents of a ledger at one moment; a worker may have written anything."""

    counts: dict[str, int]
    held: list[Held]
    gauges: dict[str, int]
    histograms: dict[Measure, Histogram]


def snapshot(fd: int) -> Snapshot:
    """Read a ledger that another process writes."""
    data = os.pread(fd, min(os.fstat(fd).st_size, _MOST), 0)
    if len(data) < HEADER:  # it is new
        data = bytes(HEADER)
    header = memoryview(data)[:HEADER]
    numbers, sums = header.cast("Q"), header.cast("d")
    counts: dict[str, int] = {name: numbers[_PLACES[name]] for name in COUNTERS}
    gauges: dict[str, int] = {name: numbers[_PLACES[name]] for name in GAUGES}
    histograms = {
        name: Histogram(tuple(numbers[place.first : place.sum]), _finite(sums[place.sum]))
        for name, place in _HISTOGRAMS.items()
    }
    held = []
    for index in range((len(data) - HEADER) // _RECORD.size):
        pid, port, version, started, _, address = _RECORD.unpack_from(data, HEADER + index * _RECORD.size)
        peer = _peer(version, address, port) if pid else None
        if peer is not None and 0 <= started < math.inf:
            held.append(Held(index, pid, peer, started))
    return Snapshot(counts, held, gauges, histograms)


def combined(found: Sequence[Snapshot]) -> Snapshot:
    """Return one snapshot for the ledgers of all workers of a service; of starts it has the latest."""
    if len(found) == 1:
        return found[0]
    gauges: dict[str, int] = {name: sum(each.gauges[name] for each in found) for name in GAUGES}
    gauges["started"] = max(each.gauges["started"] for each in found)
    return Snapshot(
        {name: sum(each.counts[name] for each in found) for name in COUNTERS},
        [held for each in found for held in each.held],
        gauges,
        {name: _added([each.histograms[name] for each in found]) for name in BOUNDS},
    )


def history(found: Snapshot) -> Snapshot:
    """Return what a ledger has counted, without what is only present."""
    return found._replace(counts={**found.counts, "connections": 0}, held=[], gauges=dict.fromkeys(GAUGES, 0))


def _added(histograms: Sequence[Histogram]) -> Histogram:
    counts = tuple(map(sum, zip(*(each.counts for each in histograms), strict=True)))
    return Histogram(counts, sum(each.total for each in histograms))


def connections(fd: int) -> int:
    """Return the number of taken slots in a ledger that another process writes."""
    found = os.pread(fd, _NUMBER, _PLACES["connections"] * _NUMBER)
    return int.from_bytes(found, sys.byteorder)  # 0 if it is new


def _finite(seconds: float) -> float:
    return seconds if 0 <= seconds < math.inf else 0.0
