"""Limits log messages that many clients can cause, so that they do not fill the log."""

from typing import Final

BURST: Final = 20
PER_SECOND: Final = 5.0
_ROUNDING: Final = 1e-6


_SELDOM: Final = 60.0


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
    """Allows BURST messages of each key at once and PER_SECOND after that; counts the suppressed ones."""

    def __init__(self) -> None:
        self._full_at: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def pass_(self, key: str, now: float) -> int | None:
        """Return how many messages were suppressed since the last one, or None to suppress this one too.

        `now` is in seconds. Keys must be few, since they are kept for good.
        """
        full_at = max(self._full_at.get(key, now), now)
        if full_at - now > (BURST - 1) / PER_SECOND + _ROUNDING:
            self._held_back[key] = self._held_back.get(key, 0) + 1
            return None
        self._full_at[key] = full_at + 1 / PER_SECOND
        return self._held_back.pop(key, 0)

    def take_suppressed(self) -> dict[str, int]:
        """Return how many messages of each key were suppressed since the last one, and forget them."""
        found, self._held_back = self._held_back, {}
        return found
