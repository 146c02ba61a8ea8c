"""A real watcher for tests, without a daemon around it."""

import os
import select
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tcpdconf.daemon.messages import watcher as messages
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.process import channel, child
from tcpdconf.daemon.watch import path_dependencies
from tcpdconf.daemon.watch import process as watch

SECONDS = 10.0
SETTLE = 0.1


class Watcher:
    """The watcher's process, and the supervisor's end of its channel."""

    def __init__(
        self,
        wanted: path_dependencies.Wanted,
        *,
        settle: float = SETTLE,
        poll: bool = False,
        since: float | None = None,
        read: watch.Read | None = None,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        self._wanted = wanted
        self._settle = settle
        self._poll = poll
        self._since = since
        self._read = {} if read is None else read
        self._first = first  # done in the new process

    def __enter__(self) -> Self:
        self.post, theirs = channel.Channel.pair()
        self.pid = child.fork(lambda: self._run(theirs), {theirs.fileno()})
        theirs.close()
        try:
            self.watch(self._wanted)
        except BaseException:
            self.post.close()
            os.waitpid(self.pid, 0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.post.close()
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0

    def _run(self, post: channel.Channel) -> int:
        self._first()
        return watch.main(post)

    def watch(self, wanted: path_dependencies.Wanted) -> None:
        """Let it watch these, as the supervisor does when it has read them; returns when it does."""
        since = time.time() + 1 if self._since is None else self._since
        watch.tell(self.post, wanted, self._read, since=since, settle=self._settle, poll=self._poll)
        self.said: list[messages.FromWatcher] = []
        while not self.said or not isinstance(self.said[-1], messages.Watching):
            received = self.message(6 * SECONDS)  # ten thousand paths take a busy machine long
            assert received is not None
            self.said.append(received[0])

    def message(self, seconds: float = SECONDS) -> tuple[messages.FromWatcher, list[int]] | None:
        """Return its next message, or None if none comes in time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.post], [], [], left)[0]:
                received = self.post.receive()
                if received is not None:
                    return wire.parsed(received[0], messages.FROM_WATCHER), received[1]
        return None

    def changed(self, seconds: float = SECONDS) -> list[str] | None:
        """The paths that it tells of next; None when it tells of none for so long."""
        received = self.message(seconds)
        if received is None:
            return None
        message, fds = received
        assert message == messages.Changed()
        try:
            return wire.paths_read(fds[0])
        finally:
            channel.close_all(fds)
