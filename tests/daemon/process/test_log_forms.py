"""The forms of a log line: text with and without the time, a JSON object, an entry of the journal."""

import ast
import datetime as dt
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import loglines
from support.running import journals

from tcpdconf.config import problems
from tcpdconf.daemon.process.logs import lines

TOP = pathlib.Path(__file__).parents[3]
FIELDS = {"service": "imap", "pid": 7, "seconds": 0.5, "error": 'no "word"\n', "errno": None}
PROBLEM = problems.Problem(
    "conf.d/a.toml", 2, 1, "services.a.usre", "unknown key", "unknown-key", hint="did you mean user?",
    source="usre = 1", length=4,
)  # fmt: skip
EXCERPT = problems.render([PROBLEM])
JSON = lines.Json(levels=False)

values = st.one_of(st.text(), st.integers(), st.floats(0, 1e6), st.none())
keys = st.sampled_from(["service", "peer", "pid", "value", "error"])


@pytest.fixture
def _zone() -> Iterator[None]:
    """Local time is half an hour off from full hours."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "IST-5:30"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("_zone")
def test_the_time_is_local_with_its_distance_from_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    for at, shown in {
        1_000_000_000.0: "2001-09-09T07:16:40.000+05:30",
        1_000_000_000.999_999: "2001-09-09T07:16:40.999+05:30",
        1_000_000_001.05: "2001-09-09T07:16:41.050+05:30",
    }.items():
        monkeypatch.setattr(time, "time_ns", lambda at=at: round(at * 1e9))
        assert lines.now() == shown
        assert loglines.TIME.fullmatch(shown)
        assert abs(dt.datetime.fromisoformat(shown).timestamp() - at) < 0.001


def test_a_line_of_text_begins_with_its_time_or_its_level_or_its_event() -> None:
    line = b'error: cannot run service=imap pid=7 seconds=0.5 error="no \\"word\\"\\n" errno=None\n'
    forms = [lines.Text(levels=False, times=False), lines.Text(levels=True, times=True)]
    forms.append(lines.Text(levels=False, times=True))
    plain, marked, stamped = (each.event("error", "cannot run", FIELDS) for each in forms)

    assert (plain, marked) == (line, b"<3>" + line)
    assert loglines.TIME.match(stamped.decode())
    assert loglines.without_times(stamped.decode()) == line.decode()


def test_problems_are_shown_as_check_does() -> None:
    shown = lines.Text(levels=False, times=False).problems([PROBLEM, PROBLEM])
    assert b"".join(shown).decode() == problems.render([PROBLEM, PROBLEM])

    stamped = lines.Text(levels=False, times=True).problems([PROBLEM, PROBLEM])
    assert all(loglines.TIME.match(line.decode()) for line in stamped)
    assert loglines.without_times(b"".join(stamped).decode()) == 2 * EXCERPT
    assert {line[:3] for line in lines.Text(levels=True, times=False).problems([PROBLEM])} == {b"<3>"}


def test_an_object_has_the_keys_of_the_line_and_numbers() -> None:
    found = json.loads(JSON.event("error", "cannot run", FIELDS))

    assert loglines.TIME.fullmatch(found.pop("time"))
    assert found == {
        "level": "error", "event": "cannot run", "service": "imap", "pid": 7, "seconds": 0.5,
        "error": 'no "word"\\n', "errno": None,
    }  # fmt: skip
    assert lines.Json(levels=True).event("info", "ready", {}).startswith(b'<6>{"time":"')


def test_an_object_for_each_problem() -> None:
    (line,) = JSON.problems([PROBLEM])
    found = json.loads(line)
    del found["time"]
    assert found == {
        "level": "error", "event": "services.a.usre: unknown key", "file": "conf.d/a.toml", "line": 2,
        "column": 1, "key": "services.a.usre", "code": "unknown-key", "hint": "did you mean user?",
    }  # fmt: skip


@given(st.text(), st.dictionaries(keys, values))
def test_every_form_says_the_same(event: str, fields: dict[str, object]) -> None:
    line = JSON.event("info", event, fields)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    found = json.loads(line)
    entry = journals.fields(lines.Entry().event("info", event, fields))

    assert found["event"] == entry["TCPDCONF_EVENT"]
    assert found["event"].isprintable()
    assert entry["MESSAGE"] == lines.text("info", event, fields)
    assert list(found) == ["time", "level", "event", *fields]
    for key, value in fields.items():
        assert str(found[key]) == entry[f"TCPDCONF_{key.upper()}"]
        assert found[key] == value if isinstance(value, int | float) else str(found[key]).isprintable()


@pytest.mark.parametrize("character", ["x", "\u20ac", '"', "\n", "\udc80"])
def test_an_object_that_is_too_long_is_cut_within_its_values(character: str) -> None:
    fields = {"service": "imap", "error": character * 9000, "value": character * 3000, "pid": 7}
    line = JSON.event("notice", "refuse", fields)

    assert len(line) <= lines.LONGEST + 1
    found = json.loads(line)
    assert (found["event"], found["service"], found["pid"], found["truncated"]) == (
        "refuse",
        "imap",
        7,
        "yes",
    )
    assert len(line) > lines.LONGEST // 4
    assert json.loads(JSON.event("info", character * 9000, {}))["truncated"] == "yes"


def test_an_entry_has_a_field_for_each_key() -> None:
    assert lines.Entry().event("notice", "refuse", {"service": "imap", "peer": "192.0.2.1:7"}) == (
        b"MESSAGE=refuse service=imap peer=192.0.2.1:7\n"
        b"PRIORITY=5\nSYSLOG_IDENTIFIER=tcpdconf\nTCPDCONF_EVENT=refuse\n"
        b"TCPDCONF_SERVICE=imap\nTCPDCONF_PEER=192.0.2.1:7\n"
    )


def test_an_entry_for_each_problem_shows_its_lines() -> None:
    (entry,) = lines.Entry().problems([PROBLEM])
    found = journals.fields(entry)

    assert b"\nMESSAGE=" not in b"\n" + entry
    assert found["MESSAGE"] == EXCERPT.rstrip("\n")
    assert (found["PRIORITY"], found["TCPDCONF_LINE"], found["TCPDCONF_CODE"]) == ("3", "2", "unknown-key")


RESERVED = {"time", "level", "event", "truncated", "message"}


def test_no_line_has_a_key_of_the_forms_own() -> None:
    for path in (TOP / "tcpdconf/daemon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log")), keywords=given):
                    assert RESERVED.isdisjoint({each.arg for each in given}), path


def test_the_drop_in_and_commands_write_no_times() -> None:
    """Until a process asks for a form, lines are as they always were."""
    script = "from tcpdconf.daemon.process import log; log.warning('look', a=1)"
    said = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, check=True).stderr
    assert said == b"warning: look a=1\n"
