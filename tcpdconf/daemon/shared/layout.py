"""Defines the layout of the memory that workers share. A place is the slot of one worker in it.

    header                version, number of places, service of each place; the supervisor writes it
    segment of place 0    only the worker in this place writes it
      words               generation, size of the counts, taken slots, 1 if the worker has paused
      rates               buckets of cells: when the token bucket of a network is full again
      counts              buckets of cells: how many connections a network holds
    segment of place 1
    ...

A bucket has 16 cells. A cell has a value of 8 bytes and a key of 24 bytes. A cell with the value 0 is free.
So a reader reads two buckets at most, whatever another process has written there.

The file is sparse: only pages that were written, or read through a mapping, use memory.
"""

import struct
from typing import Final

PLACES: Final = 1024
WORD: Final = 8  # bytes
VERSION, COUNT, FIRST = 0, 1, 2  # words of the header; from FIRST on one for each place: its service
HEADER: Final = 16384  # bytes
SEGMENT: Final = 1 << 27  # bytes from one segment to the next

GENERATION, BITS, TAKEN, PAUSED = 0, 1, 2, 3  # words of a segment
CELLS: Final = 16  # in a bucket
CELL: Final = 32  # bytes
KEY: Final = 24  # bytes; a tag of 8 and a network of 16
BUCKET: Final = CELLS * CELL
RATES: Final = 4096  # offset in a segment
RATE_BITS: Final = 12  # 65536 cells: as many networks as a rate in a worker's own memory
COUNTS: Final = RATES + (BUCKET << RATE_BITS)  # offset in a segment
LEAST_BITS, MOST_BITS = 3, 16
_LARGEST: Final = 1 << 62  # a larger generation was forged: it is no valid file offset


def size(places: int = PLACES) -> int:
    """Return the size in bytes of a file with this number of segments."""
    return HEADER + places * SEGMENT


def word(place: int, number: int) -> int:
    """Return the index, in words of the file, of one word of a place's segment."""
    return size(place) // WORD + number


def counts(bits: int) -> int:
    """Return the offset, in a segment, of the counts in 2^bits buckets.

    The counts of each size have a region of their own. So a worker fills the larger region before it changes
    the word BITS.
    """
    return COUNTS + (BUCKET << bits)


def bits(entries: int) -> int:
    """Return the size (log2 of the buckets) for this number of networks; half of the cells stay free."""
    return min(max((2 * entries // CELLS).bit_length(), LEAST_BITS), MOST_BITS)


def buckets(key: bytes, size: int) -> tuple[int, int]:
    """Return the numbers of the two buckets, out of 2^size, that may hold a count.

    All workers are forked from one process, so their interpreters have the same secret for `hash`.
    """
    found, mask = hash(key), (1 << size) - 1
    return found & mask, (found >> 32) & mask


def rates(key: bytes) -> int:
    """Return the offset, in a segment, of the bucket that may hold the rate of a key."""
    return RATES + buckets(key, RATE_BITS)[0] * BUCKET


def generation(word: int) -> int:
    """Return a generation that was read from a word, or 0 if it is out of range."""
    return word if word < _LARGEST else 0


def found(bucket: bytes, key: bytes) -> int:
    """Return the offset, in a bucket, of the cell with a key, or -1."""
    at = bucket.find(key)
    while at >= 0 and at % CELL != WORD:  # these bytes cross a cell's bounds
        at = bucket.find(key, at + 1)
    return at - WORD if at >= 0 else -1


COUNTED: Final = struct.Struct("=Q")
FULL_AT: Final = struct.Struct("=d")
