"""Encodes DNS questions and decodes answers (RFC 1035, 4). No socket, no clock.

Most answers say that a name is not listed, and their header suffices. dnspython takes ten times as long as
everything else here, so it reads only answers with records. Reading raises no exception, whatever the bytes.
"""

import functools
import itertools
import struct
from collections.abc import Iterable
from typing import Any, Final, Literal

import dns.message
import dns.rdatatype

# dnspython would import these when the first such record arrives: too late in a process without rights.
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.PTR
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA

from tcpdconf.policy.dns import query

MOST: Final = 64  # records that are read from one answer
# Seconds that a "no" without an SOA record is kept. RFC 2308, 5 forbids that, since two servers could keep it
# alive between them for ever; nobody asks this client.
NO_SOA: Final = 5

_CODES: Final[dict[query.Type, int]] = {"A": 1, "PTR": 12, "TXT": 16, "AAAA": 28}
_SOA: Final = 6
_ENDS: Final = {kind: struct.pack("!BHH", 0, code, 1) for kind, code in _CODES.items()}  # root, type, IN
_ASK: Final = struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0)  # recursion desired, one question
_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")  # what follows a record's owner: type, class, TTL, length of data

_KIND: Final = 0xF800  # bits of the flags: response, opcode
_RESPONSE: Final = 0x8000
_TRUNCATED: Final = 0x0200
_KNOWS: Final = 0x0480  # flags: the server is authoritative, or offers recursion
_NXDOMAIN: Final = 3
_REFUSED: Final = 5

_MALFORMED: Final = query.Answer("malformed")


def question(asked: query.Question) -> bytes:
    """Return the question section for a question.

    Raises:
        ValueError: no such name can exist (RFC 1035, 2.3.4).
    """
    name = b"".join(map(_label, asked.name.lower().split(".")))
    if len(name) > 254:
        raise ValueError(f"a name of {len(name)} octets")
    return name + _ENDS[asked.type]


@functools.lru_cache(4096)  # zones, and the numbers of which addresses consist
def _label(text: str) -> bytes:
    octets = text.encode("ascii")
    if not 1 <= len(octets) <= 63:
        raise ValueError(f"a label of {len(octets)} octets")
    return bytes([len(octets)]) + octets


def message(number: bytes, section: bytes) -> bytes:
    """Return a message with this id (two octets) and question section; without EDNS, as answers are short."""
    return number + _ASK + section


def read(data: bytes, section: bytes) -> query.Answer | Literal["foreign", "truncated"]:
    """Return the answer that a message with the right id gives to a question section.

    "foreign": it does not answer this question. "truncated": ask again over TCP. Any failure of the server is
    "servfail", except that it is "refused" also if the server neither has the zone nor offers recursion. The
    TTL is the least of those that count (negative answers: RFC 2308), and 0 if the message is no answer.
    """
    end = 12 + len(section)
    if data[12:end].lower() != section:
        return "foreign"
    _, flags, questions, answers, authorities, _ = _HEADER.unpack_from(data)
    if flags & _KIND != _RESPONSE or questions != 1:
        return "foreign"
    code = flags & 0xF
    if code in {0, _NXDOMAIN}:
        if flags & _TRUNCATED:
            return "truncated"
        if answers:
            return _records(data, end)
        if code or flags & _KNOWS:
            return _nothing("nxdomain" if code else "answer", _negative_ttl(data, end, 0, authorities))
    return query.Answer("servfail" if code not in {0, _REFUSED} else "refused")


@functools.lru_cache(1024)
def _nothing(status: query.Status, ttl: float) -> query.Answer:
    """Return an answer without records; equal ones are shared, since they fill the cache."""
    return query.Answer(status, ttl=ttl)


def _records(data: bytes, end: int) -> query.Answer:
    """Return the answer of a message with records in its answer section; its question ends at `end`."""
    number, flags, _, answers, authorities, _ = _HEADER.unpack_from(data)
    # dnspython gets no more records than count here: otherwise the sender chooses how long reading takes.
    header = _HEADER.pack(number, flags, 1, min(answers, MOST), 0, 0)
    try:
        parsed = dns.message.from_wire(header + data[12:], ignore_trailing=True)
        assert isinstance(parsed, dns.message.QueryMessage)  # noqa: S101 (the opcode is that of a query)
        chain = parsed.resolve_chaining()
        if chain.answer is not None:
            return _found(chain.answer, chain.minimum_ttl)
    except Exception:  # noqa: BLE001 (dnspython's readers of records raise whatever foreign octets cause)
        return _MALFORMED
    negative = _negative_ttl(data, end, answers, authorities)
    ttl = min([negative, *(cname.ttl for cname in chain.cnames)])
    if flags & 0xF or not chain.cnames or negative != NO_SOA:
        return _nothing("nxdomain" if flags & 0xF else "answer", ttl)
    return query.Answer("answer", ttl=ttl, alias=chain.canonical_name.to_text(omit_final_dot=True).lower())


def _found(records: Iterable[Any], ttl: int) -> query.Answer:
    """Return an answer with these records of one owner, which are of the type asked for."""
    used = list(itertools.islice(records, MOST))
    match used[0].rdtype:
        case dns.rdatatype.A | dns.rdatatype.AAAA:
            return query.Answer("answer", addresses=tuple(one.address for one in used), ttl=ttl)
        case dns.rdatatype.PTR:
            names = tuple(one.target.to_text(omit_final_dot=True) for one in used)
            return query.Answer("answer", names=names, ttl=ttl)
        case _:
            return query.Answer("answer", texts=tuple(one.strings for one in used), ttl=ttl)


def _negative_ttl(data: bytes, start: int, before: int, count: int) -> int:
    """Return how many seconds to cache a "no": the lesser of the SOA record's TTL and minimum field.

    The authority section has `count` records, after `before` others; the first of them begins at `start`.
    """
    try:
        for index in range(min(before + count, 2 * MOST)):
            start = _after_name(data, start)
            kind, _, ttl, length = _RECORD.unpack_from(data, start)
            start += _RECORD.size + length
            if kind == _SOA and index >= before:
                (minimum,) = struct.unpack_from("!I", data, start - 4)
                return int(min(ttl, minimum)) if max(ttl, minimum) < 2**31 else 0  # RFC 2181, 8
    except (IndexError, struct.error):
        return 0
    return NO_SOA


def _after_name(data: bytes, start: int) -> int:
    """Return where the name at `start` ends: after its root label, or after the first pointer."""
    while length := data[start]:
        if length >= 0xC0:
            return start + 2
        start += 1 + length
    return start + 1
