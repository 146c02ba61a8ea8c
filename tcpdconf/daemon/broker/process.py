"""Runs the broker. After its start it holds only its channels and the log."""

import contextlib
import os
import resource
import signal
from typing import Final, NamedTuple

from tcpdconf.config import host
from tcpdconf.daemon.broker.decisions import Broker
from tcpdconf.daemon.cluster.records import Answer
from tcpdconf.daemon.messages import cluster as messages
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.process import channel, log, loop, privileges

_DESCRIPTORS: Final = 4096  # for one channel for each worker, and for the process itself


class Order(NamedTuple):
    """Holds the arguments of the process."""

    identity: host.Identity
    parent: int


def main(order: Order, post: channel.Channel) -> int:
    """Serve until the supervisor is gone; return the exit status."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(0, 1)  # the log is standard error
    os.chdir("/")
    _bound_resources()
    privileges.become(order.identity)
    privileges.forbid_new()
    privileges.hide_memory()
    if not privileges.dies_with(order.parent):
        return 0
    events = loop.Loop()
    events.guard()
    broker = Broker(events)

    def read() -> None:
        try:
            while (received := post.receive()) is not None:
                data, fds = received
                attach = wire.parsed(data, messages.TO_BROKER)
                (fd,) = fds
                broker.members.add(attach.service, attach.space, channel.Channel.of(fd), Answer("serving"))
        except channel.LostError:
            os._exit(1)  # the next process attaches all workers again
        except channel.ChannelError:
            events.stop()

    events.watch(post, read)
    log.info("broker ready", pid=os.getpid())
    events.run()
    return 0


def _bound_resources() -> None:
    """Limit this process: few descriptors, no further process, no core dump."""
    for which, most in (
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(which)
        few = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(which, (few, few))
