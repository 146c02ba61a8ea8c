"""A daemon with `enforce = false`: nobody is refused; log, counters and `status` tell who would be."""

import contextlib
import os
import pathlib
import re
import signal
from typing import Any

from support.running import daemons, reloads

from tcpdconf.cli import status as status_page
from tcpdconf.daemon.http import exposition
from tcpdconf.daemon.process import throttle

ANSWER = 'program = ["/bin/sh", "-c", "echo hello $GIVEN"]'
REASONS = ("access", "per_ip", "per_network", "rate", "penalty")


def counts(daemon: reloads.Daemon) -> tuple[int, dict[str, int], dict[str, int]]:
    """Return the accepted connections, and by reason the refused ones and those that would be refused."""
    found: dict[str, Any] = daemon.uses("test")
    refused = {reason: count for reason, count in found["refused"].items() if count}
    assert tuple(found["would_refuse"]) == REASONS
    return found["accepted"], refused, {key: count for key, count in found["would_refuse"].items() if count}


def shows(daemon: reloads.Daemon, expected: tuple[int, dict[str, int], dict[str, int]]) -> None:
    """Wait for these counts: a connection is accepted a moment after its client has read."""
    daemons.until(lambda: counts(daemon)[0] == expected[0], "the counts")
    assert counts(daemon) == expected


def test_limits_are_introduced_without_losing_a_client(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    limited = "max_per_ip = 2\nrate = '100/h'"
    observing = reloads.service(port, reloads.HOLD, limits=f"{limited}\nenforce = false")
    with reloads.Daemon(tmp_path, observing) as daemon:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(reloads.held(port))
            shows(daemon, (3, {}, {"per_ip": 1}))
            (line,) = daemon.await_log("^would-refuse ")
            assert " limit=max_per_ip value=2 held=2" in line
            assert line.startswith("would-refuse service=test reason=per_ip peer=127.0.0.1:")

            assert daemon.change(reloads.service(port, reloads.HOLD, limits=limited)) == ["test"]
            assert daemons.talk(port) == b""
        shows(daemon, (3, {"per_ip": 1}, {"per_ip": 1}))
        assert "observes" in daemon.uses("test")
        assert daemon.uses("test")["observes"] == []


def test_an_access_file_that_only_observes_changes_nothing(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    file = tmp_path / "access"
    file.write_text("127.0.0.8\tdeny\n127.0.0\tallow,GIVEN=file\n")
    rules = f"""
        [[services.test.access]]
        file = "{file}"
        enforce = false
        [[services.test.access]]
        rules = [{{ network = "127.0.0.9", action = "allow", environment = {{ GIVEN = "rule" }} }}]
    """
    with reloads.Daemon(tmp_path, reloads.service(port, ANSWER) + rules) as daemon:
        assert daemons.talk(port, source="127.0.0.8") == b"hello\n"
        assert daemons.talk(port, source="127.0.0.7") == b"hello\n"
        assert daemons.talk(port, source="127.0.0.9") == b"hello rule\n"
        shows(daemon, (3, {}, {"access": 1}))
        (line,) = daemon.await_log("^would-refuse ")
        assert f"reason=access peer=127.0.0.8:{line.rpartition(':')[2].split()[0]} source={file}" in line

        enforced = reloads.service(port, ANSWER) + rules.replace("enforce = false", "enforce = true")
        daemon.change(enforced)
        assert daemons.talk(port, source="127.0.0.8") == b""
        assert daemons.talk(port, source="127.0.0.7") == b"hello file\n"
        shows(daemon, (4, {"access": 1}, {"access": 1}))


def test_who_is_refused_for_another_reason_is_not_counted(tmp_path: pathlib.Path) -> None:
    """Nobody would be lost by the limit."""
    port = daemons.free_port()
    settings = f'{ANSWER}\ndrop = ["BLOCK"]'
    rules = """
        [[services.test.access]]
        rules = [{ network = "127.0.0.8", action = "allow", environment = { BLOCK = "no" } }]
    """
    text = reloads.service(port, settings, limits="rate = '1/h'\nenforce = false") + rules
    with reloads.Daemon(tmp_path, text) as daemon:
        for _ in range(3):
            assert daemons.talk(port, source="127.0.0.8") == b""
        shows(daemon, (0, {"dropped": 3}, {}))


def logged(daemon: reloads.Daemon, kind: str) -> int:
    """Return how many lines of a kind were written or counted as suppressed."""
    told = [line for line in daemon.log if line.startswith(f"{kind} ") or f" line={kind} " in line]
    counted = [re.search(r" unlogged=(\d+)", line) for line in told]
    lines = len([line for line in told if line.startswith(f"{kind} ")])
    return lines + sum(int(found[1]) for found in counted if found)


def test_many_lines_are_held_back_and_all_are_counted(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = reloads.service(port, ANSWER, limits="rate = '1/d'\nenforce = false")
    with reloads.Daemon(tmp_path, text) as daemon:
        for _ in range(3 * throttle.BURST):
            assert daemons.talk(port) == b"hello\n"
        shows(daemon, (60, {}, {"rate": 59}))
        daemon.await_log(
            "^suppressed service=test line=would-refuse reason=rate unlogged="
        )  # though none follows
        assert logged(daemon, "would-refuse") == 59
        for _ in range(3 * throttle.BURST):
            daemons.talk(port)
    assert logged(daemon, "would-refuse") == 119  # the worker has told of the rest when it ended


def test_status_and_metrics_show_it(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = reloads.service(port, ANSWER, limits="rate = '1/d'\nenforce = false")
    with reloads.Daemon(tmp_path, text) as daemon:
        for _ in range(3):
            daemons.talk(port)
        answer = daemon.ask("status")
    page = status_page.status(answer, answer["config"]["loaded_at"]).splitlines()
    assert [line.rstrip() for line in page if line.startswith(("OBSERVES", "test  "))][-2:] == [
        "OBSERVES  NOT ENFORCED  WOULD REFUSE",
        "test      limits.rate   rate 2",
    ]
    assert (
        'tcpdconf_would_refuse_total{reason="rate",service="test"} 2.0\n' in exposition.text(answer).decode()
    )


def test_the_counters_outlive_a_worker(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = reloads.service(port, ANSWER, limits="rate = '1/d'\nenforce = false")
    with reloads.Daemon(tmp_path, text) as daemon:
        for _ in range(2):
            daemons.talk(port)
        os.kill(daemon.uses("test")["pid"], signal.SIGKILL)
        daemon.await_log("^ready service=test", 2)
        assert counts(daemon)[2] == {"rate": 1}
