"""The log of a running daemon: with times, as JSON, and in another form after a reload."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from support import loglines
from support.running import daemons, reloads

from tcpdconf.daemon.process import log

ENDS = 'program = ["/bin/echo", "hello"]'
JSON = f'{reloads.ALONE}log_format = "json"\n'


def objects(daemon: daemons.Daemon, event: str, count: int = 1) -> list[dict[str, object]]:
    """The objects about an event, once there are so many."""
    found = daemon.await_log(rf'^\{{.*"event":"{re.escape(event)}"', count)
    return [json.loads(line) for line in found]


def test_every_line_begins_with_its_time(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, ENDS)) as daemon:
        assert daemons.talk(port) == b"hello\n"
        daemon.await_log("^end service=test ")
        daemon.refusal("x = 1")
        raw = list(daemon.raw)

    assert [line for line in raw if not re.match(loglines.TIME.pattern + " .", line)] == []
    assert [line for line in raw if " error: reload rejected" in line] != []  # what grep finds
    assert [line for line in raw if re.search(r"test.toml:3:1: error: ", line)] != []


def test_json_has_the_keys_of_the_lines(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = reloads.service(port, ENDS, limits="max_connections = 9", more=", freebind = true")
    text += "[[services.test.access]]\nrules = [{ network = '127.0.0.2', action = 'deny' }]\n"
    with daemons.Daemon(tmp_path, JSON + text) as daemon:
        assert daemons.talk(port) == b"hello\n"
        assert daemons.talk(port, source="127.0.0.2") == b""
        (ready,), (accept,), (end,), (refuse,), (running,) = (
            objects(daemon, event) for event in ("ready", "accept", "end", "refuse", "running")
        )
        status = daemon.stop()
        lines = [json.loads(line) for line in daemon.log]

    assert status == 0
    assert {each["event"] for each in lines} >= {"ready", "accept", "end", "refuse", "running", "stopping"}
    assert all(list(each)[:3] == ["time", "level", "event"] for each in lines)
    assert list(ready)[3:] == ["service", "pid"]
    assert (running["services"], running["pid"]) == (1, daemon.process.pid)
    assert list(accept)[3:] == ["service", "peer", "local", "pid", "slots"]
    assert (accept["service"], accept["slots"], accept["local"]) == ("test", "1/9", f"127.0.0.1:{port}")
    assert (end["pid"], end["status"], type(end["seconds"])) == (accept["pid"], 0, float)
    assert (refuse["level"], refuse["reason"], refuse["source"]) == ("notice", "access", "access[0]")


def test_a_reload_changes_the_form_of_all_processes(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = reloads.service(port)
    with reloads.Daemon(tmp_path, text) as daemon, reloads.held(port) as early:
        worker = daemon.uses()["pid"]
        daemon.await_log("^accept service=test ")
        assert daemon.change(text, JSON) == ["test"]
        assert objects(daemon, "reloaded")[0]["changed"] == "test"
        assert reloads.lives(early)
        (end,) = objects(daemon, "end")
        assert daemon.uses()["pid"] == worker

        daemon.write("x = 1", JSON)
        assert not daemon.ask("reload")["ok"]
        (problem,) = objects(daemon, "daemon.x: unknown key")
        assert (problem["level"], problem["line"], problem["column"]) == ("error", 4, 1)
        assert str(problem["file"]).endswith("conf.d/test.toml")
        objects(daemon, "reload rejected: the previous configuration stays in effect")

        assert daemon.change(text) == ["test"]
        daemon.await_log("^reloaded changed=test$")
        with reloads.held(port) as late:
            daemon.await_log("^accept service=test ", 2)
            assert reloads.lives(late)
    assert end["status"] == 0


def test_only_the_form_of_the_log_differs_for_a_reload(tmp_path: pathlib.Path) -> None:
    text = reloads.service(daemons.free_port())
    with reloads.Daemon(tmp_path, text) as daemon:
        daemon.write(text, JSON)
        details = daemon.ask("reload")["details"]
    assert details == ['test: daemon.log_format "text" -> "json"']


@pytest.mark.parametrize("status", [78, 1])
def test_the_last_words_of_a_start_have_times(status: int, tmp_path: pathlib.Path) -> None:
    text = "x = 1" if status == 78 else reloads.service(1, more="").replace("127.0.0.1", "192.0.2.1")
    conf = daemons.configure(tmp_path, text)
    command = [sys.executable, "-m", "tcpdconf", "run", str(conf), "--runtime-dir", str(tmp_path / "run")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=daemons.SECONDS, check=False)

    assert done.returncode == status
    assert all(loglines.TIME.match(line) for line in done.stderr.splitlines())
    assert " error: " in done.stderr


def test_a_full_log_of_objects_counts_what_is_lost() -> None:
    """The notice has the form of the other lines."""
    read, write = os.pipe()
    script = (
        "from tcpdconf.daemon.process import log; import os, sys\n"
        "log.set_format('json'); os.set_blocking(2, False)\n"
        "while log._stream._lost == 0: log.info('x', y='z' * 3000)\n"
        "print(flush=True); sys.stdin.read(1); log.info('back')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=write
    ) as process:
        os.close(write)
        assert process.stdout is not None
        process.stdout.readline()
        full = os.read(read, 1 << 20)
        process.communicate(b"x")
        said = [json.loads(line) for line in (full + os.read(read, 1 << 20)).splitlines()]
    os.close(read)
    assert [(each["event"], each.get("lost")) for each in said[-2:]] == [("log lines", 1), ("back", None)]
    assert log.enabled("info")
