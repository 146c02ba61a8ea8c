"""Runs the broker (`process`) for the supervisor, and gives workers their channels to it."""

import os
import signal
from collections.abc import Callable

from tcpdconf.config import host
from tcpdconf.daemon.broker import process
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.cluster import Attach
from tcpdconf.daemon.process import channel, child, log, loop


class BrokerClient:
    """Keeps the broker of one daemon: from the first service that needs it to the end of the daemon.

    `renewed` is called when workers need new channels (`attach`).
    """

    def __init__(self, events: loop.Loop, renewed: Callable[[], None]) -> None:
        self._loop = events
        self._renewed = renewed
        self._process: child.Child | None = None
        self._post: channel.Channel | None = None

    @property
    def pid(self) -> int | None:
        """Return the pid of the process, or None if it does not run."""
        return None if self._process is None else self._process.pid

    def attach(self, service: str, space: str, *, brokered: bool = True) -> int | None:
        """Return the worker's end of a new channel, which the caller closes.

        None means that it follows (`renewed`), once the process runs.
        """
        if self._process is None:
            self._process = child.Child(self._loop, "broker", self._start)
            self._process.start()
        if self._post is None:
            return None
        try:
            ours, theirs = channel.Channel.pair()
        except OSError as error:
            log.error(f"cannot make a channel to the broker: {error.strerror}", service=service)
            return None
        fd = ours.detach()
        try:
            self._post.send(wire.written(Attach(service, space, brokered)), [fd])
        except channel.ChannelError as error:
            log.debug(f"channel to broker: {error}")
            self._kill()
        finally:
            os.close(fd)
        return theirs.detach()

    def renew(self) -> None:
        """Replace the process by one that logs as this process does now."""
        if self._process is not None:
            self._kill()

    def ended(self, pid: int, status: int) -> bool:
        """Record the exit of a process, and return True if it is the broker."""
        if self._process is None or self._process.pid != pid:
            return False
        self._drop_post()
        self._process.ended(status)
        return True

    def close(self) -> None:
        """End the process."""
        former, self._process = self._process, None
        self._drop_post()
        if former is not None:
            former.finish()
            if former.pid is not None:
                os.kill(former.pid, signal.SIGKILL)
                os.waitpid(former.pid, 0)

    def _start(self) -> int:
        """Fork the process, and have workers get channels to it."""
        order = process.Order(host.own_identity(None), os.getpid())
        ours, theirs = channel.Channel.pair()
        ours.refuse_descriptors()
        try:
            pid = child.fork(lambda: process.main(order, theirs), {theirs.fileno()})
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._drop_post()
        self._post = ours
        self._loop.watch(ours, self._read)
        self._loop.soon(self._renewed)
        return pid

    def _read(self) -> None:
        """Kill a process that says anything: it has nothing to say."""
        try:
            if self._post is not None and self._post.receive() is not None:
                self._kill()
        except channel.ChannelError as error:
            log.debug(f"channel to broker: {error}")
            self._kill()

    def _kill(self) -> None:
        """Kill the process; another one follows."""
        self._drop_post()
        if self._process is not None and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)

    def _drop_post(self) -> None:
        if self._post is not None:
            self._loop.forget(self._post)
            self._post.close()
            self._post = None
