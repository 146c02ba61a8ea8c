"""Reads the segments of all places, and writes that of one."""

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
    """Maps the header and the segments of so many places, to read them; they may hold anything."""

    def __init__(self, fd: int, places: int) -> None:
        self._memory = mmap.mmap(fd, layout.size(places), access=mmap.ACCESS_READ)
        self.words = memoryview(self._memory).cast("Q")

    def held(self, places: Sequence[int], key: bytes) -> int:
        """Return how many connections these places hold under a key.

        This is the longest part of the time for which a worker keeps others waiting, so it calls little.
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
        """Return the latest time that one of these places has for a key, or 0."""
        memory, at, latest = self._memory, layout.rates(key), 0.0
        for place in places:
            start = layout.size(place) + at
            bucket = memory[start : start + layout.BUCKET]
            cell = layout.found(bucket, key)
            if cell >= 0:
                latest = max(latest, layout.FULL_AT.unpack_from(bucket, cell)[0])  # not if it is no number
        return latest


class OwnSegment:
    """Maps the segment of this process, which alone writes it; finds what an earlier process has left.

    The counts never get a smaller region. A count that finds no free cell is not shared. That takes more than
    30 networks in two buckets, while half of all cells are free.
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
        """Set one of the first words."""
        self._words[word] = value

    def counted(self) -> list[bytes]:
        """Return the keys of all counts."""
        return list(self._cells)

    def fit(self, entries: int) -> None:
        """Make room for so many counts; those that are there stay visible to others all the time."""
        bits = layout.bits(entries)
        if bits <= self._bits:
            return
        self._memory.madvise(mmap.MADV_REMOVE, layout.counts(bits), layout.BUCKET << bits)
        before, self._cells, self._bits = self._cells, {}, bits
        for key, at in before.items():
            self.put(key, self._words[at])
        self._words[layout.BITS] = bits

    def put(self, key: bytes, value: int) -> None:
        """Set a count; 0 forgets the key. Call `fit` before."""
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
        """Set when the token bucket of a key is full; return what this place knew before, 0 if nothing.

        A network whose bucket is full by `now` is forgotten, or else the one whose bucket is full first.
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
        """Return the word of a free cell for a key, in the emptier one of its buckets."""
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

        Reading through the mapping would use memory where nothing is.
        """
        start, length = layout.counts(self._bits), layout.BUCKET << self._bits
        data = os.pread(fd, length, layout.size(place) + start)
        for at in range(0, length, layout.CELL):
            if data[at : at + layout.WORD] != _FREE:
                yield data[at + layout.WORD : at + layout.CELL], (start + at) // layout.WORD

    def _write_key(self, word: int, key: bytes) -> None:
        at = (word + 1) * layout.WORD
        self._memory[at : at + layout.KEY] = key
