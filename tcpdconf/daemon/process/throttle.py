"""Limits log messages that many clients can cause, so that they do not fill the log."""

from collections.abc import Callable
from typing import Final

BURST: Final = 20
PER_SECOND: Final = 5.0
_ROUNDING: Final = 1e-6
_SELDOM: Final = 60.0  # seconds
_REPORT: Final = 2.0  # seconds


class Seldom:
    """Allows one message a minute about each kind of problem."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def due(self, trouble: str, now: float) -> bool:
        """Return whether to log a message about this problem now; if so, the next is due in a minute.

        `now` is in seconds.
        """
        if now < self._next.get(trouble, now):
            return False
        self._next[trouble] = now + _SELDOM
        return True


class Throttle:
    """Allows BURST messages of each key at once and PER_SECOND after that; counts the suppressed ones.

    Their number comes with the next message of the key, which may never follow. So `suppressed` is called
    with each key and its number two seconds after the first suppressed message, and by `report`. `after` is
    that of the loop.
    """

    def __init__(
        self,
        after: Callable[[float, Callable[[], object]], object],
        suppressed: Callable[[str, int], object],
    ) -> None:
        self._after = after
        self._suppressed = suppressed
        self._full_at: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._reporting = False  # `report` will be called

    def pass_(self, key: str, now: float) -> int | None:
        """Return how many messages were suppressed since the last one, or None to suppress this one too.

        `now` is in seconds. Keys must be few, since they are kept for good.
        """
        full_at = max(self._full_at.get(key, now), now)
        if full_at - now > (BURST - 1) / PER_SECOND + _ROUNDING:
            self._counts[key] = self._counts.get(key, 0) + 1
            if not self._reporting:
                self._reporting = True
                self._after(_REPORT, self.report)
            return None
        self._full_at[key] = full_at + 1 / PER_SECOND
        return self._counts.pop(key, 0)

    def report(self) -> None:
        """Report the suppressed messages that no message has told of."""
        self._reporting = False
        counts, self._counts = self._counts, {}
        for key, count in counts.items():
            self._suppressed(key, count)
