"""A day of operation in two minutes: a real Prometheus watches a daemon; shipped alerts fire and clear.

A minute of the rules is a second here: `for: 5m` and `[5m]` become `5s`. Nothing else of them is changed.
At the end, the results of the clients are compared with the counters in Prometheus.
"""

import collections
import contextlib
import fcntl
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

import pytest
from support import peers
from support.dns import dnsservers
from support.running import daemons, prometheus, reloads

from tcpdconf.daemon.control import client as control_client

pytestmark = [pytest.mark.peer, pytest.mark.slow]

LISTED: Final = "127.0.9.9"
HEALTHY: Final = f"127.0.0.2\n{LISTED}\n"
WORLD: Final = "0.0.0.0-255.255.255.255\n"
SETTINGS: Final = """
    [daemon.http]
    listen = "127.0.0.1:{http}"
    [dns]
    servers = ["{dns.address}:{dns.port}"]
    timeout = 2
    attempts = 1

    [services.smtp]
    program = ["{program}"]
    listeners = [{{ address = "127.0.0.1", port = {smtp} }}]
    limits = {{ max_connections = {slots}, max_per_ip = 2 }}
    dns = {{ pause = 1, deadline = 2 }}
    dns_lists = [{{ zone = "list.example" }}]
    drop = ["BLOCK"]
    """


def hurried(rules: str) -> str:
    """The shipped rules, with a second for each minute."""
    made, count = re.subn(r"(?<=for: )(\d+)m$|(?<=\[)(\d+)m(?=\])", r"\1\2s", rules, flags=re.MULTILINE)
    assert count > 10
    return made


class Day:
    """A daemon, its clients and Prometheus; `met` counts what the clients have met."""

    def __init__(
        self, folder: pathlib.Path, http: int, dns: dnsservers.Rbldnsd, watch: prometheus.Prometheus
    ) -> None:
        self._folder = folder
        self._runtime = folder / "first/run"
        self._http = http
        self.dns = dns
        self._smtp = daemons.free_port()
        self._program = folder / "program"
        self._program.write_text("#!/bin/sh\necho 220 hello\nread line\n")
        self._program.chmod(0o755)
        self._hosts = (f"127.0.{net}.{host}" for net in range(10, 255) for host in range(1, 255))
        self.watch = watch
        self.met: collections.Counter[str] = collections.Counter()
        self.reloads: collections.Counter[str] = collections.Counter()
        self.workers = 1

    def start(self, name: str, *arguments: str, stderr: int | None = None) -> reloads.Daemon:
        """A daemon whose counters are 0, in a folder of its own, with the first one's runtime directory."""
        self.met.clear()
        self.reloads = collections.Counter(succeeded=1)
        self.workers = 1
        self._conf = self._folder / name / "conf.d/test.toml"
        self._conf.parent.parent.mkdir()
        if self._runtime.exists():
            (self._folder / name / "run").symlink_to(self._runtime)
        return reloads.Daemon(self._folder / name, self.settings(10), arguments=arguments, stderr=stderr)

    def settings(self, slots: int) -> str:
        """The configuration, with so many slots."""
        return SETTINGS.format(
            http=self._http, smtp=self._smtp, program=self._program, dns=self.dns.address, slots=slots
        )

    @contextlib.contextmanager
    def served(self, source: str | None = None) -> Iterator[None]:
        """Be a client that is greeted, from a new address if none is given, and leave."""
        with daemons.connect(self._smtp, source=source or next(self._hosts)) as client:
            assert daemons.line(client) == b"220 hello\n"
            self.met["accepted"] += 1
            yield
            client.sendall(b"QUIT\n")
            daemons.read(client)

    def come(self, count: int) -> None:
        """Let clients come, one after the other."""
        for _ in range(count):
            with self.served():
                pass

    def refused(self, reason: str, source: str | None = None) -> None:
        """Be a client that is disconnected."""
        assert daemons.talk(self._smtp, source=source or next(self._hosts)) == b""
        self.met[reason] += 1

    def command(self, *words: str, status: int = 0) -> None:
        """Call `tcpdconf`."""
        called = [sys.executable, "-m", "tcpdconf", *words, "--runtime-dir", str(self._runtime)]
        run = subprocess.run(called, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)
        assert run.returncode == status, run

    def reload(self, text: str, *, succeeds: bool = True) -> None:
        """Change the file, and reload."""
        self._conf.write_text(reloads.ALONE + text)
        self.command("reload", status=0 if succeeds else 1)
        self.reloads["succeeded" if succeeds else "rejected"] += 1

    def kill_worker(self, daemon: reloads.Daemon) -> None:
        """Kill the worker, and wait for the next one.

        It counts a client once it knows that the program runs, which the client may learn before.
        """
        daemons.until(lambda: daemon.uses("smtp")["accepted"] == self.met["accepted"], "the latest client")
        os.kill(daemon.worker("smtp"), signal.SIGKILL)
        self.workers += 1
        daemon.await_log("^ready service=smtp ", self.workers)

    @contextlib.contextmanager
    def no_program(self) -> Iterator[None]:
        """Let the program be missing."""
        away = self._program.with_name("away")
        self._program.rename(away)
        yield
        away.rename(self._program)

    def state(self, state: str) -> bool:
        """Return whether Prometheus knows the list to be in this state."""
        return self.watch.value(f'tcpdconf_dns_list_state{{state="{state}"}}') == 1

    def fires(self, *names: str) -> None:
        """Wait until these alerts fire, and no others."""
        wanted = {f"Tcpdconf{name}" for name in names}
        end = time.monotonic() + 2 * daemons.SECONDS  # a range of 15 s, and what is told every 10 s
        while (found := self.watch.firing()) != wanted:
            assert time.monotonic() < end, f"{found}, not {wanted}"
            time.sleep(0.1)

    def adds_up(self) -> None:
        """Wait until Prometheus has counted what clients have met, and see that it has counted no more."""
        counted = {
            'tcpdconf_accepted_total{service="smtp"}': self.met["accepted"],
            'tcpdconf_worker_restarts_total{service="smtp"}': self.workers - 1,
            'tcpdconf_reloads_total{result="succeeded"}': self.reloads["succeeded"],
            'tcpdconf_reloads_total{result="rejected"}': self.reloads["rejected"],
            "sum(tcpdconf_refused_total)": self.met.total() - self.met["accepted"],
            **{
                f'tcpdconf_refused_total{{reason="{name}"}}': count
                for name, count in self.met.items()
                if name != "accepted"
            },
        }
        daemons.until(lambda: self.watch.value("sum(tcpdconf_connections)") == 0, "the last client")

        def found() -> dict[str, float | None]:
            return {query: self.watch.value(query) for query in counted}

        with contextlib.suppress(AssertionError):
            daemons.until(lambda: found() == counted, "the counters")
        assert found() == counted


@pytest.fixture
def day(tmp_path: pathlib.Path) -> Iterator[Day]:
    peers.need("prometheus", "rbldnsd")
    http = daemons.free_port()
    rules = hurried((prometheus.SHIPPED / "alerts.yml").read_text())
    with (
        dnsservers.Rbldnsd({"list.example": ("ip4set", HEALTHY)}) as dns,
        prometheus.Prometheus(tmp_path, http, rules) as watch,
    ):
        yield Day(tmp_path, http, dns, watch)


@pytest.mark.timeout(300)
def test_from_the_morning_to_a_take_over(day: Day) -> None:
    day.fires("Down")
    with day.start("first") as daemon:
        day.fires()
        an_ordinary_morning(day)
        a_full_house(day)
        a_silent_list(day)
        a_list_that_lists_everybody(day, daemon)
        a_broken_file(day)
        a_missing_program(day)
        a_worker_that_does_not_stay_up(day, daemon)
        day.adds_up()
        with day.start("second", "--take-over"):
            assert daemon.process.wait(daemons.SECONDS) == 0
            day.come(5)
            day.adds_up()
            day.fires()


def test_the_evening(day: Day) -> None:
    with narrow_pipe() as (reader, writer), day.start("first", stderr=writer) as daemon:
        day.fires()
        a_log_that_nobody_reads(day, reader)
        day.adds_up()
        closing_time(day, daemon)
    day.fires("Down")


@contextlib.contextmanager
def narrow_pipe() -> Iterator[tuple[int, int]]:
    """A pipe with room for a hundred lines: the end to read from, the end to write to."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 16384)
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def an_ordinary_morning(day: Day) -> None:
    """Clients, refusals by a limit, a list and a ban, a change."""
    day.come(20)
    with day.served("127.0.0.9"), day.served("127.0.0.9"):
        day.refused("per_ip", "127.0.0.9")
    day.refused("dropped", LISTED)
    day.command("ban", "127.0.0.66", "--force")
    day.refused("banned", "127.0.0.66")
    day.command("unban", "127.0.0.66")
    with day.served("127.0.0.66"):
        pass
    day.reload(day.settings(5))


def a_full_house(day: Day) -> None:
    with contextlib.ExitStack() as clients:
        for _ in range(5):
            clients.enter_context(day.served())
        day.fires("SlotsTaken", "SlotsNearlyTaken")
    day.fires()


def a_silent_list(day: Day) -> None:
    """Nobody is refused meanwhile, and only the first clients are delayed."""
    with day.dns.silent():
        day.come(5)
        day.fires("ListNotAnswering")
        day.come(5)

    def up() -> bool:
        day.come(1)  # a client's question shows that it answers
        return day.state("up")

    daemons.until(up, "the list")
    day.fires()


def a_list_that_lists_everybody(day: Day, daemon: reloads.Daemon) -> None:
    """It is tested by a new worker. One restart is no alert."""
    day.dns.change("list.example", WORLD)
    daemons.until(lambda: day.dns.lists("127.0.0.1", "list.example"), "the new zone")
    day.kill_worker(daemon)
    daemon.await_log('^warning: list .* state=suspended why="lists 127.0.0.1, as 127.0.0.2"$')
    day.fires("ListSuspended")
    with day.served(LISTED):
        pass
    day.come(5)
    day.dns.change("list.example", HEALTHY)
    day.fires()
    day.refused("dropped", LISTED)


def a_broken_file(day: Day) -> None:
    """The previous configuration serves meanwhile."""
    day.reload(day.settings(0), succeeds=False)
    day.come(3)
    day.fires("ReloadRejected")
    day.come(3)
    day.reload(day.settings(8))
    day.fires()


def a_missing_program(day: Day) -> None:
    def fires() -> bool:
        day.refused("spawn")
        return "TcpdconfProgramsNotStarted" in day.watch.firing()

    with day.no_program():
        daemons.until(fires, "the alert")
    day.come(1)
    day.fires()


def a_worker_that_does_not_stay_up(day: Day, daemon: reloads.Daemon) -> None:
    """A client outlives its workers."""
    with day.served():
        day.kill_worker(daemon)
        day.kill_worker(daemon)
        day.fires("WorkerRestarts")
        day.come(2)
    day.fires()


def a_log_that_nobody_reads(day: Day, reader: int) -> None:
    """The worker tells every ten seconds how many lines it has lost."""
    lost = 'tcpdconf_log_lines_lost_total{process="worker"}'
    daemons.until(lambda: day.watch.value(lost) == 0, "the count")
    day.come(100)
    day.fires("LogLinesLost")
    os.read(reader, 65536)
    day.fires()


def closing_time(day: Day, daemon: reloads.Daemon) -> None:
    """The daemon lets a client finish, and accepts no other one."""
    with day.served():
        control_client.ask(daemon.runtime, {"command": "stop", "drain": 60}, daemons.SECONDS)
        day.fires("ServiceNotAccepting")
    assert daemon.process.wait(daemons.SECONDS) == 0
