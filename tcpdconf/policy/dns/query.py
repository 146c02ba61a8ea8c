"""Defines a DNS question and its answer, the values between the DNS client and policy."""

from typing import Final, Literal, NamedTuple

from tcpdconf.policy import connection

Type = Literal["A", "AAAA", "PTR", "TXT"]

# answer: the name exists; `addresses`, `names` or `texts` hold its records of the type asked for, or none.
# The others hold no records: no such name; the server failed or refused; no server answered in time; no
# server could be reached; the message was no valid answer; the list is suspended, so no server was asked.
Status = Literal[
    "answer", "nxdomain", "servfail", "refused", "timeout", "unreachable", "malformed", "suspended"
]


class Question(NamedTuple):
    """Holds an absolute domain name in lower case without its final dot, and a record type."""

    name: str
    type: Type


class Answer(NamedTuple):
    """Holds the answer to a question. `ttl` is in seconds, 0 if the answer must not be cached."""

    status: Status
    addresses: tuple[str, ...] = ()  # of A and AAAA records, in text form, in the order received
    names: tuple[str, ...] = ()  # of PTR records, as received, without the last dot
    texts: tuple[tuple[bytes, ...], ...] = ()  # of TXT records: the strings of each, as received
    ttl: float = 0.0
    alias: str = ""  # the canonical name, if the answer came without its records


SUSPENDED: Final = Answer("suspended")


def labels(end: connection.Endpoint) -> str:
    """Return an address as labels in front of a zone: its octets, or its 32 nibbles, in reverse order.

    RFC 1035, 3.5; RFC 3596, 2.5; RFC 5782, 2.1 and 2.4.
    """
    if end.version == 4:
        return ".".join(end.text.split(".")[::-1])
    return ".".join(f"{end.value:032x}"[::-1])
