"""Runs the watcher (`process`) for the supervisor and receives its reports of changes."""

import time
from collections.abc import Callable, Mapping

from tcpdconf.config.file_signature import Signature
from tcpdconf.config.model.service import Config, Daemon
from tcpdconf.daemon.messages import watcher as messages
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.process import channel, child, descriptors, log, loop
from tcpdconf.daemon.process.helpers.child_channel import ChildChannel
from tcpdconf.daemon.watch import path_dependencies
from tcpdconf.daemon.watch import process as watch


class WatchClient:
    """Runs the watcher of one daemon; `changed` is called with the paths of changed files."""

    def __init__(self, events: loop.Loop, changed: Callable[[list[str]], None]) -> None:
        self.process = child.Child(events, "watcher", self._start)
        self._changed = changed
        self._channel = ChildChannel(events, self._receive, sends_descriptors=True)
        self._settings = Daemon(watch=False)
        self._wanted = path_dependencies.Wanted()
        self._read: dict[str, Signature] = {}
        self._since = 0.0

    def watch(
        self,
        config: Config,
        refused: Config | None,
        directory: str,
        read: Mapping[str, Signature],
        since: float,
    ) -> None:
        """Watch the files of a configuration, which were read after `since` (time.time).

        `read` has the signatures of most of them as they were read. The files of a `refused` configuration
        are watched too, since a change to them may make it valid.
        """
        self._settings = config.daemon
        if config.daemon.watch is False:
            self._channel.close()
            return
        self._wanted = watch.paths(config, directory)
        if refused is not None:
            more = watch.paths(refused, directory).files
            self._wanted = self._wanted._replace(files=tuple(dict.fromkeys(self._wanted.files + more)))
        self._read = dict(read)
        self._since = since
        if self._channel.end is None:
            self.process.start()
        else:
            self._send_paths()

    def read(self, read: Mapping[str, Signature]) -> None:
        """Record that a worker has read some of the files again.

        It may have read a file while it was being written.
        """
        before = {path: self._read[path] for path in read if path in self._read}
        self._read |= descriptors.readings([*before.items(), *read.items()])
        self._send(lambda post: watch.tell_read(post, read))

    def close(self) -> None:
        """Stop watching: the watcher exits when its channel closes."""
        self.process.finish()
        self._channel.close()

    def ended(self, pid: int, status: int) -> bool:
        """Record the exit of a process, and return True if it is the watcher."""
        if self.process.pid != pid:
            return False
        if self._settings.watch is False:
            self.process.pid = None
        else:
            self._since = min(self._since, time.time())
            self.process.ended(status)
        return True

    def _start(self) -> int:
        pid = self._channel.fork(watch.main)
        self._send_paths()
        return pid

    def _send_paths(self) -> None:
        self._send(
            lambda post: watch.tell(
                post,
                self._wanted,
                self._read,
                since=self._since,
                settle=self._settings.settle,
                poll=self._settings.watch == "poll",
            )
        )

    def _send(self, tell: Callable[[channel.Channel], None]) -> None:
        if self._channel.end is None:
            return
        try:
            tell(self._channel.end)
        except (channel.ChannelError, OSError) as error:  # descriptors may have run out
            self._lose(error)

    def _receive(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                data, fds = received
                try:
                    self._handle(wire.parsed(data, messages.FROM_WATCHER), fds)
                finally:
                    channel.close_all(fds)
        except channel.ChannelError as error:
            self._lose(error)

    def _handle(self, message: messages.FromWatcher, fds: list[int]) -> None:
        match message:
            case messages.Changed():
                paths = wire.paths_read(fds[0])
                log.debug("changed", paths=" ".join(paths))
                self._changed(paths)
            case messages.Polling(why):
                log.warning(f"cannot use inotify, checking files every 2 s: {why}")

    def _lose(self, error: Exception) -> None:
        """Close the channel: the watcher then exits and is started again."""
        log.debug(f"channel to the watcher: {error}")
        self._channel.close()
