"""One client's connection in a worker: its ends, what it is served with, and a last word to it."""

import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tcpdconf.config import dialect
from tcpdconf.config.model.service import Service
from tcpdconf.daemon.dns.lookups import Lookups
from tcpdconf.daemon.worker.program import Program
from tcpdconf.policy.connection import Endpoint, Link
from tcpdconf.policy.decision import NamedTable

Address = tuple[str, int] | tuple[str, int, int, int]


class Serving(NamedTuple):
    """What connections are served with: each keeps what it was accepted under.

    `base` is the environment of every program, `messages` what a refused client is told, by reason.
    """

    service: Service
    sources: Sequence[NamedTable]
    base: Mapping[str, str]
    runner: Program
    lookups: Lookups | None
    messages: Mapping[str, bytes]
    ways: dialect.Dialect = dialect.TOML


@dataclass(slots=True, eq=False)
class Connection:
    """One connection, from its arrival until it has a program or is closed.

    Attributes:
        link: the two ends, and those of the proxy once its header has been read.
        variables: what the program's environment has beyond `serving.base`, as far as it is known.
        admitted: it holds a slot.
        until: the time of the loop's clock until which it may wait for a process.
    """

    serving: Serving
    socket: socket.socket
    link: Link
    variables: Mapping[str, str]
    admitted: bool = False
    until: float = 0.0

    def ends(self) -> dict[str, object]:
        """Return the fields of a log line that name the client, and the proxy that it came by."""
        link = self.link
        return {"peer": link.peer} if link.proxy is None else {"peer": link.peer, "via": link.proxy.peer}


def fixed_end(listener: socket.socket) -> Endpoint | None:
    """Return the local end of a listener's connections, or None where each has its own."""
    end = endpoint(listener.getsockname())
    return end if end.value else None


def endpoint(address: Address) -> Endpoint:
    """Return an end as the kernel names it.

    An IPv4-mapped address is the IPv4 address; a zone index is left out.
    """
    text, port = address[0], address[1]
    if ":" not in text:
        return Endpoint(4, int.from_bytes(socket.inet_pton(socket.AF_INET, text)), port, text)
    text = text.partition("%")[0]
    value = int.from_bytes(socket.inet_pton(socket.AF_INET6, text))
    if text.startswith("::ffff:") and "." in text:
        return Endpoint(4, value & 0xFFFFFFFF, port, text[7:])
    return Endpoint(6, value, port, text)


def messages(service: Service) -> dict[str, bytes]:
    """Return what to tell a refused client, by reason."""
    texts = {"access": service.deny_message, "dropped": service.deny_message}
    texts |= service.messages.model_dump(exclude_none=True)
    return {reason: _line(text) for reason, text in texts.items() if text is not None}


def _line(text: str) -> bytes:
    """SMTP, POP3 and IMAP end their lines with CRLF; a text that has its own end keeps it."""
    return (text if text.endswith("\n") else text + "\r\n").encode()


def tell(client: socket.socket, message: bytes) -> None:
    """Send a last word; the caller closes.

    What the client has sent already is read first: unread, it would turn the close into a reset.
    """
    client.setblocking(False)
    with contextlib.suppress(OSError):
        client.recv(65536)
    with contextlib.suppress(OSError):
        client.send(message)
        client.shutdown(socket.SHUT_WR)
