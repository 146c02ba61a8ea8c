"""Tests the measurements of workers: times in histograms, and their own use of resources."""

import math
import os
import pathlib
import signal
import struct
from typing import Any

import pytest
from support import headers
from support.running import daemons, reloads

from tcpdconf.daemon.messages.measures import BOUNDS
from tcpdconf.daemon.worker import ledger

ECHO = 'program = ["/bin/echo", "in"]'


def histogram(daemon: reloads.Daemon, name: str) -> tuple[int, float]:
    """Return the number of measured times, and their sum."""
    found = daemon.uses()["histograms"][name]
    assert tuple(found["bounds"]) == BOUNDS[name]  # type: ignore[index]
    return sum(found["counts"]), found["sum"]


def test_a_time_is_in_its_bucket() -> None:
    fd = ledger.create()
    mine = ledger.Ledger(fd, 1)
    for seconds in (0.05, 0.1, 0.2, 100_000.0):
        mine.observe("connection", seconds)
    found = ledger.snapshot(fd)

    assert found.histograms["connection"].counts == (2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    assert found.histograms["connection"].total == pytest.approx(100_000.35)
    assert set(found.counts.values()) == set(found.gauges.values()) == {0}
    assert sum(found.histograms["start"].counts) == 0
    os.close(fd)


def test_histograms_stay_when_the_ledger_grows() -> None:
    fd = ledger.create()
    mine = ledger.Ledger(fd, 1)
    mine.observe("start", 1.0)
    mine.grow(1000)
    mine.observe("start", 1.0)

    assert ledger.snapshot(fd).histograms["start"].total == 2.0
    os.close(fd)


@pytest.mark.parametrize("lie", [math.nan, math.inf, -1.0])
def test_a_sum_that_is_no_time_is_none(lie: float) -> None:
    fd = ledger.create()
    mine = ledger.Ledger(fd, 1)
    mine.observe("start", lie)
    data = os.pread(fd, 4096, 0)
    assert struct.pack("d", lie) in data or math.isnan(lie)

    assert ledger.snapshot(fd).histograms["start"].total == 0.0
    os.close(fd)


def test_connections_are_measured(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, ECHO)) as daemon:
        for _ in range(3):
            assert daemons.talk(port) == b"in\n"
        daemon.await_log("^end ", 3)

        count, seconds = histogram(daemon, "connection")
        assert (count, seconds < 10) == (3, True)
        count, seconds = histogram(daemon, "start")
        assert (count, 0 < seconds < 10) == (3, True)
        assert histogram(daemon, "slot_wait") == (0, 0)


def test_a_retired_worker_has_its_connections_measured(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port)) as daemon:
        with reloads.held(port) as client:
            daemon.change(reloads.service(port, f'{reloads.HOLD}\ndirectory = "/usr"'))
            assert reloads.lives(client)
        daemon.await_log("^end ")
        daemons.until(lambda: histogram(daemon, "connection")[0] == 1, "the relayed time")


def test_the_wait_for_a_slot_is_measured(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    proxied = ', haproxy = { trusted = ["127.0.0.1"] }'
    with reloads.Daemon(
        tmp_path, reloads.service(port, limits="max_connections = 1", more=proxied)
    ) as daemon:
        with daemons.connect(port) as first, daemons.connect(port) as second:
            first.sendall(headers.V1)
            assert daemons.line(first) == b"\n"
            second.sendall(headers.V1)
            first.sendall(b"bye\n")
            assert daemons.line(second) == b"\n"
            second.sendall(b"bye\n")
        assert (
            histogram(daemon, "slot_wait")[0] <= 1
        )  # the second one may have come after the end of the first


def test_workers_and_the_supervisor_measure_themselves(tmp_path: pathlib.Path) -> None:
    with reloads.Daemon(tmp_path, reloads.service(daemons.free_port(), ECHO)) as daemon:
        found: dict[str, Any] = daemon.ask("status")
        for used in (found["process"], found["services"]["test"]["process"]):
            assert 1 << 20 < used["resident"] < 1 << 30
            assert 3 < used["descriptors"] < 60
            assert abs(used["started"] - daemon.ask("status")["config"]["loaded_at"]) < 60
            assert used["lost_lines"] == 0
        assert found["process"]["cpu"] > 0


def test_restarts_of_a_worker_are_counted(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, ECHO)) as daemon:
        assert daemon.uses()["restarts"] == 0
        os.kill(daemon.worker("test"), signal.SIGKILL)
        daemon.await_log("^error: worker of test ended")
        assert daemon.uses()["restarts"] == 1


def test_reloads_are_counted_by_result(tmp_path: pathlib.Path) -> None:
    text = reloads.service(daemons.free_port(), ECHO)
    with reloads.Daemon(tmp_path, text) as daemon:
        assert daemon.ask("status")["reloads"] == {"succeeded": 1, "rejected": 0}
        daemon.change(text)
        daemon.refusal(text + "nonsense = 1\n")
        assert daemon.ask("status")["reloads"] == {"succeeded": 2, "rejected": 1}
