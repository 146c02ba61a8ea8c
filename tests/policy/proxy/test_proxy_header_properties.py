"""Tests properties of the parser of PROXY headers with any bytes."""

import ipaddress
import re
import socket
import struct
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import headers

from tcpdconf.policy.proxy import header as proxy_header
from tcpdconf.policy.proxy import tlv
from tcpdconf.policy.proxy.header import HeaderError, Options

OPTIONS = st.sampled_from(
    [
        headers.STRICT,
        headers.LENIENT,
        Options(lenient=True),
        *(headers.STRICT._replace(versions=frozenset({v})) for v in ("v1", "v2")),
    ]
)
PORTS = st.integers(0, 0xFFFF)
TLVS = st.lists(
    st.tuples(st.sampled_from([1, 2, 0x30, 0xEA, 0xEE, 0xFF]), st.binary(max_size=40))
    | st.tuples(st.just(5), st.binary(max_size=128)),
    max_size=6,
)
VERSIONS = st.sampled_from([(4, 4, 0x11), (6, 16, 0x21)])


def like_headers() -> st.SearchStrategy[bytes]:
    """Headers of the vectors with some bytes changed, left out or put in."""
    piece = st.tuples(st.integers(0, 120), st.integers(0, 3), st.binary(max_size=3))

    def edited(data: bytes, edits: Iterable[tuple[int, int, bytes]]) -> bytes:
        for at, count, put in edits:
            data = data[:at] + put + data[at + count :]
        return data

    accepted = [
        headers.sent(row) for row in headers.ROWS if row["verdict"] == "accept" and "zeros" not in row
    ]
    return st.builds(edited, st.sampled_from(accepted), st.lists(piece, max_size=3))


@given(data=st.binary(max_size=300) | like_headers(), piece=st.integers(1, 40), options=OPTIONS)
@example(data=headers.v2(bytes(5000)), piece=40, options=headers.STRICT)
def test_any_bytes_are_a_header_or_an_error(data: bytes, piece: int, options: Options) -> None:
    """And the header ends where it says: one byte less lacks, one more is left."""
    peer = headers.Peer(data, piece)
    try:
        header = peer.header(options)
    except headers.EndedError:
        return
    except HeaderError as error:
        said = str(error)
        assert said.isprintable()
        assert len(said) < 150
        return
    used = data[: len(data) - len(peer.left)]
    assert proxy_header.parse(used, options) == header
    assert proxy_header.wanted(used[:-1], options) == 1
    assert proxy_header.wanted(used + b"x", options) == 0
    assert all(value.isprintable() and value for value in proxy_header.variables(header).values())


@given(data=like_headers())
def test_what_was_read_never_had_a_shorter_header(data: bytes) -> None:
    """No beginning of a header is one, so nothing of the program's could have been read."""
    peer = headers.Peer(data)
    try:
        peer.header()
    except (headers.EndedError, HeaderError):
        return
    for end in range(len(data) - len(peer.left)):
        assert 0 < proxy_header.wanted(data[:end], headers.STRICT) <= len(data) - len(peer.left) - end


@given(
    version=VERSIONS, ends=st.binary(min_size=32, max_size=32), ports=st.tuples(PORTS, PORTS), data=st.data()
)
def test_a_built_line_reads_back(
    version: tuple[int, int, int], ends: bytes, ports: tuple[int, int], data: st.DataObject
) -> None:
    family, size, _ = version
    source, destination = (ipaddress.ip_address(part[:size]) for part in (ends[:16], ends[16:]))
    written = [
        data.draw(st.sampled_from([str(a), a.exploded, a.exploded.upper()])) for a in (source, destination)
    ]
    line = f"PROXY TCP{family} {' '.join(written)} {ports[0]} {ports[1]}\r\n".encode()
    header = headers.Peer(line, data.draw(st.integers(1, 20))).header()

    assert not header.local
    for end, address, port in (
        (header.source, source, ports[0]),
        (header.destination, destination, ports[1]),
    ):
        assert end is not None
        mapped = getattr(address, "ipv4_mapped", None) or address
        assert (end.version, end.value, end.port, end.text) == (
            mapped.version,
            int(mapped),
            port,
            str(mapped),
        )


@given(
    version=VERSIONS,
    ends=st.binary(min_size=32, max_size=32),
    ports=st.tuples(PORTS, PORTS),
    tlvs=TLVS,
    data=st.data(),
)
def test_a_built_v2_header_reads_back(
    version: tuple[int, int, int],
    ends: bytes,
    ports: tuple[int, int],
    tlvs: list[tuple[int, bytes]],
    data: st.DataObject,
) -> None:
    _, size, kind = version
    body = ends[:size] + ends[16 : 16 + size] + struct.pack("!HH", *ports)
    vectors = [headers.tlv(*each) for each in tlvs]
    padded = [
        part for vector in vectors for part in (vector, headers.tlv(4, data.draw(st.binary(max_size=3))))
    ]
    place = data.draw(st.integers(0, len(padded)))
    before, after = b"".join(padded[:place]), b"".join(padded[place:])
    unsummed = headers.v2(body + before + headers.tlv(3, bytes(4)) + after, kind)
    at = 16 + len(body) + len(before) + 3
    whole = unsummed[:at] + struct.pack("!L", tlv.crc32c(unsummed)) + unsummed[at + 4 :]
    header = headers.Peer(whole, data.draw(st.integers(1, 60))).header()

    assert header.source is not None
    assert header.destination is not None
    assert (header.source.port, header.destination.port) == ports
    assert header.source.value & 0xFFFFFFFF == int.from_bytes(body[size - 4 : size])
    assert [each for each in header.tlvs if each[0] != 3] == tlvs
    damaged = bytearray(whole)
    # elsewhere a changed bit may turn the checksum into padding
    flipped = data.draw(st.integers(16, 15 + len(body)) | st.integers(at, at + 3))
    damaged[flipped] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(HeaderError, match=r"^v2: "):
        headers.Peer(bytes(damaged)).header()


@given(
    source=st.binary(max_size=108),
    destination=st.binary(max_size=108),
    transport=st.sampled_from([1, 2]),
    tlvs=TLVS,
)
def test_built_unix_paths_read_back(
    source: bytes, destination: bytes, transport: int, tlvs: list[tuple[int, bytes]]
) -> None:
    body = (
        source.ljust(108, b"\0")
        + destination.ljust(108, b"\0")
        + b"".join(headers.tlv(*each) for each in tlvs)
    )
    header = headers.Peer(headers.v2(body, 0x30 | transport)).header()

    assert header.path is not None
    assert (header.local, header.source) == (True, None)
    for path, given_path in zip(header.path, (source, destination), strict=True):
        assert path == (given_path.rstrip(b"\0") if given_path[:1] == b"\0" else given_path.split(b"\0")[0])
    assert list(header.tlvs) == tlvs


def by_the_book(line: bytes) -> bool:
    """Return whether a line is a header, by one pattern and the C library's reading of addresses."""
    found = re.fullmatch(rb"PROXY TCP([46]) ([^ ]+) ([^ ]+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4})\r\n", line)
    if found is None:
        return len(line) <= 107 and bool(re.fullmatch(rb"PROXY UNKNOWN( [^\r\n]*)?\r\n", line))
    try:
        for address in found.group(2, 3):
            socket.inet_pton(socket.AF_INET if found[1] == b"4" else socket.AF_INET6, address.decode("ascii"))
    except (OSError, ValueError):
        return False
    return len(line) <= 107 and all(int(port) < 65536 for port in found.group(4, 5))


ADDRESSES = st.text("0123456789abcdefF:.", max_size=20) | st.lists(
    st.sampled_from(["0", "1", "ffff", "00", "db8", "", "255", "256", "1.2.3.4"]), max_size=9
).flatmap(lambda parts: st.sampled_from([":".join(parts), ".".join(parts), "::" + ":".join(parts)]))


@given(
    kind=st.sampled_from(["TCP4", "TCP6", "UNKNOWN"]),
    addresses=st.tuples(ADDRESSES, ADDRESSES | st.sampled_from(["1.2.3.4", "::1"])),
    ports=st.tuples(st.integers(0, 70000).map(str), st.text("0123456789", max_size=6)),
    end=st.sampled_from(["\r\n", "\r\n", "\n", " \r\n"]),
)
def test_lines_are_judged_as_by_the_c_library(
    kind: str, addresses: tuple[str, str], ports: tuple[str, str], end: str
) -> None:
    line = f"PROXY {kind} {' '.join((*addresses, *ports))}{end}".encode()
    peer = headers.Peer(line)
    try:
        accepted = bool(peer.header()) and not peer.left
    except (headers.EndedError, HeaderError):
        accepted = False

    assert accepted == by_the_book(line)


def test_the_books_judge_agrees_with_the_vectors() -> None:
    lines = [row for row in headers.ROWS if row["name"].startswith("v1 ")]
    assert [
        row["name"] for row in lines if by_the_book(headers.sent(row)) != (row["verdict"] == "accept")
    ] == []
