"""Writes the daemon's log to standard error.

A line is an event and key=value pairs (`accept service=imap peer=192.0.2.1:40000 slots=3/40`). Under systemd
it begins with its level (sd-daemon(3)). No value can end a line or begin another. Writing never blocks and
never fails: a line that standard error does not accept at once is lost and counted.

A worker gathers its lines and writes them together at the end of each turn of its loop. Any thread may log;
lines from a thread other than the loop's are written at once, since the loop may be asleep.
"""

import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Final, Literal

from tcpdconf.config import printable

Level = Literal["alert", "error", "warning", "notice", "info", "debug"]
PRIORITIES: Final[dict[str, int]] = {"alert": 1, "error": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}
_STDERR: Final = 2
_LONGEST: Final = 4000  # bytes of a line with its level, without its newline


class _Stream:
    """Writes lines to standard error: marks their level, filters them, and counts lost ones."""

    def __init__(self) -> None:
        self.threshold = PRIORITIES["info"]
        self._lost = 0
        self._lock = (
            threading.Lock()
        )  # for all attributes below; no process forks while another thread may hold it
        self._later: Callable[[Callable[[], None]], None] | None = None
        self._thread = 0  # the thread that gathers; its lines are its own and need no lock
        self._due = False
        self._gathered: list[bytes] = []
        self._size = 0
        self._journal = _is_journal()
        self._poll = select.poll()
        self._poll.register(_STDERR, select.POLLOUT)

    def gather(self, later: Callable[[Callable[[], None]], None] | None) -> None:
        """Write lines of this thread when `later` calls back, or at once if it is None."""
        self.flush()
        self._later, self._thread = later, threading.get_ident()

    def write(self, level: Level, text: str) -> None:
        """Write one line, or gather it for later."""
        line = self._line(level, text)
        if self._later is None or self._thread != threading.get_ident():
            self._write([line])
            return
        if self._size + len(line) > select.PIPE_BUF:  # up to this size lines of several processes do not mix
            self.flush()
        self._gathered.append(line)
        self._size += len(line)
        if not self._due:
            self._due = True
            self._later(self.flush)

    def flush(self) -> None:
        """Write the gathered lines; only the gathering thread calls this."""
        self._due = False
        lines, self._gathered, self._size = self._gathered, [], 0
        if lines:
            self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        """Write lines, after one that tells how many were lost before them."""
        with self._lock:
            if self._lost and self._put(self._line("warning", f"warning: log lines lost={self._lost}")):
                self._lost = 0
            if not self._put(b"".join(lines)):
                self._lost += len(lines)

    def _line(self, level: Level, text: str) -> bytes:
        start = f"<{PRIORITIES[level]}>" if self._journal else ""
        return (start + text).encode("utf-8", "backslashreplace")[:_LONGEST] + b"\n"

    def _put(self, data: bytes) -> bool:
        try:
            ready = self._poll.poll(0)
            return bool(ready) and ready[0][1] == select.POLLOUT and os.write(_STDERR, data) > 0
        except OSError:
            return False


def _is_journal() -> bool:
    """Return whether standard error is the journal's stream, by JOURNAL_STREAM (systemd.exec(5))."""
    try:
        status = os.fstat(_STDERR)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


_stream = _Stream()


def redirect(fd: int) -> None:
    """Make another file standard error, here and in all processes forked from now on."""
    global _stream
    os.dup2(fd, _STDERR)
    threshold, _stream = _stream.threshold, _Stream()
    _stream.threshold = threshold


def gather(later: Callable[[Callable[[], None]], None] | None) -> None:
    """Gather lines until `later` calls back the function it was given; with None, write each at once.

    `later` is called only in this thread, while a line is being logged, and calls back after that. A process
    that gathers does not fork.
    """
    _stream.gather(later)


def set_level(level: str) -> None:
    """Log lines of this level and of more important ones."""
    _stream.threshold = PRIORITIES[level]


def enabled(level: Level) -> bool:
    """Return whether lines of this level are logged."""
    return PRIORITIES[level] <= _stream.threshold


def write(level: Level, event: str, **fields: object) -> None:
    """Log one line."""
    if enabled(level):
        start = f"{level}: " if PRIORITIES[level] <= PRIORITIES["warning"] else ""
        pairs = [f"{key}={_value(value)}" for key, value in fields.items()]
        _stream.write(level, " ".join((start + printable.escaped(event), *pairs)))


def excerpt(level: Level, text: str) -> None:
    """Log lines unchanged; they must be complete and printable."""
    for line in text.splitlines():
        _stream.write(level, line)


def error(text: str, **fields: object) -> None:
    """Log an error, which keeps something from working."""
    write("error", text, **fields)


def warning(text: str, **fields: object) -> None:
    """Log something that an administrator should look at."""
    write("warning", text, **fields)


def info(text: str, **fields: object) -> None:
    """Log an event."""
    write("info", text, **fields)


def debug(text: str, **fields: object) -> None:
    """Log a detail that helps to find a fault."""
    write("debug", text, **fields)


def crash(what: str) -> None:
    """Log the exception being handled in one line, with the place of each frame."""
    kind, value, trace = sys.exc_info()
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}:{code.co_name}")
        trace = trace.tb_next
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 (the crash must be logged nevertheless)
        text = "it cannot be shown"
    error(f"{what}: {kind.__name__ if kind else None}: {text}", at=" ".join(frames))


def _value(value: object) -> str:
    """Return a value for a line, quoted if it would not be told from what follows it.

    A value that already contains a backslash before a quote is text like any other.
    """
    text = str(value)
    if text and " " not in text and '"' not in text and "=" not in text:
        return printable.escaped(text)
    return '"' + printable.escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'
