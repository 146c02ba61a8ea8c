"""Tests the records and layouts from workers to the cluster process, those of hostile workers included."""

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import clusters
from support.running import processes

from tcpdconf.config.model import tables
from tcpdconf.daemon.cluster import layout, records
from tcpdconf.daemon.cluster.members import Members
from tcpdconf.daemon.cluster.records import Answer, Request
from tcpdconf.daemon.cluster.tally import Holder, Tally
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.cluster import FROM_WORKER, Layout
from tcpdconf.daemon.process import channel, loop

REQUESTS = st.one_of(
    st.builds(
        Request,
        st.sampled_from(["take", "hold", "release", "ping"]),
        st.just(4),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(1, records.MOST),
    ),
    st.builds(
        Request,
        st.sampled_from(["take", "hold", "release"]),
        st.just(6),
        st.integers(0, 2**128 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(1, 4),
    ),
)
NUMBER = st.integers(0, 2**32 - 1)
ANSWERS = st.builds(
    Answer,
    st.sampled_from(["admitted", "refused", "unknown", "serving", "absent", "pong"]),
    NUMBER,
    st.integers(0, 2**16 - 1),
    NUMBER,
    NUMBER,
)
LIMITS = tables.Limits(max_per_ip=2, levels=(tables.Level(ipv4=16, ipv6=48, max_connections=9),))
LAYOUT = wire.written(Layout(tuple(each.limit for each in layout.of(LIMITS))))


@given(st.lists(REQUESTS, min_size=1, max_size=5))
def test_requests_arrive_as_they_were_sent(sent: list[Request]) -> None:
    assert list(records.requests(b"".join(each.packed() for each in sent))) == sent


@given(st.lists(ANSWERS, min_size=1, max_size=5))
def test_answers_arrive_as_they_were_sent(sent: list[Answer]) -> None:
    assert list(records.answers(b"".join(each.packed() for each in sent))) == sent


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"T",
        Request("take", 4, 1, 1, 0).packed()[:-1],
        b"X" + Request("take", 4, 1, 1, 0).packed()[1:],
        Request("take", 5, 1, 1, 0).packed(),
        Request("take", 4, 1 << 32, 1, 0).packed(),
        Request("hold", 4, 1, 1, 0).packed(),
        Request("hold", 4, 1, 1, records.MOST + 1).packed(),
        Request("ping", 4, 1, 1, 1).packed() * (records.AT_ONCE + 1),
    ],
)
def test_malformed_requests(data: bytes) -> None:
    with pytest.raises(wire.MalformedError):
        list(records.requests(data))


@given(st.binary(max_size=100))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    for read in (records.requests, records.answers):
        try:
            assert all(isinstance(each, tuple) for each in read(data))
        except wire.MalformedError:
            continue


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.just(LAYOUT),
            st.just(b'{"kind":"layout","limits":[]}'),
            st.lists(REQUESTS, min_size=1, max_size=4).map(
                lambda some: b"".join(each.packed() for each in some)
            ),
        ),
        max_size=8,
    )
)
def test_a_hostile_worker_harms_itself_only(datagrams: list[bytes]) -> None:
    """Its channel may be closed. Its counts are removed, and another worker's count is unchanged."""
    events, tally = loop.Loop(), Tally()
    asked: list[object] = []
    members = Members(events, tally, asked.append, lambda: None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    honest, other = channel.Channel.pair()
    members.add("evil", "evil", channel.Channel(theirs), Answer("serving"))
    members.add("smtp", "smtp", other, Answer("serving"))
    evil, good = members.all
    honest.send(LAYOUT)
    honest.send(Request("hold", 4, 7, 0, 3).packed())
    for data in datagrams:
        if data:
            ours.send(data)
    ours.close()
    for _ in range(4):
        if evil in members.all:
            evil.read()
        good.read()
    assert evil not in members.all
    assert tally.counts["smtp", 4, 32, 7] == 3
    evil.holder.clear()
    for former in members._left.pop("evil", []):
        former.clear()
    assert {key[0] for key in tally.counts} == {"smtp"}
    members.remove(good)
    honest.close()


def test_descriptors_are_refused() -> None:
    world = clusters.World()
    members = Members(world.loop, Tally(), lambda _: None, lambda: None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    members.add("evil", "evil", channel.Channel(theirs), Answer("absent"))
    before = processes.own_descriptors()
    (member,) = members.all
    try:
        socket.send_fds(ours, [LAYOUT], [0, 1, 2])
    except PermissionError:
        pass  # the kernel refuses them (SO_PASSRIGHTS)
    else:
        member.read()
        assert members.all == []
    assert processes.own_descriptors() <= before
    ours.close()
    for each in members.all:
        members.remove(each)


def test_the_order_of_limits() -> None:
    limits = tables.Limits.model_validate(
        {
            "max_per_ip": 4,
            "max_per_network": 9,
            "rate": "5/min",
            "levels": [{"ipv4": 16, "max_connections": 30, "rate": "9/h", "enforce": False}],
        },
        by_name=True,
    )
    found = layout.of(limits)
    assert [(each.name, each.reason) for each in found] == [
        ("max_per_ip", "per_ip"),
        ("max_per_network", "per_network"),
        ("levels[0].max_connections", "per_network"),
        ("rate", "rate"),
        ("levels[0].rate", "rate"),
    ]
    assert [each.limit.enforced for each in found] == [True, True, False, True, False]
    assert dict(found[3].refusal(Answer("refused"), None).detail)["value"] == "5/min"
    assert dict(found[0].refusal(Answer("refused", held=7, elsewhere=3), 7).detail) == {
        "limit": "max_per_ip", "value": 7, "held": 7, "elsewhere": 3,
    }  # fmt: skip
    message = Layout(tuple(each.limit for each in found))
    assert wire.parsed(wire.written(message), FROM_WORKER) == message


def test_a_tally_of_overlapping_networks() -> None:
    tally = Tally()
    one, other = Holder(tally, "mail"), Holder(tally, "mail")
    limits = tuple(each.limit for each in layout.of(LIMITS))
    one.lay_out(limits)
    other.lay_out(limits[:1])
    one.add((4, 0xC0000201), 2)
    other.add((4, 0xC0000201), 1)
    assert tally.counts == {("mail", 4, 32, 0xC0000201): 3, ("mail", 4, 16, 0xC000): 2}
    other.lay_out(limits)
    assert tally.counts["mail", 4, 16, 0xC000] == 3
    assert other.add((4, 0xC0000201), -5) == -1
    assert one.add((4, 1), -1) == 0
    one.clear()
    assert tally.counts == {}
    assert tally.changed.keys() == {("mail", 4, 32, 0xC0000201), ("mail", 4, 16, 0xC000)}
