"""The supervisor's side of the watcher (`watch`): keeps it running, and hears what has changed."""

import time
from collections.abc import Callable
from typing import Any

from tcpdconf.config import model
from tcpdconf.daemon import channel, child, log, loop, trail, watch


class Watching:
    """The watcher of one daemon; `changed` is called when files are not what they were."""

    def __init__(self, events: loop.Loop, changed: Callable[[list[str]], None]) -> None:
        self.process = child.Child(events, "watcher", self._start)
        self._loop = events
        self._changed = changed
        self._post: channel.Channel | None = None
        self._settings = model.Daemon(watch=False)
        self._wanted = trail.Wanted()
        self._since = 0.0

    def watch(self, config: model.Config, refused: model.Config | None, directory: str, since: float) -> None:
        """Watch the files of a configuration, which was read after `since` (time.time).

        And those of one that was refused: a change of them may make it a right one.
        """
        self._settings = config.daemon
        if config.daemon.watch is False:
            self._drop_post()
            return
        self._wanted = watch.paths(config, directory)
        if refused is not None:
            more = watch.paths(refused, directory).files
            self._wanted = self._wanted._replace(files=tuple(dict.fromkeys(self._wanted.files + more)))
        self._since = since
        if self._post is None:
            self.process.start()
        else:
            self._tell()

    def close(self) -> None:
        """Watch no more: the watcher ends when nobody listens to it."""
        self.process.finish()
        self._drop_post()

    def ended(self, pid: int, status: int) -> bool:
        """Take note of the end of a process, if it is the watcher."""
        if self.process.pid != pid:
            return False
        if self._settings.watch is False:
            self.process.pid = None
        else:
            self._since = min(self._since, time.time())
            self.process.ended(status)
        return True

    def _start(self) -> int:
        self._drop_post()
        ours, theirs = channel.Channel.pair()
        try:
            pid = child.fork(lambda: watch.main(theirs), {theirs.fileno()})
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._post = ours
        self._loop.watch(ours, self._listen)
        self._tell()
        return pid

    def _tell(self) -> None:
        assert self._post is not None  # noqa: S101 (just made)
        try:
            watch.tell(
                self._post,
                self._wanted,
                since=self._since,
                settle=self._settings.settle,
                poll=self._settings.watch == "poll",
            )
        except (channel.ChannelError, OSError) as error:  # there may be no descriptor to be had
            self._lose(error)

    def _listen(self) -> None:
        try:
            while self._post is not None and (received := self._post.receive()) is not None:
                self._hear(*received)
        except channel.ChannelError as error:
            self._lose(error)

    def _hear(self, message: dict[str, Any], fds: list[int]) -> None:
        match message:
            case {"kind": "changed"}:
                paths = watch.changed(fds)
                log.debug("changed", paths=" ".join(paths))
                self._changed(paths)
            case {"kind": "polling", "why": why}:
                log.warning(f"files are looked at every 2 s: {why}")

    def _lose(self, error: Exception) -> None:
        """It ends when nobody listens to it, and is started again."""
        log.debug(f"channel to the watcher: {error}")
        self._drop_post()

    def _drop_post(self) -> None:
        if self._post is not None:
            self._loop.forget(self._post)
            self._post.close()
            self._post = None
