"""Observes directories with inotify, through watchdog.

An `Observation` starts watchdog's threads. So only the watcher's process, which never forks, makes one.
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
    """Describes an observed directory: its inode, and whether all events are observed."""

    inode: tuple[int, int]
    whole: bool
    watch: api.ObservedWatch


class Observation(events.FileSystemEventHandler):
    """Observes a set of directories; its descriptor is readable when something has happened in one."""

    def __init__(self) -> None:
        """Start with no directories.

        Raises:
            OSError: there are no inotify instances left.
        """
        background_thread.lean()
        self._events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._observed: dict[str, _Observed] = {}
        self._observer = observers.Observer()
        self._observer.start()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor, which is readable when `take` has paths."""
        return self._wake

    def close(self) -> None:
        """Stop all observation."""
        self._observer.stop()
        self._observer.join()
        os.close(self._wake)

    def take(self) -> list[str]:
        """Return the paths of the entries that events have named since the last call."""
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return []
        found = []
        while not self._events.empty():
            found.append(self._events.get())
        return found

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        """Queue an event; watchdog calls this in one of its threads."""
        for path in (event.src_path, event.dest_path):
            if path:
                self._events.put(os.fsdecode(path))
        os.eventfd_write(self._wake, 1)

    def cover(self, directories: Mapping[str, bool]) -> bool:
        """Observe exactly these directories, each for all events (True) or for entries that come and go.

        Missing directories are left out. Return whether all existing ones were observed already.

        Raises:
            OSError: a directory cannot be observed: no watches or instances are left, or it may not be read.
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
            if error.errno not in _GONE:  # the next look finds that a directory has just gone
                raise
        else:
            self._observed[path] = _Observed(inode, whole, watch)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
