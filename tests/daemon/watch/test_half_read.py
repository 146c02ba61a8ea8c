"""A reload reads a file while somebody writes it: the whole is taken on when it is there, whoever reloads.

The watcher stands still meanwhile, as on a busy machine. So it sees neither the half nor that it was read.
"""

import contextlib
import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from support import hosts
from support.running import daemons

pytestmark = pytest.mark.slow


class Victim(NamedTuple):
    """A file, what it says, and how much of that is there when it is read."""

    path: Callable[[hosts.Host], pathlib.Path]
    half: str
    rest: str
    variable: str  # which the service's programs see: "half" or "old"


VICTIMS = {
    "an access file": Victim(
        lambda host: host.access, "*\tallow,RULE=half\n", "127\tallow,RULE=old\n", "RULE"
    ),
    "a file in a directory of access files": Victim(
        lambda host: host.texts / "default", "127\tallow,RULE=half\n", "127.0\tallow,RULE=old\n", "RULE"
    ),
    "an environment file": Victim(lambda host: host.environment, "FILE=half\n", "FILE=old\n", "FILE"),
    "an environment file for a shell": Victim(
        lambda host: host.shell, "SHELL_FILE=$(echo half)\n", "SHELL_FILE=old\n", "SHELL_FILE"
    ),
}
WATCHES = ["true", pytest.param('"poll"', marks=pytest.mark.slow)]


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosts.Host:
    return hosts.Host(tmp_path)


@contextlib.contextmanager
def serving(host: hosts.Host, watch: str) -> Iterator[daemons.Daemon]:
    """The daemon over a host's files, when it has seen them."""
    daemon = daemons.Daemon(host.folder, host.configuration(f"watch = {watch}"))
    (daemon.conf / "other.toml").write_text(host.other())
    with daemon:
        daemon.quiet(1.0)
        yield daemon


@contextlib.contextmanager
def standing_still(daemon: daemons.Daemon) -> Iterator[None]:
    """Let the watcher see and say nothing for a while."""
    workers = {int(line.rpartition("pid=")[2]) for line in daemon.log if line.startswith("ready service=")}
    (pid,) = set(daemons.children(daemon.process.pid)) - workers
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def ends_quietly(daemon: daemons.Daemon, count: int = 2) -> None:
    """No further reload comes, once so many have ended; clients see the last one before its line is read."""

    def reloads() -> list[str]:
        return [line for line in daemon.log if line.startswith("reloaded ") or "reload rejected" in line]

    daemons.until(lambda: len(reloads()) >= count, "the end of the reload")
    daemon.quiet(1.5)
    assert len(reloads()) == count
    assert reloads()[-1].startswith("reloaded ")


@pytest.mark.parametrize("watch", WATCHES)
@pytest.mark.parametrize("name", VICTIMS)
def test_a_file_of_which_half_was_read_is_read_whole(name: str, watch: str, host: hosts.Host) -> None:
    victim = VICTIMS[name]
    path = victim.path(host)
    path.write_text(victim.half + victim.rest)
    with serving(host, watch) as daemon:
        assert host.shows(victim.variable) == "old"
        with standing_still(daemon), path.open("w") as file:
            file.write(victim.half)
            file.flush()
            daemon.process.send_signal(signal.SIGHUP)
            daemons.until(lambda: host.shows(victim.variable) == "half", "the half")
            file.write(victim.rest)

        daemons.until(lambda: host.shows(victim.variable) == "old", "the whole")
        ends_quietly(daemon)


@pytest.mark.parametrize("watch", WATCHES)
def test_a_zone_file_of_which_half_was_read_is_read_whole(watch: str, host: hosts.Host) -> None:
    with serving(host, watch) as daemon:
        with standing_still(daemon), host.zone.open("w") as file:
            file.write("old.ex")
            file.flush()
            daemon.process.send_signal(signal.SIGHUP)
            daemon.await_log(r"^reloaded changed=.*\bother\b")
            file.write("ample\n")

        daemon.await_log(r"^reloaded changed=other$")
        ends_quietly(daemon)


@pytest.mark.parametrize("watch", WATCHES)
def test_a_configuration_file_of_which_half_was_read_is_taken_on_whole(watch: str, host: hosts.Host) -> None:
    with serving(host, watch) as daemon:
        whole = host.test.read_text()
        with standing_still(daemon), host.test.open("w") as file:
            file.write(whole[: len(whole) // 2])
            file.flush()
            daemon.process.send_signal(signal.SIGHUP)
            daemon.await_log("reload rejected")
            file.write(whole[len(whole) // 2 :])

        daemon.await_log(r"^reloaded changed=nothing$")
        ends_quietly(daemon)


@pytest.mark.parametrize("watch", WATCHES)
def test_a_file_that_was_missing_while_its_directory_was_read_counts_again(
    watch: str, host: hosts.Host
) -> None:
    (host.texts / "more").write_text("127\tallow,RULE=more\n")
    with serving(host, watch) as daemon:
        assert host.shows("RULE") == "more"
        with standing_still(daemon):
            (host.texts / "more").rename(host.files / "more")
            daemon.process.send_signal(signal.SIGHUP)
            daemons.until(lambda: host.shows("RULE") == "old", "the file's absence")
            (host.files / "more").rename(host.texts / "more")

        daemons.until(lambda: host.shows("RULE") == "more", "the file")
        ends_quietly(daemon)


@pytest.mark.parametrize("watch", WATCHES)
def test_another_directory_that_came_after_the_reading_is_read(watch: str, host: hosts.Host) -> None:
    """It is as old as the one that was read, and so are its files: only their identity differs."""
    for name in ("one", "two"):
        (host.files / name).mkdir()
        (host.files / name / "rules").write_text(f"*\tallow,RULE={name}\n")
    host.access = host.files / "one/rules"
    with serving(host, watch) as daemon:
        assert host.shows("RULE") == "one"
        with standing_still(daemon):
            daemon.process.send_signal(signal.SIGHUP)
            daemon.await_log(r"^reloaded ")
            (host.files / "one").rename(host.files / "three")
            (host.files / "two").rename(host.files / "one")

        daemons.until(lambda: host.shows("RULE") == "two", "the other directory")
        ends_quietly(daemon)


def test_a_worker_that_was_started_again_reads_the_whole(host: hosts.Host) -> None:
    host.access.write_text("*\tallow,RULE=half\n127\tallow,RULE=old\n")
    with serving(host, "true") as daemon:
        with standing_still(daemon), host.access.open("w") as file:
            file.write("*\tallow,RULE=half\n")
            file.flush()
            os.kill(daemon.worker("test"), signal.SIGKILL)
            daemons.until(lambda: host.shows("RULE") == "half", "the half")
            file.write("127\tallow,RULE=old\n")

        daemons.until(lambda: host.shows("RULE") == "old", "the whole")
        ends_quietly(daemon, 1)  # the worker has read the half itself


def test_a_refusal_is_not_tried_again_without_a_change(host: hosts.Host) -> None:
    """A mistake in the configuration, and an access file that has changed with it."""
    with serving(host, "true") as daemon:
        whole = host.test.read_text()
        with standing_still(daemon):
            host.access.write_text("*\tallow,RULE=new\n")
            host.test.write_text(whole.replace("program", "pogram"))
            daemon.process.send_signal(signal.SIGHUP)
            daemon.await_log("reload rejected")
        daemon.quiet(2.0)
        refused = [line for line in daemon.log if "reload rejected" in line]
        daemon.quiet(2.0)

        assert [line for line in daemon.log if "reload rejected" in line] == refused
        assert len(refused) <= 2
        host.test.write_text(whole)
        daemons.until(lambda: host.shows("RULE") == "new", "the change")
