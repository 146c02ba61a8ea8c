import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
from support.running import processes

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
    here.send(b"assign", [read, write])
    received = there.receive()
    assert received is not None
    data, fds = received
    os.write(fds[1], b"through")

    assert data == b"assign"
    assert os.read(read, 100) == b"through"
    assert [os.get_inheritable(fd) for fd in fds] == [False, False]
    assert there.receive() is None
    channel.close_all([read, write, *fds])


def test_more_descriptors_than_fit_one_datagram(ends: tuple[channel.Channel, channel.Channel]) -> None:
    here, there = ends
    with open(os.devnull, "rb") as null:
        here.send(b"assign", [null.fileno()] * 600)
    received = None
    for _ in range(3):
        assert received is None
        received = there.receive()
    assert received is not None

    assert (received[0], len(received[1])) == (b"assign", 600)
    channel.close_all(received[1])


def test_an_end_that_is_gone(ends: tuple[channel.Channel, channel.Channel]) -> None:
    here, there = ends
    there.close()

    with pytest.raises(channel.ChannelError):
        here.receive()
    with pytest.raises(channel.ChannelError):
        here.send(b"ping")


def test_an_end_that_does_not_read(ends: tuple[channel.Channel, channel.Channel]) -> None:
    here, _ = ends

    def send_on() -> None:
        for number in range(100_000):
            here.send(b"%d" % number)

    with pytest.raises(channel.ChannelError):
        send_on()


@pytest.mark.parametrize("option", [channel._SO_PASSRIGHTS, -1], ids=["kernel refuses", "kernel cannot"])
def test_descriptors_from_who_has_none_to_give(option: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_SO_PASSRIGHTS", option)
    here, there = channel.Channel.pair()
    here.refuse_descriptors()
    before = processes.own_descriptors()
    with contextlib.suppress(channel.ChannelError):  # where the kernel refuses them
        there.send(b"pong", [0])
        with pytest.raises(channel.ChannelError, match="descriptors"):
            here.receive()
    there.send(b"ready")
    assert here.receive() == (b"ready", [])
    assert processes.own_descriptors() == before
    here.close()
    there.close()


def raw() -> tuple[channel.Channel, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return channel.Channel(ours), theirs


@pytest.mark.parametrize("data", [b"", b"x" * (channel.LARGEST + 1)])
def test_what_is_no_message(data: bytes) -> None:
    end, other = raw()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    other.send(data)
    with pytest.raises(channel.ChannelError):
        end.receive()
    end.close()
    other.close()


def test_what_is_longer_is_not_sent(ends: tuple[channel.Channel, channel.Channel]) -> None:
    here, there = ends
    with pytest.raises(channel.ChannelError, match="message of 65537 bytes"):
        here.send(b"x" * (channel.LARGEST + 1))
    here.send(b"x" * channel.LARGEST)
    assert there.receive() == (b"x" * channel.LARGEST, [])
