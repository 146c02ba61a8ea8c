"""What a service's worker holds, in memory that outlives it.

A memfd of the supervisor's: counters, and a record of every running program. A worker that takes over after a
crash reads who is there, so that a limit holds; the supervisor reads the counters without asking anybody.
The worker can write anything into it, so a reader believes nothing but numbers, whatever they are.

Between a program's start and its record lie some microseconds, or the start of another one; a program that is
started when its worker is killed there is not counted afterwards.
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
_READ: Final = 100_000  # records that are read of a ledger; the rest are a worker's that lies, as a rule
_MOST: Final = _HEADER + _READ * _RECORD.size  # bytes
_LARGEST: Final = (1 << 8 * _COUNTER.size) - 1


class Held(NamedTuple):
    """One running program: `started` in seconds since boot."""

    record: int
    pid: int
    peer: connection.Endpoint
    started: float


class Books(Protocol):
    """Where it is written down who holds a slot and what has been counted: a `Ledger`, as a rule."""

    def set(self, name: Counter, value: int) -> None:
        """Set a counter."""

    def count(self, name: Counter) -> None:
        """Add one to a counter."""

    def hold(self, pid: int, peer: connection.Endpoint) -> Held:
        """Record a program that was started just now."""

    def release(self, held: Held) -> None:
        """Forget a program that has ended."""


def boot_time() -> float:
    """Seconds since boot, as programs' starts are noted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def create() -> int:
    """A new, empty ledger: its descriptor."""
    return os.memfd_create("tcpdconf-ledger", os.MFD_CLOEXEC)


class Ledger:
    """A ledger, mapped. Record numbers are dense: a freed one is used again first."""

    def __init__(self, fd: int, capacity: int) -> None:
        self._fd = fd
        self._free: list[int] = []
        self._next = 0
        self.grow(capacity)

    def grow(self, capacity: int) -> None:
        """Make room for so many records; it never gets smaller.

        Of one that is larger than it can have become, only the beginning is used.
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
        """All counters."""
        return {name: _COUNTER.unpack_from(self._map, at)[0] for name, at in _OFFSETS.items()}

    def hold(self, pid: int, peer: connection.Endpoint, started: float | None = None) -> Held:
        """Record a program that was started just now, or when it is said to have been."""
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
        """The programs of earlier workers that still run; to be called once, before `hold`.

        Two records of one process are one: the later counts, since the other one was of another process with
        this number, which has ended.
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
    """The end that a record names, if it is one."""
    value = int.from_bytes(address)
    if version not in access_table.BITS or value >= 1 << access_table.BITS[version]:
        return None
    return connection.endpoint(version, value, port)


class Snapshot(NamedTuple):
    """What a ledger says at one moment; of a worker that lies it says what that worker wants."""

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
