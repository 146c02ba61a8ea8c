"""`tcpdconf reload --dry-run`, and what `reload` shows, with real daemons."""

import contextlib
import os
import pathlib
import pwd
import signal
import subprocess
import sys

import pytest
from support.running import daemons, processes, reloads

LIMIT = "max_per_ip = 4"
OWN = f'{reloads.HOLD}\nuser = "{pwd.getpwuid(os.geteuid()).pw_name}"'  # written out, without a warning


def service(port: int, *, name: str = "test", limits: str = "") -> str:
    """A service of the user that the tests run as."""
    return reloads.service(port, OWN, name=name, limits=limits)


def tcpdconf(daemon: daemons.Daemon, *words: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command that talks to a daemon."""
    command = [sys.executable, "-m", "tcpdconf", *words, "--runtime-dir", str(daemon.folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)
    return done.returncode, done.stdout, done.stderr


def dry_run(daemon: daemons.Daemon) -> tuple[int, str, str]:
    return tcpdconf(daemon, "reload", "--dry-run")


def test_nothing_would_change(tmp_path: pathlib.Path) -> None:
    with reloads.Daemon(tmp_path, service(daemons.free_port())) as daemon:
        assert dry_run(daemon) == (0, "nothing would change\n", "")


def test_a_change_is_told_and_not_made(tmp_path: pathlib.Path) -> None:
    port, other = daemons.free_port(), daemons.free_port("127.0.0.2")
    with reloads.Daemon(tmp_path, service(port, limits=LIMIT)) as daemon:
        loaded = daemon.ask("status")["config"]
        daemon.write(
            service(port, limits="max_per_ip = 8") + service(other, name="new"),
            reloads.ALONE + "stop_timeout = 7\n",
        )
        status, out, err = dry_run(daemon)

        assert (status, err) == (1, "")
        assert out == "[daemon]: stop_timeout 10 -> 7\ntest: limits.max_per_ip 4 -> 8\nnew: added\n"
        assert daemon.ask("status")["config"] == loaded
        assert tcpdconf(daemon, "reload") == (0, out, "")
        assert dry_run(daemon)[0] == 0


def test_a_service_that_would_go_is_told(tmp_path: pathlib.Path) -> None:
    port, other = daemons.free_port(), daemons.free_port("127.0.0.2")
    both = service(port) + service(other, name="old")
    with reloads.Daemon(tmp_path, both) as daemon:
        daemon.write(service(port))
        assert dry_run(daemon) == (1, "old: removed\n", "")


def test_a_reload_tells_what_the_daemon_itself_changes(tmp_path: pathlib.Path) -> None:
    text = service(daemons.free_port())
    with reloads.Daemon(tmp_path, text) as daemon:
        daemon.write(text, reloads.ALONE + "drain_timeout = 5\n")
        assert tcpdconf(daemon, "reload") == (0, "[daemon]: drain_timeout 300 -> 5\n", "")


def test_files_of_services_matter(tmp_path: pathlib.Path) -> None:
    rules = tmp_path / "rules.cidr"
    rules.write_text("192.0.2.0/24\n")
    text = service(daemons.free_port()).replace(
        "[services.test.limits]",
        f'access = [{{ file = "{rules}", action = "deny" }}]\n[services.test.limits]',
    )
    with reloads.Daemon(tmp_path, text) as daemon:
        daemons.until(
            lambda: tcpdconf(daemon, "reload")[1] == "nothing has changed\n", "files of an old time"
        )
        assert dry_run(daemon)[0] == 0
        rules.write_text("192.0.2.0/25\n")
        assert dry_run(daemon) == (1, f"test: {rules} has changed\n", "")
        rules.write_text("192.0.2.0/33\n")
        status, out, err = dry_run(daemon)
        assert (status, out) == (78, "")
        assert f"{rules}:1:1" in err
        assert err.endswith("a reload would be rejected\n")
        rules.unlink()
        assert dry_run(daemon)[0] == 78
        assert daemon.ask("status")["last_reload"]["ok"]


def test_a_shell_file_is_not_executed(tmp_path: pathlib.Path) -> None:
    script, trace = tmp_path / "environment.sh", tmp_path / "trace"
    script.write_text(f"echo x >>{trace}\n")
    text = service(daemons.free_port()).replace(
        "[services.test.limits]",
        f'environment_files = [{{ path = "{script}", shell = true }}]\n[services.test.limits]',
    )
    with reloads.Daemon(tmp_path, text) as daemon:
        before = trace.read_text()
        script.write_text(f"echo y >>{trace}\n")
        assert dry_run(daemon) == (1, f"test: {script} has changed\n", "")
        assert trace.read_text() == before


def test_a_bad_configuration_is_shown_as_check_shows_it(tmp_path: pathlib.Path) -> None:
    with reloads.Daemon(tmp_path, service(daemons.free_port(), limits=LIMIT)) as daemon:
        daemon.write(service(daemons.free_port(), limits="max_per_ip = 0"))
        shown = subprocess.run(
            [sys.executable, "-m", "tcpdconf", "check", daemon.conf],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        excerpt = shown.removesuffix(f"\n{daemon.conf}: 1 problem\n")
        assert "max_per_ip = 0\n" in excerpt
        assert "^" in excerpt
        assert dry_run(daemon) == (78, "", excerpt + "a reload would be rejected\n")
        rejected = "rejected: the previous configuration stays in effect\n"
        assert tcpdconf(daemon, "reload") == (1, "", excerpt + rejected)
        status, _, err = tcpdconf(daemon, "reload", "--color", "always")
        assert (status, "\x1b[1;31merror\x1b[0m: services.test.limits.max_per_ip" in err) == (1, True)


def test_a_bad_access_file_is_shown_as_check_shows_it(tmp_path: pathlib.Path) -> None:
    rules = tmp_path / "smtpaccess"
    rules.write_text("192.0.2\tallow\n192.0.3\tDENY\n")
    rules.chmod(0o644)
    text = service(daemons.free_port())
    with reloads.Daemon(tmp_path, text) as daemon:
        daemon.write(
            text.replace(
                "[services.test.limits]", f'access = [{{ file = "{rules}" }}]\n[services.test.limits]'
            )
        )
        shown = subprocess.run(
            [sys.executable, "-m", "tcpdconf", "check", daemon.conf],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        excerpt = shown.removesuffix(f"\n{daemon.conf}: 1 problem\n")
        assert excerpt.startswith(
            f"{rules}:2:9: error: services.test.access[0].file: cannot load access rules: "
        )
        assert " 2 | 192.0.3\tDENY\n" in excerpt
        assert dry_run(daemon) == (78, "", excerpt + "a reload would be rejected\n")
        assert (
            tcpdconf(daemon, "reload")[2]
            == excerpt + "rejected: the previous configuration stays in effect\n"
        )
        last = daemon.ask("status")["last_reload"]["problems"]
        assert [(each["file"], each["line"], each["column"]) for each in last] == [(str(rules), 2, 9)]


def test_a_long_line_is_cut_by_the_daemon(tmp_path: pathlib.Path) -> None:
    """Its problems, with their lines, would be larger than an answer may be."""
    text = service(daemons.free_port(), limits=LIMIT)
    many = ", ".join(['{ network = "192.0.2.300", action = "deny" }'] * 400)
    with reloads.Daemon(tmp_path, text) as daemon:
        daemon.write(
            text.replace(
                "[services.test.limits]", f"access = [{{ rules = [{many}] }}]\n[services.test.limits]"
            )
        )
        answer = daemon.ask("reload")
        shown = tcpdconf(daemon, "reload")[2]
    assert len(answer["problems"]) == len(answer["excerpts"]) == 400
    assert max(len(each["source"]) for each in answer["excerpts"]) <= 160
    last = shown.split("\n\n")[-1].splitlines()
    assert last[2].partition("| ")[2][last[3].partition("| ")[2].index("^") :].startswith('"192.0.2.300"')


def test_without_a_daemon(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "tcpdconf", "reload", "--dry-run", "--runtime-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: no daemon runs: ")


def test_the_supervisor_answers_meanwhile(tmp_path: pathlib.Path) -> None:
    """A file that is read does not come to its end: the process that compares is stopped."""
    with reloads.Daemon(tmp_path, service(daemons.free_port())) as daemon:
        known = set(daemons.children(daemon.process.pid))
        command = [sys.executable, "-m", "tcpdconf", "reload", "--dry-run"]
        command += ["--runtime-dir", str(daemon.folder / "run")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            found: set[int] = set()
            while not found and client.poll() is None:
                found = set(daemons.children(daemon.process.pid)) - known
            with contextlib.suppress(ProcessLookupError):  # a busy machine may look too late
                for pid in found:
                    os.kill(pid, signal.SIGSTOP)
            assert daemon.ask("status")["services"]["test"]["accepts"]
            with contextlib.suppress(ProcessLookupError):
                for pid in found:
                    os.kill(pid, signal.SIGCONT)
            assert client.communicate(timeout=daemons.SECONDS)[0] == "nothing would change\n"
        daemons.until(lambda: set(daemons.children(daemon.process.pid)) == known, "its end")


def stopped_or_over(pid: int) -> bool:
    """Return whether a process has taken SIGSTOP, or has ended before."""
    return processes.stopped(pid) or processes.over(pid)


def test_what_compares_ends_with_the_daemon(tmp_path: pathlib.Path) -> None:
    with reloads.Daemon(tmp_path, service(daemons.free_port())) as daemon:
        known = set(daemons.children(daemon.process.pid))
        command = [sys.executable, "-m", "tcpdconf", "reload", "--dry-run", "--runtime-dir", daemon.runtime]
        for _ in range(20):  # a busy machine may look too late
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as client:
                found: set[int] = set()
                while not found and client.poll() is None:
                    found = set(daemons.children(daemon.process.pid)) - known
                for pid in found:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                daemons.until(
                    lambda found=found: all(map(stopped_or_over, found)),  # type: ignore[misc]
                    "the signal",
                )
                if any(map(processes.stopped, found)):
                    assert daemon.stop() == 0
                    assert client.wait(daemons.SECONDS) == 3
                    break
        assert found, "no process that compares was seen"
        daemons.until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in found), "their end")


def test_a_log_file_that_was_moved_would_be_opened_anew(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "programs.log"
    text = service(daemons.free_port()).replace(
        "[services.test.limits]", f'stderr = {{ file = "{log}" }}\n[services.test.limits]'
    )
    with reloads.Daemon(tmp_path, text) as daemon:
        assert dry_run(daemon)[0] == 0
        log.rename(tmp_path / "programs.log.1")
        assert dry_run(daemon) == (1, f"test: {log} was replaced\n", "")
        assert not log.exists()
        assert daemon.reload() == ["test"]
        assert dry_run(daemon)[0] == 0


def test_the_directory_of_the_daemon_counts(tmp_path: pathlib.Path) -> None:
    """It may have been given as an option, as DIR, or as both."""
    text = service(daemons.free_port())
    conf = ["--conf", str(tmp_path / "conf.d")]
    with reloads.Daemon(tmp_path, text, arguments=[*conf, "--only", "test"]) as daemon:
        assert daemon.ask("status")["config"]["dir"] == conf[1]
        daemon.write(text + service(daemons.free_port(), name="not-run"))
        assert dry_run(daemon)[0] == 0


def test_nobody_hears_of_its_end_as_a_programs(tmp_path: pathlib.Path) -> None:
    with reloads.Daemon(tmp_path, service(daemons.free_port())) as daemon:
        for _ in range(3):
            assert dry_run(daemon)[0] == 0
        assert not [line for line in daemon.log if "error" in line or "warning" in line]


@pytest.mark.parametrize("words", [["reload", "--dry-run", "--drain=1"], ["reload", "extra"]])
def test_wrong_usage_is_status_2(words: list[str], tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "tcpdconf", *words, "--runtime-dir", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
