"""DNS messages as octets, without a server."""

import struct

import dns.flags
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.daemon.dns import message as dns_message
from tcpdconf.policy.dns import query

NAME = "2.0.0.127.list.example."
A = dns_message.question(query.Question("2.0.0.127.list.example", "A"))
ALIAS = f"{NAME} CNAME x.example."
LISTED = f"{NAME} A 127.0.0.2"
NOTHING = query.Answer("answer", ttl=dns_message.NO_SOA)
SOA = "SOA ns.example. host.example. 1 3600 600 86400"

names = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63), min_size=1, max_size=9
)


def response(
    *answers: str, flags: str = "QR AA RD", code: int = 0, authority: tuple[str, ...] = (), ttl: int = 300
) -> bytes:
    """A message of id 1 that answers A; of records, "OWNER TYPE DATA", one a record set."""
    made = dns.message.make_query(NAME, "A", id=1)
    made.flags = dns.flags.from_text(flags)
    made.set_rcode(code)  # type: ignore[arg-type] # a number
    made.answer = [record(text, ttl) for text in answers]
    made.authority = [record(text, ttl) for text in authority]
    return made.to_wire(max_size=65535)


def record(text: str, ttl: int) -> dns.rrset.RRset:
    owner, kind, data = text.split(maxsplit=2)
    return dns.rrset.from_text(owner, ttl, "IN", kind, data)


@given(names, st.sampled_from(["A", "AAAA", "PTR", "TXT"]))
def test_questions_are_those_that_dnspython_reads(labels: list[str], kind: query.Type) -> None:
    name = ".".join(labels)
    if len(name) > 253:
        with pytest.raises(ValueError, match="octets"):
            dns_message.question(query.Question(name, kind))
        return

    read = dns.message.from_wire(
        dns_message.message(b"\x12\x34", dns_message.question(query.Question(name, kind)))
    )

    assert read.id == 0x1234
    assert (read.flags, read.edns) == (dns.flags.RD, -1)
    assert [str(question) for question in read.question] == [f"{name}. IN {kind}"]


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        (response(code=3, authority=(f"example. {SOA} 900",), ttl=60), query.Answer("nxdomain", ttl=60)),
        (response(code=3, authority=(f"example. {SOA} 20",)), query.Answer("nxdomain", ttl=20)),
        (response(code=3, authority=(f"example. {SOA} {2**31}",)), query.Answer("nxdomain", ttl=0)),
        (response(code=3), query.Answer("nxdomain", ttl=dns_message.NO_SOA)),
        (response(code=3, flags="QR RD"), query.Answer("nxdomain", ttl=dns_message.NO_SOA)),
        (response(flags="QR RA RD"), NOTHING),
        (response(flags="QR AA"), NOTHING),
        (response(flags="QR RD", authority=("example. NS ns.example.",)), query.Answer("refused")),
        (
            response(ALIAS, code=3, authority=(f"example. {SOA} 20",)),
            query.Answer("nxdomain", ttl=20),
        ),
        (response(ALIAS, authority=(f"example. {SOA} 900",)), query.Answer("answer", ttl=300)),
        (response(ALIAS, "y.example. A 127.0.0.2"), NOTHING._replace(alias="x.example")),
        (response("other.example. A 127.0.0.2"), NOTHING),
        (response(f"{NAME} AAAA ::1"), NOTHING),
        (response("2.0.0.127.LIST.example. A 127.0.0.2"), query.Answer("answer", ("127.0.0.2",), ttl=300)),
        (response(LISTED, ttl=2**31 - 1), query.Answer("answer", ("127.0.0.2",), ttl=2**31 - 1)),
        (response(LISTED, code=3), query.Answer("malformed")),
        (response(LISTED)[:-1], query.Answer("malformed")),
        (
            response(ALIAS, "x.example. CNAME 2.0.0.127.list.example."),
            query.Answer("malformed"),
        ),
        (response(code=2), query.Answer("servfail")),
        (response(code=1), query.Answer("servfail")),
        (response(code=5), query.Answer("refused")),
        (response(code=2, flags="QR TC"), query.Answer("servfail")),
    ],
)  # fmt: skip
def test_what_a_message_says(message: bytes, answer: query.Answer) -> None:
    assert dns_message.read(message, A) == answer


@pytest.mark.parametrize("flags", ["QR TC RA", "QR TC AA"])
def test_truncated_messages_say_nothing(flags: str) -> None:
    assert dns_message.read(response(LISTED, flags=flags), A) == "truncated"


@pytest.mark.parametrize("end", range(12 + len(A)))
def test_messages_that_end_early_are_foreign(end: int) -> None:
    assert dns_message.read(response()[:end], A) == "foreign"


@pytest.mark.parametrize(
    ("place", "octet"),
    [(2, 0x01), (2, 0x91), (5, 0), (5, 2), (12, 2), (13, 0x33), (12 + len(A) - 3, 16), (12 + len(A) - 1, 3)],
)
def test_messages_that_answer_something_else_are_foreign(place: int, octet: int) -> None:
    message = bytearray(response())
    message[place] = octet

    assert dns_message.read(bytes(message), A) == "foreign"


def test_the_case_of_the_question_does_not_matter() -> None:
    assert dns_message.read(response().replace(b"list", b"LiSt"), A) == NOTHING


def test_of_many_records_the_first_are_read() -> None:
    message = bytearray(response())
    message[6:8] = struct.pack("!H", 5000)
    for number in range(5000):
        message += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f" + struct.pack("!I", number)[1:]

    answer = dns_message.read(bytes(message), A)

    assert isinstance(answer, query.Answer)
    assert answer.addresses == tuple(f"127.0.0.{number}" for number in range(dns_message.MOST))


def test_records_of_kinds_that_nobody_asked_for_do_no_harm() -> None:
    message = response(
        f"{NAME} TYPE65280 \\# 3 010203",
        LISTED,
        authority=("example. TYPE65281 \\# 0 ",),
    )

    assert dns_message.read(message, A) == query.Answer("answer", ("127.0.0.2",), ttl=300)


@given(st.binary(max_size=300))
def test_any_octets_are_read(data: bytes) -> None:
    assert dns_message.read(data, A) in {"foreign", "truncated"}


@given(
    st.integers(0, 0xFFFF), st.tuples(*[st.integers(0, 3)] * 3), st.binary(max_size=200), st.integers(0, 200)
)
def test_any_octets_after_the_question_are_read(
    flags: int, counts: tuple[int, int, int], data: bytes, start: int
) -> None:
    """Also octets that begin like an answer's."""
    likely = response(LISTED, authority=(f"example. {SOA} 20",))[12 + len(A) :]
    header = struct.pack("!HHHHHH", 1, flags, 1, *counts)

    found = dns_message.read(header + A + likely[:start] + data, A)

    assert isinstance(found, query.Answer) or found in {"foreign", "truncated"}
