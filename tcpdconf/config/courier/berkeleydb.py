"""Reads the records of Berkeley DB files, hash or btree, without libdb. No byte of the file is trusted.

A file consists of pages of one size; page 0 describes the database. Its magic number gives the access method
and the byte order. A page has a header, an array of the offsets of its items, and the items, packed to the
end of the page. In a hash file each bucket is a chain of pages; in a btree the leaves have the records, in
the order of their keys. An item that is too large for its page is in a chain of overflow pages. (db_page.h,
hash.h and btree.h of Berkeley DB 5.3; hash since version 7 and btree since 8 are the same on disk.)

The reader checks every page number, offset and size against the file. No page may be reached twice and no
items may overlap, so the size of the file bounds the work. Items leave no gap, each key is in its bucket or
sorts after the one before it, and no page with records is left over. It does not check the checksums of
pages, which in Python take longer than everything else. Nor does it check the number of records in a hash
file, which begins with the number that its writer expected. Free pages and the keys of inner pages are not
read.

A database whose keys may have several values is read if none has. The reader refuses encrypted and
partitioned databases, and files with several databases.
"""

import itertools
import operator
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

Data = bytes | bytearray | memoryview

_HASH: Final = 0x061561
_BTREE: Final = 0x053162
_METHODS: Final = {_HASH: "hash", _BTREE: "btree", 0x042253: "queue", 0x074582: "heap"}
_VERSIONS: Final = {_HASH: range(7, 10), _BTREE: range(8, 10)}
_META: Final = 512  # bytes of page 0 that are read
_PAGE_SIZES: Final = frozenset(1 << bits for bits in range(9, 17))
_HEADER: Final = 26  # bytes of a page's header; with checksums 6 more
_CHECKSUMS: Final = 1
_PARTITIONED: Final = 6

# types of pages
_HASH_PAGES: Final = frozenset({2, 13})  # unsorted, as written before 4.6, and sorted
_INNER: Final = 3
_LEAF: Final = 5
_OVERFLOW: Final = 7
_WITH_RECORDS: Final = _HASH_PAGES | {_LEAF}

# types of items: an item of its page, values of one key, an item on overflow pages
_PLAIN: Final = 1
_LARGE: Final = 3
_SEVERAL: Final = {_HASH: frozenset({2, 4}), _BTREE: frozenset({2})}
_DELETED: Final = 0x80
_LARGE_SIZE: Final = 12  # bytes of an item that says where its overflow pages begin

_PRIME: Final = 16777619
_TEST_KEY: Final = b"%$sniglet^&\0"  # a hash file stores its hash, which identifies the hash function


class BerkeleyDBError(ValueError):
    """Reports that the file is not a Berkeley DB, is damaged or of another kind; `offset` is in bytes."""

    def __init__(self, offset: int, text: str) -> None:
        super().__init__(text)
        self.offset = offset


class _Page(NamedTuple):
    start: int  # offset in the file
    number: int
    before: int
    after: int
    entries: int
    first: int  # offset of the first item in the page; of an overflow page, its number of bytes
    level: int
    type: int


def is_database(data: Data) -> bool:
    """Return whether the first bytes are those of a Berkeley DB file, of any access method and version."""
    return _magic(data) is not None


def records(data: Data) -> list[tuple[bytes, bytes]]:
    """Return all (key, value) pairs of a database, in no particular order.

    Raises:
        BerkeleyDBError: the file is not a Berkeley DB, is damaged, or of a kind that is not read.
    """
    found = _magic(data)
    if found is None:
        raise BerkeleyDBError(0, "no Berkeley DB file")
    order, magic, place = found
    return list((_Hash if magic == _HASH else _Btree)(data, order, magic, place).records())


def _magic(data: Data) -> tuple[str, int, int] | None:
    """Return byte order, magic number and its offset; version 1.85 had it at the beginning."""
    for order, place in itertools.product("<>", (12, 0)):
        if len(data) >= place + 4:
            number: int = struct.unpack_from(f"{order}I", data, place)[0]
            if number in _METHODS:
                return order, number, place
    return None


class _File:
    """Reads the pages of a file, each at most once."""

    _SUBDATABASES = 0  # the flag of a file with several databases, by access method

    def __init__(self, data: Data, order: str, magic: int, place: int) -> None:
        self.data = data
        self.order = order
        self.magic = magic
        self._check_kind(place)
        self.page_size = self.integer(20)
        if self.page_size not in _PAGE_SIZES:
            raise BerkeleyDBError(20, f"the size of a page is {self.page_size}")
        self.last = self.integer(32)
        if (self.last + 1) * self.page_size != len(data):
            raise BerkeleyDBError(
                32, f"the file has {len(data)} bytes, not {self.last + 1} pages of {self.page_size}"
            )
        self.header = _HEADER + 6 if data[26] & _CHECKSUMS else _HEADER
        self._form = struct.Struct(f"{order}8xIIIHHBB")
        self._large = struct.Struct(f"{order}4xII")
        self._read = bytearray(self.last + 1)
        self._read[0] = 1

    def _check_kind(self, place: int) -> None:
        """Check that the file is of a kind that can be read."""
        method = _METHODS[self.magic]
        if self.magic not in _VERSIONS:
            raise BerkeleyDBError(place, f"a {method} database, and only hash and btree are read")
        version = self.integer(place + 4) if len(self.data) >= place + 8 else 0
        known = _VERSIONS[self.magic]
        if place == 0 or version not in known:
            raise BerkeleyDBError(
                place + 4,
                f"{method} version {version}, and only {known[0]} to {known[-1]} are read:"
                " make it again from its text, or with db_dump and db_load of Berkeley DB 5.3",
            )
        if len(self.data) < _META:
            raise BerkeleyDBError(len(self.data), "the file ends within its first page")
        if self.data[24]:
            raise BerkeleyDBError(24, "the database is encrypted: make one without a password")
        flags = self.integer(48)
        if flags & self._SUBDATABASES:
            raise BerkeleyDBError(
                48,
                "the file has several databases, each with a name: make a file of the one that is meant"
                " (db_dump -s NAME, then db_load)",
            )
        if self.data[26] & _PARTITIONED or self.integer(36):
            raise BerkeleyDBError(26, "the database is partitioned: make it again as one file")
        self.check_flags(flags)

    def check_flags(self, flags: int) -> None:
        """Check the flags of the access method."""

    def integer(self, offset: int) -> int:
        """Return the 32-bit number at an offset."""
        value: int = struct.unpack_from(f"{self.order}I", self.data, offset)[0]
        return value

    def page(self, number: int, place: int) -> _Page:
        """Return a page that is named at offset `place`; a page may be read only once."""
        if not 0 < number <= self.last:
            raise BerkeleyDBError(place, f"there is no page {number}")
        if self._read[number]:
            raise BerkeleyDBError(place, f"page {number} is reached twice")
        self._read[number] = 1
        start = number * self.page_size
        page = _Page(start, *self._form.unpack_from(self.data, start))
        if page.number != number and not self.is_blank(page):
            raise BerkeleyDBError(start + 8, f"page {number} says that it is page {page.number}")
        return page

    def is_blank(self, page: _Page) -> bool:
        """Return whether the page has never been written."""
        return not any(self.data[page.start : page.start + self.page_size])

    def offsets(self, page: _Page) -> tuple[int, ...]:
        """Return the offsets of a page's items within it."""
        end = self.header + 2 * page.entries
        if end > self.page_size:
            raise BerkeleyDBError(page.start + 20, f"{page.entries} items do not fit into a page")
        found = struct.unpack_from(f"{self.order}{page.entries}H", self.data, page.start + self.header)
        first = min(found, default=self.page_size)
        if first < end or first & 0xFFFF != page.first:
            raise BerkeleyDBError(page.start + 22, f"the items do not begin at {page.first:#x}")
        return found

    def large(self, place: int) -> bytes:
        """Return the bytes on the overflow pages that an item names."""
        number, size = self._large.unpack_from(self.data, place)
        parts = []
        while number:
            page = self.page(number, place)
            if page.type != _OVERFLOW or page.first > self.page_size - self.header:
                raise BerkeleyDBError(page.start + 22, f"page {number} is no overflow page")
            start = page.start + self.header
            parts.append(bytes(self.data[start : start + page.first]))
            number, place = page.after, page.start + 16
        found = b"".join(parts)
        if len(found) != size:
            raise BerkeleyDBError(place, f"the overflow pages have {len(found)} bytes, not {size}")
        return found

    def check_nothing_is_left(self) -> None:
        """Check that every page with records was read."""
        for number in itertools.compress(range(len(self._read)), map(operator.not_, self._read)):
            page = _Page(number, *self._form.unpack_from(self.data, number * self.page_size))
            if page.type in _WITH_RECORDS and page.entries:
                raise BerkeleyDBError(number * self.page_size, f"nothing leads to page {number}")

    def refuse_item(self, place: int, kind: int) -> BerkeleyDBError:
        """Return the error for an item of a type that cannot be read."""
        if kind in _SEVERAL[self.magic]:
            return BerkeleyDBError(
                place, "a key has several values: make the database without duplicates, one for each network"
            )
        return BerkeleyDBError(place, f"an item of the unknown type {kind}")


class _Hash(_File):
    _SUBDATABASES = 0x02

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield each record, bucket by bucket."""
        self._buckets, self._high, self._low = struct.unpack_from(f"{self.order}III", self.data, 72)
        if not (
            self._low <= self._buckets <= self._high
            and self._high & self._high + 1 == 0
            and self._low == self._high >> 1
            and self._buckets <= self.last
        ):
            raise BerkeleyDBError(72, "the numbers of buckets contradict each other")
        spares = struct.unpack_from(f"{self.order}32I", self.data, 96)
        known = self.integer(92) == _hash(_TEST_KEY, 0xFFFFFFFF)  # else a function of the writer's own
        for bucket in range(self._buckets + 1):
            number = bucket + spares[bucket.bit_length()]
            for place, key, value in self._bucket(number, 96 + 4 * bucket.bit_length()):
                if known and self._bucket_of(key) != bucket:
                    raise BerkeleyDBError(
                        place, f"a key is in bucket {bucket}, where its hash does not belong"
                    )
                yield key, value
        self.check_nothing_is_left()

    def _bucket_of(self, key: bytes) -> int:
        hashed = _hash(key, self._high)
        return hashed if hashed <= self._buckets else hashed & self._low

    def _bucket(self, number: int, place: int) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield file offset, key and value of each record in a chain of pages."""
        before = 0
        while True:
            page = self.page(number, place)
            if before == 0 and self.is_blank(page):
                return
            if page.type not in _HASH_PAGES or page.before != before:
                raise BerkeleyDBError(page.start, f"page {number} does not belong to the chain of its bucket")
            yield from self._page_records(page)
            if not page.after:
                return
            before, number, place = number, page.after, page.start + 16

    def _page_records(self, page: _Page) -> Iterator[tuple[int, bytes, bytes]]:
        offsets = self.offsets(page)
        ends = (self.page_size, *offsets)
        if len(offsets) % 2 or not all(map(operator.gt, ends, offsets)):
            raise BerkeleyDBError(page.start + self.header, "the items of a page overlap")
        content = bytes(self.data[page.start : page.start + self.page_size])
        items = [
            content[start + 1 : end] if content[start] == _PLAIN else self._item(page.start, start, end)
            for start, end in zip(offsets, ends, strict=False)
        ]
        places = (page.start + offset for offset in offsets[::2])
        yield from zip(places, items[::2], items[1::2], strict=True)

    def _item(self, start: int, offset: int, end: int) -> bytes:
        place = start + offset
        if self.data[place] != _LARGE or end - offset != _LARGE_SIZE:
            raise self.refuse_item(place, self.data[place])
        return self.large(place)


def _hash(key: bytes, mask: int) -> int:
    """Return Berkeley DB's hash (Fowler, Noll, Vo), reduced to the bits of a mask of low bits."""
    value = 0
    prime = _PRIME & mask
    for byte in key:
        value = value * prime & mask ^ byte
    return value & mask


class _Btree(_File):
    _SUBDATABASES = 0x20

    def check_flags(self, flags: int) -> None:
        """Refuse btrees whose keys are not stored as they are."""
        for flag, what in ((0x02, "numbered records (recno)"), (0x80, "compressed records")):
            if flags & flag:
                raise BerkeleyDBError(48, f"the database has {what}: make it again as a plain hash or btree")

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield each record that is not deleted, in the order of keys."""
        last = _Page(0, 0, 0, 0, 0, 0, 0, 0)
        highest: list[bytes] = []
        for page in self._leaves():
            if page.before != last.number or (last.number and last.after != page.number):
                raise BerkeleyDBError(page.start + 12, f"page {page.number} is not behind page {last.number}")
            found = list(self._page_records(page))
            keys = [*highest, *(key for key, _ in found)]
            if not all(map(operator.lt, keys, keys[1:])):
                raise BerkeleyDBError(page.start, f"the keys of page {page.number} are not in order")
            highest, last = keys[-1:], page
            yield from found
        if last.after:
            raise BerkeleyDBError(last.start + 16, f"page {last.after} is not in the tree")
        self.check_nothing_is_left()

    def _leaves(self) -> Iterator[_Page]:
        """Yield the leaves of the tree, from the left."""
        unread: list[tuple[int, int, int | None]] = [(self.integer(88), 88, None)]
        while unread:
            number, place, level = unread.pop()
            page = self.page(number, place)
            if page.type not in {_LEAF, _INNER} or (page.type == _LEAF) != (page.level == 1):
                raise BerkeleyDBError(page.start + 24, f"page {number} is neither a leaf nor an inner page")
            if level is not None and page.level != level:
                raise BerkeleyDBError(page.start + 24, f"page {number} is not at level {level} of the tree")
            if page.type == _LEAF:
                yield page
                continue
            places = [page.start + offset + 4 for offset in self.offsets(page)]
            if not places or max(places) + 4 > page.start + self.page_size:
                raise BerkeleyDBError(page.start + 20, f"the inner page {number} leads nowhere")
            if len(unread) + len(places) > self.last:
                raise BerkeleyDBError(page.start + 20, "the tree has more pages than the file")
            unread += [(self.integer(at), at, page.level - 1) for at in reversed(places)]

    def _page_records(self, page: _Page) -> Iterator[tuple[bytes, bytes]]:
        offsets = self.offsets(page)
        if any(map(operator.eq, offsets[::2], offsets[2::2])):
            raise self.refuse_item(page.start, min(_SEVERAL[_BTREE]))
        content = bytes(self.data[page.start : page.start + self.page_size])
        kinds, sizes = self._sizes(page, content, offsets)
        ends = sorted(offset + (size + 3 & ~3) for offset, size in zip(offsets, sizes, strict=True))
        if len(offsets) % 2 or (offsets and [*sorted(offsets)[1:], self.page_size] != ends):
            raise BerkeleyDBError(page.start + self.header, "the items of a page overlap, or leave a gap")
        items = list(zip(offsets, kinds, sizes, strict=True))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not value[1] & _DELETED:  # the key's own mark does not count
                yield self._item(page, content, *key), self._item(page, content, *value)

    def _item(self, page: _Page, content: bytes, offset: int, kind: int, size: int) -> bytes:
        if kind & ~_DELETED == _PLAIN:
            return content[offset + 3 : offset + size]
        return self.large(page.start + offset)

    def _sizes(self, page: _Page, content: bytes, offsets: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the type, including the mark of deletion, and the size of each item."""
        head = struct.Struct(f"{self.order}HB").unpack_from
        kinds, sizes = [], []
        for offset in offsets:
            if offset + 3 > self.page_size:
                raise BerkeleyDBError(page.start + self.header, f"an item at {offset:#x} is cut off")
            size, kind = head(content, offset)
            if kind & ~_DELETED not in {_PLAIN, _LARGE}:
                raise self.refuse_item(page.start + offset, kind & ~_DELETED)
            kinds.append(kind)
            sizes.append(size + 3 if kind & ~_DELETED == _PLAIN else _LARGE_SIZE)
        return kinds, sizes
