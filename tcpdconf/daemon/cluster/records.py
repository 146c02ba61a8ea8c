"""Writes and reads the records that a worker and the cluster process exchange for each connection.

Records have a fixed size, because each connection costs one in both directions. A datagram has one or more
records. A datagram that begins with a brace is a JSON message instead (`messages.cluster`).
"""

import struct
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from tcpdconf.daemon.messages.wire import MalformedError
from tcpdconf.policy.access import table as access_table

_REQUEST: Final = struct.Struct("=cBII16s")
_ANSWER: Final = struct.Struct("=cBHIII")
AT_ONCE: Final = 400  # most records of a datagram
MOST: Final = 10_000_000  # largest number of connections in a record, as in limits.max_connections

Verb = Literal["take", "hold", "release", "ping"]
_VERBS: Final[dict[bytes, Verb]] = {b"T": "take", b"H": "hold", b"R": "release", b"P": "ping"}
_LETTERS: Final = {verb: letter for letter, verb in _VERBS.items()}

Verdict = Literal["admitted", "refused", "unknown", "serving", "absent", "pong"]
_VERDICTS: Final[dict[bytes, Verdict]] = {
    b"A": "admitted",
    b"R": "refused",
    b"U": "unknown",
    b"S": "serving",
    b"N": "absent",
    b"P": "pong",
}
_VERDICT_LETTERS: Final = {verdict: letter for letter, verdict in _VERDICTS.items()}


class Request(NamedTuple):
    """Holds a worker's record about one address.

    `take` asks for one more connection. The answer repeats `number`, and `connections`, if it is not 0,
    replaces the maximum for one address. `hold` and `release` add and subtract `connections`.
    """

    verb: Verb
    version: int
    value: int
    number: int
    connections: int

    def packed(self) -> bytes:
        """Return the record."""
        letter = _LETTERS[self.verb]
        return _REQUEST.pack(letter, self.version, self.number, self.connections, self.value.to_bytes(16))


class Answer(NamedTuple):
    """Holds a record of the cluster process.

    `limit` is the index of the limit that refuses. For `admitted` it is the index, from 1 on, of the limit
    that would refuse if it were enforced, or 0. `held` is the number of connections of that limit's network
    on all hosts, and `elsewhere` the number on other hosts. After `serving` the engine is asked; after
    `absent` it is not.
    """

    verdict: Verdict
    number: int = 0
    limit: int = 0
    held: int = 0
    elsewhere: int = 0

    def packed(self) -> bytes:
        """Return the record."""
        letter = _VERDICT_LETTERS[self.verdict]
        return _ANSWER.pack(letter, 0, self.limit, self.number, self.held, self.elsewhere)


def requests(data: bytes) -> Iterator[Request]:
    """Yield the requests of a datagram.

    Raises:
        MalformedError: the datagram, or a record of it, is malformed.
    """
    if not data or len(data) % _REQUEST.size or len(data) > AT_ONCE * _REQUEST.size:
        raise MalformedError(f"no records: {len(data)} bytes")
    for letter, version, number, count, packed in _REQUEST.iter_unpack(data):
        value = int.from_bytes(packed)
        verb = _VERBS.get(letter)
        if verb is None or version not in access_table.BITS or value >> access_table.BITS[version]:
            raise MalformedError("no record")
        if count > MOST or (count == 0 and verb in {"hold", "release"}):
            raise MalformedError("no number of connections")
        yield Request(verb, version, value, number, count)


def answers(data: bytes) -> Iterator[Answer]:
    """Yield the answers of a datagram.

    Raises:
        MalformedError: the datagram, or a record of it, is malformed.
    """
    if not data or len(data) % _ANSWER.size or len(data) > AT_ONCE * _ANSWER.size:
        raise MalformedError(f"no records: {len(data)} bytes")
    for letter, _, limit, number, held, elsewhere in _ANSWER.iter_unpack(data):
        verdict = _VERDICTS.get(letter)
        if verdict is None:
            raise MalformedError("no record")
        yield Answer(verdict, number, limit, held, elsewhere)
