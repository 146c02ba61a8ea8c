"""Describes one client's connection in a worker, and the settings under which it is served."""

import contextlib
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tcpdconf.config import dialect
from tcpdconf.config.model.service import Service
from tcpdconf.daemon.dns.lookups import Lookups
from tcpdconf.daemon.guard.early_talkers import EarlyTalkers
from tcpdconf.daemon.shared.table import SharedTable
from tcpdconf.daemon.worker.program import Program
from tcpdconf.policy.connection import Endpoint, Link, Refused
from tcpdconf.policy.decision import NamedTable
from tcpdconf.policy.limits import RateLimiter
from tcpdconf.policy.shared_limits import Shape

Address = tuple[str, int] | tuple[str, int, int, int]


class Asking(NamedTuple):
    """Says how a worker asks the process that counts connections which the worker does not know of.

    `deadline` is the time for an answer, in seconds. Without an answer the client is refused if `refuses`.
    """

    deadline: float
    refuses: bool = False


class Serving(NamedTuple):
    """Holds the settings of a service; each connection keeps those under which it was accepted.

    `base` is the environment of every program. `messages` has the text that a refused client gets, by
    reason. `sources` are the access sources that decide; if others only observe, `observed` has all of them.
    `stop_timeout` is the time, in seconds, between SIGTERM and SIGKILL. `table` has the counts that the
    worker shares with others, and `group` is what other services of the group count there. The kernel wakes
    the `first` worker of a service for each client, and one of the others. `asking` is
    set if the cluster process or the broker counts for the limits.
    """

    service: Service
    sources: Sequence[NamedTable]
    base: Mapping[str, str]
    runner: Program
    lookups: Lookups | None
    messages: Mapping[str, bytes]
    ways: dialect.Dialect = dialect.TOML
    early_talkers: EarlyTalkers | None = None
    observed: Sequence[NamedTable] | None = None
    stop_timeout: float = 0.0
    table: SharedTable | None = None
    group: frozenset[Shape] = frozenset()
    first: bool = True
    asking: Asking | None = None


@dataclass(slots=True, eq=False)
class Connection:
    """Describes one connection, from its arrival until it has a program or is closed.

    Attributes:
        link: the two ends, and those of the proxy once its header has been read.
        variables: the program's environment beyond `serving.base`, as far as it is known.
        found: the names of those variables that no access rule has set, but DNS.
        admitted: True once it holds a slot.
        awaited: the number of answers that are still awaited: from DNS, and about early data.
        unenforced: the refusal that it would get if all limits and access sources were enforced.
        until: the time, on the loop's clock, until which it may wait for a process, once it waits.
        accepted: the time, on the same clock, at which it was accepted.
        parked: the time at which it began to wait for a slot, if it had to.
        max_per_ip: the maximum of its access rules for one address, if they have one.
        ticket: what `ClusterShare.ask` has returned for it, or 0.
        reserved: the rates of which it has reserved a token, until `Slots.settle`.
    """

    serving: Serving
    socket: socket.SocketType
    link: Link
    variables: dict[str, str]
    found: Collection[str] = ()
    admitted: bool = False
    awaited: int = 0
    unenforced: Refused | None = None
    until: float = 0.0
    accepted: float = 0.0
    parked: float = 0.0
    max_per_ip: int | None = None
    ticket: int = 0
    reserved: Sequence[RateLimiter] = ()

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


def tell(client: socket.SocketType, message: bytes) -> None:
    """Send a last message to a client; the caller closes the socket.

    First it reads what the client has sent: unread data would turn the close into a reset.
    """
    client.setblocking(False)
    with contextlib.suppress(OSError):
        client.recv(65536)
    with contextlib.suppress(OSError):
        client.send(message)
        client.shutdown(socket.SHUT_WR)
