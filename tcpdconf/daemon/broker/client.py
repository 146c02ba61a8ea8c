"""Runs the broker (`process`) for the supervisor, and gives workers their channels to it."""

import os
from collections.abc import Callable

from tcpdconf.config import host
from tcpdconf.daemon.broker import process
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.cluster import Attach
from tcpdconf.daemon.process import channel, loop
from tcpdconf.daemon.process.helpers.helper import ConnectedHelper


class BrokerClient:
    """Keeps the broker of one daemon: from the first service that needs it to the end of the daemon.

    `renewed` is called when workers need new channels (`attach`).
    """

    def __init__(self, events: loop.Loop, renewed: Callable[[], None]) -> None:
        self._loop = events
        self._renewed = renewed
        self._helper = ConnectedHelper(events, "broker", "the broker", self._start, heard=_refuse)

    @property
    def pid(self) -> int | None:
        """Return the pid of the process, or None if it does not run."""
        return self._helper.pid

    def attach(self, service: str, space: str, *, apart: bool) -> int | None:
        """Return the worker's end of a new channel, which the caller closes.

        None means that the process does not run yet; `renewed` is called once it does. All services are
        `apart`, as for the cluster process.
        """
        if not self._helper.wanted:
            self._helper.begin()
        return self._helper.attach(wire.written(Attach(service, space, apart)), service)

    def renew(self) -> None:
        """Replace the process by one with the supervisor's current log."""
        self._helper.renew()

    def ended(self, pid: int, status: int) -> bool:
        """Record the exit of a process, and return True if it is the broker."""
        return self._helper.ended(pid, status)

    def close(self) -> None:
        """End the process."""
        self._helper.close()

    def _start(self) -> int:
        """Fork the process, and have workers get channels to it."""
        order = process.Order(host.own_identity(None), os.getpid())
        pid = self._helper.fork(lambda post: process.main(order, post))
        self._loop.soon(self._renewed)
        return pid


def _refuse(_: bytes) -> None:
    """Refuse each message of the process: it has nothing to say."""
    raise channel.ChannelError("a message")
