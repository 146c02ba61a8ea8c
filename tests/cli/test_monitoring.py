"""`tcpdconf status --wait` and `--check` with real daemons, as scripts and monitoring systems use them."""

import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
from support.dns import dnsservers, lookedup
from support.running import controls, daemons, reloads

from tcpdconf.cli import main as cli
from tcpdconf.cli import monitoring

# Monitoring Plugins Development Guidelines, "Plugin Output for Nagios" and "Performance data"
LINE = re.compile(
    r"TCPDCONF (OK|WARNING|CRITICAL|UNKNOWN): [^|\n]+(?: \|(?: [^ ='|]+=\d+c?(?:;\d*;\d*;\d+;\d+)?)+)?\n"
)


def command(folder: pathlib.Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tcpdconf", "status", *words, "--runtime-dir", str(folder / "run")]


def check(folder: pathlib.Path) -> tuple[int, str]:
    """Exit status and output of a check."""
    done = subprocess.run(
        command(folder, "--check"), capture_output=True, text=True, timeout=daemons.SECONDS, check=False
    )
    assert LINE.fullmatch(done.stdout), done.stdout
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_all_is_well(tmp_path: pathlib.Path) -> None:
    with reloads.Daemon(tmp_path, reloads.service(daemons.free_port(), limits="max_connections = 10")):
        assert check(tmp_path) == (
            0, "TCPDCONF OK: 1 service, 0 slots taken | test=0;8;;0;10 accepted=0c refused=0c\n",
        )  # fmt: skip


def test_slots_at_ninety_percent_are_a_warning(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, limits="max_connections = 10\nmax_per_ip = 10")):
        clients = [daemons.connect(port) for _ in range(8)]
        for client in clients:
            daemons.line(client)
        assert check(tmp_path)[0] == 0
        clients.append(daemons.connect(port))
        daemons.line(clients[-1])
        assert check(tmp_path) == (
            1, "TCPDCONF WARNING: test has 9 of 10 slots taken | test=9;8;;0;10 accepted=9c refused=0c\n",
        )  # fmt: skip
        for client in clients:
            client.close()


def test_a_rejected_reload_is_a_warning(tmp_path: pathlib.Path) -> None:
    text = reloads.service(daemons.free_port())
    with reloads.Daemon(tmp_path, text) as daemon:
        daemon.refusal(text + "max_per_ip = 0\n")
        status, line = check(tmp_path)
        assert status == 1
        assert re.search(rf"WARNING: the last reload was rejected \({daemon.conf}/test.toml:\d+\) \|", line)
        daemon.change(text)
        assert check(tmp_path)[0] == 0


def test_a_suspended_list_is_a_warning(tmp_path: pathlib.Path) -> None:
    with dnsservers.Server() as server:
        lookedup.healthy(server, "bl.example")
        server.says("*.parked.example", "A", dnsservers.Reply(records=("A 127.0.0.2",)))
        lists = 'dns_lists = [{ zone = "bl.example" }, { zone = "parked.example" }]'
        with lookedup.running(tmp_path, server, lists) as (daemon, _):
            daemon.await_log("zone=parked.example state=suspended")
            status, line = check(tmp_path)
    assert status == 1
    assert "list parked.example of test is suspended" in line
    assert "bl.example" not in line


def test_a_worker_that_does_not_stay_up_is_critical(tmp_path: pathlib.Path) -> None:
    with reloads.Daemon(tmp_path, reloads.service(daemons.free_port())) as daemon:
        for count in (1, 2):
            os.kill(daemon.worker("test"), signal.SIGKILL)
            daemon.await_log("^ready service=test ", count + 1)
            assert check(tmp_path)[0] == (0 if count == 1 else 2)
        assert "CRITICAL: the worker of test does not stay up |" in check(tmp_path)[1]


def with_rules(folder: pathlib.Path) -> str:
    """A service with an access file."""
    rules = folder / "rules.cidr"
    rules.write_text("192.0.2.0/24\n")
    return reloads.service(daemons.free_port()).replace(
        "[services.test.limits]",
        f'access = [{{ file = "{rules}", action = "deny" }}]\n[services.test.limits]',
    )


def test_a_worker_that_cannot_start_is_critical(tmp_path: pathlib.Path) -> None:
    with reloads.Daemon(tmp_path, with_rules(tmp_path)) as daemon:
        (tmp_path / "rules.cidr").unlink()
        os.kill(daemon.worker("test"), signal.SIGKILL)
        daemon.await_log("cannot start worker of test")
        assert check(tmp_path)[0] == 2


def test_the_worst_comes_first_and_the_line_stays_short() -> None:
    service: dict[str, Any] = {
        "connections": 10, "max_connections": 10, "accepted": 1, "refused": {"access": 2}, "accepts": True,
        "pid": 7, "stays_up": True, "dns_lists": {},
    }  # fmt: skip
    services = {f"s{number}": service for number in range(5)}
    services["bad"] = {**service, "accepts": False, "connections": 0}
    problem = {"severity": "error", "file": "a|b\nc", "line": 0}
    answer = {"last_reload": {"ok": False, "problems": [problem]}, "services": services}

    assert monitoring.check(answer) == (
        2,
        "TCPDCONF CRITICAL: bad does not accept, the last reload was rejected (a/b\ufffdc), "
        "s0 has 10 of 10 slots taken, and 4 more | "
        + " ".join(f"s{number}=10;8;;0;10" for number in range(5))
        + " bad=0;8;;0;10 accepted=6c refused=12c",
    )


def test_a_service_without_all_of_its_workers() -> None:
    service: dict[str, Any] = {
        "connections": 0, "max_connections": 9, "accepted": 0, "refused": {}, "dns_lists": {},
        "pid": 7, "pids": [7, 8], "workers": 3, "accepts": True,
    }  # fmt: skip
    answer = {"last_reload": {"ok": True, "problems": []}, "services": {"a": service}}
    level, line = monitoring.check(answer)
    assert (level, line.partition(" | ")[0]) == (1, "TCPDCONF WARNING: a has 2 of 3 workers")


@pytest.mark.parametrize(("pid", "level"), [(7, 0), (None, 2)])
def test_an_older_daemon_is_judged_by_what_it_says(pid: int | None, level: int) -> None:
    service: dict[str, Any] = {
        "pid": pid,
        "connections": 0,
        "max_connections": 9,
        "accepted": 0,
        "refused": {},
        "dns_lists": {},
    }
    answer = {"last_reload": {"ok": True, "problems": []}, "services": {"a": service}}
    assert monitoring.check(answer)[0] == level


def test_no_daemon_is_unknown(tmp_path: pathlib.Path) -> None:
    status, line = check(tmp_path)
    assert status == 3
    assert line.startswith("TCPDCONF UNKNOWN: no daemon runs: ")


@pytest.mark.parametrize(
    "words",
    [
        ["--check", "--xyz"], ["--c", "extra"], ["--check", "--format", "json"], ["--check", "--watch"],
        ["--wait=x", "--check"],
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_unknown(words: list[str], tmp_path: pathlib.Path) -> None:
    done = subprocess.run(command(tmp_path, *words), capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert LINE.fullmatch(done.stdout)
    assert done.stdout.startswith("TCPDCONF UNKNOWN: ")
    assert "usage: tcpdconf status" in done.stderr


def test_an_answer_of_another_version_is_unknown(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with controls.Server(tmp_path, {"status": lambda _, reply: reply({"services": []})}):
        assert cli.main(["status", "--check", "--runtime-dir", str(tmp_path)]) == 3
    assert LINE.fullmatch(capsys.readouterr().out)


def test_wait_until_a_daemon_is_there_and_serves(tmp_path: pathlib.Path) -> None:
    waits = command(tmp_path, "--wait", "60s", "--format", "json")
    with subprocess.Popen(waits, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        with reloads.Daemon(tmp_path, reloads.service(daemons.free_port()), ready=False):
            out, err = client.communicate(timeout=daemons.SECONDS)
        assert (client.returncode, err) == (0, "")
        assert '"accepts": true' in out


def test_wait_for_a_service_that_cannot_be_started_yet(tmp_path: pathlib.Path) -> None:
    with reloads.Daemon(tmp_path, with_rules(tmp_path)) as daemon:
        (tmp_path / "rules.cidr").rename(tmp_path / "away")
        os.kill(daemon.worker("test"), signal.SIGKILL)
        daemon.await_log("cannot start worker of test")
        done = subprocess.run(command(tmp_path, "--wait", "0.3"), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "error: not ready after 0.3 s: these services do not accept: test\n"
        (tmp_path / "away").rename(tmp_path / "rules.cidr")
        assert (
            subprocess.run(command(tmp_path, "--wait", "20"), capture_output=True, check=False).returncode
            == 0
        )


def test_a_daemon_that_stops_does_not_accept(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port)) as daemon, reloads.held(port) as client:
        stop = [sys.executable, "-m", "tcpdconf", "stop", "--drain", "1min", "--runtime-dir", daemon.runtime]
        with subprocess.Popen(stop, stdout=subprocess.DEVNULL) as process:
            daemon.await_log("^stopping drain=60s")
            assert check(tmp_path)[0] == 2
            assert reloads.lives(client)
            assert process.wait(daemons.SECONDS) == 0


def test_wait_in_vain(tmp_path: pathlib.Path) -> None:
    waits = command(tmp_path, "--wait", "300ms")
    done = subprocess.run(waits, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: not ready after 0.3 s: no daemon runs: ")


def test_wait_names_what_does_not_accept(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    services = {name: {"accepts": name == "imap"} for name in ("smtp", "imap", "pop3")}
    answer = {"pid": 1, "last_reload": {"ok": True}, "services": services}
    with controls.Server(tmp_path, {"status": lambda _, reply: reply(answer)}):
        assert cli.main(["status", "--wait", "0.2", "--runtime-dir", str(tmp_path)]) == 1
        answer |= {"last_reload": None, "services": {}}
        assert cli.main(["status", "--wait", "0", "--runtime-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "error: not ready after 0.2 s: these services do not accept: smtp, pop3\n"
        "error: not ready after 0 s: the daemon (pid 1) is starting\n"
    )
