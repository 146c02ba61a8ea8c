"""Which server the resolver asks, and for how long; and what its process may be short of."""

import contextlib
import errno
import itertools
import socket
import time
from collections.abc import Iterator

import pytest
from support.dns import dnsservers, resolvers
from support.running import daemons, processes

from tcpdconf.config.model import values
from tcpdconf.daemon.dns import window
from tcpdconf.daemon.process import loop
from tcpdconf.policy.dns import query

NAME = "2.0.0.127.list.example"
A = query.Question(NAME, "A")
LISTED = dnsservers.Reply(records=("A 127.0.0.2",))
GOOD = query.Answer("answer", addresses=("127.0.0.2",), ttl=300)


def test_a_server_that_is_not_there_costs_nothing(server: dnsservers.Server) -> None:
    server.says("*.list.example", "A", LISTED)
    client = resolvers.Client(dnsservers.nowhere(), server.address)
    start = time.monotonic()

    assert client.ask(*(query.Question(f"{n}.list.example", "A") for n in range(40))) == [GOOD] * 40
    assert time.monotonic() - start < 1


def test_a_server_that_cannot_be_reached_costs_nothing(server: dnsservers.Server) -> None:
    server.says(NAME, "A", LISTED)
    start = time.monotonic()

    assert resolvers.Client(values.ServerAddress("fe80::1%nonsense", 53), server.address).ask(A) == [GOOD]
    assert time.monotonic() - start < 1


def test_without_any_server_the_answer_comes_at_once() -> None:
    client = resolvers.Client(dnsservers.nowhere(), dnsservers.nowhere(), attempts=5)
    questions = [query.Question(f"{n}.example", "A") for n in range(10)]
    start = time.monotonic()

    assert client.ask(*questions) == [query.Answer("unreachable")] * 10
    assert client.resolver.counts["unreachable"] == 10
    assert time.monotonic() - start < 1


def test_a_server_that_says_nothing_weighs_more_than_one_that_is_not_there(
    server: dnsservers.Server,
) -> None:
    server.says(NAME, "A")
    client = resolvers.Client(dnsservers.nowhere(), server.address, dnsservers.nowhere(), timeout=0.1)

    assert client.ask(A) == [query.Answer("timeout")]


def test_one_of_many_who_are_told_may_close_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        client = resolvers.Client(values.ServerAddress(*udp.getsockname()))
        answers: list[query.Answer] = []

        def done(answer: query.Answer) -> None:
            answers.append(answer)
            client.resolver.close()

        until = loop.now() + resolvers.PATIENCE
        client.resolver.ask(query.Question("1.example", "A"), done, until)
        client.resolver.ask(query.Question("2.example", "A"), done, until)
    client.resolver.ask(query.Question("3.example", "A"), done, until)  # tells that the server has gone

    client.run(0.1)

    assert answers == [query.Answer("unreachable")]


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (dnsservers.Reply(rcode="SERVFAIL"), "servfail"),
        (dnsservers.Reply(rcode="REFUSED"), "refused"),
        (dnsservers.Reply(authoritative=False), "refused"),
        (dnsservers.Reply(garbage=b"nonsense"), "malformed"),
    ],
)
def test_after_a_failure_the_next_server_is_asked_at_once(
    server: dnsservers.Server, second: dnsservers.Server, failure: dnsservers.Reply, status: query.Status
) -> None:
    server.says("*.example", "A", failure)
    second.says("*.fails.example", "A", failure)
    second.says(NAME, "A", LISTED)
    client = resolvers.Client(server.address, second.address, attempts=3)
    start = time.monotonic()

    assert client.ask(A, query.Question("it.fails.example", "A")) == [GOOD, query.Answer(status)]
    assert time.monotonic() - start < 1
    assert [len(server.asked), len(second.asked)] == [2, 2]


def test_silence_of_one_server_leaves_time_for_the_next(
    server: dnsservers.Server, second: dnsservers.Server
) -> None:
    server.says(NAME, "A")
    second.says(NAME, "A", LISTED)
    client = resolvers.Client(server.address, second.address, timeout=30)
    start = time.monotonic()

    assert client.ask(A, patience=2) == [GOOD]
    assert 0.9 < time.monotonic() - start < 1.9


def test_what_a_server_says_late_counts(server: dnsservers.Server, second: dnsservers.Server) -> None:
    server.says(NAME, "A", dnsservers.Reply(records=("A 127.0.0.2",), delay=1.5))
    second.says(NAME, "A")

    assert resolvers.Client(server.address, second.address, timeout=1).ask(A, patience=10) == [GOOD]
    assert len(second.asked) == 1


def test_a_lost_question_is_asked_again(server: dnsservers.Server) -> None:
    server.says(NAME, "A", LISTED)
    server.lose = 2

    assert resolvers.Client(server.address, timeout=0.5, attempts=3).ask(A) == [GOOD]
    assert len(server.asked) == 3


def test_a_question_that_nobody_answers_is_sent_again_soon(server: dnsservers.Server) -> None:
    server.says(NAME, "A", LISTED)
    server.lose = 1
    start = time.monotonic()

    assert resolvers.Client(server.address, timeout=30).ask(A, patience=10) == [GOOD]
    assert 1 <= time.monotonic() - start < 3


def test_a_server_is_not_given_more_than_it_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        client = resolvers.Client(values.ServerAddress(*udp.getsockname()))
        answers: list[query.Answer] = []
        now = loop.now()
        with monkeypatch.context() as patched:
            patched.setattr(loop, "now", lambda: now)
            for number in range(300):
                client.resolver.ask(
                    query.Question(f"{number}.example", "A"), answers.append, now + resolvers.PATIENCE
                )
        asked = list(waiting(udp))
        assert len(asked) == window.AT_ONCE

        for data, peer in asked:
            udp.sendto(data[:2] + b"\x84\3" + data[4:], peer)
        while len(asked) < 300:
            client.run(0.02)
            asked += waiting(udp)
        assert len(answers) == window.AT_ONCE
        assert len({data[12:] for data, _ in asked}) == len(asked) == 300
        client.resolver.close()


def waiting(udp: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    """The messages that wait at a socket."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield udp.recvfrom(512)


def test_rounds_end(server: dnsservers.Server, second: dnsservers.Server) -> None:
    server.says(NAME, "A")
    second.says(NAME, "A")
    start = time.monotonic()

    client = resolvers.Client(server.address, second.address, timeout=0.1, attempts=2)
    assert client.ask(A) == [query.Answer("timeout")]
    assert 0.4 <= time.monotonic() - start < 3
    daemons.until(lambda: [len(server.asked), len(second.asked)] == [2, 2], "the questions")


def test_patience_ends(server: dnsservers.Server) -> None:
    server.says(NAME, "A", dnsservers.Reply(records=("A 127.0.0.2",), delay=1.2))
    client = resolvers.Client(server.address)
    start = time.monotonic()

    assert client.ask(A, patience=0.2) == [query.Answer("timeout")]
    assert 0.2 <= time.monotonic() - start < 1
    assert client.ask(A, patience=-1) == [query.Answer("timeout")]
    client.run(1.2)
    assert client.ask(query.Question("other.example", "A")) == [query.Answer("nxdomain", ttl=60)]


def test_a_silent_server_is_asked_last_until_it_is_heard(
    server: dnsservers.Server, second: dnsservers.Server
) -> None:
    shift = 0.0
    client = resolvers.Client(server.address, second.address, timeout=1, clock=lambda: loop.now() + shift)
    questions = (query.Question(f"{n}.example", "A") for n in itertools.count())
    server.lose = 3
    for _ in range(5):
        client.ask(next(questions))
    assert [len(server.asked), len(second.asked)] == [3, 5]

    shift = 40.0
    second.says("*.example", "A")
    start = time.monotonic()
    client.ask(next(questions))  # both are asked, neither is waited for alone
    assert time.monotonic() - start < 1
    client.ask(next(questions))
    daemons.until(lambda: [len(server.asked), len(second.asked)] == [5, 6], "five and six questions")


def test_servers_take_turns(server: dnsservers.Server, second: dnsservers.Server) -> None:
    client = resolvers.Client(server.address, second.address, rotate=True)
    for number in range(6):
        client.ask(query.Question(f"{number}.example", "A"))

    assert [len(server.asked), len(second.asked)] == [3, 3]


def test_ipv6_is_spoken() -> None:
    with dnsservers.Server("::1") as server:
        server.says(NAME, "A", dnsservers.Reply(records=("A 127.0.0.2",), truncated=True))

        assert resolvers.Client(server.address).ask(A) == [GOOD]


def test_without_descriptors_a_question_is_as_good_as_lost(
    server: dnsservers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.says(NAME, "A", LISTED)
    real = socket.socket
    failures = [errno.EMFILE, errno.ENOBUFS]

    def short(*arguments: int) -> socket.socket:
        if failures:
            raise OSError(failures.pop(), "none left")
        return real(*arguments)

    monkeypatch.setattr(socket, "socket", short)
    assert resolvers.Client(server.address, timeout=0.5, attempts=3).ask(A) == [GOOD]
    assert failures == []


def test_a_question_that_does_not_get_out_is_as_good_as_lost(
    server: dnsservers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.says("*.example", "A", LISTED)
    real = socket.socket.send
    sent: list[bytes] = []

    def short(self: socket.socket, data: bytes) -> int:
        sent.append(data)
        if len(sent) == 2:
            raise OSError(errno.ENOBUFS, "none left")
        return real(self, data)

    monkeypatch.setattr(socket.socket, "send", short)
    client = resolvers.Client(server.address, timeout=0.5, attempts=2)
    assert client.ask(*(query.Question(f"{n}.example", "A") for n in range(3))) == [GOOD] * 3
    assert len(server.asked) == 3
    assert len(sent) == 4


def test_close_lets_go_of_everything(server: dnsservers.Server, second: dnsservers.Server) -> None:
    slow = dnsservers.Reply(records=("A 127.0.0.2",), truncated=True, drip=0.1)
    server.says("*.example", "A", slow)
    client = resolvers.Client(server.address, second.address, timeout=3)
    before = processes.own_descriptors()
    answers: list[query.Answer] = []
    for number in range(40):
        client.resolver.ask(query.Question(f"{number}.silent.example", "A"), answers.append, loop.now() + 20)
        second.says(f"{number}.silent.example", "A")
    for _ in range(100):
        client.run(0.05)
        if processes.own_descriptors() > before + 40:
            break
    else:
        pytest.fail("it has opened nothing")

    client.resolver.close()
    client.run(1.2)

    assert answers == []
    daemons.until(lambda: processes.own_descriptors() == before, "descriptors to be closed")
