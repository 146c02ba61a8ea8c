"""Limits how many questions a name server gets at a time.

A server reads its questions when it gets a processor. Until then, questions that do not fit into its socket
buffer (by default 277) are lost. A burst of connections asks more than that at once.
"""

import collections
from collections.abc import Callable
from typing import Final

from tcpdconf.daemon.process import loop

AT_ONCE: Final = 128  # unanswered questions
_WHILE: Final = 0.01  # seconds of an interval; after one or two a question no longer counts


class Window:
    """Sends questions to one server in order: at once, or when earlier ones have been answered."""

    def __init__(self, events: loop.Loop) -> None:
        self._loop = events
        self._held: collections.deque[Callable[[], None]] = collections.deque()
        self._recent = 0  # unanswered questions sent in this interval
        self._earlier = 0  # and in the previous one
        self._ends = 0.0

    @property
    def ready(self) -> bool:
        """True if a question may be sent at once; it is counted then. Otherwise `hold` it."""
        return not self._held and self._has_room()

    def hold(self, question: Callable[[], None]) -> None:
        """Call `question` later, when there is room."""
        if not self._held:
            self._loop.after(_WHILE, self._go_on)
        self._held.append(question)

    def answered(self) -> None:
        """Record an answer, which makes room for another question."""
        if self._earlier:
            self._earlier -= 1
        elif self._recent:
            self._recent -= 1
        self._release()

    def _has_room(self) -> bool:
        """Return whether one more question may be sent; if so, it is counted."""
        now = loop.now()
        if now >= self._ends:
            self._earlier = self._recent if now < self._ends + _WHILE else 0
            self._recent = 0
            self._ends = now + _WHILE
        room = self._recent + self._earlier < AT_ONCE
        self._recent += room
        return room

    def _release(self) -> None:
        while self._held and self._has_room():
            self._held.popleft()()

    def _go_on(self) -> None:
        self._release()
        if self._held:
            self._loop.after(_WHILE, self._go_on)
