"""The drop-in couriertcpd as a process: its files, signals and environment, and how fast it is."""

import contextlib
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest
from support import peers
from support.courier import berkeleyfiles, realtcpd
from support.running import daemons

OURS = [sys.executable, "-m", "tcpdconf.couriertcpd"]
REAL = [realtcpd.COURIERTCPD]
ENV = ["/usr/bin/env"]
SLEEP = ["/bin/sh", "-c", "echo here; exec sleep 60"]


def run(*words: str, command: Sequence[str] = OURS, before: str = "", **surroundings: str) -> int:
    """Run a command line to its end, or until it has gone into the background; its exit status."""
    script = f'{before}exec "$@"'
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", *command, *words],
        env=surroundings,
        check=False,
        timeout=daemons.SECONDS,
    ).returncode


@contextlib.contextmanager
def background(
    folder: pathlib.Path, *words: str, command: Sequence[str] = OURS, before: str = "", **surroundings: str
) -> Iterator[str]:
    """A daemon with -pid; its pid file."""
    file = str(folder / "pid")
    assert run(f"-pid={file}", "-nodnslookup", *words, command=command, before=before, **surroundings) == 0
    try:
        yield file
    finally:
        assert run(f"-pid={file}", "-stop") == 0


def pid_in(file: str) -> int:
    return int(pathlib.Path(file).read_text())


def is_free(lock: str) -> bool:
    with open(lock, "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def seen(port: int) -> dict[str, str]:
    """The environment that a program is given."""
    return dict(line.split("=", 1) for line in daemons.talk(port).decode().splitlines())


def test_a_start_returns_when_clients_are_served(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with background(tmp_path, f"127.0.0.1.{port}", *ENV) as file:
        assert seen(port)["TCPREMOTEIP"] == "::ffff:127.0.0.1"
        assert pathlib.Path(f"/proc/{pid_in(file)}").exists()
        assert not is_free(file + ".lock")

    assert is_free(file + ".lock")
    with pytest.raises(ConnectionRefusedError):
        daemons.connect(port)


def test_a_second_start_leaves_the_first_alone(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with background(tmp_path, f"127.0.0.1.{port}", *ENV) as file:
        before = pid_in(file)
        assert run(f"-pid={file}", f"127.0.0.1.{port}", *ENV) == 0
        assert pid_in(file) == before


@pytest.mark.parametrize(
    "wrong",
    [
        ["-maxprocs=0"],
        ["-listen=0"],
        ["-user=nobody-by-that-name"],
        ["-access=/nowhere/access.dat"],
        ["-stderr=/nowhere/log"],
        ["-haproxy=/port=x.1"],
    ],
)
def test_a_start_that_fails_is_known_to_the_parent(tmp_path: pathlib.Path, wrong: list[str]) -> None:
    file = tmp_path / "pid"

    assert run(f"-pid={file}", *wrong, f"127.0.0.1.{daemons.free_port()}", *ENV) == 1
    assert not file.exists()


def test_a_pid_file_in_no_folder(tmp_path: pathlib.Path) -> None:
    file = f"-pid={tmp_path}/no/such/pid"

    assert run(file, f"127.0.0.1.{daemons.free_port()}", *ENV) == 1
    assert run(file, "-stop") == 0
    assert run(file, "-restart") == 0


def test_a_folder_that_was_removed_is_no_reason(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    gone = tmp_path / "gone"
    gone.mkdir()
    with background(tmp_path, f"127.0.0.1.{port}", *ENV, before=f"cd {gone}; rmdir {gone}; "):
        assert seen(port)


def test_programs_get_the_environment_as_it_is_and_no_locale_of_the_interpreter(
    tmp_path: pathlib.Path,
) -> None:
    port = daemons.free_port()
    stale = {"TCPREMOTEHOST": "old.example", "BLOCK_ZONE": "old", "NOTIFY_SOCKET": "", "HIGH": "é"}
    with background(tmp_path, f"127.0.0.1.{port}", *ENV, **stale):
        found = seen(port)

    shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    connection = {f"TCP{end}{what}" for end in ("REMOTE", "LOCAL") for what in ("IP", "PORT")}
    assert {name: value for name, value in found.items() if name not in shell | connection} == stale


def test_connections_have_the_kernels_times_of_keep_alive(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    script = "import socket; s = socket.socket(fileno=0); print(*(s.getsockopt(*o) for o in %r))"
    options = [(1, 9), (6, 4), (6, 5), (6, 6), (6, 18)]  # SO_KEEPALIVE and its times, TCP_USER_TIMEOUT
    names = ("time", "intvl", "probes")
    kernel = [pathlib.Path(f"/proc/sys/net/ipv4/tcp_keepalive_{name}").read_text().strip() for name in names]
    with background(tmp_path, f"127.0.0.1.{port}", sys.executable, "-Ic", script % (options,)):
        assert daemons.talk(port).decode().split() == ["1", *kernel, "0"]


def test_it_serves_in_little_address_space(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with background(tmp_path, f"127.0.0.1.{port}", *ENV, before="ulimit -v 131072; ") as file:
        assert seen(port)
        assert run(f"-pid={file}", "-restart") == 0
        assert seen(port)


def test_its_end_is_the_programs_as_well_and_waits_for_none(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with background(tmp_path, f"127.0.0.1.{port}", *SLEEP), daemons.connect(port) as client:
        assert daemons.line(client) == b"here\n"
        began = time.monotonic()
        assert run(f"-pid={tmp_path / 'pid'}", "-stop") == 0
        assert daemons.read(client) == b""
        assert time.monotonic() - began < 8


@pytest.mark.peer
@pytest.mark.parametrize(("starts", "stops"), [(OURS, REAL), (REAL, OURS)], ids=["ours", "theirs"])
def test_each_restarts_and_stops_what_the_other_has_started(
    tmp_path: pathlib.Path, starts: list[str], stops: list[str]
) -> None:
    peers.need(realtcpd.COURIERTCPD)
    port = daemons.free_port()
    with background(tmp_path, f"127.0.0.1.{port}", *ENV, command=starts) as file:
        before = pid_in(file)
        assert run(f"-pid={file}", "-restart", command=stops) == 0
        assert seen(port)
        assert pid_in(file) == before
        assert run(f"-pid={file}", f"127.0.0.1.{port}", *ENV, command=stops) == 0
        assert run(f"-pid={file}", "-stop", command=stops) == 0
        assert is_free(file + ".lock")


@pytest.mark.peer
@pytest.mark.parametrize("before", ["", "ulimit -v 131072; "], ids=["plain", "little address space"])
def test_sighup_keeps_the_rules_when_the_file_cannot_be_read(tmp_path: pathlib.Path, before: str) -> None:
    peers.need(realtcpd.MAKEDAT)
    port = daemons.free_port()
    database = realtcpd.makedat(b"127.0.0.9\tdeny\n*\tallow,V=1\n", tmp_path)
    log = tmp_path / "log"
    words = [f"-access={database}", f"-stderr={log}", f"127.0.0.1.{port}", *ENV]
    with background(tmp_path, *words, before=before) as file:
        database.write_text("")
        os.kill(pid_in(file), signal.SIGHUP)
        daemons.until(lambda: "reload rejected: " in log.read_text(), "the refusal")
        assert "\nerror: reload rejected: " in log.read_text()  # no time before it: loggers add their own
        assert seen(port)["V"] == "1"
        assert daemons.talk(port, source="127.0.0.9") == b""
        realtcpd.makedat(b"*\tallow,V=2\n", tmp_path)
        os.kill(pid_in(file), signal.SIGHUP)
        daemons.until(lambda: seen(port)["V"] == "2", "the new rules")


@pytest.mark.peer
@pytest.mark.parametrize("method", ["hash", "btree"])
def test_the_access_file_may_be_berkeley_db(tmp_path: pathlib.Path, method: str) -> None:
    port = daemons.free_port()
    database = tmp_path / "access.dat"
    database.write_bytes(
        berkeleyfiles.write({b"127.0.0.9": b"deny", b"*": b"allow,V=1"}, berkeleyfiles.Form(method))
    )
    with background(tmp_path, f"-access={database}", f"127.0.0.1.{port}", *ENV):
        assert seen(port)["V"] == "1"
        assert daemons.talk(port, source="127.0.0.9") == b""


def test_text_is_no_access_file(tmp_path: pathlib.Path) -> None:
    """TOML may name the text that the database is made from; a command line names the database."""
    text = tmp_path / "access"
    text.write_text("127.0.0.9\tdeny\n")
    pid = tmp_path / "pid"

    assert run(f"-pid={pid}", f"-access={text}", f"127.0.0.1.{daemons.free_port()}", *ENV) == 1
    assert not pid.exists()


@pytest.mark.peer
@pytest.mark.parametrize("command", [OURS, REAL], ids=["ours", "theirs"])
def test_a_logger_writes_nowhere_and_ignores_sighup(tmp_path: pathlib.Path, command: Sequence[str]) -> None:
    peers.need(*command[:1])
    port = daemons.free_port()
    logger, told = tmp_path / "logger", tmp_path / "told"
    logger.write_text(
        "#!/bin/sh\n"
        'outputs=$(readlink "/proc/$$/fd/1" "/proc/$$/fd/2"; grep SigIgn "/proc/$$/status")\n'
        f'echo "$outputs" >{told}.new; mv {told}.new {told}\n'
        "exec cat\n"
    )
    logger.chmod(0o755)
    words = [f"-stderrlogger={logger}", "-nodnslookup", f"127.0.0.1.{port}", *ENV]
    with (tmp_path / "output").open("wb") as output:
        daemon = subprocess.Popen([*command, *words], stdout=output, stderr=output)
    try:
        daemons.until(told.exists, "the logger")
        stdout, stderr, ignored = told.read_text().splitlines()
    finally:
        daemon.terminate()
        daemon.wait(daemons.SECONDS)
    mask = int(ignored.split()[1], 16)  # with SIGINT and SIGQUIT, where the tests ignore these
    python = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1

    assert (stdout, stderr) == ("/dev/null", "/dev/null")
    assert mask & 1 << signal.SIGHUP - 1
    assert not mask & python


def test_stop_imports_nothing_slow(tmp_path: pathlib.Path) -> None:
    """Within 0.15 seconds there is time for the interpreter and little else; the test says which else."""
    code = f"import sys; sys.argv[1:] = {[f'-pid={tmp_path}/pid', '-stop']!r}\n"
    code += "from tcpdconf import couriertcpd\ncouriertcpd.main()\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if name.startswith("tcpdconf.")}

    assert {"pydantic", "dns", "asyncio", "subprocess", "socket"} & set(done.stdout.split()) == set()
    assert ours == {
        "tcpdconf.config",
        "tcpdconf.config.couriertcpd",
        "tcpdconf.config.couriertcpd.grammar",
        "tcpdconf.couriertcpd",
        "tcpdconf.daemon",
        "tcpdconf.daemon.process",
        "tcpdconf.daemon.process.daemonize",
        "tcpdconf.daemon.process.pidfile",
        "tcpdconf.daemon.process.procfs",
        "tcpdconf.daemon.process.signals",
    }


@pytest.mark.parametrize("ports", ["0", "25,99999", "no-such-port", ","])
def test_wrong_ports_are_refused_before_anything_slow_is_imported(ports: str) -> None:
    code = f"import sys; sys.argv[1:] = {[ports, '/bin/cat']!r}\n"
    code += "from tcpdconf import couriertcpd\nprint(couriertcpd.main(), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr.startswith("Invalid port: ")
    assert done.stdout.startswith("1 ")
    assert {"pydantic", "dns", "asyncio"} & set(done.stdout.split()) == set()
