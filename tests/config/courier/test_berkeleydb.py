import pathlib
import random
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import peers
from support.courier import berkeleyfiles

from tcpdconf.config.courier import berkeleydb

pytestmark = pytest.mark.peer

SOME = {b"127.0.0.1": b"allow,RELAYCLIENT", b"*": b"deny", b"10": b"allow", b"10.1": b"allow,A=" + b"x" * 600}
MANY = {b"%d.%d" % (n % 250, n): b"allow,N=%d" % n for n in range(600)}
HASH, BTREE = berkeleyfiles.Form("hash"), berkeleyfiles.Form("btree")

every_form = pytest.mark.parametrize("form", berkeleyfiles.FORMS.values(), ids=berkeleyfiles.FORMS.keys())
both_methods = pytest.mark.parametrize("method", ["hash", "btree"])
forms = st.sampled_from(list(berkeleyfiles.FORMS.values()))


@every_form
def test_reads_what_db_load_writes(form: berkeleyfiles.Form) -> None:
    """Also keys and values that are too large for a page, and so many that there are inner pages."""
    numbers = random.Random(4)  # noqa: S311 (a test wants the same ones each time)
    records = {
        numbers.randbytes(numbers.choice([1, 9, 40, 700])): numbers.randbytes(
            numbers.choice([0, 9, 300, 70_000])
        )
        for _ in range(40)
    } | MANY
    data = berkeleyfiles.write(records, form)

    assert berkeleydb.is_database(data)
    assert sorted(records.items()) == sorted(berkeleydb.records(data))
    assert sorted(records.items()) == sorted(berkeleydb.records(memoryview(data)))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.binary(max_size=300), st.binary(max_size=300), max_size=60), forms)
def test_round_trip(records: dict[bytes, bytes], form: berkeleyfiles.Form) -> None:
    data = berkeleyfiles.write(records, form)

    assert sorted(records.items()) == sorted(berkeleydb.records(data)) == sorted(berkeleyfiles.dumped(data))


@every_form
def test_a_database_may_be_empty(form: berkeleyfiles.Form) -> None:
    assert berkeleydb.records(berkeleyfiles.write({}, form)) == []


def test_buckets_may_never_have_been_written() -> None:
    """db_load makes room for all of h_nelem at once, and the file has holes."""
    data = berkeleyfiles.write(SOME, HASH, settings=["h_nelem=5000", "h_ffactor=10"])

    assert len(data) > 500 * 512
    assert sorted(SOME.items()) == sorted(berkeleydb.records(data))


@pytest.mark.parametrize("method", ["HASH", "BTREE"])
def test_reads_what_deletions_leave(tmp_path: pathlib.Path, method: str) -> None:
    """Another program than db_load has written it, and has deleted, replaced and added records."""
    peers.need("perl", "db5.3_dump")
    numbers = random.Random(5)  # noqa: S311 (as above)
    keys = [f"{numbers.getrandbits(32):x}" for _ in range(3000)]
    file = tmp_path / "file"
    program = f"""
        use DB_File; use Fcntl;
        tie(my %all, "DB_File", $ARGV[0], O_RDWR|O_CREAT, 0600, $DB_{method}) or die;
        while (<STDIN>) {{ chomp; my ($what, $key) = split / /;
            if ($what eq "put") {{ $all{{$key}} = "allow," . ($. x ($. % 900)) }}
            else {{ delete $all{{$key}} }} }}
        untie %all;
    """
    lines = [f"put {key}\n" for key in keys] + [f"delete {key}\n" for key in keys[::3]]
    lines += [f"put {key}\n" for key in keys[::6]]
    subprocess.run(["perl", "-e", program, file], input="".join(lines), text=True, check=True)
    found = berkeleydb.records(file.read_bytes())

    assert {key.encode() for n, key in enumerate(keys) if n % 3 or not n % 6} == {key for key, _ in found}
    assert sorted(berkeleyfiles.dumped(file.read_bytes())) == sorted(found)


def test_a_deleted_item_of_a_btree_is_no_record() -> None:
    data = berkeleyfiles.write({b"10": b"allow", b"11": b"deny"}, BTREE)
    data[data.index(b"\x04\0\x01deny") + 2] |= 0x80

    assert berkeleydb.records(data) == [(b"10", b"allow")] == berkeleyfiles.dumped(data)


def test_a_key_with_the_mark_of_a_deleted_item_is_one() -> None:
    """As for Berkeley DB, where the mark of the value counts."""
    records = {b"10": b"allow", b"11": b"deny"}
    data = berkeleyfiles.write(records, BTREE)
    data[data.index(b"\x02\0\x0111") + 2] |= 0x80

    assert records == dict(berkeleydb.records(data)) == dict(berkeleyfiles.dumped(data))


@both_methods
def test_a_database_that_only_may_have_duplicates_is_read(method: str) -> None:
    data = berkeleyfiles.write(SOME, berkeleyfiles.Form(method), settings=["duplicates=1"])

    assert sorted(SOME.items()) == sorted(berkeleydb.records(data))


@both_methods
@pytest.mark.parametrize("count", [2, 400], ids=["on the page", "on pages of their own"])
def test_a_key_with_several_values_is_refused(method: str, count: int) -> None:
    records = [*SOME.items(), *((b"12", b"allow,N=%d" % n) for n in range(count))]
    data = berkeleyfiles.write(records, berkeleyfiles.Form(method), settings=["duplicates=1"])
    with pytest.raises(
        berkeleydb.BerkeleyDBError, match="a key has several values: make the database without"
    ):
        berkeleydb.records(data)


@pytest.mark.parametrize(
    ("form", "more", "said"),
    [
        (HASH, {"options": ["-P", "secret"]}, "the database is encrypted: make one without a password"),
        (BTREE, {"options": ["-P", "secret"]}, "the database is encrypted: make one without a password"),
        (HASH, {"settings": ["subdatabase=one"]}, r"several databases, .* \(db_dump -s NAME, then db_load\)"),
        (
            BTREE,
            {"settings": ["subdatabase=one"]},
            r"several databases, .* \(db_dump -s NAME, then db_load\)",
        ),
    ],
)
def test_kinds_that_are_not_read(form: berkeleyfiles.Form, more: dict[str, list[str]], said: str) -> None:
    with pytest.raises(berkeleydb.BerkeleyDBError, match=said):
        berkeleydb.records(berkeleyfiles.write(SOME, form, **more))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("place", "numbers", "said"),
    [
        (12, (0x042253, 4), "a queue database, and only hash and btree are read"),
        (12, (0x074582, 1), "a heap database, and only hash and btree are read"),
        (
            12,
            (0x061561, 10),
            "hash version 10, and only 7 to 9 are read: make it again from its text, or with",
        ),
        (
            12,
            (0x053162, 6),
            "btree version 6, and only 8 to 9 are read: make it again from its text, or with",
        ),
        (0, (0x061561, 2), "hash version 2, and only 7 to 9 are read"),
        (0, (0x053162, 3), "btree version 3, and only 8 to 9 are read"),
    ],
)
def test_other_methods_and_versions_are_named(
    order: str, place: int, numbers: tuple[int, int], said: str
) -> None:
    data = bytearray(4096)
    struct.pack_into(f"{order}II", data, place, *numbers)
    with pytest.raises(berkeleydb.BerkeleyDBError, match=said):
        berkeleydb.records(data)


@given(
    st.binary(max_size=2000),
    st.sampled_from(["<", ">"]),
    st.sampled_from([(0x061561, 9), (0x053162, 9), (0x042253, 4)]),
)
def test_any_bytes_are_records_or_an_error(data: bytes, order: str, numbers: tuple[int, int]) -> None:
    for written in (data, data[:12] + struct.pack(order + "III", *numbers, 512) + data[12:]):
        try:
            berkeleydb.records(written)
        except berkeleydb.BerkeleyDBError as error:
            assert error.offset >= 0  # noqa: PT017 (no error is as good)


@both_methods
@pytest.mark.parametrize("order", [1234, 4321])
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_no_changed_byte_loses_a_record(method: str, order: int, flip: int) -> None:
    """Only the mark of a deleted value does, which is one bit of its type."""
    written = berkeleyfiles.write(SOME, berkeleyfiles.Form(method, order))
    detected = 0
    for place in range(len(written)):
        written[place] ^= flip
        try:
            found = berkeleydb.records(written)
        except berkeleydb.BerkeleyDBError:
            detected += 1
        else:
            marked = method == "btree" and flip == 0x80 and written[place] in {0x81, 0x83}
            assert len(found) == len(SOME) or marked, f"byte {place:#x}"
        written[place] ^= flip

    assert detected > 100


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([HASH, BTREE]),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=3),
    st.integers(0, 1 << 20),
)
def test_any_damage_leaves_records_or_an_error(
    form: berkeleyfiles.Form, changes: list[tuple[int, bytes]], cut: int
) -> None:
    data = berkeleyfiles.write(MANY, form) if form not in WRITTEN else WRITTEN[form][:]
    WRITTEN.setdefault(form, data[:])
    for place, new in changes:
        start = place % len(data)
        data[start : start + len(new)] = new
    if cut % 3 == 0:
        del data[cut % len(data) :]
    try:
        found = berkeleydb.records(data)
    except berkeleydb.BerkeleyDBError as error:
        assert 0 <= error.offset <= len(data)  # noqa: PT017 (no error is as good)
    else:
        assert len(found) <= len(MANY)


WRITTEN: dict[berkeleyfiles.Form, bytearray] = {}


@both_methods
def test_no_shorter_file_is_taken_for_whole(method: str) -> None:
    written = berkeleyfiles.write(SOME, berkeleyfiles.Form(method))
    for size in range(len(written)):
        with pytest.raises(berkeleydb.BerkeleyDBError):
            berkeleydb.records(written[:size])


def pages(data: bytearray, kind: int) -> list[int]:
    """Return the offsets of the pages of a type, in a file with pages of 512 bytes."""
    return [start for start in range(512, len(data), 512) if data[start + 25] == kind]


@pytest.mark.parametrize(
    ("form", "kind", "said"),
    [
        (HASH, 13, "is reached twice"),
        (HASH, 7, "is reached twice"),
        (BTREE, 7, "is reached twice"),
    ],
    ids=["bucket", "overflow of a hash", "overflow of a btree"],
)
def test_a_chain_of_pages_that_leads_back_ends(form: berkeleyfiles.Form, kind: int, said: str) -> None:
    records = MANY | {b"large": b"x" * 5000}
    data = berkeleyfiles.write(records, form)
    (start, *_) = pages(data, kind)
    struct.pack_into("<I", data, start + 16, start // 512)
    with pytest.raises(berkeleydb.BerkeleyDBError, match=said):
        berkeleydb.records(data)


def test_an_inner_page_that_leads_to_itself_is_refused() -> None:
    data = berkeleyfiles.write(MANY, BTREE)
    (root, *_) = pages(data, 3)
    (item,) = struct.unpack_from("<H", data, root + 26)
    struct.pack_into("<I", data, root + item + 4, root // 512)
    with pytest.raises(berkeleydb.BerkeleyDBError, match="is reached twice"):
        berkeleydb.records(data)


def test_a_tree_with_more_pages_than_the_file_is_refused_at_once() -> None:
    """The queue of pages is bounded by the size of the file: here each page leads to all pages."""
    data = berkeleyfiles.write(MANY, BTREE)
    (root, *_) = pages(data, 3)
    struct.pack_into("<HH", data, root + 20, 200, 430)
    struct.pack_into("<200H", data, root + 26, *[430] * 200)
    with pytest.raises(berkeleydb.BerkeleyDBError, match="the tree has more pages than the file"):
        berkeleydb.records(data)


def test_many_items_at_one_place_are_refused_at_once() -> None:
    """Thirty thousand items that are each the whole page would be two gigabytes."""
    data = berkeleyfiles.write(SOME, berkeleyfiles.Form("btree", page_size=65536))
    start = 65536
    count = 10_000
    struct.pack_into("<HH", data, start + 20, 2 * count, 30_000)
    struct.pack_into(f"<{2 * count}H", data, start + 26, *([30_000] * 2 * count))
    struct.pack_into("<HB", data, start + 30_000, 30_000, 1)
    with pytest.raises(berkeleydb.BerkeleyDBError):
        berkeleydb.records(data)
