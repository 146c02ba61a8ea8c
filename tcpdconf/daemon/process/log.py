"""Writes the daemon's log.

A line is an event and key=value pairs (`accept service=imap peer=192.0.2.1:40000 slots=3/40`). It goes to
standard error. If that is the journal's stream, a process that serves sends entries with fields to the
journal's own socket instead (`logs.journal`). No value can end a line or begin another. Writing never blocks
and never fails: a line that cannot be written is lost and counted.

A worker gathers its lines and writes them together at the end of each turn of its loop. Any thread may log;
lines from a thread other than the loop's are written at once, since the loop may be asleep.
"""

import os
import select
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal

from tcpdconf.daemon.process.logs import journal, lines

if TYPE_CHECKING:
    from tcpdconf.config.problems import Problem

Level = lines.Level
Format = Literal["plain", "text", "json"]
"""Names a form of lines. `plain` is text without times, for commands and for the drop-in."""
_STDERR: Final = 2
_RETRY: Final = 0.02  # seconds after which the journal is tried again
_PATIENCE: Final = 0.2  # seconds that a process which ends may wait for the journal
After = Callable[[float, Callable[[], None]], object]
"""Calls back after so many seconds, in the thread that has set the format."""


class _Stderr:
    """Writes to standard error without blocking."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._poll.register(_STDERR, select.POLLOUT)

    def put(self, data: Sequence[bytes]) -> int:
        """Write lines together; return how many were lost."""
        try:
            ready = self._poll.poll(0)
            if ready and ready[0][1] == select.POLLOUT and os.write(_STDERR, b"".join(data)) > 0:
                return 0
        except OSError:
            pass
        return len(data)


class _Stream:
    """Gives lines their form, gathers and writes them, and counts lost ones."""

    def __init__(self) -> None:
        self.threshold = lines.PRIORITIES["info"]
        self._lost = 0
        self.lost = 0  # lines lost since the start
        self._lock = (
            threading.Lock()
        )  # for all attributes below; no process forks while another thread may hold it
        self._later: Callable[[Callable[[], None]], None] | None = None
        self._thread = 0  # the thread that gathers; its lines are its own and need no lock
        self._due = False
        self._gathered: list[bytes] = []
        self._size = 0
        self._format: Format = "plain"
        self._journal: journal.Journal | None = None
        self._after: After | None = None
        self._home = 0  # the thread that may call `_after`
        self._retrying = False
        self.take_stderr()

    def take_stderr(self, patience: float = 0) -> None:
        """Use the current standard error; wait `patience` seconds for the journal to take kept entries."""
        if self._journal is not None:
            self._lost += self._journal.close(patience)
            self._journal = None
        self._stderr = _Stderr()
        self._out: _Stderr | journal.Journal = self._stderr
        levels = _is_journal()
        self.form: lines.Form = (
            lines.Json(levels=levels)
            if self._format == "json"
            else lines.Text(levels=levels, times=self._format == "text" and not levels)
        )

    def set_format(self, wanted: Format, after: After | None) -> None:
        """Write in this form; with `after`, text for the journal goes to its own socket."""
        if self._journal is not None and wanted == self._format and after is not None:
            return
        self.flush()
        with self._lock:
            self._format = wanted
            self._after, self._home = after, threading.get_ident()
            self.take_stderr()
            if wanted == "text" and after is not None and _is_journal():
                try:
                    self._journal = self._out = journal.Journal(journal.SOCKET)
                except OSError:
                    return  # standard error serves as well, without the fields
                self.form = lines.Entry()

    def leave_journal(self) -> None:
        """Write to standard error from now on."""
        with self._lock:
            if self._journal is not None:
                self.take_stderr(_PATIENCE)

    def forget_journal(self) -> None:
        """Write to standard error from now on, in a process that was just forked."""
        if self._journal is not None:
            self._journal.discard()
            self._journal = None
            self.take_stderr()

    def gather(self, later: Callable[[Callable[[], None]], None] | None) -> None:
        """Write lines of this thread when `later` calls back, or at once if it is None."""
        self.flush()
        self._later, self._thread = later, threading.get_ident()

    def write(self, line: bytes) -> None:
        """Write one line, or gather it for later."""
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
        gathered, self._gathered, self._size = self._gathered, [], 0
        if gathered:
            self._write(gathered)

    def _write(self, data: Sequence[bytes]) -> None:
        """Write lines, after a line with the number of lines that were lost before them."""
        with self._lock:
            if self._lost:
                told = self.form.event("warning", "log lines", {"lost": self._lost})
                if not self._out.put([told]):
                    self._lost = 0
            self._lose(self._out.put(data))
            self._retry_later()

    def _lose(self, count: int) -> None:
        self._lost += count
        self.lost += count

    def _retry_later(self) -> None:
        if self._journal is None or not self._journal.keeps or self._retrying or self._after is None:
            return
        if self._home == threading.get_ident():
            self._retrying = True
            self._after(_RETRY, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        with self._lock:
            if self._journal is not None:
                self._lose(self._journal.retry())
                self._retry_later()


def _is_journal() -> bool:
    """Return whether standard error is the journal's stream, by JOURNAL_STREAM (systemd.exec(5))."""
    try:
        status = os.fstat(_STDERR)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


_stream = _Stream()
os.register_at_fork(after_in_child=_stream.forget_journal)


def redirect(fd: int) -> None:
    """Make another file standard error, here and in all processes forked from now on."""
    _stream.flush()
    os.dup2(fd, _STDERR)
    _stream.take_stderr()


def set_format(wanted: Format, after: After | None = None) -> None:
    """Write lines in this form from now on.

    With `after`, lines for the journal go to its socket, with a field for each key. `after` schedules new
    attempts for lines that the journal does not take at once. journald finds the unit of such an entry by the
    sender's pid, so a process that may end at once must not use this. A forked process must call it again.
    """
    _stream.set_format(wanted, after)


def leave_journal() -> None:
    """Write to standard error from now on, also under the journal: this process will end at once."""
    _stream.leave_journal()


def gather(later: Callable[[Callable[[], None]], None] | None) -> None:
    """Gather lines until `later` calls back the function it was given; with None, write each at once.

    `later` is called only in this thread, while a line is being logged, and calls back after that. A process
    that gathers does not fork.
    """
    _stream.gather(later)


def set_level(level: str) -> None:
    """Log lines of this level and of more important ones."""
    _stream.threshold = lines.PRIORITIES[level]


def lost() -> int:
    """Return the number of lines that this process has lost."""
    return _stream.lost


def forget_lost() -> None:
    """Reset the count of lost lines, which a forked process inherits from its parent."""
    _stream.lost = 0


def enabled(level: Level) -> bool:
    """Return whether lines of this level are logged."""
    return lines.PRIORITIES[level] <= _stream.threshold


def write(level: Level, event: str, **fields: object) -> None:
    """Log one line."""
    if enabled(level):
        _stream.write(_stream.form.event(level, event, fields))


def problems(found: Iterable["Problem"]) -> None:
    """Log problems of a configuration, each with the level of its severity."""
    for line in _stream.form.problems(found):
        _stream.write(line)


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
