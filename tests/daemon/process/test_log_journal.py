"""The journal's own socket, which a stand-in has: what is sent, what is lost, and when none is used."""

import pathlib
import subprocess
import sys
import time

import pytest
from support import loglines
from support.running import journals, processes

from tcpdconf.daemon.process.logs import journal, lines

# makes standard error the journal's stream, and the socket of arguments' first the journal's own
STREAM = """
import os, sys
status = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
from tcpdconf.daemon.process import log
from tcpdconf.daemon.process.logs import journal
journal.SOCKET = sys.argv[1]
timers = []
def after(seconds, callback):
    timers.append(callback)
"""


def logged(script: str, path: pathlib.Path) -> list[str]:
    """Return the output of a script whose standard error is the journal's stream."""
    done = subprocess.run(
        [sys.executable, "-c", STREAM + script, str(path)], stderr=subprocess.PIPE, text=True, check=True
    )
    return done.stderr.splitlines()


def entry(**fields: object) -> bytes:
    return lines.Entry().event("info", "line", fields)


def test_fields_are_sent_to_the_socket_in_order(tmp_path: pathlib.Path) -> None:
    script = """
log.set_format("text", after)
log.info("accept", service="imap", pid=7)
later = []
log.gather(later.append)
log.write("notice", "refuse", service="imap", error="x\\ny")
log.error("cannot")
later.pop()()
"""
    with journals.Journal(tmp_path / "socket") as made:
        assert logged(script, made.path) == []
        accept, refuse, cannot = made.waiting()

    assert accept == {
        "MESSAGE": "accept service=imap pid=7",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "tcpdconf",
        "TCPDCONF_EVENT": "accept",
        "TCPDCONF_SERVICE": "imap",
        "TCPDCONF_PID": "7",
    }
    assert (refuse["MESSAGE"], refuse["PRIORITY"]) == ("refuse service=imap error=x\\ny", "5")
    assert refuse["TCPDCONF_ERROR"] == "x\\ny"
    assert (cannot["MESSAGE"], cannot["PRIORITY"]) == ("error: cannot", "3")


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("log.info('x')", "<6>x"),
        ("log.set_format('text'); log.info('x')", "<6>x"),
        ("log.set_format('plain', after); log.info('x')", "<6>x"),
        ("log.set_format('text', after); log.leave_journal(); log.info('x')", "<6>x"),
        ("journal.SOCKET += '?'; log.set_format('text', after); log.info('x')", "<6>x"),
        ("log.set_format('text', after)\nif not os.fork(): log.info('x'); os._exit(0)\nos.wait()", "<6>x"),
    ],
    ids=["before", "without fields", "plain", "left", "no socket", "forked"],
)
def test_standard_error_has_the_levels_otherwise(script: str, line: str, tmp_path: pathlib.Path) -> None:
    with journals.Journal(tmp_path / "socket") as made:
        assert logged(script, made.path) == [line]
        assert made.waiting() == []


def test_json_goes_to_standard_error(tmp_path: pathlib.Path) -> None:
    with journals.Journal(tmp_path / "socket") as made:
        (line,) = logged(
            "log.set_format('text', after); log.set_format('json', after); log.error('x')", made.path
        )
        assert made.waiting() == []
    assert line.startswith('<3>{"time":"')


def test_another_standard_error_is_not_the_journal(tmp_path: pathlib.Path) -> None:
    """JOURNAL_STREAM is inherited by programs that write elsewhere."""
    script = "os.environ['JOURNAL_STREAM'] = '1:2'; log.set_format('text', after); log.info('x')"
    with journals.Journal(tmp_path / "socket") as made:
        (line,) = logged(script.replace("log.set", "log.redirect(2); log.set"), made.path)
        assert made.waiting() == []
    assert loglines.TIME.match(line)


FLOOD = """
import time
log.set_format("text", after)
for number in range(int(sys.argv[2])):
    log.info("line", number=number)
assert len(timers) == 1
print("full", flush=True)
sys.stdin.read(1)
while timers:
    timers.pop()()
    time.sleep(0.001)
log.info("back")
"""


@pytest.mark.parametrize("count", [2000, 20_000])
def test_a_full_queue_keeps_lines_and_loses_later_ones(count: int, tmp_path: pathlib.Path) -> None:
    """Lost ones are counted; nothing waits for the journal."""
    command = [sys.executable, "-c", STREAM + FLOOD, str(tmp_path / "socket"), str(count)]
    with (
        journals.Journal(tmp_path / "socket") as made,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"full\n"
        process.stdin.write(b"x")
        process.stdin.flush()
        found: list[dict[str, str]] = []
        while not found or found[-1]["MESSAGE"] != "back":
            found.append(made.entry())
        assert process.communicate()[1] == b""
    numbers = [each["TCPDCONF_NUMBER"] for each in found if "TCPDCONF_NUMBER" in each]

    assert numbers == [str(number) for number in range(len(numbers))]
    assert len(numbers) > 2000 - 1
    lost = [f"warning: log lines lost={count - len(numbers)}"] if count > len(numbers) else []
    assert [each["MESSAGE"] for each in found[len(numbers) :]] == [*lost, "back"]
    assert bool(lost) == (count > 2000)


def test_the_end_of_a_process_waits_a_moment_for_the_journal(tmp_path: pathlib.Path) -> None:
    with journals.Journal(tmp_path / "socket") as made:
        sender = journal.Journal(str(made.path))
        assert sender.put([entry(number=number) for number in range(3000)]) == 0
        assert sender.keeps
        taken = len(made.waiting())
        began = time.monotonic()
        lost = sender.close(0.1)
        assert 0.1 <= time.monotonic() - began < 1
        assert taken + len(made.waiting()) + lost == 3000


def test_a_forked_process_sends_nothing_that_its_parent_keeps(tmp_path: pathlib.Path) -> None:
    script = """
log.set_format("text", after)
for number in range(3000):
    log.info("line", number=number)
child = os.fork()
if not child:
    log.leave_journal()
    os._exit(0)
os.waitpid(child, 0)
os._exit(0)
"""
    with journals.Journal(tmp_path / "socket") as made:
        assert logged(script, made.path) == []
        numbers = [each["TCPDCONF_NUMBER"] for each in made.waiting()]
    assert 0 < len(numbers) < 3000
    assert numbers == [str(number) for number in range(len(numbers))]


def test_a_large_entry_is_a_sealed_file(tmp_path: pathlib.Path) -> None:
    with journals.Journal(tmp_path / "socket") as made:
        sender = journal.Journal(str(made.path))
        descriptors = processes.own_descriptors()
        large = "x" * 9_000_000
        assert sender.put([entry(number=1), entry(text=large), entry(number=2)]) == 0
        assert made.entry()["TCPDCONF_NUMBER"] == "1"
        assert made.entry()["TCPDCONF_TEXT"] == large
        assert made.entry()["TCPDCONF_NUMBER"] == "2"
        assert processes.own_descriptors() == descriptors
        sender.close()


def test_a_journal_that_comes_back_gets_the_next_line(tmp_path: pathlib.Path) -> None:
    """The socket is systemd's and outlives journald; a new one is found all the same."""
    with journals.Journal(tmp_path / "socket") as made:
        sender = journal.Journal(str(made.path))
        assert sender.put([entry(number=1)]) == 0
    assert sender.put([entry(number=2), entry(number=3)]) == 2
    assert not sender.keeps
    with journals.Journal(tmp_path / "socket") as made:
        assert sender.put([entry(number=4)]) == 0
        assert [each["TCPDCONF_NUMBER"] for each in made.waiting()] == ["4"]
    sender.close()
