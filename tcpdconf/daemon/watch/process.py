"""Runs the watcher, a process that reports to the supervisor when files that it has read have changed.

It watches directories, not files, and every directory that a path leads through, so that it does not matter
how a file is changed: written in place, renamed over, deleted, or moved with its directory or by a symbolic
link. It must see what root sees, so it keeps the supervisor's rights; but of a file it wants to know only
its hash. What it is told, and tells, is in `messages.watcher`.
"""

import os
import pathlib
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from tcpdconf.config import file_signature
from tcpdconf.config.file_signature import Signature
from tcpdconf.config.model.service import Config
from tcpdconf.daemon.messages import watcher as messages
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.process import channel, log, loop
from tcpdconf.daemon.watch import debounce, path_dependencies
from tcpdconf.policy.dns import chain as dns_chain

if TYPE_CHECKING:
    from tcpdconf.daemon.watch import inotify

_STDERR: Final = 2
_POLL: Final = 2.0  # seconds between two comparisons of signatures, without inotify
_BACKSTOP: Final = 10.0  # with it: events get lost if a directory is mounted over, or changed by another host
Read = Mapping[str, Signature]
"""Maps each path to the signature of its file when it was opened for reading."""


def paths(config: Config, directory: str) -> path_dependencies.Wanted:
    """Return the paths on which a daemon with this configuration depends.

    They are its directory, as an absolute path, and every file that enabled services name.
    """
    found: dict[str, None] = {}
    for service in config.enabled().values():
        found |= dict.fromkeys(source.file for source in service.access if source.file is not None)
        found |= dict.fromkeys(file.path for file in service.environment_files)
        found |= dict.fromkeys(dns_chain.zone_files(service, config.dns_chains))
    return path_dependencies.Wanted((str(pathlib.Path(directory)),), tuple(found))


def tell(
    post: channel.Channel,
    wanted: path_dependencies.Wanted,
    read: Read,
    *,
    since: float,
    settle: float = 0.3,
    poll: bool = False,
) -> None:
    """Tell the watcher what to watch from now on; `since` is a time (time.time) before any of it was read.

    Raises:
        ChannelError: the watcher is gone or does not read.
    """
    content = messages.WatchedFiles(wanted.directories, wanted.files, dict(read))
    _send(post, messages.Watch(since, settle, poll), wire.pickled(content), _STDERR)


def tell_read(post: channel.Channel, read: Read) -> None:
    """Tell the watcher that some files were read again outside of a reload.

    Raises:
        ChannelError: the watcher is gone or does not read.
    """
    _send(post, messages.Reread(), wire.pickled(messages.ReadFiles(dict(read))))


def preload() -> None:
    """Import what a watcher needs, in the process that will fork it, so that both share that memory.

    The import starts no thread; only an `Observation` does, in the watcher.
    """
    from tcpdconf.daemon.watch import inotify  # noqa: F401, PLC0415 (a daemon that does not watch has no use for it)


def main(post: channel.Channel) -> int:
    """Watch until the supervisor is gone; return the exit status."""
    # only the supervisor ends a watcher; breaking a lease sends SIGIO (fcntl(2))
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGIO):
        signal.signal(number, signal.SIG_IGN)
    return _Watcher(post).run()


class _Watcher:
    """Runs the watcher's loop: takes messages and events, reports changes."""

    def __init__(self, post: channel.Channel) -> None:
        self._post = post
        self._loop = loop.Loop()
        self._debounce = debounce.Debounce()
        self._wanted = path_dependencies.Wanted()
        self._entries = path_dependencies.Entries(self._wanted)
        self._signatures: dict[str, Signature] = {}
        self._told: dict[str, object] = {}  # the states of paths when they were last reported
        self._observation: inotify.Observation | None = None
        self._polling = False
        self._announced = False
        self._timer: int | None = None  # of the next look
        self._tick: int | None = None  # of the next check

    def run(self) -> int:
        """Run the loop; return the exit status."""
        self._loop.watch(self._post, self._messages)
        self._loop.run()
        return 0

    def _messages(self) -> None:
        try:
            while (received := self._post.receive()) is not None:
                data, fds = received
                try:
                    self._handle(wire.parsed(data, messages.TO_WATCHER), fds)
                finally:
                    channel.close_all(fds)
        except channel.ChannelError:
            self._loop.stop()

    def _handle(self, message: messages.ToWatcher, fds: list[int]) -> None:
        match message:
            case messages.Watch():
                log.redirect(fds[1])
                self._watch(message, wire.unpickled(fds[0], messages.WatchedFiles))
            case messages.Reread():
                read = wire.unpickled(fds[0], messages.ReadFiles).read
                changed = [path for path, signature in read.items() if not self._was_read(path, signature, 0)]
                if changed:
                    self._debounce.forget(changed)
                    self._stirred()

    def _watch(self, message: messages.Watch, content: messages.WatchedFiles) -> None:
        """Watch these paths from now on. What was changed after `since` may not have been read."""
        self._wanted = wanted = path_dependencies.Wanted(content.directories, content.files)
        self._debounce.settle = message.settle
        self._polling = message.poll
        self._observe()
        contents = path_dependencies.look(wanted).contents
        since = message.since - file_signature.COARSE
        self._told = {path: self._told[path] for path in self._told.keys() & contents.keys()}
        self._debounce.cover(
            {
                path: held
                for path, held in contents.items()
                if self._was_read(path, content.read.get(path), since)
            }
        )
        self._stirred()
        self._check()
        self._post.send(wire.written(messages.Watching(self._polling)))

    def _was_read(self, path: str, signature: Signature | None, since: float) -> bool:
        """Return whether the file was read as it is now, or will be because its change was reported.

        There is no signature for a directory or a file that could not be opened; then its time of change
        decides.
        """
        if path in self._told and self._told[path] == path_dependencies.state(path):
            return True
        if signature is None:
            return path_dependencies.touched(path) < since
        return path_dependencies.signature(path) == signature

    def _observe(self) -> bool:
        """Observe every directory that matters now; return whether all of them were observed before."""
        self._entries = path_dependencies.Entries(self._wanted)
        if self._polling:
            self._end_observation()
            return True
        try:
            return self._begin_observation().cover(self._entries.directories())
        except OSError as error:
            self._polling = True
            self._end_observation()
            if not self._announced:
                self._announced = True
                self._post.send(wire.written(messages.Polling(error.strerror or str(error))))
            return True

    def _begin_observation(self) -> "inotify.Observation":
        from tcpdconf.daemon.watch import inotify  # noqa: PLC0415 (not needed for polling)

        if self._observation is None:
            self._observation = inotify.Observation()
            self._loop.watch(self._observation, self._events)
        return self._observation

    def _end_observation(self) -> None:
        if self._observation is not None:
            self._loop.forget(self._observation)
            self._observation.close()
            self._observation = None

    def _events(self) -> None:
        happened = [] if self._observation is None else self._observation.take()
        if any(self._entries.matter(path) for path in happened):
            self._stirred()

    def _check(self) -> None:
        """Compare the file system's signatures of the files with those of the last check."""
        before, self._signatures = self._signatures, path_dependencies.signatures(self._wanted)
        if self._signatures != before:
            self._stirred()
        if self._tick is not None:
            self._loop.cancel(self._tick)
        self._tick = self._loop.after(_POLL if self._polling else _BACKSTOP, self._check)

    def _stirred(self) -> None:
        self._debounce.stirred(loop.now())
        self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None
        if self._debounce.due is not None:
            self._timer = self._loop.after(self._debounce.due - loop.now(), self._compare)

    def _compare(self) -> None:
        try:
            missed_nothing = self._observe()
            found = path_dependencies.look(self._wanted)
            at_rest = missed_nothing and not found.being_written
            told = self._debounce.seen(loop.now(), found.contents, at_rest=at_rest)
            if told:
                self._told |= {path: path_dependencies.state(path) for path in told}
                _send(self._post, messages.Changed(), wire.paths_written(told))
        except channel.ChannelError:
            self._loop.stop()
        self._wait()


def _send(
    post: channel.Channel, message: messages.ToWatcher | messages.FromWatcher, memory: int, *more: int
) -> None:
    """Send a message with what is in a memfd, which is closed, and with further descriptors."""
    try:
        post.send(wire.written(message), [memory, *more])
    finally:
        os.close(memory)
