"""Directories observed with inotify, by watchdog.

watchdog has threads. So this module is imported in the watcher's process, which never forks, and nowhere
else.
"""

import errno
import os
import queue
from collections.abc import Mapping
from typing import Final, NamedTuple

from watchdog import events, observers
from watchdog.observers import api

from tcpdconf.daemon.process import background_thread

_COMING_AND_GOING: Final[list[type[events.FileSystemEvent]]] = [
    events.FileCreatedEvent,
    events.DirCreatedEvent,
    events.FileMovedEvent,
    events.DirMovedEvent,
    events.FileDeletedEvent,
    events.DirDeletedEvent,
]
_ALL: Final = [*_COMING_AND_GOING, events.FileModifiedEvent, events.FileClosedEvent]
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


class _Observed(NamedTuple):
    """A directory that is observed: which one it was, by its inode, and whether with all events."""

    inode: tuple[int, int]
    whole: bool
    watch: api.ObservedWatch


class Observation(events.FileSystemEventHandler):
    """A set of directories. Readable (`fileno`) when something has happened in one."""

    def __init__(self) -> None:
        """Start without any.

        Raises:
            OSError: there are no inotify instances left.
        """
        background_thread.lean()
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._observed: dict[str, _Observed] = {}
        self._observer = observers.Observer()
        self._observer.start()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Readable when `take` has something."""
        return self._wake

    def close(self) -> None:
        """End all of it."""
        self._observer.stop()
        self._observer.join()
        os.close(self._wake)

    def take(self) -> list[str]:
        """The paths of the entries that something has happened to, since the last call."""
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return []
        found = []
        while not self._heard.empty():
            found.append(self._heard.get())
        return found

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        """Note an event: called in a thread of watchdog's."""
        for path in (event.src_path, event.dest_path):
            if path:
                self._heard.put(os.fsdecode(path))
        os.eventfd_write(self._wake, 1)

    def cover(self, directories: Mapping[str, bool]) -> bool:
        """Observe these directories, each with all events or with what comes and goes, and no others.

        Directories that do not exist are left out. Returns whether all that exist were observed already.

        Raises:
            OSError: one cannot be observed: there are no watches or instances left, or it may not be read.
        """
        found = {path: (inode, whole) for path, whole in directories.items() if (inode := _inode(path))}
        for path, old in list(self._observed.items()):
            if found.get(path) != (old.inode, old.whole):
                self._observer.unschedule(old.watch)
                del self._observed[path]
        missing = found.keys() - self._observed.keys()
        for path in missing:
            self._add(path, *found[path])
        return not missing

    def _add(self, path: str, inode: tuple[int, int], whole: bool) -> None:
        wanted = _ALL if whole else _COMING_AND_GOING
        try:
            watch = self._observer.schedule(self, path, event_filter=wanted)
        except OSError as error:
            if error.errno not in _GONE:  # one that has just gone is seen to be missing by the next look
                raise
        else:
            self._observed[path] = _Observed(inode, whole, watch)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
