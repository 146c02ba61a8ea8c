"""Parses PROXY protocol headers and tells how many bytes to read.

Pure: bytes in, values out, no state between calls. The caller reads from its socket only as many bytes as
`wanted` allows, so no byte after the header is ever taken from the program.

Source: HAProxy's proxy-protocol.txt, versions 1 and 2. Where the specification leaves a choice:

- UNKNOWN, an unspecified family or transport, and clients that no TCP connection can have (AF_UNIX,
  SOCK_DGRAM) fall back to the socket's own addresses. The specification allows this; HAProxy and nginx do it.
- The blocks of LOCAL and of an unspecified family are skipped by their length, TLVs included.
- A lone CR or LF never ends a v1 line and is not allowed in an UNKNOWN line: a client's data may begin after
  it.
"""

import struct
from typing import Final, NamedTuple

from tcpdconf.policy import connection
from tcpdconf.policy.proxy import tlv, v1

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"

_PREFIX: Final = 16  # bytes of a v2 header before its block
_LOCAL: Final = 0x20  # version and command
_PROXY: Final = 0x21
_INET: Final = 1
_INET6: Final = 2
_UNIX: Final = 3
_STREAM: Final = 1
_DATAGRAM: Final = 2
_BLOCKS: Final = {  # addresses and ports, by family and transport; the layout of others is unknown
    family << 4 | transport: struct.Struct(form)
    for family, form in ((_INET, "!4s4sHH"), (_INET6, "!16s16sHH"), (_UNIX, "!108s108s"))
    for transport in (_STREAM, _DATAGRAM)
}


class HeaderError(Exception):
    """Reports why bytes are not a PROXY header.

    The message is one printable line for the log, with at most 16 bytes from the peer, escaped.
    """


class Options(NamedTuple):
    """Holds what a listener accepts. `lenient` reads v1 as couriertcpd does (see `v1.lenient_read`)."""

    versions: frozenset[str] = frozenset({"v1", "v2"})
    lenient: bool = False
    largest: int = 4096  # bytes of a whole v2 header; `max_header` of a listener


class Header(NamedTuple):
    """Holds a parsed header. `local` is True if it names no TCP client, so the socket's own ends apply."""

    version: int  # 1 or 2
    local: bool
    source: connection.Endpoint | None = None
    destination: connection.Endpoint | None = None
    tlvs: tlv.TLVs = ()
    path: tuple[bytes, bytes] | None = None  # source and destination if they are AF_UNIX


def wanted(data: bytes | bytearray, options: Options) -> int:
    """Return the least number of bytes that the header still lacks; 0 when it is complete.

    Raises:
        HeaderError: the bytes read so far cannot become a header.
    """
    data = bytes(data)
    return max(_missing(_version(data, options), data, options), 0)


def parse(data: bytes | bytearray, options: Options) -> Header:
    """Parse exactly one header, read as far as `wanted` said.

    Raises:
        HeaderError: the bytes are not a header, or not exactly one.
    """
    data = bytes(data)
    version = _version(data, options)
    if _missing(version, data, options) != 0:
        raise HeaderError("must be exactly one PROXY header")
    return _read_v2(data) if version == 2 else _read_v1(data, options)


def variables(header: Header) -> dict[str, str]:
    """Return the variables that a program gets besides the addresses, by name; see `tlv.variables`."""
    return tlv.variables(header.tlvs)


def _version(data: bytes, options: Options) -> int:
    """Return the version that the bytes begin like; with no bytes, the one whose header may be shorter."""
    # With v2 a leading CR belongs to the signature, although couriertcpd would skip it.
    blanks = (b" " if "v2" in options.versions else b" \r") if options.lenient else b""
    line = data.lstrip(blanks) if blanks else data
    if "v1" in options.versions and line[:5] == b"PROXY"[: len(line)]:
        return 1
    if "v2" in options.versions and data[:12] == SIGNATURE[: len(data)]:
        return 2
    if data[:5] == b"PROXY" or data[:12] == SIGNATURE:
        raise HeaderError(f"v{1 if data[:1] == b'P' else 2} is not accepted here")
    raise HeaderError(f"no PROXY header: {v1.shown(data)}")


def _missing(version: int, data: bytes, options: Options) -> int:
    """Return the least number of bytes still to come; negative if there are bytes after the header."""
    if version == 2:
        return _missing_v2(data, options.largest)
    try:
        return v1.lenient_missing(data) if options.lenient else v1.missing(data)
    except v1.ProxyLineError as error:
        raise HeaderError(f"v1: {error}") from None


def _missing_v2(data: bytes, largest: int) -> int:
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise HeaderError(f"v2: unknown version {data[12] >> 4} or command {data[12] & 15}")
    proxied = len(data) > 13 and data[12] == _PROXY  # the family of LOCAL has no meaning
    if proxied and (data[13] >> 4 > _UNIX or data[13] & 15 > _DATAGRAM):
        raise HeaderError(f"v2: unknown family {data[13] >> 4} or transport {data[13] & 15}")
    if len(data) < _PREFIX:
        return _PREFIX - len(data)
    length = int.from_bytes(data[14:16])
    if _PREFIX + length > largest:
        raise HeaderError(f"v2: {_PREFIX + length} bytes, at most {largest} are allowed")
    block = _BLOCKS.get(data[13])
    if proxied and block is not None and length < block.size:
        raise HeaderError(f"v2: {length} bytes of addresses, {block.size} are needed")
    return _PREFIX + length - len(data)


def _read_v1(data: bytes, options: Options) -> Header:
    try:
        ends = v1.lenient_read(data) if options.lenient else v1.read(data)
    except v1.ProxyLineError as error:
        raise HeaderError(f"v1: {error}") from None
    if ends is None:
        return Header(1, local=True)
    return Header(1, local=False, source=ends[0], destination=ends[1])


def _read_v2(data: bytes) -> Header:
    block = _BLOCKS.get(data[13])
    if data[12] == _LOCAL or block is None:
        return Header(2, local=True)
    try:
        tlvs = tlv.read(data, _PREFIX + block.size)
    except tlv.TLVError as error:
        raise HeaderError(f"v2: {error}") from None
    family, transport = data[13] >> 4, data[13] & 15
    if family == _UNIX:
        source, destination = block.unpack_from(data, _PREFIX)
        return Header(2, local=True, tlvs=tlvs, path=(_path(source), _path(destination)))
    if transport != _STREAM:
        return Header(2, local=True, tlvs=tlvs)
    source, destination, *ports = block.unpack_from(data, _PREFIX)
    version = 4 if family == _INET else 6
    return Header(
        2,
        local=False,
        source=connection.endpoint(version, int.from_bytes(source), ports[0]),
        destination=connection.endpoint(version, int.from_bytes(destination), ports[1]),
        tlvs=tlvs,
    )


def _path(field: bytes) -> bytes:
    """Return the path in its 108-byte field; one that begins with NUL is abstract (unix(7))."""
    return field.rstrip(b"\0") if field[:1] == b"\0" else field.partition(b"\0")[0]
