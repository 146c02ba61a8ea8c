"""Describes one client's connection in a worker, and the settings under which it is served."""

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
    """Holds the settings of a service; each connection keeps those under which it was accepted.

    `base` is the environment of every program. `messages` has the text that a refused client gets, by
    reason.
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
    """Describes one connection, from its arrival until it has a program or is closed.

    Attributes:
        link: the two ends, and those of the proxy once its header has been read.
        variables: the program's environment beyond `serving.base`, as far as it is known.
        admitted: True once it holds a slot.
        until: the time, on the loop's clock, until which it may wait for a process.
    """

    serving: Serving
    socket: socket.socket
    link: Link
    variables: Mapping[str, str]
    admitted: bool = False
    until: float = 0.0

    def ends(self) -> dict[str, object]:
        """Return the fields of a log line that name the client, and its proxy if it has one."""
        link = self.link
        return {"peer": link.peer} if link.proxy is None else {"peer": link.peer, "via": link.proxy.peer}


def fixed_end(listener: socket.socket) -> Endpoint | None:
    """Return the local end of a listener's connections, or None if each connection has its own."""
    end = endpoint(listener.getsockname())
    return end if end.value else None


def endpoint(address: Address) -> Endpoint:
    """Return the endpoint of a socket address.

    An IPv4-mapped address becomes the IPv4 address. A zone index is left out.
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
    """Return the texts for refused clients, by reason."""
    texts = {"access": service.deny_message, "dropped": service.deny_message}
    texts |= service.messages.model_dump(exclude_none=True)
    return {reason: _line(text) for reason, text in texts.items() if text is not None}


def _line(text: str) -> bytes:
    """Return a text as a line: with CRLF, as SMTP, POP3 and IMAP want it, unless it ends with a newline."""
    return (text if text.endswith("\n") else text + "\r\n").encode()


def tell(client: socket.socket, message: bytes) -> None:
    """Send a last message to a client; the caller closes the socket.

    First it reads what the client has sent: unread data would turn the close into a reset.
    """
    client.setblocking(False)
    with contextlib.suppress(OSError):
        client.recv(65536)
    with contextlib.suppress(OSError):
        client.send(message)
        client.shutdown(socket.SHUT_WR)
