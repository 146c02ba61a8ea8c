"""How many questions a name server is given at a time.

A server reads its questions when it gets a processor, and what does not fit into its socket's buffer until
then (by default 277 of them) is lost. A burst of connections asks more than that at once.
"""

import collections
from collections.abc import Callable
from typing import Final

from tcpdconf.daemon.process import loop

AT_ONCE: Final = 128  # questions sent and not answered
_WHILE: Final = 0.01  # seconds; after one to two of them a question does not count any more


class Window:
    """Lets questions go to one server, in their order: at once, or when others have been answered."""

    def __init__(self, events: loop.Loop) -> None:
        self._loop = events
        self._held: collections.deque[Callable[[], None]] = collections.deque()
        self._recent = 0  # questions not answered that were sent in this while
        self._earlier = 0  # and in the one before
        self._ends = 0.0

    @property
    def ready(self) -> bool:
        """Whether a question may go at once, which is then counted; else it is to be held."""
        return not self._held and self._has_room()

    def hold(self, question: Callable[[], None]) -> None:
        """Call this later."""
        if not self._held:
            self._loop.after(_WHILE, self._go_on)
        self._held.append(question)

    def answered(self) -> None:
        """Take note of an answer: there is room for another question."""
        if self._earlier:
            self._earlier -= 1
        elif self._recent:
            self._recent -= 1
        self._release()

    def _has_room(self) -> bool:
        """Whether one more question may go; it is counted then."""
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
