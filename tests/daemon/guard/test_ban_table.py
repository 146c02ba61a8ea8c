"""The table of banned networks, which workers read without a lock."""

import contextlib
import errno
import fcntl
import ipaddress
import mmap
import multiprocessing
import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.daemon.guard import ban_table
from tcpdconf.daemon.guard.ban_table import NEVER, Key
from tcpdconf.policy import connection

SCOPES = (0, ban_table.scope("smtp"), ban_table.scope("imap"))


@pytest.fixture
def table() -> Iterator[ban_table.Writer]:
    made = ban_table.Writer()
    yield made
    made.close()


@st.composite
def keys(draw: st.DrawFn) -> Key:
    version = draw(st.sampled_from((4, 6)))
    bits = 32 if version == 4 else 128
    prefix = draw(st.sampled_from((bits, bits - 8, 8, 1, 0)))
    value = draw(st.integers(0, 3)) << bits - 8 | draw(st.integers(0, 3))
    return Key(version, prefix, value >> bits - prefix << bits - prefix, draw(st.sampled_from(SCOPES)))


steps = st.lists(st.tuples(st.booleans(), keys(), st.integers(1, 10)), max_size=60)


@given(steps, keys(), st.integers(0, 11))
def test_it_does_what_a_dictionary_would_do(
    changes: list[tuple[bool, Key, int]], client: Key, now: int
) -> None:
    table, expected = ban_table.Writer(), dict[Key, int]()
    reader = ban_table.Reader(table.fd)
    try:
        for adds, key, until in changes:
            if adds:
                table.set(key, until, 7)
                expected[key] = until
            else:
                assert table.delete(key) == (expected.pop(key, None) is not None)
            assert len(table) == len(expected)
        peer = connection.endpoint(client.version, client.value, 1)
        bits = 32 if peer.version == 4 else 128
        wanted = [
            key
            for key, until in expected.items()
            if key.version == peer.version
            and key.scope in {0, SCOPES[1]}
            and peer.value >> bits - key.prefix == key.value >> bits - key.prefix
            and until > now
        ]
        found = reader.find(peer, SCOPES[1], now)
        assert (found in wanted) if wanted else found is None
        table.expire(now)
        assert len(table) == sum(until > now for until in expected.values())
        for key, until in expected.items():
            assert table.get(key) == ((until, 7) if until > now else None)
    finally:
        table.close()


def test_a_copy_has_room_for_more() -> None:
    table = ban_table.Writer()
    copies = 0
    for number in range(20_000):
        if table.full:
            former, table = table, table.copy(0)
            former.close()
            copies += 1
        table.set(Key(4, 32, number * 7919, 0), NEVER, number)
    assert copies < 10
    assert len(table) == 20_000
    reader = ban_table.Reader(table.fd)
    assert all(reader.find(connection.endpoint(4, n * 7919, 1), 5, 0) for n in range(20_000))
    assert not any(reader.find(connection.endpoint(4, n * 7919 + 1, 1), 5, 0) for n in range(5000))
    assert table.get(Key(4, 32, 7919, 0)) == (NEVER, 1)
    table.close()


def test_deleted_entries_are_left_behind_by_a_copy(table: ban_table.Writer) -> None:
    for number in range(512):
        table.set(Key(4, 32, number, 0), NEVER, number)
        table.delete(Key(4, 32, number, 0))
    assert table.full
    assert len(table) == 0
    made = table.copy(0)
    assert not made.full
    made.close()


def test_a_reader_sees_changes_at_once(table: ban_table.Writer) -> None:
    reader = ban_table.Reader(table.fd)
    client = connection.endpoint(6, int(ipaddress.ip_address("2001:db8::5")), 1)
    wide, narrow = (
        ban_table.key(ipaddress.ip_network(each), None) for each in ("2001:db8::/32", "2001:db8::5")
    )
    assert reader.find(client, 1, 0) is None
    table.set(narrow, NEVER, 0)
    assert reader.find(client, 1, 0) == narrow
    table.set(wide, NEVER, 0)
    assert reader.find(client, 1, 0) == wide
    table.set(wide, 10, 0)
    assert reader.find(client, 1, 10) == narrow
    table.delete(narrow)
    assert reader.find(client, 1, 10) is None


def test_scopes(table: ban_table.Writer) -> None:
    reader = ban_table.Reader(table.fd)
    client = connection.endpoint(4, 5, 1)
    table.set(Key(4, 32, 5, SCOPES[1]), NEVER, 0)
    assert reader.find(client, SCOPES[1], 0) is not None
    assert reader.find(client, SCOPES[2], 0) is None
    assert len(set(SCOPES)) == 3


def test_a_reader_cannot_write(table: ban_table.Writer) -> None:
    """A worker has the descriptor, and may be another user."""
    table.set(Key(4, 32, 5, 0), NEVER, 0)
    for attack in (
        lambda: mmap.mmap(table.fd, 4096),
        lambda: os.pwrite(table.fd, b"x", 0),
        lambda: os.ftruncate(table.fd, 10),
        lambda: os.ftruncate(table.fd, 10**7),
        lambda: os.posix_fallocate(table.fd, 0, 10**7),
        lambda: fcntl.fcntl(table.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    ):
        with pytest.raises(OSError) as error:  # noqa: PT011 (any refusal is right)
            attack()
        assert error.value.errno in {errno.EPERM, errno.EACCES}
    reader = ban_table.Reader(table.fd)
    with pytest.raises(TypeError):
        reader._map[0] = 1
    assert os.fstat(table.fd).st_mode & 0o777 == 0o600
    again = os.open(f"/proc/self/fd/{table.fd}", os.O_RDWR)  # the owner may open it, and still not write
    try:
        with pytest.raises(PermissionError):
            os.pwrite(again, b"x", 0)
    finally:
        os.close(again)


def _reads(fd: int, seconds: float) -> int:
    """Look for a ban that is always there, while others change; return how often it was missed."""
    reader, client = ban_table.Reader(fd), connection.endpoint(4, 0x0A000001, 1)
    missed, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        missed += sum(reader.find(client, 7, 1) is None for _ in range(1000))
    return missed


def test_readers_miss_no_ban_while_others_change(table: ban_table.Writer) -> None:
    """The ban itself is replaced again and again, prefix lengths come and go, and counts change."""
    table.set(Key(4, 32, 0x0A000001, 0), NEVER, 0)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(multiprocessing.get_context("fork").Pool(1))
        asked = pool.apply_async(_reads, (table.fd, 1.0))
        number = 0
        while not asked.ready():
            number += 1
            if table.full:
                break
            table.set(Key(4, 32, 0x0A000001, 0), 2.0 + number % 3, number)
            key = Key(4, 24 + number % 8, 0xC0000200 & -1 << 8, number % 2)
            table.set(key, NEVER, number)
            table.delete(key)
            if number > 400:
                time.sleep(0.01)
                table.set(Key(4, 32, 0x0A000001, 0), 2.0 + number % 3, number)
        assert asked.get() == 0
