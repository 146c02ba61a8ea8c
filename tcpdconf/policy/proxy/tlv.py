"""Parses the type-length-value vectors (TLVs) of a PROXY v2 header and checks their checksum.

Sources: proxy-protocol.txt, 2.2 to 2.2.8; for the types of clouds, their documentation of private endpoints.
Every length is checked, also in the vectors within PP2_TYPE_SSL: a header that is inconsistent anywhere is
not reliable anywhere. A type without a name here is ignored, and so is the client's certificate
(PP2_SUBTYPE_SSL_CLIENT_CERT, 0x28), which is not text.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_ALPN: Final = 0x01
_AUTHORITY: Final = 0x02
_CRC32C: Final = 0x03
_NOOP: Final = 0x04
_UNIQUE_ID: Final = 0x05
_SSL: Final = 0x20
_SSL_CN: Final = 0x22
_SSL_TEXTS: Final = {  # variables by type, except the common name's
    0x21: "PROXY_SSL_VERSION",
    0x23: "PROXY_SSL_CIPHER",
    0x24: "PROXY_SSL_SIG_ALG",
    0x25: "PROXY_SSL_KEY_ALG",
    0x26: "PROXY_SSL_GROUP",
    0x27: "PROXY_SSL_SIG_SCHEME",
}
# In the range for applications. The first byte of AWS and Azure is a subtype, and 1 is an endpoint's.
_GCP: Final = 0xE0
_AWS: Final = 0xEA
_AZURE: Final = 0xEE
_ENDPOINT: Final = b"\x01"
_GCP_ID: Final = struct.Struct("!Q")
_AZURE_ID: Final = struct.Struct("<L")

_HEAD: Final = struct.Struct("!BH")  # type, length of the value
_SSL_HEAD: Final = struct.Struct("!BL")  # struct pp2_tlv_ssl: client, verify
_CLIENT_SSL: Final = 0x01
_CLIENT_CERTIFICATE: Final = 0x02 | 0x04  # on this connection, or once in its TLS session
_LONGEST_ID: Final = 128  # 2.2.5
_LONGEST_TEXT: Final = 255  # bytes of a variable; a host name and a common name are shorter

TLVs = tuple[tuple[int, bytes], ...]


class TLVError(Exception):
    """Reports that the vectors are not consistent."""


class _SSLInfo(NamedTuple):
    """Holds a PP2_TYPE_SSL: its bit field, the result of verification, the first vector of each type."""

    client: int
    verify: int
    parts: dict[int, bytes]


def read(header: bytes, start: int) -> TLVs:
    """Return the vectors of a whole v2 header that follow its addresses, as (type, value), without padding.

    Raises:
        TLVError: a length does not fit, a value does not have the form of its type, or the checksum is wrong.
    """
    found = []
    summed = False
    for kind, begin, value in _split(header, start):
        if kind == _CRC32C:
            if summed:
                raise TLVError("two checksums")
            _check_sum(header, begin, value)
            summed = True
        elif kind == _UNIQUE_ID and len(value) > _LONGEST_ID:
            raise TLVError(f"unique id of {len(value)} bytes")
        elif kind == _SSL:
            _ssl(value)
        if kind != _NOOP:
            found.append((kind, value))
    return tuple(found)


def variables(tlvs: TLVs) -> dict[str, str]:
    """Return the variables that a program gets, by name.

    If a type occurs more than once, the first vector counts. A value must be printable UTF-8 text of at most
    255 bytes; otherwise there is no variable, since half a name would be another name. Only a unique id,
    which may be any bytes, is written in hexadecimal digits instead. The numbers of Azure and Google Cloud
    are decimal. PROXY_SSL_CN is set only if the proxy has verified the client's certificate.
    """
    first = dict(reversed(tlvs))
    values = {"PROXY_AUTHORITY": _text(first.get(_AUTHORITY)), "PROXY_ALPN": _text(first.get(_ALPN))}
    unique = first.get(_UNIQUE_ID, b"")
    values["PROXY_UNIQUE_ID"] = _text(unique) or unique.hex()
    aws = next((value for kind, value in tlvs if kind == _AWS and value[:1] == _ENDPOINT), b"")
    values["PROXY_AWS_VPCE_ID"] = _text(aws[1:])
    azure = [value[1:] for kind, value in tlvs if kind == _AZURE and value[:1] == _ENDPOINT]
    values["PROXY_AZURE_LINK_ID"] = _number(_AZURE_ID, azure)
    google = [value for kind, value in tlvs if kind == _GCP]
    values["PROXY_GCP_PSC_CONNECTION_ID"] = _number(_GCP_ID, google)
    if _SSL in first:
        values |= _ssl_variables(_ssl(first[_SSL]))
    return {name: value for name, value in values.items() if value}


def crc32c(data: bytes) -> int:
    """Return the checksum of RFC 4960, appendix B (Castagnoli's polynomial)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _split(data: bytes, start: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield each vector as (type, offset of its value, value)."""
    while start < len(data):
        if len(data) - start < _HEAD.size:
            raise TLVError(f"bytes after the last TLV: {len(data) - start}")
        kind, length = _HEAD.unpack_from(data, start)
        begin = start + _HEAD.size
        start = begin + length
        if start > len(data):
            raise TLVError(f"value of type 0x{kind:02x} is cut off by the end of the header")
        yield kind, begin, data[begin:start]


def _check_sum(header: bytes, begin: int, value: bytes) -> None:
    """Check the checksum, which is computed over the header with zeros in place of the checksum."""
    if len(value) != 4:
        raise TLVError(f"checksum of {len(value)} bytes")
    if crc32c(header[:begin] + bytes(4) + header[begin + 4 :]) != int.from_bytes(value):
        raise TLVError("wrong checksum")


def _ssl(value: bytes) -> _SSLInfo:
    if len(value) < _SSL_HEAD.size:
        raise TLVError(f"SSL TLV of less than {_SSL_HEAD.size} bytes")
    client, verify = _SSL_HEAD.unpack_from(value)
    parts: dict[int, bytes] = {}
    for kind, _, part in _split(value, _SSL_HEAD.size):
        parts.setdefault(kind, part)
    return _SSLInfo(client, verify, parts)


def _ssl_variables(ssl: _SSLInfo) -> dict[str, str]:
    if not ssl.client & _CLIENT_SSL:
        return {}
    verified = ssl.client & _CLIENT_CERTIFICATE and ssl.verify == 0
    texts = {name: _text(ssl.parts.get(kind)) for kind, name in _SSL_TEXTS.items()}
    return {"PROXY_SSL": "1", **texts, "PROXY_SSL_CN": _text(ssl.parts.get(_SSL_CN)) if verified else ""}


def _text(value: bytes | None) -> str:
    """Return the value as text, or "" if a program should not see it."""
    if value is None or len(value) > _LONGEST_TEXT:
        return ""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""


def _number(form: struct.Struct, found: list[bytes]) -> str:
    """Return the first value that has the size of this number, in decimal digits, or "" without one.

    A value of another size is another thing of the same provider, not this number.
    """
    value = next((value for value in found if len(value) == form.size), None)
    return "" if value is None else str(form.unpack(value)[0])


def _crc_table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # noqa: PLW2901 (the register shifts)
        table.append(crc)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()
