"""Reads the segments of all places, and writes the segment of one."""

import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Final

from tcpdconf.daemon.shared import layout

_EMPTY: Final = bytes(layout.KEY)
_WORDS: Final = layout.CELL // layout.WORD
# names of this module are found faster than those of another one
_HEADER, _SEGMENT, _COUNTS, _BITS = layout.HEADER, layout.SEGMENT, layout.COUNTS, layout.BITS
_BUCKET, _CELL, _WORD = layout.BUCKET, layout.CELL, layout.WORD
_LEAST, _MOST = layout.LEAST_BITS, layout.MOST_BITS
_FREE: Final = bytes(layout.WORD)


class Segments:
    """Maps the header and the segments of the first places, read-only. Their contents are not trusted."""

    def __init__(self, fd: int, places: int) -> None:
        self._memory = mmap.mmap(fd, layout.size(places), access=mmap.ACCESS_READ)
        self.words = memoryview(self._memory).cast("Q")

    def held(self, places: Sequence[int], key: bytes) -> int:
        """Return how many connections these places hold under a key.

        This takes most of the time for which a worker holds the lock, so it avoids function calls.
        """
        words, memory, hashed, total = self.words, self._memory, hash(key), 0
        for place in places:
            start = _HEADER + place * _SEGMENT
            bits = words[start // _WORD + _BITS]
            if not _LEAST <= bits <= _MOST:
                continue
            start += _COUNTS + (_BUCKET << bits)
            mask = (1 << bits) - 1
            for number in (hashed & mask, (hashed >> 32) & mask):
                at = start + number * _BUCKET
                cell = memory[at : at + _BUCKET].find(key)
                if cell >= 0 and cell % _CELL != _WORD:
                    cell = layout.found(memory[at : at + _BUCKET], key) + _WORD
                if cell >= _WORD:
                    total += words[(at + cell) // _WORD - 1]
                    break
        return total

    def full_at(self, places: Sequence[int], key: bytes) -> float:
        """Return the latest time that one of these places has for a key, or 0.0; see `OwnSegment.spend`."""
        memory, at, latest = self._memory, layout.rates(key), 0.0
        for place in places:
            start = layout.size(place) + at
            bucket = memory[start : start + layout.BUCKET]
            cell = layout.found(bucket, key)
            if cell >= 0:
                latest = max(latest, layout.FULL_AT.unpack_from(bucket, cell)[0])  # ignores NaN
        return latest


class OwnSegment:
    """Maps the segment that only this process writes, with the counts that an earlier process has left.

    The region of the counts never shrinks. A count is not shared if its two buckets are full. That is rare,
    because half of all cells are free.
    """

    def __init__(self, fd: int, place: int) -> None:
        self._memory = mmap.mmap(fd, layout.SEGMENT, offset=layout.size(place))
        self._words = memoryview(self._memory).cast("Q")
        self._cells: dict[bytes, int] = {}  # by key, the word of its value
        self._bits = self._words[layout.BITS]
        if layout.LEAST_BITS <= self._bits <= layout.MOST_BITS:
            self._cells = dict(self._found(fd, place))
        else:
            self._bits = 0

    def set(self, word: int, value: int) -> None:
        """Set one of the segment's words, for example `layout.TAKEN`."""
        self._words[word] = value

    def counted(self) -> list[bytes]:
        """Return the keys of all counts."""
        return list(self._cells)

    def fit(self, entries: int) -> None:
        """Make room for this number of counts; existing counts stay visible to other workers throughout."""
        bits = layout.bits(entries)
        if bits <= self._bits:
            return
        self._memory.madvise(mmap.MADV_REMOVE, layout.counts(bits), layout.BUCKET << bits)
        before, self._cells, self._bits = self._cells, {}, bits
        for key, at in before.items():
            self.put(key, self._words[at])
        self._words[layout.BITS] = bits

    def put(self, key: bytes, value: int) -> None:
        """Set a count; 0 removes the key. Call `fit` first."""
        at = self._cells.get(key)
        if at is None:
            at = self._free(key) if value else None
            if at is None:
                return
            self._cells[key] = at
            self._write_key(at, key)
        self._words[at] = value
        if not value:
            self._write_key(at, _EMPTY)
            del self._cells[key]

    def spend(self, key: bytes, full_at: float, now: float) -> float:
        """Set the time at which the token bucket of a key is full again; return the old time, or 0.0.

        A new key replaces one whose bucket is full by `now`, or else the one whose bucket is full first.
        """
        start = layout.rates(key)
        bucket = self._memory[start : start + layout.BUCKET]
        cell = layout.found(bucket, key)
        before = 0.0
        if cell >= 0:
            (before,) = layout.FULL_AT.unpack_from(bucket, cell)
        else:
            known = memoryview(bucket).cast("d")[::_WORDS].tolist()
            cell = layout.CELL * min(range(layout.CELLS), key=lambda one: max(known[one], now))
            self._words[(start + cell) // layout.WORD] = 0
            self._write_key((start + cell) // layout.WORD, key)
        (self._words[(start + cell) // layout.WORD],) = layout.COUNTED.unpack(layout.FULL_AT.pack(full_at))
        return before

    def _free(self, key: bytes) -> int | None:
        """Return the word of a free cell for a key in the emptier one of its buckets, or None."""
        best, most = None, 0
        for number in layout.buckets(key, self._bits):
            first = (layout.counts(self._bits) + number * layout.BUCKET) // layout.WORD
            values = self._words[first : first + layout.CELLS * _WORDS : _WORDS].tolist()
            free = values.count(0)
            if free > most:
                best, most = first + values.index(0) * _WORDS, free
        return best

    def _found(self, fd: int, place: int) -> Iterator[tuple[bytes, int]]:
        """Yield the keys that an earlier process has left, each with the word of its value.

        It reads the file, because reading the mapping would allocate pages that were never written.
        """
        start, length = layout.counts(self._bits), layout.BUCKET << self._bits
        data = os.pread(fd, length, layout.size(place) + start)
        for at in range(0, length, layout.CELL):
            if data[at : at + layout.WORD] != _FREE:
                yield data[at + layout.WORD : at + layout.CELL], (start + at) // layout.WORD

    def _write_key(self, word: int, key: bytes) -> None:
        at = (word + 1) * layout.WORD
        self._memory[at : at + layout.KEY] = key
