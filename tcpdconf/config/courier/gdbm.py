"""Reads the records of GDBM databases without libgdbm. No byte of the file is trusted.

A file has a header block, a directory, the buckets and the records. The directory has 2^dir_bits bucket
addresses, indexed by the first bits of a key's hash. A bucket is a small table of elements. A record is a key
and a value side by side. The magic number gives the byte order and the size of a file offset. Offsets of 8
bytes are aligned to 8 bytes, or to 4 if the database was written on i386. The numsync format differs in what
follows the header, which is not read. Free space is not read either. (GDBM manual, chapter "Compatibility
with standard dbm and ndbm" and the format notes of gdbm-1.23.)

The reader checks every offset and size against the file. Nothing may overlap, so the size of the file bounds
the work. Each bucket must be in its place in the directory, and each key must have the hash of its element.
"""

import itertools
import operator
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

Data = bytes | bytearray | memoryview

_HASH_BITS: Final = 31
_UNUSED: Final = 0xFFFFFFFF  # the hash of an empty element
_SHIFTS: Final = tuple(i * 5 % 24 for i in range(24))
_HEADER: Final = 40  # bytes of the longest header


class GdbmError(ValueError):
    """Reports that the file is not a GDBM database, or is damaged; `offset` is in bytes."""

    def __init__(self, offset: int, text: str) -> None:
        super().__init__(text)
        self.offset = offset


class _Shape(NamedTuple):
    """Describes how C lays out the structures: struct formats, and positions in a bucket."""

    header: str  # block size, directory, its size and bits, bucket size, elements, end of the file
    address: str  # one directory entry
    bits: int  # position of a bucket's number of hash bits and count of elements
    element: str  # hash, address of the record, sizes of key and value

    @property
    def table(self) -> int:
        """Return the position of a bucket's elements."""
        return self.bits + 8


_SHAPE32: Final = _Shape("4xIIIIIII", "I", 52, "I4xIII")
_SHAPE64: Final = _Shape("4xIQIIIIQ", "Q", 104, "I4xQII")
_SHAPE64_I386: Final = _SHAPE64._replace(bits=76)
_SHAPES: Final = {
    0x13579ACD: (_SHAPE32,),
    0x13579ACE: (_SHAPE32, _SHAPE64, _SHAPE64_I386),  # the oldest: offsets of any size
    0x13579ACF: (_SHAPE64, _SHAPE64_I386),
    0x13579AD0: (_SHAPE32,),
    0x13579AD1: (_SHAPE64, _SHAPE64_I386),
}


class _Header(NamedTuple):
    order: str  # "<" or ">"
    shape: _Shape
    block_size: int
    directory: int
    directory_size: int
    bits: int
    bucket_size: int
    elements: int
    end: int


class _Bucket(NamedTuple):
    offset: int
    bits: int  # number of leading hash bits that select this bucket
    prefix: int  # those bits


class _Element(NamedTuple):
    hash: int
    offset: int
    key_size: int
    value_size: int


def is_database(data: Data) -> bool:
    """Return whether the first bytes are those of a GDBM database."""
    return _magic(data) is not None


def records(data: Data) -> list[tuple[bytes, bytes]]:
    """Return all (key, value) pairs of a database, in no particular order.

    Raises:
        GdbmError: the file is not a GDBM database, or is damaged.
    """
    header = _header(data)
    buckets = list(_buckets(data, header))
    blocks = [(0, header.block_size), (header.directory, header.directory + header.directory_size)]
    blocks += [(bucket.offset, bucket.offset + header.bucket_size) for bucket in buckets]
    _check_apart(blocks)
    elements = [element for bucket in buckets for element in _elements(data, header, bucket)]
    blocks += [(e.offset, e.offset + e.key_size + e.value_size) for e in elements]
    _check_apart(blocks)
    return [_record(data, element) for element in elements]


def _magic(data: Data) -> tuple[str, int] | None:
    """Return byte order and magic number, or None."""
    for order in "<>":
        if len(data) >= 4:
            number: int = struct.unpack_from(f"{order}I", data)[0]
            if number in _SHAPES:
                return order, number
    return None


def _header(data: Data) -> _Header:
    magic = _magic(data)
    if magic is None:
        raise GdbmError(0, "no GDBM database")
    if len(data) < _HEADER:
        raise GdbmError(len(data), "the file ends within its header")
    order, number = magic
    headers = [
        _Header(order, shape, *struct.unpack_from(order + shape.header, data)) for shape in _SHAPES[number]
    ]
    header = next((h for h in headers if _fits(h)), None)
    if header is None:
        raise GdbmError(4, "the sizes in the header contradict each other")
    if not header.directory + header.directory_size <= len(data):
        raise GdbmError(8, f"the directory at {header.directory:#x} does not lie within the file")
    if header.end < len(data):  # gdbm before 1.20 left bytes beyond the end
        raise GdbmError(header.end, "the file goes on after the end of the database")
    return header


def _fits(header: _Header) -> bool:
    """Return whether the sizes are those of this shape; shapes with the same magic differ in them."""
    shape = header.shape
    room = header.bucket_size - shape.table
    return (
        header.bits <= _HASH_BITS
        and header.directory_size == struct.calcsize(f"={shape.address}") << header.bits
        and room > 0
        and header.elements == room // struct.calcsize(f"={shape.element}") > 0
    )


def _buckets(data: Data, header: _Header) -> Iterator[_Bucket]:
    """Yield each bucket once; fewer bits than the directory mean 2^difference entries in a row."""
    entries = 1 << header.bits
    directory = struct.unpack_from(f"{header.order}{entries}{header.shape.address}", data, header.directory)
    size = header.directory_size // entries
    index = 0
    while index < entries:
        offset = directory[index]
        place = header.directory + index * size
        if offset + header.bucket_size > len(data):
            raise GdbmError(place, f"the bucket at {offset:#x} does not lie within the file")
        bits = _integer(data, header, offset + header.shape.bits)
        if bits > header.bits:
            raise GdbmError(offset + header.shape.bits, f"a bucket of {bits} bits cannot be at {place:#x}")
        span = 1 << header.bits - bits
        if directory[index : index + span].count(offset) != span:
            raise GdbmError(place, f"the directory does not point {span} times to the bucket at {offset:#x}")
        yield _Bucket(offset, bits, index // span)
        index += span


def _elements(data: Data, header: _Header, bucket: _Bucket) -> list[_Element]:
    shape = header.shape
    form = header.order + shape.element
    start = bucket.offset + shape.table
    size = struct.calcsize(form)
    table = data[start : start + header.elements * size]
    found = []
    for index, fields in enumerate(struct.iter_unpack(form, table)):
        element = _Element(*fields)
        if element.hash == _UNUSED:
            continue
        place = start + index * size
        if element.hash >> _HASH_BITS - bucket.bits != bucket.prefix:
            raise GdbmError(place, f"an element with hash {element.hash:#x} is in the wrong bucket")
        if element.offset + element.key_size + element.value_size > len(data):
            raise GdbmError(place, f"the record at {element.offset:#x} does not lie within the file")
        found.append(element)
    count = _integer(data, header, bucket.offset + shape.bits + 4)
    if count != len(found):
        raise GdbmError(bucket.offset + shape.bits + 4, f"a bucket of {count} elements holds {len(found)}")
    return found


def _integer(data: Data, header: _Header, offset: int) -> int:
    value: int = struct.unpack_from(f"{header.order}I", data, offset)[0]
    return value


def _check_apart(blocks: list[tuple[int, int]]) -> None:
    """Check that no two [start, end) overlap: each byte of the file belongs to one part."""
    for (_, end), (start, _) in itertools.pairwise(sorted(blocks)):
        if start < end:
            raise GdbmError(start, "two parts of the database overlap")


def _record(data: Data, element: _Element) -> tuple[bytes, bytes]:
    middle = element.offset + element.key_size
    key = bytes(data[element.offset : middle])
    if not _has_hash(key, element.hash):
        raise GdbmError(element.offset, f"a key does not have the hash {element.hash:#x} of its element")
    return key, bytes(data[middle : middle + element.value_size])


def _has_hash(key: bytes, expected: int) -> bool:
    """Return whether a key has the expected hash.

    GDBM adds up the bytes as C's char, which is signed on some machines only.
    """
    if _hash(key) == expected:
        return True
    return not key.isascii() and _hash([byte - 256 if byte > 127 else byte for byte in key]) == expected


def _hash(key: bytes | list[int]) -> int:
    total: int = 0x238F13AF * len(key) + sum(map(operator.lshift, key, itertools.cycle(_SHIFTS)))
    return 1103515243 * total + 12345 & 0x7FFFFFFF
