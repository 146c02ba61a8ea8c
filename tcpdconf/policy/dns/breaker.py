"""Leaves alone for a while what has failed several times in a row.

When the pause is over one try is let through. If that fails too the next pause is twice as long; if it passes
everything goes on as before.

Times are seconds of any clock that never goes back.
"""

from typing import Final

FAILURES: Final = 3  # in a row, until a pause
LONGEST: Final = 600.0  # seconds of a pause


class Breaker:
    """Counts the `failures` in a row of one thing, which is to be left alone while this is `paused`.

    `pause` is the length of the first pause, in seconds. What was begun before a pause and fails in it does
    not make it longer, however often.
    """

    def __init__(self, pause: float) -> None:
        self.paused = False
        self.failures = 0
        self._first = self._pause = pause
        self._until = 0.0  # when the next try may be made
        self._trying = False

    def tries(self, now: float) -> bool:
        """Whether to make a try now. If nothing is heard of it the next one is a pause later."""
        if not self.paused or now < self._until:
            return False
        self._until, self._trying = now + self._pause, True
        return True

    def failed(self, now: float, *, pauses: bool = True) -> bool:
        """Count a failure; returns whether it begins a pause, which without `pauses` it never does."""
        self.failures += 1
        if self.paused and self._trying:
            self._trying, self._pause = False, longer(self._pause, self._first)
            self._until = now + self._pause
        elif not self.paused and pauses and self.failures >= FAILURES:
            self.paused, self._until = True, now + self._pause
            return True
        return False

    def passed(self) -> bool:
        """Forget all failures; returns whether that ends a pause."""
        ended, self.paused = self.paused, False
        self.failures, self._pause, self._trying = 0, self._first, False
        return ended


def longer(pause: float, first: float) -> float:
    """The pause after this one: twice as long, up to LONGEST or the first pause."""
    return min(pause * 2, max(LONGEST, first))
