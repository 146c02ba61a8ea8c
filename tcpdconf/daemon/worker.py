"""The worker process of one service: takes its assignment, serves, stops when told to.

It is forked from the supervisor and has the service's identity before it reads anything. When the supervisor
is gone it ends at once; its programs live on.
"""

import os
import signal
from typing import Any

from tcpdconf.daemon import assignment, channel, equipment, log, loop, overflow, server, signals


def main(post: channel.Channel) -> int:
    """Serve until the supervisor says stop or is gone; returns the exit status."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # only the supervisor stops a worker
        signal.signal(number, signal.SIG_IGN)
    return _Worker(post).run()


class _Worker:
    """One worker: messages in, a server at work."""

    def __init__(self, post: channel.Channel) -> None:
        self._post = post
        self._loop = loop.Loop()
        self._arrived = signals.Signals((signal.SIGCHLD,))
        self._server: server.Server | None = None
        self._overflow: overflow.Overflow | None = None
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Serve; returns the exit status."""
        self._loop.watch(self._arrived, self._children)
        self._loop.watch(self._post, self._messages)
        self._loop.run()
        return self._status

    def _messages(self) -> None:
        try:
            while (received := self._post.receive()) is not None:
                self._obey(*received)
        except channel.ChannelError:
            self._end()

    def _obey(self, message: dict[str, Any], fds: list[int]) -> None:
        match message:
            case {"kind": "assign"}:
                self._assign(fds)
            case {"kind": "try"}:
                self._try(fds)
            case {"kind": "ping", "number": number}:
                self._post.send("pong", number=number)
            case {"kind": "gone", "pid": pid, "status": status} if self._server is not None:
                self._server.gone(pid, status)
                self._end_when_idle()
            case {"kind": "stop", "seconds": seconds}:
                self._stop(seconds)

    def _assign(self, fds: list[int]) -> None:
        found = equipment.Equipment(assignment.read(fds[0]), fds[1:])
        os.close(fds[0])
        made = found.server(self._loop)
        if made is None:
            self._post.send("failed", failures=found.failures)
            self._end(1)
            return
        self._server = made
        self._overflow = found.overflow(self._loop)
        made.start()
        self._post.send("ready")

    def _try(self, fds: list[int]) -> None:
        """Say whether the service could be served, and what its lists answer; serve nothing."""
        found = equipment.Equipment(assignment.read(fds[0]), fds[1:])
        log.set_level("error")  # what a test of a list shows is reported, not logged
        found.server(self._loop)
        found.try_program()
        if found.lookups is None:
            self._tried(found.failures, [])
        else:
            asked = found.lookups
            asked.when_tested(lambda: self._tried(found.failures, asked.report()))

    def _tried(self, failures: list[assignment.Failure], lists: list[dict[str, str]]) -> None:
        self._post.send("failed" if failures else "ready", failures=failures, lists=lists)
        self._end()

    def _stop(self, seconds: float) -> None:
        self._stopping = True
        if self._server is not None:
            self._server.close()
            self._server.terminate()
        self._loop.after(seconds, self._end)
        self._end_when_idle()

    def _children(self) -> None:
        self._arrived.take()
        if self._server is not None:
            self._server.reap()
        self._end_when_idle()

    def _end_when_idle(self) -> None:
        if self._stopping and (self._server is None or not self._server.running):
            self._end()

    def _end(self, status: int = 0) -> None:
        self._status = status
        self._loop.stop()
