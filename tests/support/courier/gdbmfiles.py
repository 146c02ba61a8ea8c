"""Writes GDBM databases of every form, including those that this host's libgdbm cannot write."""

import struct
from collections.abc import Mapping
from typing import NamedTuple

_UNUSED = -1
_SHARED_BITS = 6  # a directory of 64 entries to begin with


class Form(NamedTuple):
    """Holds the properties of the host and the libgdbm that write a file."""

    order: str  # "<" or ">"
    offset: int  # bytes of a file offset
    alignment: int  # of such an offset within a structure
    numsync: bool = False
    oldest: bool = False  # the magic number of the first versions
    signed: bool = True  # C's char

    @property
    def magic(self) -> int:
        """The number at the beginning of the file."""
        if self.oldest:
            return 0x13579ACE
        return {(4, False): 0x13579ACD, (8, False): 0x13579ACF, (4, True): 0x13579AD0, (8, True): 0x13579AD1}[
            self.offset, self.numsync
        ]

    def pack(self, form: str, *numbers: int | bytes) -> bytes:
        """Pack with "o" for an offset and "p" for the padding that an offset needs after one int."""
        form = form.replace("o", "I" if self.offset == 4 else "Q")
        return struct.pack(self.order + form.replace("p", "4x" if self.alignment == 8 else ""), *numbers)


AMD64 = Form("<", 8, 8)
FORMS = {
    "amd64": AMD64,
    "amd64-numsync": AMD64._replace(numsync=True),
    "amd64-oldest": AMD64._replace(oldest=True),
    "i386": Form("<", 8, 4),
    "i386-numsync": Form("<", 8, 4, numsync=True),
    "i386-small-offsets": Form("<", 4, 4),
    "i386-small-offsets-numsync": Form("<", 4, 4, numsync=True),
    "i386-oldest": Form("<", 4, 4, oldest=True),
    "s390x": Form(">", 8, 8, signed=False),
    "s390x-numsync": Form(">", 8, 8, numsync=True, signed=False),
    "powerpc": Form(">", 4, 4, signed=False),
    "powerpc-numsync": Form(">", 4, 4, numsync=True, signed=False),
    "powerpc-oldest": Form(">", 4, 4, oldest=True, signed=False),
}


class _Bucket(NamedTuple):
    bits: int
    prefix: int
    keys: list[bytes]


def hash_of(key: bytes, form: Form) -> int:
    """GDBM's hash, 31 bits."""
    value = 0x238F13AF * len(key)
    for index, byte in enumerate(key):
        value += (byte - 256 if form.signed and byte > 127 else byte) << (index * 5 % 24)
    return (1103515243 * (value & 0x7FFFFFFF) + 12345) & 0x7FFFFFFF


def write(records: Mapping[bytes, bytes], form: Form = AMD64, block_size: int = 512) -> bytearray:
    """A database with these records: header, directory, buckets, records."""
    head = len(_bucket_head(form, 0, 0))
    elements = (block_size - head) // len(_element(form, b"", 0, b""))
    buckets = _split(_Bucket(0, 0, list(records)), form, elements)
    bits = max(_SHARED_BITS, *(bucket.bits for bucket in buckets))
    start = block_size + (form.offset << bits)
    first_record = position = start + block_size * len(buckets)
    directory, tables, data = [0] * (1 << bits), bytearray(), bytearray()
    for number, bucket in enumerate(buckets):
        span = 1 << bits - bucket.bits
        directory[bucket.prefix * span : (bucket.prefix + 1) * span] = [start + number * block_size] * span
        slots = [_element(form, b"", 0, b"", _UNUSED)] * elements
        for key in bucket.keys:
            slot = hash_of(key, form) % elements
            while slots[slot][:4] != b"\xff\xff\xff\xff":
                slot = (slot + 1) % elements
            slots[slot] = _element(form, key, position, records[key], hash_of(key, form))
            data += key + records[key]
            position = first_record + len(data)
        tables += (_bucket_head(form, bucket.bits, len(bucket.keys)) + b"".join(slots)).ljust(
            block_size, b"\0"
        )
    header = form.pack(
        "IIoIIIIo",
        form.magic,
        block_size,
        block_size,
        form.offset << bits,
        bits,
        block_size,
        elements,
        position,
    )
    header += bytes(32) if form.numsync else b""
    available = (block_size - len(header) - 8 - form.offset) // len(form.pack("Ipo", 0, 0))
    header += form.pack("IIo", available, 0, 0)
    return bytearray(
        header.ljust(block_size, b"\0") + form.pack("o" * len(directory), *directory) + tables + data
    )


def _split(bucket: _Bucket, form: Form, elements: int) -> list[_Bucket]:
    """As GDBM does it: a bucket that is full becomes two, by one more bit of the hash."""
    if len(bucket.keys) <= elements:
        return [bucket]
    halves: tuple[list[bytes], list[bytes]] = ([], [])
    for key in bucket.keys:
        halves[hash_of(key, form) >> 30 - bucket.bits & 1].append(key)
    return [
        part
        for bit, keys in enumerate(halves)
        for part in _split(_Bucket(bucket.bits + 1, bucket.prefix << 1 | bit, keys), form, elements)
    ]


def _bucket_head(form: Form, bits: int, count: int) -> bytes:
    return form.pack("Ip" + "Ipo" * 6 + "II", 0, *[0] * 12, bits, count)


def _element(form: Form, key: bytes, position: int, value: bytes, hashed: int = 0) -> bytes:
    return form.pack("i4soII", hashed, key, position, len(key), len(value))
