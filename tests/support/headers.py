"""PROXY headers for tests: the vectors, headers made from their parts, and a peer that sends them."""

import ipaddress
import pathlib
import struct
import tomllib
from typing import Any

from tcpdconf.policy.proxy import header as proxy_header
from tcpdconf.policy.proxy.header import Header, Options

ROWS: list[dict[str, Any]] = tomllib.loads(
    (pathlib.Path(__file__).parent.parent / "vectors/proxy.toml").read_text()
)["vectors"]
STRICT = Options()
LENIENT = Options(versions=frozenset({"v1"}), lenient=True)
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.9 5555 25\r\n"


class EndedError(Exception):
    """The peer has sent no more, though the header lacks something."""


class Peer:
    """Sends the bytes of a peer in pieces of at most `piece` bytes."""

    def __init__(self, data: bytes, piece: int = 1 << 16) -> None:
        self.left = data
        self.reads = 0
        self._piece = piece

    def header(self, options: Options = STRICT) -> Header:
        """Read its header, never more than is wanted."""
        data = bytearray()
        while wanted := proxy_header.wanted(data, options):
            if not self.left:
                raise EndedError
            count = min(wanted, self._piece)
            data += self.left[:count]
            self.left = self.left[count:]
            self.reads += 1
        return proxy_header.parse(data, options)


def sent(row: dict[str, Any]) -> bytes:
    data = row["text"].encode("latin-1") if "text" in row else bytes.fromhex(row["hex"])
    return bytes(data) + bytes(row.get("zeros", 0))


def v2(block: bytes = b"", kind: int = 0x11, command: int = 0x21) -> bytes:
    return proxy_header.SIGNATURE + struct.pack("!BBH", command, kind, len(block)) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def ssl(client: int, verify: int, *parts: bytes) -> bytes:
    return tlv(0x20, struct.pack("!BL", client, verify) + b"".join(parts))


def block(source: str, destination: str, *ports: int) -> bytes:
    ends = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    return ends[0].packed + ends[1].packed + struct.pack("!HH", *ports)


IPV4 = block("192.0.2.7", "198.51.100.9", 5555, 25)
