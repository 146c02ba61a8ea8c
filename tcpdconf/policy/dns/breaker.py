"""Suspends requests to a target for a while after several failures in a row.

After the pause one trial request is let through. If it fails, the next pause is twice as long; if it
succeeds, the breaker closes again.

Times are seconds of a monotonic clock.
"""

from typing import Final

FAILURES: Final = 3  # in a row, until a pause
LONGEST: Final = 600.0  # seconds of a pause


class Breaker:
    """Counts the `failures` in a row of one target, which must not be asked while `paused` is True.

    `pause` is the length of the first pause, in seconds. A request begun before a pause that fails during it
    does not make the pause longer.
    """

    def __init__(self, pause: float) -> None:
        self.paused = False
        self.failures = 0
        self._first = self._pause = pause
        self._until = 0.0  # when the next try may be made
        self._trying = False

    def tries(self, now: float) -> bool:
        """Return whether to make a trial request now; without a result, the next one is due a pause later."""
        if not self.paused or now < self._until:
            return False
        self._until, self._trying = now + self._pause, True
        return True

    def failed(self, now: float, *, pauses: bool = True) -> bool:
        """Count a failure; return whether it begins a pause, which it never does unless `pauses`."""
        self.failures += 1
        if self.paused and self._trying:
            self._trying, self._pause = False, longer(self._pause, self._first)
            self._until = now + self._pause
        elif not self.paused and pauses and self.failures >= FAILURES:
            self.paused, self._until = True, now + self._pause
            return True
        return False

    def passed(self) -> bool:
        """Reset the count of failures; return whether this ends a pause."""
        ended, self.paused = self.paused, False
        self.failures, self._pause, self._trying = 0, self._first, False
        return ended


def longer(pause: float, first: float) -> float:
    """Return the length of the next pause: twice this one, up to LONGEST or the first pause."""
    return min(pause * 2, max(LONGEST, first))
