"""What connections were served with before the configuration changed: closed when none uses it any more."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tcpdconf.daemon.process import loop
from tcpdconf.daemon.worker import acceptor


class _Generation(NamedTuple):
    """What was served with, how it is closed, and who had accepted by then and may still await headers."""

    serving: object
    close: Callable[[], None]
    receptions: Sequence[acceptor.Acceptor]


class Former:
    """Those of one service. `in_use` tells what each connection is served with that has no program yet."""

    def __init__(self, events: loop.Loop, in_use: Callable[[], Iterable[object]]) -> None:
        self._loop = events
        self._in_use = in_use
        self._entries: list[_Generation] = []
        self._due = False

    def add(self, serving: object, close: Callable[[], None], accepted: Sequence[acceptor.Acceptor]) -> None:
        """Keep something until no connection uses it."""
        self._entries.append(_Generation(serving, close, accepted))

    def look(self) -> None:
        """Close what no connection uses."""
        self._due = False
        kept = []
        for entry in self._entries:
            awaited = any(one.pending for one in entry.receptions)
            if awaited or any(one is entry.serving for one in self._in_use()):
                kept.append(entry)
            else:
                entry.close()
        self._entries = kept

    def look_soon(self) -> None:
        """Look at the end of this turn: a connection has ended, or has its program."""
        if self._entries and not self._due:
            self._due = True
            self._loop.soon(self.look)
