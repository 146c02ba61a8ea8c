"""Runs the broker. After its start it holds its channels, the log and nothing else."""

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
    resource.RLIMIT_NOFILE: 4096,  # a channel for each worker, and what the process holds
    resource.RLIMIT_NPROC: 0,
}


class Order(NamedTuple):
    """Holds what the process is started with."""

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
            os._exit(1)  # a worker without its channel is attached again to the next process
        except channel.ChannelError:
            events.stop()

    events.watch(post, read)
    log.info("broker ready", pid=os.getpid())
    events.run()
    return 0
