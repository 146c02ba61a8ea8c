import os
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.config import printable
from tcpdconf.daemon.process import throttle
from tcpdconf.daemon.process.logs import lines


@given(st.text(), st.text())
def test_nothing_ends_a_line_or_begins_another(event: str, value: str) -> None:
    written = printable.escaped(event) + lines.value(value)

    assert written.isprintable()
    assert "\n" not in written.encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, "7"),
        ("192.0.2.1:25", "192.0.2.1:25"),
        ("", '""'),
        ("two words", '"two words"'),
        ('a="b"', '"a=\\"b\\""'),
        ("line\nbreak", "line\\nbreak"),
        ("\x1b[31m\0", "\\x1b[31m\\x00"),
        ("\u2028\udcff", "\\u2028\\udcff"),
    ],
)
def test_values(value: object, expected: str) -> None:
    assert lines.value(value) == expected


WRITE = """
import sys
from tcpdconf.daemon.process import log
log.set_level(sys.argv[1])
log.debug("fine", a=1)
log.info("said", b="x y")
log.warning("look")
log.write("alert", "help")
"""


def written(level: str, **environment: str) -> list[str]:
    found = subprocess.run(
        [sys.executable, "-c", WRITE, level],
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
        check=True,
    )
    return found.stderr.splitlines()


def test_levels() -> None:
    assert written("debug") == ["fine a=1", 'said b="x y"', "warning: look", "alert: help"]
    assert written("warning") == ["warning: look", "alert: help"]


def test_under_systemd_a_line_begins_with_its_priority() -> None:
    script = (
        "import os, sys; s = os.fstat(2); os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}';"
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1], 'debug'])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, WRITE], stderr=subprocess.PIPE, text=True, check=True
    )

    assert found.stderr.splitlines() == [
        "<7>fine a=1", '<6>said b="x y"', "<4>warning: look", "<1>alert: help",
    ]  # fmt: skip


def test_lost_lines_are_counted() -> None:
    """A full pipe loses lines; the first that finds room again says how many."""
    script = (
        "import os, sys; from tcpdconf.daemon.process import log; os.set_blocking(2, False)\n"
        "filler = 0\n"
        "try:\n"
        "    while True: filler += os.write(2, b'x' * 4096)\n"
        "except BlockingIOError: pass\n"
        "os.set_blocking(2, True)\n"
        "for _ in range(3): log.info('lost')\n"
        "print(filler, flush=True); sys.stdin.read()\n"
        "log.info('back')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        process.stderr.read(int(process.stdout.readline()))
        process.stdin.close()
        assert process.stderr.read() == b"warning: log lines lost=3\nback\n"


THREADS = """
import sys, threading
from tcpdconf.daemon.process import log
sys.setswitchinterval(1e-6)
later = []
def gathered(flush):
    assert threading.current_thread() is threading.main_thread(), "the loop's own"
    later.append(flush)
log.gather(gathered)
def say(thread):
    for number in range(2000):
        log.info("line", thread=thread, number=number, filler="x" * (number % 50))
threads = [threading.Thread(target=say, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
for number in range(2000):
    log.info("line", thread="main", number=number)
    while later:
        later.pop()()
for thread in threads:
    thread.join()
for flush in later:
    flush()
"""


def test_threads_log_each_line_whole_and_in_their_order(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as file:
        subprocess.run([sys.executable, "-c", THREADS], stderr=file, check=True)
    lines = path.read_text().splitlines()

    for thread in ("0", "1", "2", "main"):
        of_thread = [line for line in lines if line.startswith(f"line thread={thread} ")]
        assert [line.split()[2] for line in of_thread] == [f"number={number}" for number in range(2000)]
    assert len(lines) == 8000


IN_A_THREAD = """
import os, threading
from tcpdconf.daemon.process import log
later = []
log.gather(later.append)
log.info("first")
thread = threading.Thread(target=log.info, args=("thread",))
thread.start()
thread.join()
before = os.fstat(2).st_size
assert before == len("thread\\n"), before
log.info("last")
assert len(later) == 1
later[0]()
"""


def test_what_another_thread_says_does_not_wait_for_the_loop(tmp_path: pathlib.Path) -> None:
    """It may be asleep for long, and its list of what is to be done soon is not for other threads."""
    path = tmp_path / "log"
    with path.open("w") as file:
        subprocess.run([sys.executable, "-c", IN_A_THREAD], stderr=file, check=True)

    assert path.read_text().split() == ["thread", "first", "last"]


GATHER = """
import os
from tcpdconf.daemon.process import log
later = []
log.gather(later.append)
for number in range(100):
    log.info("line", number=number, filler="x" * 100)
early = os.fstat(2).st_size
assert len(later) == early // 4000 + 1, (len(later), early)
for flush in later:
    flush()
before = os.fstat(2).st_size
log.info("last")
assert os.fstat(2).st_size == before, "written before its time"
log.gather(None)
log.info("at once")
"""


def test_gathered_lines_are_written_together_in_their_order(tmp_path: pathlib.Path) -> None:
    """No more at once than stays together where several processes write."""
    path = tmp_path / "log"
    with path.open("w") as file:
        subprocess.run([sys.executable, "-c", GATHER], stderr=file, check=True)
    lines = path.read_text().splitlines()

    assert [line.split()[1] for line in lines[:-2]] == [f"number={number}" for number in range(100)]
    assert lines[-2:] == ["last", "at once"]


def test_a_throttle_lets_a_burst_through_and_counts_the_rest() -> None:
    later: list[float] = []
    told: list[tuple[str, int]] = []
    made = throttle.Throttle(lambda seconds, _: later.append(seconds), lambda *found: told.append(found))
    passed = [made.pass_("access", 1000.0) for _ in range(throttle.BURST + 5)]

    assert passed == [0] * throttle.BURST + [None] * 5
    assert made.pass_("rate", 1000.0) == 0
    assert made.pass_("access", 1000.0 + 1 / throttle.PER_SECOND) == 5
    assert [made.pass_("access", 1000.0 + 1 / throttle.PER_SECOND) for _ in range(2)] == [None, None]
    made.report()
    made.report()
    assert told == [("access", 2)]
    assert later == [2.0]
