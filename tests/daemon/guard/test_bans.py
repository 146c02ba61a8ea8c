"""The file of bans: what is kept of it, whatever has happened to it."""

import contextlib
import fcntl
import ipaddress
import json
import math
import os
import pathlib
import re
import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest

import tcpdconf
from tcpdconf.daemon.guard import bans as ban_file
from tcpdconf.daemon.guard.bans import Ban, Bans, BansError

SEVEN = (
    '{"network": "192.0.2.7", "service": null, "until": null, "since": 1.0, "by": "uid 0", "reason": ""}\n'
)
EIGHT = SEVEN.replace("192.0.2.7", "192.0.2.8")


def ban(network: str, *, seconds: float = math.inf, service: str | None = None, reason: str = "") -> Ban:
    now = time.time()
    return Ban(ipaddress.ip_network(network), service, now + seconds, now, "uid 0 (test)", reason)


@contextlib.contextmanager
def opened(folder: pathlib.Path) -> Iterator[Bans]:
    made = Bans({"STATE_DIRECTORY": str(folder)}, lambda: None)
    made.load()
    try:
        yield made
    finally:
        made.close()


def shown(bans: Bans) -> list[str]:
    found, start = [], 0
    while True:
        page = bans.page(start, 100)
        found += [ban_file.shown(each.network) for each in page.bans]
        if page.next is None:
            return found
        start = page.next


def test_bans_are_there_again(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path) as bans:
        bans.ban(
            [
                ban("192.0.2.7", reason="scanned"),
                ban("2001:db8::/48", service="smtp"),
                ban("192.0.2.9", seconds=0.05),
            ]
        )
        bans.ban([ban("192.0.2.8")])
        assert bans.unban([ipaddress.ip_network("192.0.2.8")] * 2, None, "x") == [
            ipaddress.ip_network("192.0.2.8")
        ]
        assert bans.unban([ipaddress.ip_network("192.0.2.8")], None, "x") == []
    time.sleep(0.06)
    with opened(tmp_path) as bans:
        page = bans.page(0, 10)
        assert [(ban_file.shown(each.network), each.service, each.reason) for each in page.bans] == [
            ("192.0.2.7", None, "scanned"),
            ("2001:db8::/48", "smtp", ""),
        ]
        assert len(bans) == 2
    assert (tmp_path / "bans").stat().st_mode & 0o777 == 0o600
    assert [each.key for each in page.bans] == [
        each.key for each in ban_file.read({"STATE_DIRECTORY": str(tmp_path)})
    ]


def newest(bans: Bans, count: int) -> list[str]:
    return [ban_file.shown(each.network) for each in bans.newest(count)]


def test_the_newest_are_found_without_reading_all(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ban_file, "_NEWEST", 1000)  # bytes; some 7 lines
    with opened(tmp_path) as bans:
        assert newest(bans, 20) == []
        bans.ban([ban(f"192.0.2.{number}") for number in range(100)])
        assert newest(bans, 3) == ["192.0.2.99", "192.0.2.98", "192.0.2.97"]
        assert 3 < len(newest(bans, 100)) < 10
        bans.ban([ban("192.0.2.97", reason="again"), ban("192.0.2.1", seconds=0.05)])
        bans.unban([ipaddress.ip_network("192.0.2.99")], None, "x")
        time.sleep(0.06)
        assert newest(bans, 3) == ["192.0.2.97", "192.0.2.98", "192.0.2.96"]
        assert bans.newest(1)[0].reason == "again"
    with opened(tmp_path) as bans:
        assert newest(bans, 2) == ["192.0.2.97", "192.0.2.98"]


def test_the_directory_is_made_for_its_owner_alone(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path / "state") as bans:
        assert not (tmp_path / "state/bans").exists()
        bans.ban([ban("192.0.2.7")])
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


NEWER = '{"version": 2, "unheard": "of"}\n{"ban": "192.0.2.7"}\n'


def test_a_file_of_another_version_is_refused_and_left_as_it_is(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bans").write_text(NEWER)
    why = f"{tmp_path}/bans: it has format version 2, and tcpdconf {tcpdconf.__version__} knows 1"
    with opened(tmp_path) as bans:
        assert f"bans are not read: {why}\n" in capfd.readouterr().err
        for change in (lambda: bans.ban([ban("192.0.2.8")]), lambda: shown(bans)):
            with pytest.raises(BansError, match=re.escape(why)):
                change()
        assert len(bans) == 0
    with pytest.raises(ValueError, match=re.escape(why)):
        ban_file.read({"STATE_DIRECTORY": str(tmp_path)})
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("bans")] == ["bans"]
    assert (tmp_path / "bans").read_text() == NEWER


def test_bans_stay_in_effect_when_a_newer_daemon_has_replaced_their_file(tmp_path: pathlib.Path) -> None:
    """It takes over, and its predecessor goes on until its connections have ended."""
    with opened(tmp_path) as bans:
        bans.ban([ban("192.0.2.7")])
        (tmp_path / "new").write_text(NEWER)
        (tmp_path / "new").rename(tmp_path / "bans")
        with pytest.raises(BansError, match="format version 2"):
            bans.ban([ban("192.0.2.8")])
        assert bans.table is not None
        assert len(bans) == 1
    assert (tmp_path / "bans").read_text() == NEWER


@pytest.mark.parametrize("header", ["", '{"version": 1, "network": "::", "service": null, "lifted": 0}\n'])
def test_a_file_of_this_version_has_a_version_or_none(header: str, tmp_path: pathlib.Path) -> None:
    """One that was begun before versions gets one when it is written anew."""
    (tmp_path / "bans").write_text(header + SEVEN)
    with opened(tmp_path) as bans:
        assert shown(bans) == ["192.0.2.7"]
        bans.ban([ban("192.0.2.8")])
        assert shown(bans) == ["192.0.2.7", "192.0.2.8"]
        for _ in range(3):
            bans.ban([ban("192.0.2.9")] * 600)
    lines = (tmp_path / "bans").read_text().splitlines()
    assert json.loads(lines[0])["version"] == 1
    assert len(lines) < 1500
    with opened(tmp_path) as bans:
        assert shown(bans) == ["192.0.2.7", "192.0.2.8", "192.0.2.9"]


def test_a_torn_line_is_dropped(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bans").write_text(SEVEN + EIGHT[:50])
    with opened(tmp_path) as bans:
        assert "the last line is incomplete, and was dropped" in capfd.readouterr().err
        assert shown(bans) == ["192.0.2.7"]
        bans.ban([ban("192.0.2.9")])
        assert shown(bans) == ["192.0.2.7", "192.0.2.9"]
    with opened(tmp_path) as bans:
        assert shown(bans) == ["192.0.2.7", "192.0.2.9"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "wrong",
    [
        b"no JSON", b"{}", b"[]", b"7", b"\xff\xfe", b"\0" * 100, b"x" * 5_000_000, b"[" * 100_000, b"",
        SEVEN.replace("192.0.2.7", "192.0.2.7/24").encode(),
        SEVEN.replace("192.0.2.7", "192.0.2.7/-1").encode(),
        SEVEN.replace("192.0.2.7", "192.0.2.7/33").encode(),
        SEVEN.replace("192.0.2.7", "host.example").encode(),
        SEVEN.replace('"192.0.2.7"', "7").encode(),
        SEVEN.replace('"until": null', '"until": NaN').encode(),
        SEVEN.replace('"until": null', '"until": "soon"').encode(),
        SEVEN.replace('"since": 1.0', '"since": Infinity').encode(),
        SEVEN.replace('"since": 1.0, ', "").encode(),
        SEVEN.replace('"service": null', '"service": 7').encode(),
    ],
    ids=range(19),
)  # fmt: skip
def test_a_damaged_file_is_put_aside(
    wrong: bytes, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = SEVEN.encode() + wrong.rstrip(b"\n") + b"\n" + EIGHT.encode()
    (tmp_path / "bans").write_bytes(damaged)
    with pytest.raises(ValueError, match="bans: line 2: "):
        ban_file.read({"STATE_DIRECTORY": str(tmp_path)})
    with opened(tmp_path) as bans:
        said = capfd.readouterr().err
        assert f"{tmp_path}/bans: line 2: " in said
        assert "was put aside as bans.damaged-" in said
        assert "192.0.2.7" in shown(bans)
        if len(wrong) < 1 << 20:
            assert "192.0.2.8" in shown(bans)
        bans.ban([ban("192.0.2.9")])
    (aside,) = tmp_path.glob("bans.damaged-*")
    assert aside.read_bytes() == damaged
    with opened(tmp_path) as bans:
        assert "192.0.2.9" in shown(bans)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["a link", "a directory", "a pipe"])
def test_what_is_not_a_file_is_put_aside(
    kind: str, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    target.write_text(SEVEN)
    file = tmp_path / "state" / "bans"
    file.parent.mkdir()
    match kind:
        case "a link":
            file.symlink_to(target)
        case "a directory":
            file.mkdir()
        case "a pipe":
            os.mkfifo(file)
    with opened(file.parent) as bans:
        assert (
            f"{file}: it is not a regular file; it was put aside as bans.damaged-" in capfd.readouterr().err
        )
        bans.ban([ban("192.0.2.9")])
        assert shown(bans) == ["192.0.2.9"]
    assert target.read_text() == SEVEN


def test_what_another_daemon_writes_counts(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        one.ban([ban("192.0.2.1")])
        other.ban([ban("192.0.2.2")])
        one.ban([ban("192.0.2.3")])
        assert shown(one) == shown(other) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        other.unban([ipaddress.ip_network("192.0.2.1")], None, "x")
        one.load()
        assert len(one) == 2


def test_a_lock_that_is_held_too_long_is_an_error(tmp_path: pathlib.Path) -> None:
    """A daemon that stands still keeps the other one from banning, not from answering."""
    with opened(tmp_path) as bans:
        bans.ban([ban("192.0.2.1")])
        with (tmp_path / ".bans.lock").open("r+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(BansError, match="/bans: Resource temporarily unavailable"):
                bans.ban([ban("192.0.2.2")])
        assert (tmp_path / ".bans.lock").stat().st_mode & 0o777 == 0o600
        bans.ban([ban("192.0.2.2")])
        assert shown(bans) == ["192.0.2.1", "192.0.2.2"]


def test_a_file_that_is_too_large_is_put_aside(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ban_file, "_LARGEST", 3 * len(SEVEN))
    (tmp_path / "bans").write_text(SEVEN + EIGHT * 3)
    with opened(tmp_path) as bans:
        assert "it has more than " in capfd.readouterr().err
        assert shown(bans) == ["192.0.2.7", "192.0.2.8"]


def test_a_file_that_is_deleted_bans_nobody(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path) as bans:
        bans.ban([ban("192.0.2.1")])
        (tmp_path / "bans").unlink()
        assert shown(bans) == []
        bans.ban([ban("192.0.2.2")])
        assert shown(bans) == ["192.0.2.2"]


def test_a_full_disk_is_an_error_and_leaves_all_as_it_was(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path) as bans:
        bans.ban([ban("192.0.2.1")])
        size = (tmp_path / "bans").stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 150, limits[1]))
        try:
            with pytest.raises(BansError, match=f"{tmp_path}/bans: File too large"):
                bans.ban([ban("192.0.2.2"), ban("192.0.2.3")])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (tmp_path / "bans").stat().st_size == size
        assert shown(bans) == ["192.0.2.1"]
        bans.ban([ban("192.0.2.2")])
        assert shown(bans) == ["192.0.2.1", "192.0.2.2"]


def test_a_directory_that_cannot_be_used_is_named(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with opened(tmp_path / "file") as bans:
        assert f"bans are not read: {tmp_path}/file/bans: Not a directory" in capfd.readouterr().err
        with pytest.raises(BansError, match=f"{tmp_path}/file/bans: Not a directory"):
            bans.ban([ban("192.0.2.2")])


def test_dead_lines_are_removed(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path) as bans:
        bans.ban([ban(f"198.51.100.{n}") for n in range(100)])
        pages = bans.page(0, 50)
        for _ in range(30):
            bans.ban([ban(f"192.0.2.{n}") for n in range(50)])
        assert len((tmp_path / "bans").read_text().splitlines()) < 1300
        assert bans.page(0, 1).file != pages.file
        wanted = [f"198.51.100.{n}" for n in range(100)] + [f"192.0.2.{n}" for n in range(50)]
        assert shown(bans) == wanted
        bans.ban([ban("203.0.113.1")])
        assert [each.network for each in bans.covering([ipaddress.ip_network("192.0.2.49")])] == [
            ipaddress.ip_network("192.0.2.49")
        ]
    with opened(tmp_path) as bans:
        assert shown(bans) == [*wanted, "203.0.113.1"]
    assert {each.name for each in tmp_path.iterdir()} == {"bans", ".bans.lock"}


def test_bans_that_have_ended_are_forgotten(tmp_path: pathlib.Path) -> None:
    with opened(tmp_path) as bans:
        bans.ban([ban("192.0.2.1", seconds=0.02), ban("192.0.2.2")])
        time.sleep(0.03)
        bans.expire()
        assert len(bans) == 1


@pytest.mark.slow
def test_a_hundred_thousand_bans(tmp_path: pathlib.Path) -> None:
    """They cost no object each: the table, and one page of the file."""
    with opened(tmp_path) as bans:
        for part in range(100):
            bans.ban([ban(f"10.{part}.{n >> 8}.{n & 255}") for n in range(1000)])
        assert len(bans) == 100_000
    before = _private()
    with opened(tmp_path) as bans:
        assert len(bans) == 100_000
        assert len(shown(bans)) == 100_000
        assert _private() - before < 20_000_000


def _private() -> int:
    text = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("2001:DB8::1", "2001:db8::1/128"),
    ],
)
def test_networks(text: str, found: str) -> None:
    assert str(ban_file.network(text)) == found


def test_data_is_json() -> None:
    data: dict[str, Any] = ban("192.0.2.0/24").data()
    assert json.loads(json.dumps(data))["until"] is None
