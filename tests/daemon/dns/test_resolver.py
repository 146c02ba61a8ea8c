"""The resolver against a name server that says what it is told to."""

import functools
import itertools
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dns import dnsservers, resolvers

from tcpdconf.config.model import values
from tcpdconf.daemon.dns import nameserver
from tcpdconf.daemon.process import loop
from tcpdconf.policy.dns import query

NAME = "2.0.0.127.list.example"
A = query.Question(NAME, "A")
LISTED = dnsservers.Reply(records=("A 127.0.0.2",))
GOOD = query.Answer("answer", addresses=("127.0.0.2",), ttl=300)


@pytest.mark.parametrize(
    ("kind", "reply", "answer"),
    [
        ("A", LISTED, GOOD),
        ("A", dnsservers.NOT_FOUND, query.Answer("nxdomain", ttl=60)),
        ("A", dnsservers.Reply(soa=30), query.Answer("answer", ttl=30)),
        ("A", dnsservers.Reply(rcode="SERVFAIL"), query.Answer("servfail")),
        ("A", dnsservers.Reply(rcode="NOTIMP"), query.Answer("servfail")),
        ("A", dnsservers.Reply(rcode="REFUSED"), query.Answer("refused")),
        ("A", dnsservers.Reply(garbage=b"\xc0"), query.Answer("malformed")),
        (
            "A",
            dnsservers.Reply(records=("A 127.0.0.4", "A 127.0.0.2"), ttl=0),
            query.Answer("answer", addresses=("127.0.0.4", "127.0.0.2")),
        ),
        (
            "A",
            dnsservers.Reply(
                records=("CNAME a.example.", "@a.example. CNAME b.example.", "@b.example. A 127.0.0.3")
            ),
            query.Answer("answer", addresses=("127.0.0.3",), ttl=300),
        ),
        (
            "AAAA",
            dnsservers.Reply(records=("AAAA 2001:DB8::1",)),
            query.Answer("answer", ("2001:db8::1",), ttl=300),
        ),
        (
            "PTR",
            dnsservers.Reply(records=("PTR Mail.Example.org.", "PTR x\\000\\.y.example.")),
            query.Answer("answer", names=("Mail.Example.org", "x\\000\\.y.example"), ttl=300),
        ),
        (
            "TXT",
            dnsservers.Reply(records=('TXT "one" "two\\255"', "TXT three")),
            query.Answer("answer", texts=((b"one", b"two\xff"), (b"three",)), ttl=300),
        ),
    ],
)
def test_what_a_server_says(
    server: dnsservers.Server, kind: query.Type, reply: dnsservers.Reply, answer: query.Answer
) -> None:
    server.says(NAME, kind, reply)
    client = resolvers.Client(server.address)

    assert client.ask(query.Question(NAME, kind)) == [answer]
    assert client.resolver.counts[answer.status] == 1


def test_eight_answers_at_once_are_not_waited_for_one_after_the_other(server: dnsservers.Server) -> None:
    questions = [query.Question(f"{NAME}{n}", "A") for n in range(8)]
    for question in questions:
        server.says(question.name, "A", dnsservers.Reply(records=("A 127.0.0.2",), delay=0.2))
    start = time.monotonic()

    assert resolvers.Client(server.address).ask(*questions) == [GOOD] * 8
    assert time.monotonic() - start < 1.2


def test_a_name_in_capitals_is_the_same_name(server: dnsservers.Server) -> None:
    server.says(NAME, "A", LISTED)
    client = resolvers.Client(server.address)

    assert client.ask(query.Question(NAME.upper(), "A")) == [GOOD]
    assert client.ask(A) == [GOOD]
    assert len(server.asked) == 1


@pytest.mark.parametrize("name", ["", "a..b", f"{'a' * 64}.example", ".".join(["a" * 63] * 4), "é.example"])
def test_names_that_cannot_be_are_not_asked(server: dnsservers.Server, name: str) -> None:
    assert resolvers.Client(server.address).ask(query.Question(name, "A")) == [query.Answer("nxdomain")]
    assert server.asked == []


@pytest.mark.parametrize(
    ("forgery", "strays"),
    [("id", 1), ("question", 1), ("query", 1), ("opcode", 1), ("port", 0), ("address", 0)],
)
def test_forgeries_are_passed_over(
    server: dnsservers.Server, forgery: dnsservers.Forgery, strays: int
) -> None:
    server.says(NAME, "A", dnsservers.Reply(records=("A 127.0.0.66",), forged=forgery), LISTED)
    server.says("silent.example", "A", dnsservers.Reply(records=("A 127.0.0.66",), forged=forgery))
    client = resolvers.Client(server.address)

    assert client.ask(A) == [GOOD]
    assert client.ask(query.Question("silent.example", "A"), patience=0.9) == [query.Answer("timeout")]
    assert client.resolver.counts["strays"] == 2 * strays


def test_ids_and_ports_are_not_to_be_guessed(server: dnsservers.Server) -> None:
    client = resolvers.Client(server.address)
    for number in range(200):
        client.ask(query.Question(f"{number}.example", "A"))

    numbers = [asked.number for asked in server.asked]
    ports = [asked.port for asked in server.asked]
    assert len(set(numbers)) > 190
    assert len(set(ports)) > 190
    assert sum(abs(b - a) < 10 for a, b in itertools.pairwise(ports)) < 5


def test_a_port_is_not_kept_for_long(server: dnsservers.Server) -> None:
    """Questions on their way at once share a port, a few of them."""
    server.says("silent.example", "A")
    client = resolvers.Client(server.address)
    client.resolver.ask(
        query.Question("silent.example", "A"), lambda _: None, loop.now() + resolvers.PATIENCE
    )
    for number in range(5 * nameserver.PER_PORT):
        client.ask(query.Question(f"{number}.example", "A"))

    ports = [asked.port for asked in server.asked]
    assert ports.count(ports[0]) == nameserver.PER_PORT
    assert len(set(ports)) > 4 * nameserver.PER_PORT
    client.resolver.close()


def test_equal_random_numbers_are_told_apart(server: dnsservers.Server) -> None:
    """Ids on one port differ, however long it takes to draw another."""
    octets = itertools.cycle([b"\1\2", b"\1\2", b"\1\2", b"\3\4"])
    client = resolvers.Client(
        server.address, random=lambda count: b"".join(itertools.islice(octets, count // 2))
    )

    client.ask(query.Question("a.example", "A"), query.Question("b.example", "A"))

    assert sorted(asked.number for asked in server.asked) == [0x0102, 0x0304]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100), st.booleans())
def test_any_octets_are_an_answer_or_none(data: bytes, echo: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        client = resolvers.Client(values.ServerAddress(*udp.getsockname()))
        answers: list[query.Answer] = []
        client.resolver.ask(A, answers.append, loop.now() + 0.02)
        if not answers:  # else the time was over before the question could be sent
            asked, peer = udp.recvfrom(512)
            udp.sendto(asked[:2] + (b"\x84\0" + asked[4:] + data if echo else data), peer)
            client.run(0.04)

    assert len(answers) == 1


def test_a_truncated_answer_is_asked_for_over_tcp(server: dnsservers.Server) -> None:
    many = tuple(f"A 127.0.{n}.2" for n in range(60))
    server.says(NAME, "A", dnsservers.Reply(records=many, truncated=True, drip=0.0002))
    client = resolvers.Client(server.address, timeout=60)  # a thousand bytes, each in its own time

    assert client.ask(A, patience=60) == [
        query.Answer("answer", tuple(f"127.0.{n}.2" for n in range(60)), ttl=300)
    ]
    assert [asked.transport for asked in server.asked] == ["udp", "tcp"]
    assert client.ask(A)[0].status == "answer"
    assert len(server.asked) == 2


@pytest.mark.parametrize("forgery", ["id", "question", "query", "opcode"])
def test_over_tcp_there_is_one_message(server: dnsservers.Server, forgery: dnsservers.Forgery) -> None:
    forged = dnsservers.Reply(records=("A 127.0.0.66",), over="tcp", forged=forgery)
    server.says(NAME, "A", dnsservers.Reply(truncated=True, over="udp"), forged)

    assert resolvers.Client(server.address).ask(A) == [query.Answer("malformed")]


def test_a_connection_that_ends_early_is_no_answer(server: dnsservers.Server) -> None:
    server.says(NAME, "A", dnsservers.Reply(records=("A 127.0.0.2",), truncated=True, closed=True))

    assert resolvers.Client(server.address).ask(A) == [query.Answer("malformed")]


def test_a_drip_does_not_last_longer_than_patience(
    server: dnsservers.Server, second: dnsservers.Server
) -> None:
    slow = dnsservers.Reply(records=("A 127.0.0.2",), truncated=True, drip=0.1)
    server.says(NAME, "A", slow)
    second.says(NAME, "A", slow)
    start = time.monotonic()

    assert resolvers.Client(server.address, second.address).ask(A, patience=0.5) == [query.Answer("timeout")]
    assert 0.5 <= time.monotonic() - start < 2


def test_without_tcp_the_next_server_is_asked(second: dnsservers.Server) -> None:
    second.says(NAME, "A", LISTED)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))

        def truncate() -> None:
            data, peer = udp.recvfrom(512)
            udp.sendto(data[:2] + b"\x86\0" + data[4:], peer)

        thread = threading.Thread(target=truncate)
        thread.start()
        start = time.monotonic()
        assert resolvers.Client(values.ServerAddress(*udp.getsockname()), second.address).ask(A) == [GOOD]
        assert time.monotonic() - start < 1
        thread.join()


def test_equal_questions_are_asked_once(server: dnsservers.Server) -> None:
    server.says(NAME, "A", dnsservers.Reply(records=("A 127.0.0.2",), delay=0.1))
    client = resolvers.Client(server.address)

    assert client.ask(*[A] * 5) == [GOOD] * 5
    assert len(server.asked) == 1
    counts = client.resolver.counts
    assert (counts["asked"], counts["joined"], counts["cached"], counts["answer"]) == (5, 4, 0, 1)


def test_each_asker_has_its_own_patience(server: dnsservers.Server) -> None:
    server.says(NAME, "A", dnsservers.Reply(records=("A 127.0.0.2",), delay=1.5))
    client = resolvers.Client(server.address)
    answers: list[tuple[int, query.Status]] = []
    now = loop.now()

    def note(index: int, answer: query.Answer) -> None:
        answers.append((index, answer.status))
        if len(answers) == 4:
            client.loop.stop()

    for index, patience in enumerate([5, 0.1, 4, 0.2]):
        client.resolver.ask(A, functools.partial(note, index), now + patience)

    client.run(10)

    assert answers == [(1, "timeout"), (3, "timeout"), (0, "answer"), (2, "answer")]
    assert len(server.asked) <= 2  # once for all, and again after a second without an answer


def test_an_answer_is_kept_for_its_ttl(server: dnsservers.Server) -> None:
    shift = 0.0
    server.says(NAME, "A", dnsservers.Reply(records=("A 127.0.0.2",), ttl=100))
    client = resolvers.Client(server.address, clock=lambda: loop.now() + shift)
    client.ask(A)
    server.says(NAME, "A", dnsservers.NOT_FOUND)

    shift = 90
    assert client.ask(A)[0].status == "answer"
    shift = 110
    assert client.ask(A)[0].status == "nxdomain"
    assert client.resolver.counts["cached"] == 1


def test_a_fresh_answer_takes_the_place_of_the_one_kept(server: dnsservers.Server) -> None:
    server.says(NAME, "A", LISTED)
    client = resolvers.Client(server.address)
    client.ask(A)
    server.says(NAME, "A", dnsservers.NOT_FOUND)

    assert client.ask(A) == [GOOD]
    client.resolver.ask(A, lambda _: client.loop.stop(), loop.now() + resolvers.PATIENCE, fresh=True)
    client.run(resolvers.PATIENCE)
    assert client.ask(A) == [query.Answer("nxdomain", ttl=60)]
    assert len(server.asked) == 2


def test_a_failure_is_kept_for_a_moment(server: dnsservers.Server) -> None:
    shift = 0.0
    server.says(NAME, "A", dnsservers.Reply(rcode="SERVFAIL"))
    client = resolvers.Client(server.address, clock=lambda: loop.now() + shift)

    assert client.ask(A)[0].status == "servfail"
    assert client.ask(A)[0].status == "servfail"
    assert len(server.asked) == 1
    shift = 3
    assert client.ask(A)[0].status == "servfail"
    assert len(server.asked) == 2


def test_ttl_0_is_not_kept(server: dnsservers.Server) -> None:
    server.says(NAME, "A", dnsservers.Reply(records=("A 127.0.0.2",), ttl=0))
    client = resolvers.Client(server.address)
    other = resolvers.Client(server.address, min_ttl=60)
    for _ in range(3):
        client.ask(A)
        other.ask(A)

    assert [client.resolver.counts["cached"], other.resolver.counts["cached"]] == [0, 2]


def test_an_answer_may_lead_to_a_question(server: dnsservers.Server) -> None:
    """`done` may ask, also when it is called before `ask` has returned."""
    server.says("1.2.0.192.in-addr.arpa", "PTR", dnsservers.Reply(records=("PTR host.example.",)))
    server.says("host.example", "A", dnsservers.Reply(records=("A 192.0.2.1",)))
    client = resolvers.Client(server.address)
    answers: list[query.Answer] = []

    def forward(reverse: query.Answer) -> None:
        client.resolver.ask(query.Question(reverse.names[0], "A"), confirmed, loop.now() + resolvers.PATIENCE)

    def confirmed(answer: query.Answer) -> None:
        answers.append(answer)
        client.loop.stop()

    for _ in range(2):
        client.resolver.ask(
            query.Question("1.2.0.192.in-addr.arpa", "PTR"), forward, loop.now() + resolvers.PATIENCE
        )
        if not answers:
            client.run(resolvers.PATIENCE)
    assert answers == [query.Answer("answer", ("192.0.2.1",), ttl=300)] * 2


def test_a_host_name_without_a_dot_is_one_of_this_domain(server: dnsservers.Server) -> None:
    server.says("client.example.org", "A", LISTED)
    client = resolvers.Client(server.address)
    client.resolver._use(client.resolver._settings._replace(domain="example.org"))

    assert client.ask(query.Question("client", "A")) == [GOOD]
