import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import peers
from support.courier import gdbmfiles

from tcpdconf.config.courier import gdbm

RECORDS = {b"%d.%d" % (n % 250, n): b"allow,N=%d" % n for n in range(60)}
SOME = {b"127.0.0.1": b"allow,RELAYCLIENT", b"*": b"deny", b"10": b"allow"}

every_form = pytest.mark.parametrize("form", gdbmfiles.FORMS.values(), ids=gdbmfiles.FORMS.keys())
forms = st.sampled_from(list(gdbmfiles.FORMS.values()))


@every_form
def test_reads_what_every_machine_writes(form: gdbmfiles.Form) -> None:
    data = bytes(gdbmfiles.write(RECORDS, form))

    assert gdbm.is_database(data)
    assert sorted(RECORDS.items()) == sorted(gdbm.records(data))
    assert sorted(RECORDS.items()) == sorted(gdbm.records(memoryview(data)))


@every_form
def test_a_database_may_be_empty(form: gdbmfiles.Form) -> None:
    assert gdbm.records(bytes(gdbmfiles.write({}, form))) == []


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096, 8192, 65536])
@pytest.mark.parametrize("form", [gdbmfiles.FORMS["amd64"], gdbmfiles.FORMS["i386"]], ids=["amd64", "i386"])
def test_alignment_is_known_from_the_bucket_size(form: gdbmfiles.Form, block_size: int) -> None:
    assert sorted(SOME.items()) == sorted(gdbm.records(gdbmfiles.write(SOME, form, block_size)))


@settings(max_examples=60)
@given(
    st.dictionaries(st.binary(max_size=40), st.binary(max_size=300), max_size=200),
    forms,
    st.sampled_from([512, 4096]),
)
def test_round_trip(records: dict[bytes, bytes], form: gdbmfiles.Form, block_size: int) -> None:
    assert sorted(records.items()) == sorted(gdbm.records(gdbmfiles.write(records, form, block_size)))


@given(
    st.binary(max_size=2000),
    st.sampled_from([b"", *(f.pack("I", f.magic) for f in gdbmfiles.FORMS.values())]),
)
def test_any_bytes_are_records_or_an_error(data: bytes, magic: bytes) -> None:
    try:
        gdbm.records(magic + data)
    except gdbm.GdbmError as error:
        assert error.offset >= 0  # noqa: PT017 (no error is as good)


@settings(max_examples=300)
@given(st.data())
def test_any_damage_leaves_records_or_an_error(data: st.DataObject) -> None:
    """The keys that are left are those that were written: a table is never partial."""
    records = data.draw(
        st.dictionaries(st.binary(min_size=1, max_size=9), st.binary(max_size=9), max_size=40)
    )
    form = data.draw(forms)
    written = gdbmfiles.write(records, form)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(written) - 1))
        new = data.draw(st.binary(min_size=1, max_size=8))
        written[place : place + len(new)] = new
    if data.draw(st.booleans()):
        del written[data.draw(st.integers(0, len(written))) :]
    try:
        found = gdbm.records(written)
    except gdbm.GdbmError:
        return

    assert len(found) == len(records)


@pytest.mark.parametrize("form", [gdbmfiles.FORMS[name] for name in ("amd64", "i386", "powerpc")])
@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_no_changed_byte_loses_or_adds_a_key(form: gdbmfiles.Form, flip: int) -> None:
    written = gdbmfiles.write(SOME, form)
    detected = 0
    for place in range(len(written)):
        written[place] ^= flip
        try:
            assert {key for key, _ in gdbm.records(written)} == set(SOME), f"byte {place:#x}"
        except gdbm.GdbmError:
            detected += 1
        written[place] ^= flip

    assert detected > 300  # header, directory, bucket, keys; not the free space and the values


@pytest.mark.parametrize("name", ["amd64", "powerpc"])
def test_no_shorter_file_is_taken_for_whole(name: str) -> None:
    written = gdbmfiles.write(SOME, gdbmfiles.FORMS[name])
    for size in range(len(written)):
        with pytest.raises(gdbm.GdbmError):
            gdbm.records(written[:size])


BUCKET, DIRECTORY, TABLE = 1024, 512, 1024 + 112  # in what AMD64 writes with few records


@pytest.mark.parametrize(
    ("place", "form", "number", "offset", "text"),
    [
        (0, "I", 0x13579ACB, 0, "no GDBM database"),
        (16, "I", 1024, 4, "the sizes in the header contradict each other"),
        (20, "I", 40, 4, "the sizes in the header contradict each other"),
        (28, "I", 200, 4, "the sizes in the header contradict each other"),
        (8, "Q", 1 << 40, 8, "the directory at 0x10000000000 does not lie within the file"),
        (32, "Q", 1000, 1000, "the file goes on after the end of the database"),
        (DIRECTORY, "Q", 1 << 63, DIRECTORY, "the bucket at 0x8000000000000000 does not lie within the file"),
        (DIRECTORY + 24, "Q", 512, DIRECTORY, "the directory does not point 64 times to the bucket at 0x400"),
        (BUCKET + 104, "I", 7, BUCKET + 104, "a bucket of 7 bits cannot be at 0x200"),
        (BUCKET + 108, "I", 4, BUCKET + 108, "a bucket of 4 elements holds 3"),
        (TABLE, "I", 1 << 31, TABLE, "an element with hash 0x80000000 is in the wrong bucket"),
    ],
)
def test_names_the_place_of_the_damage(place: int, form: str, number: int, offset: int, text: str) -> None:
    written = gdbmfiles.write(SOME)
    struct.pack_into("<" + form, written, place, number)
    with pytest.raises(gdbm.GdbmError) as caught:
        gdbm.records(written)

    assert (offset, text) == (caught.value.offset, str(caught.value))


def test_a_damaged_key_is_named() -> None:
    written = gdbmfiles.write(SOME)
    place = written.index(b"127.0.0.1", TABLE + 400)
    written[place] ^= 1
    with pytest.raises(gdbm.GdbmError, match="a key does not have the hash") as caught:
        gdbm.records(written)

    assert place == caught.value.offset


def test_a_value_that_runs_into_the_next_record_is_refused() -> None:
    written = gdbmfiles.write(SOME)
    first = next(iter(SOME))
    sizes = written.index(struct.pack("<II", len(first), len(SOME[first])))
    struct.pack_into("<I", written, sizes + 4, len(SOME[first]) + 1)
    with pytest.raises(gdbm.GdbmError, match="two parts of the database overlap") as caught:
        gdbm.records(written)

    assert written.index(b"*deny") == caught.value.offset


def test_many_overlapping_buckets_are_refused_at_once() -> None:
    """Half a million directory entries, each with a bucket of its own that covers half the file."""
    bits, size = 16, 1 << 20
    start = 512 + (8 << bits)
    data = bytearray(size)
    room = size - start - (1 << bits)
    bucket_size = room - room % 8
    elements = (bucket_size - 112) // 24
    struct.pack_into("<IIQIIIIQ", data, 0, 0x13579ACF, 512, 512, 8 << bits, bits, bucket_size, elements, size)
    struct.pack_into(f"<{1 << bits}Q", data, 512, *range(start, start + (1 << bits)))
    for offset in range(start, start + (1 << bits)):
        data[offset + 104] = bits
    with pytest.raises(gdbm.GdbmError):
        gdbm.records(data)


@pytest.mark.peer
@pytest.mark.parametrize("options", [[], ["-x"]], ids=["standard", "numsync"])
def test_reads_what_libgdbm_writes(tmp_path: Path, options: list[str]) -> None:
    peers.need("gdbmtool")
    numbers = random.Random(4)  # noqa: S311 (a test wants the same ones each time)
    records = {f"{numbers.getrandbits(32):x}": f"allow,N={n}" for n in range(2000)}
    store = "".join(f'store "{key}" "{value}"\n' for key, value in records.items())
    remove = "".join(f'delete "{key}"\n' for key in list(records)[::3])
    file = tmp_path / "file"
    gdbmtool = ["gdbmtool", "--norc", "--quiet", *options, str(file)]
    subprocess.run([*gdbmtool[:-1], "--newdb", str(file)], input=store + remove, text=True, check=True)
    left = {key.encode(): value.encode() for n, (key, value) in enumerate(records.items()) if n % 3}

    assert left == dict(gdbm.records(file.read_bytes()))


@pytest.mark.peer
@pytest.mark.parametrize("name", ["amd64", "amd64-numsync"])
def test_libgdbm_reads_what_these_tests_write(tmp_path: Path, name: str) -> None:
    """So the forms that only these tests write are GDBM's, too."""
    peers.need("gdbmtool")
    file = tmp_path / "file"
    file.write_bytes(gdbmfiles.write(RECORDS, gdbmfiles.FORMS[name]))
    found = subprocess.run(
        ["gdbmtool", "--norc", "--quiet", "--read-only", str(file), "list"], capture_output=True, check=True
    )

    assert sorted(b"%b %b" % record for record in RECORDS.items()) == sorted(found.stdout.splitlines())
