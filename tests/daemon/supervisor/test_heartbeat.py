"""Workers that do not answer are killed and started again; nobody else notices."""

import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from support.running import daemons, processes, reloads

from tcpdconf.daemon.process import loop
from tcpdconf.daemon.supervisor import heartbeat

pytestmark = pytest.mark.slow

WATCHDOG = {"WATCHDOG_USEC": "3000000"}  # a ping each second
GREET = 'program = ["/bin/echo", "in"]'


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that are stopped; they are continued afterwards, if they still exist."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def kept_alive(daemon: daemons.Daemon) -> bool:
    """Return whether systemd is told again that all is well."""
    daemon.await_notice("WATCHDOG=1", daemon.notified.count("WATCHDOG=1") + 1)
    return True


def test_a_stopped_worker_is_started_again_and_the_keep_alive_goes_on(tmp_path: pathlib.Path) -> None:
    port, other = daemons.free_port(), daemons.free_port()
    text = reloads.service(port, reloads.HOLD, limits="max_connections = 2")
    text += reloads.service(other, GREET, name="other")
    with reloads.Daemon(tmp_path, text, environment=WATCHDOG) as daemon, reloads.held(port) as client:
        daemon.await_log("^accept service=test ")  # then it is recorded
        worker, neighbour = daemon.uses()["pid"], daemon.uses("other")["pid"]
        assert kept_alive(daemon)
        with stopped(worker):
            assert kept_alive(daemon)
            assert daemons.talk(other) == b"in\n"
            daemon.await_log(f"^error: worker of test does not answer pid={worker} ")
            daemon.await_log("^ready service=test ", 2)
            assert kept_alive(daemon)
        assert daemon.uses()["connections"] == 1
        with reloads.held(port):
            assert daemon.uses()["connections"] == 2
        assert reloads.lives(client)
        daemons.until(lambda: daemon.uses()["connections"] == 0, "that its end is known")
        assert daemon.uses("other")["pid"] == neighbour
        assert len(daemon.await_log("does not answer")) == 1


def test_others_are_reloaded_and_shown_beside_a_stopped_worker(tmp_path: pathlib.Path) -> None:
    port, other = daemons.free_port(), daemons.free_port()
    text = reloads.service(port, GREET)
    with reloads.Daemon(tmp_path, text + reloads.service(other, GREET, name="other")) as daemon:
        worker = daemon.uses()["pid"]
        with stopped(worker):
            greet = 'program = ["/bin/echo", "changed"]'
            assert daemon.change(text + reloads.service(other, greet, name="other")) == ["other"]
            assert daemons.talk(other) == b"changed\n"
            assert daemon.uses()["pid"] == worker
            assert not [line for line in daemon.log if "does not answer" in line]


def test_a_stopped_worker_is_started_again_where_there_is_no_watchdog(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, GREET)) as daemon:
        worker = daemon.uses()["pid"]
        with stopped(worker):
            time.sleep(25)
            assert daemon.uses()["pid"] == worker
            daemon.await_log(f"^error: worker of test does not answer pid={worker} ")
            assert daemons.talk(port) == b"in\n"


def test_a_stopped_worker_that_was_replaced_is_killed(tmp_path: pathlib.Path) -> None:
    """Its program lives on, is counted, and its end is known."""
    port = daemons.free_port()
    text = reloads.service(port, reloads.HOLD)
    with reloads.Daemon(tmp_path, text, environment=WATCHDOG) as daemon, reloads.held(port) as client:
        elder = daemon.uses()["pid"]
        assert daemon.change(reloads.service(port, f'{reloads.HOLD}\numask = "027"')) == ["test"]
        worker = daemon.uses()["pid"]
        with stopped(elder):
            daemon.await_log(f"^error: worker of test does not answer pid={elder} ")
            daemons.until(lambda: processes.over(elder), "its end")
        assert daemon.uses()["connections"] == 1
        assert reloads.lives(client)
        daemons.until(lambda: daemon.uses()["connections"] == 0, "that its end is known")
        assert daemon.uses()["pid"] == worker


def test_a_stopped_worker_of_a_removed_service_is_killed(tmp_path: pathlib.Path) -> None:
    port, other = daemons.free_port(), daemons.free_port()
    rest = reloads.service(other, GREET, name="other")
    with (
        reloads.Daemon(tmp_path, reloads.service(port, reloads.HOLD) + rest, environment=WATCHDOG) as daemon,
        reloads.held(port),
    ):
        worker = daemon.uses()["pid"]
        daemon.write(rest)
        assert daemon.reload() == ["test"]
        assert not processes.over(worker)  # it drains
        with stopped(worker):
            daemons.until(lambda: processes.over(worker), "its end")
        daemon.await_log(f"^error: worker of test does not answer pid={worker} ")


def test_who_answers_late_or_prepares_slowly_is_left_alone(tmp_path: pathlib.Path) -> None:
    """A worker that is stopped for a while; one that sources a slow file, at first and when started again."""
    port, other = daemons.free_port(), daemons.free_port()
    slow = tmp_path / "slow"
    slow.write_text("sleep 5\n")
    text = reloads.service(port, GREET)
    slowly = f'{GREET}\nenvironment_files = [{{ path = "{slow}", shell = true }}]'
    with reloads.Daemon(tmp_path, text, environment=WATCHDOG) as daemon:
        worker = daemon.uses()["pid"]
        for _ in range(2):
            with stopped(worker):
                assert kept_alive(daemon)
            assert kept_alive(daemon)
        assert daemon.change(text + reloads.service(other, slowly, name="other")) == ["other"]
        os.kill(daemon.uses("other")["pid"], signal.SIGKILL)
        daemon.await_log("^ready service=other ", 2)
        assert daemon.uses()["pid"] == worker
        assert not [line for line in daemon.log if "does not answer" in line]


def test_a_daemon_that_was_stopped_as_a_whole_kills_nobody(tmp_path: pathlib.Path) -> None:
    """As when its host is suspended: the worker may come back later than the supervisor."""
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, GREET), environment=WATCHDOG) as daemon:
        worker = daemon.uses()["pid"]
        with stopped(worker):
            assert kept_alive(daemon)
            with stopped(daemon.process.pid):
                time.sleep(5)
            assert kept_alive(daemon)
        assert kept_alive(daemon)
        assert daemon.uses()["pid"] == worker


class Clock(loop.Loop):
    """A loop whose only timer is gone through by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self._next = 0.0
        self._call: Callable[[], object] = lambda: None

    def after(self, seconds: float, callback: Callable[[], object]) -> int:
        """Keep what is to be called."""
        self._next, self._call = self.time + seconds, callback
        return 0

    def round(self, late: float = 0.0) -> None:
        """Let the timer go off, perhaps late."""
        self.time = self._next + late
        self._call()


class Worker:
    """A worker that never answers."""

    name, pid = "worker of test", 2

    def __init__(self, *, serves: bool) -> None:
        self.serves = serves
        self.missed = 0
        self.killed = False

    def ping(self) -> None:
        """Miss one more."""
        self.missed += 1

    def forgive(self) -> None:
        """Count from the beginning."""
        self.missed = 0

    def kill(self) -> None:
        """Take note."""
        self.killed = True


@pytest.mark.parametrize(
    ("watchdog", "serves", "seconds"),
    [
        (None, True, 40),
        (30.0, True, 40),
        (4.0, True, 6),
        (0.3, True, 4),
        (None, False, 130),
        (4.0, False, 130),
    ],
)
def test_how_long_a_worker_may_be_silent(
    watchdog: float | None, serves: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most for a third longer than systemd would wait for the daemon; preparing for two minutes."""
    events, worker = Clock(), Worker(serves=serves)
    monkeypatch.setattr(loop, "now", lambda: events.time)
    heartbeat.Heartbeat(events, watchdog, lambda: [worker]).start()

    while not worker.killed:
        events.round()

    assert 0.7 * seconds <= events.time <= seconds


def test_a_round_that_comes_late_counts_against_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    events, worker = Clock(), Worker(serves=True)
    monkeypatch.setattr(loop, "now", lambda: events.time)
    heartbeat.Heartbeat(events, 30.0, lambda: [worker]).start()
    for _ in range(10):
        events.round()
        events.round()
        events.round(late=60.0)

    assert not worker.killed
