"""Redraws a page on a terminal without flicker.

The control sequences are those of ECMA-48 and of xterm; terminals ignore those that they do not know.
"""

import contextlib
import os
import signal
import sys
import termios
import time
from types import FrameType, TracebackType
from typing import Any, Final, Self

_PAUSE: Final = 0.2  # most seconds of one wait for a signal
_AWAITED: Final = (signal.SIGWINCH, signal.SIGTSTP)  # handled only between two frames
_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # alternate screen, no cursor, no automatic wrap
_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_BEGIN: Final = "\x1b[?2026h\x1b[H"  # synchronised update; go to the upper left corner
_END: Final = "\x1b[J\x1b[?2026l"  # erase below the cursor
_LINE_END: Final = "\x1b[K"  # erase to the end of the line


def is_usable() -> bool:
    """Return whether standard output is a terminal that has these control sequences."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def size() -> os.terminal_size | None:
    """Return the size of the terminal, or None if standard output is not a terminal."""
    return _size(sys.stdout.fileno()) if sys.stdout.isatty() else None


class Screen:
    """Takes over the terminal of standard output; at the end of the `with` block it is restored.

    A frame is one write(2). The first one also has the sequences that enter the alternate screen. Until the
    end, the terminal does not echo keys, since they would disturb the page.
    """

    def __init__(self) -> None:
        self._fd = sys.stdout.fileno()
        self._entered = False
        self._keys: list[Any] | None = None  # the terminal's own settings
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        self._before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, _exit),
            signal.SIGHUP: signal.signal(signal.SIGHUP, _exit),
        }
        self._silence()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._leave()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)

    @property
    def width(self) -> int:
        """Return the most columns of a line; the last column stays free, or erasing would delete from it."""
        return max(1, _size(self._fd).columns - 1)

    def show(self, page: str, footer: str) -> None:
        """Replace the shown page; if the new page is too long, its last line is the `footer`."""
        lines, height = page.splitlines(), _size(self._fd).lines
        if len(lines) > height:
            lines = [*lines[: height - 1], footer]
        frame = _BEGIN + "\r\n".join(line + _LINE_END for line in lines) + _END
        if not self._entered:
            self._entered = True  # before the write, which may end with a signal that ends this process
            frame = _ENTER + frame
        self._write(frame)

    def wait(self, until: float) -> bool:
        """Wait until this time of the monotonic clock, in seconds.

        Return True at once if the page must be shown again, because the size of the terminal has changed or
        this process has been continued after a stop.
        """
        while (left := until - time.monotonic()) > 0:
            # Python runs the handler of a signal that arrives just before this call only after it.
            if (awaited := signal.sigtimedwait(_AWAITED, min(left, _PAUSE))) is not None:
                if awaited.si_signo == signal.SIGTSTP:
                    self._suspend()
                return True
        return False

    def _silence(self) -> None:
        """Switch off the echo of keys."""
        with contextlib.suppress(termios.error):  # standard input may not be a terminal
            self._keys = termios.tcgetattr(0)
            silent = termios.tcgetattr(0)
            silent[3] &= ~(termios.ECHO | termios.ICANON)
            termios.tcsetattr(0, termios.TCSANOW, silent)

    def _leave(self) -> None:
        """Restore the terminal, and discard the keys that were pressed."""
        if self._entered:
            self._entered = False
            with contextlib.suppress(OSError):  # the terminal may be gone
                self._write(_LEAVE)
        if self._keys is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSAFLUSH, self._keys)
            self._keys = None

    def _suspend(self) -> None:
        """Restore the terminal and stop this process (Ctrl-Z); the next page takes it over again."""
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._silence()

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding, "backslashreplace")
        while data:
            data = data[os.write(self._fd, data) :]


def _size(fd: int) -> os.terminal_size:
    """Return the size of a terminal; a terminal with unknown size, such as a serial line, has 80 x 24."""
    found = os.get_terminal_size(fd)
    return os.terminal_size((found.columns or 80, found.lines or 24))


def _exit(number: int, _frame: FrameType | None) -> None:
    """Handle a signal by an exception, so that the terminal is restored.

    Raises:
        SystemExit: always.
    """
    raise SystemExit(128 + number)
