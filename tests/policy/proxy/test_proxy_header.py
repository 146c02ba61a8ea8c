"""PROXY headers: the vectors, and what the specification leaves to its readers."""

from typing import Any

import pytest
from support import headers

from tcpdconf.policy.proxy import header as proxy_header
from tcpdconf.policy.proxy import tlv
from tcpdconf.policy.proxy.header import Header, HeaderError, Options


def described(header: Header) -> dict[str, Any]:
    """A header in the words of the vectors."""
    said: dict[str, Any] = {"version": header.version, "local": header.local}
    if header.source is not None:
        said |= {"source": str(header.source), "destination": str(header.destination)}
    if header.path is not None:
        said["paths"] = [path.hex() for path in header.path]
    if header.tlvs:
        said["tlvs"] = [[kind, value.hex()] for kind, value in header.tlvs]
    return said


def rows(verdict: str) -> pytest.MarkDecorator:
    found = [pytest.param(row, id=row["name"]) for row in headers.ROWS if row["verdict"] == verdict]
    return pytest.mark.parametrize("row", found)


def test_the_vectors_are_many_and_complete() -> None:
    assert len(headers.ROWS) >= 150
    assert (
        len({row["name"] for row in headers.ROWS})
        == len(headers.ROWS)
        == len({headers.sent(row) for row in headers.ROWS})
    )
    for row in headers.ROWS:
        assert row.keys() >= {"name", "verdict", "why", "origin"}, row["name"]
        assert row["verdict"] == "reject" or row.keys() >= {"version", "local"}, row["name"]


@pytest.mark.parametrize("piece", [1 << 16, 1, 2, 5, 16])
@rows("accept")
def test_a_header_is_read_in_any_pieces_and_what_follows_is_left(row: dict[str, Any], piece: int) -> None:
    told = ("version", "local", "source", "destination", "paths", "tlvs")
    expected = {key: row[key] for key in told if key in row}
    for behind in (b"", b"\n", b"\r\n", b"\0", b"EHLO x\r\n", headers.sent(row)):
        peer = headers.Peer(headers.sent(row) + behind, piece)
        said = described(peer.header())
        if "zeros" in row:  # whose vectors are too many to write down
            said.pop("tlvs")
        assert (said, peer.left) == (expected, behind)


def test_the_vectors_variables_are_what_a_program_gets() -> None:
    told = [row for row in headers.ROWS if "variables" in row]
    assert len(told) > 20
    for row in told:
        header = headers.Peer(headers.sent(row)).header()
        assert proxy_header.variables(header) == row["variables"], row["name"]


@rows("accept")
def test_a_header_that_lacks_its_last_byte_is_none(row: dict[str, Any]) -> None:
    data = headers.sent(row)
    with pytest.raises(headers.EndedError):
        headers.Peer(data[:-1]).header()
    for other in (data[:-1], data + b"\n", data + data):
        with pytest.raises(HeaderError, match=r"^must be exactly one PROXY header$"):
            proxy_header.parse(other, headers.STRICT)


@pytest.mark.parametrize("piece", [1 << 16, 1])
@rows("reject")
def test_what_is_no_header_is_refused_and_never_waited_for(row: dict[str, Any], piece: int) -> None:
    with pytest.raises(HeaderError):
        headers.Peer(headers.sent(row), piece).header()


@pytest.mark.parametrize(
    ("begin", "refused_at"),
    [
        (b"EHLO", 1),
        (b"POST", 2),
        (b"PROXX", 5),
        (b"PROXYX", 6),
        (b"PROXY TCP5", 10),
        (b"PROXY UNKNOWNX", 14),
        (b"PROXY TCP4 .", 12),
        (b"PROXY TCP4 256", 14),
        (b"PROXY TCP4 1.2.3.4.", 19),
        (b"PROXY TCP4 1.2.3 ", 17),
        (b"PROXY TCP6 ::1%", 15),
        (b"PROXY TCP6 1:2 ", 15),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 01", 29),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 65536", 32),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 1\n", 31),
        (b"PROXY TCP4 1.2.3.4\r", 19),
        (b"\r\n\r\n\0\r\nQUIX", 11),
        (headers.v2()[:12] + b"\x22", 13),
        (headers.v2()[:13] + b"\x41", 14),
        (headers.v2(), 16),
    ],
)
def test_a_byte_that_cannot_be_of_a_header_is_the_last_that_is_read(begin: bytes, refused_at: int) -> None:
    assert proxy_header.wanted(begin[: refused_at - 1], headers.STRICT) > 0
    with pytest.raises(HeaderError):
        proxy_header.wanted(begin[:refused_at], headers.STRICT)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x16\x03\x01\0\xf8", r"no PROXY header: '\x16\x03\x01\x00\xf8'"),
        (b"GET / HTTP/1.1\r\nHost: x", r"no PROXY header: 'GET / HTTP/1.1\r'"),
        (b"PROXY UDP4 1.2.3.4", "v1: must be TCP4, TCP6 or UNKNOWN, not 'UDP4 1.2.'"),
        (headers.V1.replace(b" 5555", b" 70000"), "v1: bad source port: '70000'"),
        (headers.V1.replace(b"198", b"298"), "v1: bad destination address: '298.51.100.9'"),
        (headers.V1.replace(b" 25", b""), "v1: no destination port"),
        (headers.V1.replace(b"25", b"25 25"), "v1: more than four fields"),
        (headers.V1.replace(b"\r\n", b"\n"), "v1: a CR or LF alone does not end the line"),
        (b"PROXY UNKNOWN " + b"x" * 100, "v1: longer than 107 bytes"),
        (headers.v2(command=0x31), "v2: unknown version 3 or command 1"),
        (headers.v2(kind=0x41), "v2: unknown family 4 or transport 1"),
        (headers.v2(kind=0x21), "v2: 0 bytes of addresses, 36 are needed"),
        (headers.v2(bytes(5000)), "v2: 5016 bytes, at most 4096 are allowed"),
        (headers.v2(headers.IPV4 + b"\2"), "v2: bytes after the last TLV: 1"),
        (headers.v2(headers.IPV4 + b"\2\0\1"), "v2: value of type 0x02 is cut off by the end of the header"),
        (headers.v2(headers.IPV4 + headers.tlv(3, bytes(5))), "v2: checksum of 5 bytes"),
        (headers.v2(headers.IPV4 + headers.tlv(3, bytes(4))), "v2: wrong checksum"),
        (
            headers.v2(headers.IPV4 + headers.tlv(3, b"\x07\x8c\xbe\xf2") + headers.tlv(3, bytes(4))),
            "v2: two checksums",
        ),
        (headers.v2(headers.IPV4 + headers.tlv(5, bytes(129))), "v2: unique id of 129 bytes"),
        (headers.v2(headers.IPV4 + headers.tlv(32, b"\1")), "v2: SSL TLV of less than 5 bytes"),
    ],
)
def test_the_log_is_told_what_is_wrong(data: bytes, reason: str) -> None:
    with pytest.raises(HeaderError) as caught:
        headers.Peer(data).header()
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("data", "reads"),
    [
        (headers.V1, 5),
        (b"PROXY TCP6 2001:db8::7 2001:db8::9 5555 25\r\n", 7),
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", 7),
        (b"PROXY UNKNOWN\r\n", 1),
        (headers.v2(headers.IPV4), 3),
    ],
)
def test_a_header_takes_few_reads(data: bytes, reads: int) -> None:
    peer = headers.Peer(data)
    peer.header()

    assert peer.reads == reads


@pytest.mark.parametrize(
    ("versions", "data", "error"),
    [
        ("v1", headers.v2(headers.IPV4), "v2 is not accepted here"),
        ("v2", headers.V1, "v1 is not accepted here"),
        ("v1", b"EHLO x", "no PROXY header: 'EHLO x'"),
        ("v2", b"EHLO x", "no PROXY header: 'EHLO x'"),
    ],
)
def test_a_version_that_is_not_wanted_is_refused(versions: str, data: bytes, error: str) -> None:
    only = Options(versions=frozenset({versions}))
    with pytest.raises(HeaderError, match=rf"^{error}$"):
        proxy_header.wanted(data, only)
    good = headers.V1 if versions == "v1" else headers.v2(headers.IPV4)
    assert str(headers.Peer(good, 1).header(only).source) == "192.0.2.7:5555"


def test_a_v2_header_may_be_as_large_as_the_options_say() -> None:
    data = headers.v2(headers.IPV4 + headers.tlv(4, bytes(100)))
    assert headers.Peer(data).header(Options(largest=len(data))).version == 2
    with pytest.raises(HeaderError, match=rf"^v2: {len(data)} bytes, at most {len(data) - 1} are allowed$"):
        headers.Peer(data).header(Options(largest=len(data) - 1))


@pytest.mark.parametrize("family", range(256))
def test_each_family_byte_has_one_answer(family: int) -> None:
    """Under LOCAL none counts; under PROXY two mean addresses, seven the socket's own, the others nothing."""
    data = (bytes(216), family)
    assert headers.Peer(headers.v2(*data, command=0x20)).header().local
    try:
        header = headers.Peer(headers.v2(*data)).header()
    except HeaderError:
        assert family >> 4 > 3 or family & 15 > 2
    else:
        assert header.local == (family not in {0x11, 0x21})


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        (b"", {}),
        (headers.tlv(2, b"mail.example"), {"PROXY_AUTHORITY": "mail.example"}),
        (headers.tlv(2, "bücher.example".encode()), {"PROXY_AUTHORITY": "bücher.example"}),
        (headers.tlv(2, b"first") + headers.tlv(2, b"second"), {"PROXY_AUTHORITY": "first"}),
        (headers.tlv(2, b"a" * 255), {"PROXY_AUTHORITY": "a" * 255}),
        (headers.tlv(2, b"a" * 256), {}),
        (headers.tlv(2, b""), {}),
        (headers.tlv(2, b"a\0b"), {}),
        (headers.tlv(2, b"a\nb"), {}),
        (headers.tlv(2, b"a\x7f"), {}),
        (headers.tlv(2, b"\xff\xfe"), {}),
        (headers.tlv(2, "a\u202eb".encode()), {}),  # turns the direction of writing
        (headers.tlv(2, "a\u2028b".encode()), {}),  # ends a line
        (headers.tlv(2, b"\0") + headers.tlv(2, b"second"), {}),
        (headers.tlv(1, b"h2"), {"PROXY_ALPN": "h2"}),
        (headers.tlv(5, b"id-1"), {"PROXY_UNIQUE_ID": "id-1"}),
        (headers.tlv(5, b"\0\xff"), {"PROXY_UNIQUE_ID": "00ff"}),
        (headers.tlv(5, b"\xff" * 128), {"PROXY_UNIQUE_ID": "ff" * 128}),
        (headers.tlv(0xEA, b"\1vpce-08d2bf15fac5001c9"), {"PROXY_AWS_VPCE_ID": "vpce-08d2bf15fac5001c9"}),
        (headers.tlv(0xEA, b"\2other") + headers.tlv(0xEA, b"\1vpce-1"), {"PROXY_AWS_VPCE_ID": "vpce-1"}),
        (headers.tlv(0xEA, b""), {}),
        (headers.tlv(0xEA, b"\1"), {}),
        (headers.tlv(0xEE, b"\1LINKID"), {}),
        (headers.tlv(0xEE, b"\1\0\0\0\0"), {"PROXY_AZURE_LINK_ID": "0"}),
        (headers.tlv(0xE0, bytes(8)), {"PROXY_GCP_PSC_CONNECTION_ID": "0"}),
        (headers.tlv(0xE0, bytes(9)), {}),
        (headers.ssl(1, 0, headers.tlv(0x24, b"a\nb"), headers.tlv(0x27, b"\xff")), {"PROXY_SSL": "1"}),
        (headers.ssl(1, 1), {"PROXY_SSL": "1"}),
        (headers.ssl(0, 1, headers.tlv(0x21, b"TLSv1.3")), {}),
        (
            headers.ssl(1, 1, headers.tlv(0x21, b"TLSv1.3"), headers.tlv(0x23, b"TLS_AES_128_GCM_SHA256")),
            {
                "PROXY_SSL": "1",
                "PROXY_SSL_VERSION": "TLSv1.3",
                "PROXY_SSL_CIPHER": "TLS_AES_128_GCM_SHA256",
            },
        ),
        (headers.ssl(3, 0, headers.tlv(0x22, b"Jane Doe")), {"PROXY_SSL": "1", "PROXY_SSL_CN": "Jane Doe"}),
        (headers.ssl(5, 0, headers.tlv(0x22, b"Jane Doe")), {"PROXY_SSL": "1", "PROXY_SSL_CN": "Jane Doe"}),
        (
            headers.ssl(3, 18, headers.tlv(0x22, b"Jane Doe")),
            {"PROXY_SSL": "1"},
        ),  # 18: a self-signed certificate
        (headers.ssl(1, 0, headers.tlv(0x22, b"Jane Doe")), {"PROXY_SSL": "1"}),
        (
            headers.ssl(3, 0, headers.tlv(0x22, b"a"), headers.tlv(0x22, b"b")),
            {"PROXY_SSL": "1", "PROXY_SSL_CN": "a"},
        ),
    ],
)
def test_variables(vectors: bytes, expected: dict[str, str]) -> None:
    assert proxy_header.variables(headers.Peer(headers.v2(headers.IPV4 + vectors)).header()) == expected


def test_v1_has_no_variables() -> None:
    assert proxy_header.variables(headers.Peer(headers.V1).header()) == {}


def test_checksum() -> None:
    assert tlv.crc32c(b"123456789") == 0xE3069283


LINE = "PROXY TCP4 192.0.2.7 198.51.100.9 5555 25"
PLAIN = "192.0.2.7:5555 198.51.100.9:25"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (LINE + "\r\n", PLAIN),
        (LINE + "\n", PLAIN),
        (LINE + "\r\r\n", PLAIN),
        (LINE.replace(" 5555", "\r5555") + "\n", PLAIN),
        ("  PROXY   TCP4  192.0.2.7 198.51.100.9  5555 25  \r\n", PLAIN),
        ("\r" + LINE + "\r\n", PLAIN),
        (LINE + " extra words\r\n", PLAIN),
        (LINE + "\0rest\r\n", PLAIN),
        (LINE + " " * (254 - len(LINE)) + "\n", PLAIN),
        (LINE + " " * (253 - len(LINE)) + "\r\n", PLAIN),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 70000 65561\r\n", "192.0.2.7:4464 198.51.100.9:25"),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 -1 25\r\n", "192.0.2.7:65535 198.51.100.9:25"),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 abc 25x\r\n", "192.0.2.7:0 198.51.100.9:25"),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 0 0\r\n", "192.0.2.7:0 198.51.100.9:0"),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 +0017 \t25\r\n", "192.0.2.7:17 198.51.100.9:25"),
        (f"PROXY TCP4 192.0.2.7 198.51.100.9 {10**30} 25\n", "192.0.2.7:65535 198.51.100.9:25"),
        ("PROXY TCP6 2001:DB8::7 2001:db8::9 5555 25\r\n", "[2001:db8::7]:5555 [2001:db8::9]:25"),
        (
            "PROXY TCP6 2001:db8:0:0:0:0:0:7 2001:db8:0:0:0:0:0:7 5555 25" + " " * 45 + "\r\n",
            "[2001:db8::7]:5555 [2001:db8::7]:25",
        ),
        ("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.9 5555 25\r\n", PLAIN),
        ("PROXY UNKNOWN\r\n", "local"),
        ("PROXY UNKNOWN\n", "local"),
        ("PROXY UNKNOWN 192.0.2.7 198.51.100.9 5555 25\r\n", "local"),
        (LINE + " " * (255 - len(LINE)) + "\n", None),
        (LINE + " " * 300, None),
        (LINE.replace(" ", "\t") + "\r\n", None),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 5555\r\n", None),
        ("PROXY TCP4 192.0.2.7\0 198.51.100.9 5555 25\r\n", None),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 5555\0 25\r\n", None),
        ("\r\n", None),
        ("proxy tcp4 192.0.2.7 198.51.100.9 5555 25\r\n", None),
        ("PROXY tcp4 192.0.2.7 198.51.100.9 5555 25\r\n", None),
        ("EHLO x.test\r\n", None),
        ("PROXYX TCP4 192.0.2.7 198.51.100.9 5555 25\r\n", None),
        ("PROXY TCP4 2001:db8::7 2001:db8::9 5555 25\r\n", None),
        ("PROXY TCP6 192.0.2.7 198.51.100.9 5555 25\r\n", None),
        ("PROXY TCP6 fe80::7%eth0 2001:db8::9 5555 25\r\n", None),
        ("PROXY TCP4 192.0.2.7 198.51.100.999 5555 25\r\n", None),
        ("PROXY TCP4 192.0.7 198.51.100.9 5555 25\r\n", None),
        ("PROXY TCP4 192.0.2.07 198.51.100.9 5555 25\r\n", None),
    ],
)
@pytest.mark.parametrize("piece", [1 << 16, 1])
def test_the_lenient_reading_is_couriertcpds(line: str, expected: str | None, piece: int) -> None:
    """As it was seen to read them, but UNKNOWN is served."""
    peer = headers.Peer(line.encode() + b"EHLO\n", piece)
    if expected is None:
        with pytest.raises(HeaderError):
            peer.header(headers.LENIENT)
    else:
        header = peer.header(headers.LENIENT)
        assert peer.left == b"EHLO\n"
        assert ("local" if header.local else f"{header.source} {header.destination}") == expected


def test_the_lenient_reading_leaves_v2_as_it_is() -> None:
    both = Options(lenient=True)
    for data, peer in (
        (headers.v2(headers.IPV4), "192.0.2.7:5555"),
        (b" " + headers.V1[:-2] + b"\n", "192.0.2.7:5555"),
    ):
        for piece in (1, 1 << 16):
            stream = headers.Peer(data + b"EHLO\n", piece)
            assert (str(stream.header(both).source), stream.left) == (peer, b"EHLO\n")
    with pytest.raises(HeaderError, match=r"^no PROXY header"):
        headers.Peer(b"\r" + headers.V1).header(both)  # a CR begins v2's signature
