"""A DNS question and what came of it: the values between those who ask and those who judge."""

from typing import Final, Literal, NamedTuple

from tcpdconf.policy import connection

Type = Literal["A", "AAAA", "PTR", "TXT"]

# answer: the name exists; `addresses`, `names` or `texts` hold its records of the type asked for, or none.
# The others hold nothing: no such name; the server failed or refused; nobody answered in time; no server was
# there to be asked; what came was no answer to the question; the list is suspended, so nobody was asked.
Status = Literal[
    "answer", "nxdomain", "servfail", "refused", "timeout", "unreachable", "malformed", "suspended"
]


class Question(NamedTuple):
    """What is asked: an absolute domain name without its last dot, in lower case, and a record type."""

    name: str
    type: Type


class Answer(NamedTuple):
    """What came of a question. `ttl` is in seconds, 0 for what is not to be kept."""

    status: Status
    addresses: tuple[str, ...] = ()  # of A and AAAA records, in text form, in the order received
    names: tuple[str, ...] = ()  # of PTR records, as received, without the last dot
    texts: tuple[tuple[bytes, ...], ...] = ()  # of TXT records: the strings of each, as received
    ttl: float = 0.0
    alias: str = ""  # the name that this one is another name for, where its records were not given with it


SUSPENDED: Final = Answer("suspended")


def labels(end: connection.Endpoint) -> str:
    """An address as DNS has it in front of a zone: its octets, or its 32 nibbles, backwards.

    RFC 1035, 3.5; RFC 3596, 2.5; RFC 5782, 2.1 and 2.4.
    """
    if end.version == 4:
        return ".".join(end.text.split(".")[::-1])
    return ".".join(f"{end.value:032x}"[::-1])
