"""Shows a page on a terminal again and again, each in the place of the one before it, without flicker.

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

_PAUSE: Final = 0.2  # seconds
_AWAITED: Final = (signal.SIGWINCH, signal.SIGTSTP)  # they come between two pages only
_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # alternate screen, no cursor, no automatic wrap
_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_BEGIN: Final = "\x1b[?2026h\x1b[H"  # synchronised update; go to the upper left corner
_END: Final = "\x1b[J\x1b[?2026l"  # erase below the cursor
_LINE_END: Final = "\x1b[K"  # erase to the end of the line


def is_usable() -> bool:
    """Return whether standard output is a terminal that has these control sequences."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def size() -> os.terminal_size | None:
    """Return the size of the terminal, or None if standard output is none."""
    return _size(sys.stdout.fileno()) if sys.stdout.isatty() else None


class Screen:
    """Takes over the terminal of standard output; the caller leaves it, and gets it back as it was.

    A frame is one write(2), the first one with the sequences that enter the alternate screen. The terminal
    does not echo keys meanwhile, since they would disturb the page.
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
        """Return how long a line may be; the last column stays free, where erasing would take a character."""
        return max(1, _size(self._fd).columns - 1)

    def show(self, page: str, footer: str) -> None:
        """Show a page in the place of the one before; if it is too long, the `footer` is its last line."""
        lines, height = page.splitlines(), _size(self._fd).lines
        if len(lines) > height:
            lines = [*lines[: height - 1], footer]
        frame = _BEGIN + "\r\n".join(line + _LINE_END for line in lines) + _END
        if not self._entered:
            self._entered = True  # before the write, which may end with a signal that ends this process
            frame = _ENTER + frame
        self._write(frame)

    def wait(self, until: float) -> bool:
        """Wait until this moment of the monotonic clock.

        Return True at once if the page must be shown again, after a change of the size or a stop.
        """
        while (left := until - time.monotonic()) > 0:
            # Python runs the handler of a signal that arrives just before this call only after it.
            if (awaited := signal.sigtimedwait(_AWAITED, min(left, _PAUSE))) is not None:
                if awaited.si_signo == signal.SIGTSTP:
                    self._suspend()
                return True
        return False

    def _silence(self) -> None:
        """Let the terminal echo no keys."""
        with contextlib.suppress(termios.error):  # standard input may be something else
            self._keys = termios.tcgetattr(0)
            silent = termios.tcgetattr(0)
            silent[3] &= ~(termios.ECHO | termios.ICANON)
            termios.tcsetattr(0, termios.TCSANOW, silent)

    def _leave(self) -> None:
        """Give the terminal back, without the keys that were pressed."""
        if self._entered:
            self._entered = False
            with contextlib.suppress(OSError):  # it may have gone
                self._write(_LEAVE)
        if self._keys is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSAFLUSH, self._keys)
            self._keys = None

    def _suspend(self) -> None:
        """Give the terminal back while this process is stopped (Ctrl-Z); the next page takes it again."""
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._silence()

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding, "backslashreplace")
        while data:
            data = data[os.write(self._fd, data) :]


def _size(fd: int) -> os.terminal_size:
    """Return the size of a terminal; one that does not know it (a serial line) has the usual one."""
    found = os.get_terminal_size(fd)
    return os.terminal_size((found.columns or 80, found.lines or 24))


def _exit(number: int, _frame: FrameType | None) -> None:
    """End by an exception, so that the terminal is given back.

    Raises:
        SystemExit: always.
    """
    raise SystemExit(128 + number)
