"""Two other readers of PROXY headers, proxy-protocol and aiosmtpd, and tcpdconf read the same ends.

Headers that name no TCP client are left out: the other two report the ends of UDP, of Unix sockets and of
LOCAL, which mean nothing here. An IPv4-mapped address is IPv4 for tcpdconf.
"""

import asyncio
import ipaddress
import struct
from typing import Any, Final, NamedTuple

import pytest
from aiosmtpd import proxy_protocol as aiosmtpd
from hypothesis import given
from hypothesis import strategies as st
from proxyprotocol.result import is_ipv4, is_ipv6
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2
from support import headers

ROWS: Final = [row for row in headers.ROWS if "source" in row and "zeros" not in row]
PORTS: Final = st.integers(0, 0xFFFF)
BLOCKS: Final = st.lists(
    st.tuples(st.sampled_from([0x01, 0x02, 0x30, 0xEA, 0xEE]), st.binary(min_size=1, max_size=40)), max_size=4
)


class Ends(NamedTuple):
    """Holds the two ends that a header names."""

    source: str
    destination: str


def end(host: object, port: object) -> str:
    address = ipaddress.ip_address(str(host))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return f"{mapped or address} {port}"


def of_tcpdconf(data: bytes) -> Ends:
    found = headers.Peer(data).header()
    assert found.source is not None
    assert found.destination is not None
    return Ends(
        end(found.source.text, found.source.port), end(found.destination.text, found.destination.port)
    )


def of_proxy_protocol(data: bytes) -> Ends:
    reader = ProxyProtocolV1() if data.startswith(b"PROXY ") else ProxyProtocolV2()
    found = reader.unpack(data)
    assert is_ipv4(found) or is_ipv6(found)
    return Ends(end(*found.source), end(*found.dest))


def of_aiosmtpd(data: bytes) -> Ends:
    async def read() -> aiosmtpd.ProxyData:
        stream = asyncio.StreamReader()
        stream.feed_data(data)
        stream.feed_eof()
        return await aiosmtpd.get_proxy(stream)

    found = asyncio.run(read())
    assert found.valid, found.error
    return Ends(end(found.src_addr, found.src_port), end(found.dst_addr, found.dst_port))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_the_vectors_name_the_same_ends(row: dict[str, Any]) -> None:
    data = headers.sent(row)
    assert of_tcpdconf(data) == of_proxy_protocol(data) == of_aiosmtpd(data)


@given(st.booleans(), st.data(), PORTS, PORTS, BLOCKS)
def test_any_header_names_the_same_ends(
    six: bool, data: st.DataObject, source_port: int, port: int, blocks: list[tuple[int, bytes]]
) -> None:
    addresses = st.ip_addresses(v=6 if six else 4)
    source, destination = data.draw(addresses), data.draw(addresses)
    line = f"PROXY TCP{6 if six else 4} {source} {destination} {source_port} {port}\r\n".encode()
    block = source.packed + destination.packed + struct.pack("!HH", source_port, port)
    block += b"".join(headers.tlv(kind, value) for kind, value in blocks)
    for header in (line, headers.v2(block, 0x21 if six else 0x11)):
        read = of_tcpdconf(header)
        assert read == Ends(end(source, source_port), end(destination, port))
        assert read == of_proxy_protocol(header) == of_aiosmtpd(header)
