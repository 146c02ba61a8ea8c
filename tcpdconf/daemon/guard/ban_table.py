"""Keeps banned networks in memory that the supervisor writes and every worker reads, without a lock.

It is a hash table with open addressing in a memfd. A reader looks up each prefix length that is in use, once.
An entry becomes visible by its tag, which is written last, so a reader never sees one half written. No more
than half of the entries are used, so every search ends. A larger table is another memfd.

A worker has the descriptor of the memfd, and can only read: the memfd is sealed (F_SEAL_FUTURE_WRITE).

Numbers that a reader may read at any time are written through views. `struct.pack_into` would set them to 0
first.
"""

import fcntl
import hashlib
import ipaddress
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from tcpdconf.config.model.values import IPNetwork
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.connection import Endpoint

_HEADER: Final = 4096  # bytes before the entries
# Indexes of the header's numbers of 4 bytes: the entries, the entries of single services, and the changes of
# the prefix lengths in use (odd during a change). From `_COUNTS` on, the entries of each prefix length.
_ENTRIES, _SCOPED, _CHANGES = 0, 1, 2
_COUNTS: Final = {4: 16, 6: 16 + 33}
# The header is followed by one tag of one byte for each entry. Most searches read only tags.
_UNUSED, _DELETED = 0, 1  # any other tag: the entry is used, and the tag is a part of its key's hash
_KEY: Final = struct.Struct("=16sQBB")  # address, scope, version, prefix length
_END: Final = 32  # offset, in an entry, of its end as Unix time (8 bytes), then of its offset in the file
_ENTRY: Final = 48  # bytes of an entry
_LEAST: Final = 1024  # entries of the smallest table
_F_SEAL_FUTURE_WRITE: Final = 0x10  # fcntl(2), Linux 5.1

NEVER: Final = math.inf
"""Stands for the end of a ban that has none."""


class Key(NamedTuple):
    """Identifies a ban by its network and its `scope`: 0 for all services, else the result of `scope`."""

    version: int
    prefix: int
    value: int
    scope: int

    def packed(self) -> bytes:
        """Return the key as it is in the table."""
        return _KEY.pack(self.value.to_bytes(16), self.scope, self.version, self.prefix)


def scope(service: str | None) -> int:
    """Return the number that stands for a service in the table; 0 for all services."""
    if service is None:
        return 0
    return int.from_bytes(hashlib.blake2b(service.encode(), digest_size=8).digest()) or 1


def key(network: IPNetwork, service: str | None) -> Key:
    """Return the key of a ban."""
    return Key(network.version, network.prefixlen, int(network.network_address), scope(service))


class Reader:
    """Finds the bans of clients."""

    def __init__(self, fd: int) -> None:
        self._use(mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ))

    def _use(self, memory: mmap.mmap) -> None:
        self._map = memory
        size = (len(memory) - _HEADER) // (1 + _ENTRY)
        self._mask = size - 1
        self._head = memoryview(memory)[:_HEADER].cast("I")
        self._tags = memoryview(memory)[_HEADER : _HEADER + size]
        self._first = _HEADER + size  # offset of the first entry
        self._ends = memoryview(memory).cast("d")
        self._changes = -1
        self._lengths: dict[int, tuple[tuple[int, int], ...]] = {}  # prefix and shift, by version

    def find(self, peer: Endpoint, own: int, now: float) -> Key | None:
        """Return the widest ban of this client, or None; `own` is the service's scope, `now` is Unix time."""
        head = self._head
        if not head[_ENTRIES]:
            return None
        if head[_CHANGES] != self._changes:
            self._learn()
        version, value = peer.version, peer.value
        scopes = (0, own) if head[_SCOPED] else (0,)
        for prefix, shift in self._lengths[version]:
            masked = value >> shift << shift
            address = masked.to_bytes(16)
            for each in scopes:
                at = self._place(_KEY.pack(address, each, version, prefix))
                if at is not None and self._ends[at + _END >> 3] > now:
                    return Key(version, prefix, masked, each)
        return None

    def _learn(self) -> None:
        """Read which prefix lengths are in use; read them again next time if they change meanwhile."""
        changes = self._head[_CHANGES]
        for version, bits in access_table.BITS.items():
            counts = self._head[_COUNTS[version] :][: bits + 1]
            self._lengths[version] = tuple((n, bits - n) for n, count in enumerate(counts) if count)
        self._changes = changes if changes % 2 == 0 and self._head[_CHANGES] == changes else -1

    def _place(self, wanted: bytes) -> int | None:
        """Return the offset of the entry with a packed key in the memfd, or None.

        The hash is keyed (PEP 456), so clients cannot choose addresses that collide. All processes have the
        same key, since workers are forked.
        """
        tags, mask, hashed = self._tags, self._mask, hash(wanted)
        index, own = hashed & mask, (hashed >> 40 & 0x7F) | 0x80
        while tag := tags[index]:
            if tag == own:
                at = self._first + index * _ENTRY
                if self._map[at : at + _KEY.size] == wanted:
                    return at
            index = index + 1 & mask
        return None


class Writer(Reader):
    """Creates a table with room for this number of entries, and changes it.

    `fd` is the descriptor for readers. Once `full`, the caller makes a larger table (`copy`).

    Raises:
        OSError: no descriptor or memory is available.
    """

    def __init__(self, entries: int = 0) -> None:
        size = max(_LEAST, 1 << (2 * entries).bit_length())  # a power of 2, for `_mask`
        self.fd = os.memfd_create("tcpdconf-bans", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(self.fd, 0o600)
            os.ftruncate(self.fd, _HEADER + size * (1 + _ENTRY))
            self._use(mmap.mmap(self.fd, 0))
            self._map.madvise(mmap.MADV_DONTFORK)  # else workers would inherit a map that they can write
            _seal(self.fd)
        except BaseException:
            os.close(self.fd)
            raise
        self._places = memoryview(self._map).cast("Q")
        self._free = size // 2

    def close(self) -> None:
        """Close the descriptor; readers keep the memory."""
        os.close(self.fd)

    @property
    def full(self) -> bool:
        """True if no further entry may be added."""
        return self._free == 0

    def __len__(self) -> int:
        return self._head[_ENTRIES]

    def get(self, key: Key) -> tuple[float, int] | None:
        """Return the end of a ban (Unix time) and its offset in the file; None if the key is not banned."""
        at = self._place(key.packed())
        return None if at is None else (self._ends[at + _END >> 3], self._places[(at + _END >> 3) + 1])

    def set(self, key: Key, until: float, place: int) -> None:
        """Add or change a ban that ends at the Unix time `until`; add none while the table is `full`."""
        packed = key.packed()
        at = self._place(packed)
        if at is None:
            self._add(packed, until, place)
            return
        self._ends[at + _END >> 3] = until
        self._places[(at + _END >> 3) + 1] = place

    def delete(self, key: Key) -> bool:
        """Delete a ban; return whether there was one."""
        at = self._place(key.packed())
        if at is not None:
            self._delete(at)
        return at is not None

    def entries(self) -> Iterator[tuple[int, float, int]]:
        """Yield the offset of each ban in the table, its end as Unix time, and its offset in the file."""
        for index, tag in enumerate(bytes(self._tags)):
            if tag > _DELETED:
                at = self._first + index * _ENTRY
                yield at, self._ends[at + _END >> 3], self._places[(at + _END >> 3) + 1]

    def move(self, at: int, place: int) -> None:
        """Change the offset in the file (`place`) of the ban at the offset `at` of the table."""
        self._places[(at + _END >> 3) + 1] = place

    def expire(self, now: float) -> None:
        """Delete the bans that have ended."""
        for at, until, _ in self.entries():
            if until <= now:
                self._delete(at)

    def copy(self, now: float) -> "Writer":
        """Return a table of the bans that have not ended, with room for more.

        Raises:
            OSError: no descriptor or memory is available.
        """
        made = Writer(len(self) * 5 // 4)
        for at, until, place in self.entries():
            if until > now:
                made._add(self._map[at : at + _KEY.size], until, place)
        return made

    def covering(self, networks: Iterable[IPNetwork], own: int, now: float) -> list[Key]:
        """Return the bans of one scope whose network contains one of these networks."""
        found = []
        for network in networks:
            bits, value = network.max_prefixlen, int(network.network_address)
            for prefix in range(network.prefixlen + 1):
                key = Key(network.version, prefix, value >> bits - prefix << bits - prefix, own)
                entry = self.get(key)
                if entry is not None and entry[0] > now:
                    found.append(key)
        return found

    def _add(self, packed: bytes, until: float, place: int) -> None:
        hashed = hash(packed)
        index = hashed & self._mask
        while self._tags[index] != _UNUSED:
            index = index + 1 & self._mask
        at = self._first + index * _ENTRY
        self._free -= 1
        self._map[at : at + _KEY.size] = packed
        self._ends[at + _END >> 3] = until
        self._places[(at + _END >> 3) + 1] = place
        self._tags[index] = _tag(hashed)
        self._count(at, 1)

    def _delete(self, at: int) -> None:
        self._tags[(at - self._first) // _ENTRY] = _DELETED
        self._count(at, -1)

    def _count(self, at: int, change: int) -> None:
        """Update the header's counts for the entry at an offset; `change` is 1 or -1."""
        _, own, version, prefix = _KEY.unpack_from(self._map, at)
        head, index = self._head, _COUNTS[version] + prefix
        count = head[index] + change
        begins_or_ends = count == 0 or (count == 1 and change == 1)
        if begins_or_ends:
            head[_CHANGES] = head[_CHANGES] + 1 & 0xFFFFFFFF
        head[index] = count
        head[_ENTRIES] += change
        if own:
            head[_SCOPED] += change
        if begins_or_ends:
            head[_CHANGES] = head[_CHANGES] + 1 & 0xFFFFFFFF


def shown(key: Key) -> str:
    """Return the network of a ban as text: an address, or a network with its prefix length."""
    bits = access_table.BITS[key.version]
    address = str(ipaddress.ip_address(key.value.to_bytes(bits // 8)))
    return address if key.prefix == bits else f"{address}/{key.prefix}"


def _tag(hashed: int) -> int:
    """Return the tag of a used entry: bits of the hash that do not choose its index."""
    return (hashed >> 40 & 0x7F) | 0x80


def _seal(fd: int) -> None:
    """Seal a memfd: only existing mappings can still write to it, and its size is fixed."""
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | _F_SEAL_FUTURE_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
