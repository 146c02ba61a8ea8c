"""Snapshots: whole ones only, and nobody but the writer writes."""

import os
import threading
import zlib
from collections.abc import Iterator

import pytest

from tcpdconf.daemon.http import snapshot


@pytest.fixture
def writer() -> Iterator[snapshot.Writer]:
    made = snapshot.Writer()
    yield made
    made.close()


def test_there_is_none_at_first(writer: snapshot.Writer) -> None:
    assert snapshot.Reader(writer.fd).read() is None


def test_the_latest_is_read(writer: snapshot.Writer) -> None:
    reader = snapshot.Reader(writer.fd)
    for text in (b"a long one", b"short", b""):
        writer.write(text)
        found = reader.read()
        assert found is not None
        assert found.text == text
        assert reader.read() is found


def test_the_descriptor_is_for_reading_whoever_opens_it_again(writer: snapshot.Writer) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(writer.fd, b"x")
    again = os.open(f"/proc/self/fd/{writer.fd}", os.O_RDWR) if os.geteuid() == 0 else None
    if again is not None:
        with pytest.raises(PermissionError):
            os.write(again, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(again, 0)
        os.close(again)


def test_a_snapshot_is_never_read_by_halves(writer: snapshot.Writer) -> None:
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            writer.write(b"%d" % (number % 10) * (1000 * (number % 50) + 1))

    thread = threading.Thread(target=write)
    thread.start()
    reader = snapshot.Reader(writer.fd)
    try:
        for _ in range(300):
            found = reader.read()
            assert found is None or len(set(found.text)) == 1
    finally:
        over.set()
        thread.join()


def test_one_that_does_not_match_its_checksum_is_not_taken(
    writer: snapshot.Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = snapshot.Reader(writer.fd)
    writer.write(b"good")
    assert reader.read() is not None
    with monkeypatch.context() as patch:
        patch.setattr(zlib, "crc32", zlib.adler32)
        writer.write(b"bad")
    found = reader.read()

    assert found is not None
    assert found.text == b"good"
