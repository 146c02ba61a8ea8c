import contextlib
import json
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.daemon import messages
from tcpdconf.daemon.messages import Failure, FilePlace
from tcpdconf.daemon.process import channel


@pytest.fixture
def ends() -> Iterator[tuple[channel.Channel, channel.Channel]]:
    pair = channel.Channel.pair()
    yield pair
    for end in pair:
        end.close()


def test_a_message_arrives_with_its_descriptors(ends: tuple[channel.Channel, channel.Channel]) -> None:
    here, there = ends
    read, write = os.pipe()
    here.send("assign", [read, write], number=7)
    received = there.receive()
    assert received is not None
    message, fds = received
    os.write(fds[1], b"through")

    assert message == {"kind": "assign", "number": 7}
    assert os.read(read, 100) == b"through"
    assert [os.get_inheritable(fd) for fd in fds] == [False, False]
    assert there.receive() is None
    channel.close_all([read, write, *fds])


def test_more_descriptors_than_fit_one_datagram(ends: tuple[channel.Channel, channel.Channel]) -> None:
    here, there = ends
    with open(os.devnull, "rb") as null:
        here.send("assign", [null.fileno()] * 600)
    received = None
    for _ in range(3):
        assert received is None
        received = there.receive()
    assert received is not None

    assert (received[0], len(received[1])) == ({"kind": "assign"}, 600)
    channel.close_all(received[1])


def test_an_end_that_is_gone(ends: tuple[channel.Channel, channel.Channel]) -> None:
    here, there = ends
    there.close()

    with pytest.raises(channel.ChannelError):
        here.receive()
    with pytest.raises(channel.ChannelError):
        here.send("ping")


def test_an_end_that_does_not_read(ends: tuple[channel.Channel, channel.Channel]) -> None:
    here, _ = ends

    def send_on() -> None:
        for number in range(100_000):
            here.send("ping", number=number)

    with pytest.raises(channel.ChannelError):
        send_on()


@pytest.mark.parametrize("option", [channel._SO_PASSRIGHTS, -1], ids=["kernel refuses", "kernel cannot"])
def test_descriptors_from_who_has_none_to_give(option: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_SO_PASSRIGHTS", option)
    here, there = channel.Channel.pair()
    here.refuse_descriptors()
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.suppress(channel.ChannelError):  # where the kernel refuses them
        there.send("pong", [0], number=2)
        with pytest.raises(channel.ChannelError, match="descriptors"):
            here.receive()
    there.send("ready")
    assert here.receive() == ({"kind": "ready"}, [])
    assert len(os.listdir("/proc/self/fd")) == before
    here.close()
    there.close()


def raw() -> tuple[channel.Channel, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return channel.Channel(ours), theirs


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b'"ready"', b"ready", b'{"kind": 1}', b"\xff", b"[" * 60_000,
        b'{"kind": "' + b"x" * channel.LARGEST + b'"}',
    ],
)  # fmt: skip
def test_what_is_no_message(data: bytes) -> None:
    end, other = raw()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    other.send(data)
    with pytest.raises(channel.ChannelError):
        end.receive()
    end.close()
    other.close()


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    end, other = raw()
    other.send(data)
    try:
        received = end.receive()
        assert received is None or isinstance(received[0]["kind"], str)
    except channel.ChannelError:
        pass
    end.close()
    other.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_failures_of_a_worker_are_failures_whatever_it_says(said: object) -> None:
    message = json.loads(json.dumps({"kind": "failed", "failures": said}))

    found = messages.failures(message)

    assert found
    assert all(isinstance(failure.text, str) for failure in found)


def test_failures() -> None:
    said = [[["access", 0, "file"], "cannot"], ["wrong"], [["user"], 5]]

    assert messages.failures({"failures": said}) == [Failure(("access", 0, "file"), "cannot")]


def test_the_place_of_a_failure_is_believed_where_it_is_one() -> None:
    key = ["access", 0, "file"]
    right = ["/access", 2, 9, "a\tDENY", "wrong"]
    bent = ["/acc\ness", 2, 9, "", "wr\x1bong"]
    others = [
        ["/access", 0, 9, "", ""],
        ["/access", 1 << 40, 1, "", ""],
        ["/access", 2, 9, ""],
        "there",
        None,
    ]
    said = [[key, "cannot", place] for place in (right, bent, *others)]

    found = [failure.place for failure in messages.failures({"failures": said})]

    assert found[:2] == [
        FilePlace("/access", 2, 9, "a\tDENY", "wrong"),
        FilePlace("/acc\ufffdess", 2, 9, "", "wr\ufffdong"),
    ]
    assert found[2:] == [None] * len(others)
