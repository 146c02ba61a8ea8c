"""The socket of one client: who is at its ends, and a last word to it."""

import contextlib
import socket

from tcpdconf.config.model.service import Service
from tcpdconf.policy import connection


def fixed_end(listener: socket.socket) -> connection.Endpoint | None:
    """The local end of a listener's connections, or None where each has its own."""
    end = endpoint(listener.getsockname())
    return end if end.value else None


Address = tuple[str, int] | tuple[str, int, int, int]


def endpoint(address: Address) -> connection.Endpoint:
    """An end as the kernel names it; an IPv4-mapped address is the IPv4 address, a zone index is left out."""
    text, port = address[0], address[1]
    if ":" not in text:
        return connection.Endpoint(4, int.from_bytes(socket.inet_pton(socket.AF_INET, text)), port, text)
    text = text.partition("%")[0]
    value = int.from_bytes(socket.inet_pton(socket.AF_INET6, text))
    if text.startswith("::ffff:") and "." in text:
        return connection.Endpoint(4, value & 0xFFFFFFFF, port, text[7:])
    return connection.Endpoint(6, value, port, text)


def messages(service: Service) -> dict[str, bytes]:
    """What to tell a refused client, by reason."""
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
