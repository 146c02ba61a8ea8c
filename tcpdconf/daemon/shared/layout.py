"""Lays out the memory that workers share.

    header                which places there are, and which service each serves; the supervisor writes it
    segment of place 0    the worker in this place alone writes it
      words               generation, size of the counts, taken slots, whether the worker has paused
      rates               buckets of cells: when the token bucket of a network is full again
      counts              buckets of cells: how many connections a network holds
    segment of place 1
    ...

A bucket has 16 cells. A cell has a value of 8 bytes and a key of 24 bytes. A cell with the value 0 is free.
So a reader looks at two buckets at most, whatever another process has written there.

The file is sparse: memory is used only where somebody has written or looked.
"""

import struct
from typing import Final

PLACES: Final = 1024
WORD: Final = 8  # bytes
VERSION, COUNT, FIRST = 0, 1, 2  # words of the header; from FIRST on the number of each place's service
HEADER: Final = 16384  # bytes
SEGMENT: Final = 1 << 27  # bytes from one segment to the next

GENERATION, BITS, TAKEN, PAUSED = 0, 1, 2, 3  # words of a segment
CELLS: Final = 16  # in a bucket
CELL: Final = 32  # bytes
KEY: Final = 24  # bytes; a tag of 8 and a network of 16
BUCKET: Final = CELLS * CELL
RATES: Final = 4096  # offset in a segment
RATE_BITS: Final = 12  # 65536 cells, as many networks as a worker remembers for a rate of its own
COUNTS: Final = RATES + (BUCKET << RATE_BITS)  # offset in a segment
LEAST_BITS, MOST_BITS = 3, 16
_LARGEST: Final = 1 << 62  # a larger generation is not one, and would be no offset in a file


def size(places: int = PLACES) -> int:
    """Return the bytes of the file up to the end of so many segments."""
    return HEADER + places * SEGMENT


def word(place: int, number: int) -> int:
    """Return which word of the file is a word of a segment."""
    return size(place) // WORD + number


def counts(bits: int) -> int:
    """Return the offset, in a segment, of the counts in 2^bits buckets.

    The counts of each size have a region of their own. So a worker writes all of a larger one before it
    changes the word BITS.
    """
    return COUNTS + (BUCKET << bits)


def bits(entries: int) -> int:
    """Return the size that has room for so many networks: half of the cells stay free."""
    return min(max((2 * entries // CELLS).bit_length(), LEAST_BITS), MOST_BITS)


def buckets(key: bytes, size: int) -> tuple[int, int]:
    """Return the two buckets, of 2^size, in which a count may be.

    All workers are forked from one process, so the interpreter's hash has the same secret in each of them.
    """
    found, mask = hash(key), (1 << size) - 1
    return found & mask, (found >> 32) & mask


def rates(key: bytes) -> int:
    """Return the offset, in a segment, of the bucket in which the rate of a key may be."""
    return RATES + buckets(key, RATE_BITS)[0] * BUCKET


def generation(word: int) -> int:
    """Return a generation as it was read; what cannot be one is 0."""
    return word if word < _LARGEST else 0


def found(bucket: bytes, key: bytes) -> int:
    """Return the offset of the cell with a key in a bucket, or -1."""
    at = bucket.find(key)
    while at >= 0 and at % CELL != WORD:  # the bytes are there by chance, across two cells
        at = bucket.find(key, at + 1)
    return at - WORD if at >= 0 else -1


COUNTED: Final = struct.Struct("=Q")
FULL_AT: Final = struct.Struct("=d")
