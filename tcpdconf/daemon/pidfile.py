"""A daemon's pid file, and the lock beside it that says whether that daemon lives.

The lock is what couriertcpd uses (a POSIX lock on all of FILE.lock, held by the daemon itself), so that each
of the two can tell, stop and restart the other. Both files stay behind. Imports nothing slow: -stop and
-restart have to answer at once.
"""

import fcntl
import os
import signal
import time
from typing import Final

_LOOK: Final = 0.01  # seconds between two looks whether a daemon has ended
_PATIENCE: Final = 10.0  # seconds that it may take before it is killed
_KILLED: Final = 2.0  # seconds that the kernel may take for that


class PidFile:
    """The pid file of one daemon."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock: int | None = None

    def take(self) -> bool:
        """Lock it for this process, until its end; False when another one has it.

        No other descriptor of the lock may ever be closed in this process: that would give the lock up
        (fcntl(2)).

        Raises:
            OSError: the lock cannot be made.
        """
        fd = os.open(self._path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:
            os.close(fd)
            raise
        self._lock = fd
        return True

    def write(self) -> None:
        """Write this process down.

        Raises:
            OSError: it cannot be written.
        """
        fresh = f"{self._path}.{os.getpid()}"
        with open(fresh, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
        os.replace(fresh, self._path)

    def release(self) -> None:
        """Give the lock up."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def send(self, number: signal.Signals) -> bool:
        """Signal the daemon; False when there is none.

        Raises:
            OSError: the lock cannot be made, or the signal not be sent.
        """
        if self.take():
            self.release()
            return False
        pid = self._read()
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def stop(self) -> None:
        """End the daemon, if there is one, and wait until it has ended.

        Raises:
            OSError: the lock cannot be made, or the daemon not be ended.
        """
        for number, seconds in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, _KILLED)):
            if not self.send(number) or self._is_free_within(seconds):
                return

    def _is_free_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self.take():
            if time.monotonic() > end:
                return False
            time.sleep(_LOOK)
        self.release()
        return True

    def _read(self) -> int | None:
        try:
            with open(self._path, "rb") as file:
                pid = int(file.read(32).split(b"\n")[0])
        except (OSError, ValueError):
            return None
        return pid if pid > 1 else None
