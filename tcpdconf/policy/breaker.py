"""Implements the circuit breaker: after three failures in a row no connection waits for the engine. Pure."""

from typing import Final

FAILURES: Final = 3  # in a row


class Breaker:
    """Keeps the state of a circuit breaker, which starts open; connections wait only while it is closed."""

    def __init__(self) -> None:
        self.open = True
        self._failures = 0

    def succeed(self) -> None:
        """Reset the count of failures after a request that was answered in time."""
        self._failures = 0

    def fail(self) -> bool:
        """Count a request that was not answered in time; return whether that has opened the breaker."""
        self._failures += 1
        if self.open or self._failures < FAILURES:
            return False
        self.open = True
        return True

    def trip(self) -> bool:
        """Open the breaker at once, because the connection is gone; return whether it was closed."""
        was, self.open = self.open, True
        return not was

    def close(self) -> bool:
        """Close the breaker after a probe was answered in time; return whether it was open."""
        was, self.open, self._failures = self.open, False, 0
        return was
