"""A program that has run for max_duration is ended, by whoever is its worker then; no other program is."""

import contextlib
import os
import pathlib
import re
import signal
from collections.abc import Callable

import pytest
from support.running import daemons, processes, reloads

from tcpdconf.daemon.process import loop
from tcpdconf.daemon.worker import children, ledger
from tcpdconf.daemon.worker.children import Children
from tcpdconf.policy import connection

SHORT = "\nmax_duration = 1\n"
PATIENCE = "stop_timeout = 1\n"
END = r"^end service=test peer=\S+ pid=\d+ (\w+=\w+) seconds=([\d.]+)( ended=max-duration)?$"
# it says what it was told, and goes on
DEAF = (
    """program = ["/bin/sh", "-c", "trap 'echo told' TERM; echo; while :; do read line || sleep 0.1; done"]"""
)
OBEDIENT = """program = ["/bin/sh", "-c", "trap 'exit 3' TERM; echo; while :; do sleep 0.1; done"]"""


def ends(daemon: daemons.Daemon, count: int = 1) -> list[tuple[str, float, bool]]:
    """Return the ends of programs: status, seconds, and True if max_duration was the reason."""
    found = [re.findall(END, line)[0] for line in daemon.await_log("^end ", count)]
    return [(how, float(seconds), bool(why)) for how, seconds, why in found]


@pytest.mark.parametrize(
    ("settings", "how", "most"),
    [
        (reloads.HOLD, "signal=SIGTERM", 2.5),
        (OBEDIENT, "status=3", 2.5),
        pytest.param(DEAF, "signal=SIGKILL", 4.0, marks=pytest.mark.slow),
    ],
    ids=["SIGTERM", "trapped", "ignored"],
)
def test_a_program_is_told_to_end_and_then_killed(
    settings: str, how: str, most: float, tmp_path: pathlib.Path
) -> None:
    port = daemons.free_port()
    own = reloads.ALONE + PATIENCE
    with daemons.Daemon(tmp_path, own + reloads.service(port, settings + SHORT)) as daemon:
        with reloads.held(port) as client:
            assert daemons.read(client) == (b"told\n" if settings == DEAF else b"")
        ((said, seconds, because),) = ends(daemon)

    assert (said, because) == (how, True)
    assert 1.0 <= seconds < most


def test_programs_that_end_by_themselves_are_not_concerned(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, reloads.HOLD + SHORT)) as daemon:
        with reloads.held(port) as short, reloads.held(port) as long:
            assert reloads.lives(short)
            assert daemons.read(long) == b""
        assert [because for _, _, because in ends(daemon, 2)] == [False, True]
        assert (daemon.uses()["accepted"], daemon.uses()["expired"]) == (2, 1)


def test_only_the_program_itself_is_told(tmp_path: pathlib.Path) -> None:
    """Children of the program continue, unlike at a stop."""
    port = daemons.free_port()
    settings = """program = ["/bin/sh", "-c", "sleep 60 >/dev/null <&1 & echo $!; wait"]"""
    with daemons.Daemon(tmp_path, reloads.ALONE + reloads.service(port, settings + SHORT)) as daemon:
        with daemons.connect(port) as client:
            other = int(daemons.line(client))
            assert ends(daemon)[0][2]
            assert not processes.over(other)
        daemon.stop()
        daemons.until(lambda: processes.over(other), "the end of what it has started")


@pytest.mark.slow
def test_a_changed_time_is_that_of_later_connections(tmp_path: pathlib.Path) -> None:
    """As with all settings of a connection: it keeps those under which it was accepted."""
    port = daemons.free_port()

    def text(settings: str) -> str:
        return reloads.service(port, f'{reloads.HOLD}\nenvironment = {{ WORD = "here" }}\n{settings}')

    with reloads.Daemon(tmp_path, text("")) as daemon, contextlib.ExitStack() as clients:
        first = clients.enter_context(reloads.held(port, "here"))
        assert daemon.change(text("max_duration = 2")) == ["test"]
        pid = daemon.uses()["pid"]
        second = clients.enter_context(reloads.held(port, "here"))
        assert daemon.change(text("max_duration = 1")) == ["test"]
        third = clients.enter_context(reloads.held(port, "here"))
        assert daemon.change(text("")) == ["test"]
        fourth = clients.enter_context(reloads.held(port, "here"))

        assert daemons.read(third) == daemons.read(second) == b""
        assert [int(seconds) for _, seconds, _ in ends(daemon, 2)] in ([1, 2], [1, 3])
        assert daemon.uses()["pid"] == pid
        assert reloads.lives(first)
        assert reloads.lives(fourth)


@pytest.mark.slow
def test_the_time_to_end_is_that_of_the_daemon(tmp_path: pathlib.Path) -> None:
    """It concerns only services with a max_duration."""
    port, other = daemons.free_port(), daemons.free_port()
    text = reloads.service(port, DEAF + SHORT) + reloads.service(other, name="other")
    with reloads.Daemon(tmp_path, text) as daemon:
        answer = daemon.change(text, reloads.ALONE + "stop_timeout = 0")
        assert answer == ["test"]
        with reloads.held(port) as client:
            assert daemons.read(client) == b"told\n"
        assert ends(daemon)[0][0] == "signal=SIGKILL"


@pytest.mark.slow
@pytest.mark.parametrize("settings", [reloads.HOLD, DEAF], ids=["SIGTERM", "ignored"])
def test_its_time_goes_on_when_its_worker_is_killed(settings: str, tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = reloads.ALONE + PATIENCE + reloads.service(port, settings + "\nmax_duration = 2")
    with daemons.Daemon(tmp_path, text) as daemon, reloads.held(port) as client:
        daemon.await_log("^accept ")
        os.kill(daemon.worker("test"), signal.SIGKILL)
        daemon.await_log("^ready service=test ", 2)
        with reloads.held(port) as second:  # the new worker has programs of its own
            assert daemons.read(client) == (b"told\n" if settings == DEAF else b"")
            (how, seconds, because), *_ = ends(daemon)
            assert (how, because) == ("signal=SIGKILL" if settings == DEAF else "signal=SIGTERM", True)
            assert 2.0 <= seconds < 5.0
            daemons.read(second)


@pytest.mark.slow
def test_a_worker_that_is_killed_after_it_has_told_a_program_to_end(tmp_path: pathlib.Path) -> None:
    """The next one tells it again, because it cannot know, and kills it."""
    port = daemons.free_port()
    text = reloads.ALONE + PATIENCE + reloads.service(port, DEAF + SHORT)
    with daemons.Daemon(tmp_path, text) as daemon, reloads.held(port) as client:
        assert daemons.line(client) == b"told\n"
        os.kill(daemon.worker("test"), signal.SIGKILL)
        assert daemons.read(client) == b"told\n"
        assert ends(daemon)[0][::2] == ("signal=SIGKILL", True)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_its_time_goes_on_when_its_worker_is_replaced(killed: bool, tmp_path: pathlib.Path) -> None:
    """Its own worker tells it, once; if that has died, its successor does."""
    port = daemons.free_port()
    own = reloads.ALONE + PATIENCE
    text = reloads.service(port, DEAF + "\nmax_duration = 2")
    with daemons.Daemon(tmp_path, own + text) as daemon, reloads.held(port) as client:
        elder = daemon.worker("test")
        (daemon.conf / "test.toml").write_text(own + text + "[defaults]\numask = '027'\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.await_log("^ready service=test ", 2)
        if killed:
            os.kill(elder, signal.SIGKILL)
        assert daemons.read(client) == b"told\n"
        assert ends(daemon)[0][::2] == ("signal=SIGKILL", True)


@pytest.mark.slow
def test_its_time_goes_on_when_another_daemon_takes_over(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = reloads.ALONE + reloads.service(port, reloads.HOLD + "\nmax_duration = 2")
    with daemons.Daemon(tmp_path, text) as first, reloads.held(port) as client:
        folder = tmp_path / "second"
        folder.mkdir()
        (folder / "run").symlink_to(tmp_path / "run")
        with daemons.Daemon(folder, text, arguments=["--take-over"]):
            first.await_log("^stopping drain=300s")
            assert daemons.read(client) == b""
            assert ends(first)[0][2]
            assert first.process.wait(daemons.SECONDS) == 0


class Clock(loop.Loop):
    """Timers that are kept and not called, and the seconds since boot."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.planned: list[tuple[float, Callable[[], object]]] = []

    def after(self, seconds: float, callback: Callable[[], object]) -> int:
        """Keep a timer."""
        self.planned.append((self.now + seconds, callback))
        return 0

    def advance(self) -> None:
        """Call the last timer at its time."""
        self.now, callback = self.planned.pop()
        self.planned.clear()
        callback()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(ledger, "boot_time", lambda: made.now)
    monkeypatch.setattr(children, "boot_time", lambda: made.now)
    return made


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    return found


def programs(clock: Clock) -> Children:
    held = ledger.Ledger(ledger.create(), 10)
    return Children("test", clock, held, ended=lambda _, __: None, reaped=lambda _: None)


PEER = connection.endpoint(4, 1, 1)


def test_one_timer_is_enough_for_all_programs(clock: Clock, signalled: list[tuple[int, int]]) -> None:
    made = programs(clock)
    made.patience = 5.0
    for pid in range(10_000):
        made.started(pid, PEER)
    assert clock.planned == []

    for pid in range(10_000, 20_000):
        made.started(pid, PEER, 3600.0)
        clock.now += 0.0001  # all within a second
    assert len(clock.planned) == 1

    clock.advance()
    assert (clock.now, signalled) == (4600.0, [(10_000, signal.SIGTERM)])
    clock.advance()
    assert clock.now == 4601.0
    assert signalled == [(pid, signal.SIGTERM) for pid in range(10_000, 20_000)]
    signalled.clear()
    clock.advance()
    assert (clock.now, signalled) == (4605.0, [(10_000, signal.SIGKILL)])
    clock.advance()
    assert len(signalled) == 10_000
    assert clock.planned == []


@pytest.mark.parametrize("lasts", [86_400.0, 2_592_000.0, 1e300])
def test_a_timer_runs_for_an_hour_at_most(
    lasts: float, clock: Clock, signalled: list[tuple[int, int]]
) -> None:
    """So a host that was suspended meanwhile, or a lie in the ledger, does little harm."""
    made = programs(clock)
    made.started(1, PEER, lasts)
    clock.advance()
    assert (clock.now, signalled) == (4600.0, [])
    clock.planned[0] = (1000.0 + lasts, clock.planned[0][1])
    clock.advance()
    assert signalled == [(1, signal.SIGTERM)]


def test_the_one_whose_time_is_over_first_need_not_be_the_first_one(
    clock: Clock, signalled: list[tuple[int, int]]
) -> None:
    made = programs(clock)
    made.patience = 100.0
    for pid, lasts in enumerate([60.0, 30.0, None, 45.0]):
        made.started(pid, PEER, lasts)
    order = []
    for _ in range(3):
        clock.advance()
        order.append((clock.now, *signalled.pop()))

    assert order == [(1000 + seconds, pid, signal.SIGTERM) for seconds, pid in ((30, 1), (45, 3), (60, 0))]


def test_a_program_that_may_not_be_told_is_logged_and_costs_the_others_nothing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[int] = []

    def kill(pid: int, _: int) -> None:
        told.append(pid)
        if pid == 1:
            raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    made = programs(clock)
    for pid, lasts in ((1, 10.0), (2, 20.0)):
        made.started(pid, PEER, lasts)
    clock.advance()
    clock.advance()

    assert told == [1, 1, 2]
    assert capfd.readouterr().err == "warning: cannot end a program service=test peer=0.0.0.1:1 pid=1\n"
