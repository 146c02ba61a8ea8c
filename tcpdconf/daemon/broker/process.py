"""Runs the broker. After its start it holds only its channels and the log."""

import os
import resource
from typing import Final, NamedTuple

from tcpdconf.config import host
from tcpdconf.daemon.broker.decisions import Broker
from tcpdconf.daemon.cluster.records import Answer
from tcpdconf.daemon.messages import cluster as messages
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.process import channel, log, loop, privileges
from tcpdconf.daemon.process.helpers import confinement

_LIMITS: Final = {
    resource.RLIMIT_NOFILE: 4096,  # for one channel for each worker, and for the process itself
    resource.RLIMIT_NPROC: 0,
}


class Order(NamedTuple):
    """Holds the arguments of the process."""

    identity: host.Identity
    parent: int


def main(order: Order, post: channel.Channel) -> int:
    """Serve until the supervisor is gone; return the exit status."""
    confinement.settle()
    confinement.confine(order.identity, _LIMITS, hide_memory=True)
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
