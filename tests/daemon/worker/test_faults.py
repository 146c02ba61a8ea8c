"""Tests that a daemon continues after faults around it."""

import contextlib
import itertools
import os
import pathlib
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest
from support import peers
from support.running import daemons, reloads

from tcpdconf.daemon.process import spawn

GREET = r"""program = ["/bin/sh", "-c", "echo here; read answer; echo \"$answer\""]"""
ECHO = 'program = ["/bin/echo", "in"]'


def service(program: str, port: int, limits: str = "max_per_ip = 5000", rest: str = "") -> str:
    return f"""
        [services.test]
        {program}
        [[services.test.listeners]]
        address = "127.0.0.1"
        port = {port}
        [services.test.limits]
        {limits}
        {rest}
    """


def free_descriptor(pid: int) -> int:
    """The number that a process's next descriptor gets."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in itertools.count() if number not in used)


def run(conf: pathlib.Path, *before: str, pass_fds: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
    """A daemon that is not expected to start."""
    command = [*before, sys.executable, "-m", "tcpdconf", "run", str(conf), "--runtime-dir", f"{conf}.run"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False, pass_fds=pass_fds
    )


def test_without_descriptors_clients_wait(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(ECHO, port)) as daemon:
        worker = daemon.worker("test")
        limits = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (free_descriptor(worker), limits[1]))
        with daemons.connect(port) as client:
            daemon.await_log("^error: cannot accept: Too many open files service=test")
            resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
            assert daemons.read(client) == b"in\n"
        assert len(daemon.await_log("Too many open files")) == 1


@pytest.mark.peer
def test_without_processes_clients_wait(tmp_path: pathlib.Path) -> None:
    peers.need_root()
    port = daemons.free_port()
    user = "user = 54321\ngroup = 54321"  # nobody else's processes count against its limit
    with daemons.Daemon(tmp_path, service(f"{ECHO}\n{user}", port)) as daemon:
        worker = daemon.worker("test")
        _limit_processes(worker, "1:")
        with daemons.connect(port) as first, daemons.connect(port) as second:
            daemon.await_log("^error: cannot start a program: Resource temporarily unavailable service=test")
            _limit_processes(worker, "1000:")
            assert (daemons.read(first), daemons.read(second)) == (b"in\n", b"in\n")
        assert len(daemon.await_log("Resource temporarily unavailable")) == 1


def _limit_processes(pid: int, soft: str) -> None:
    """Set RLIMIT_NPROC of a process of user 54321, as that user: root may lack the capability for others."""
    as_user = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    subprocess.run([*as_user, "prlimit", f"--pid={pid}", f"--nproc={soft}"], check=True)


@pytest.mark.parametrize("way", ["native", "portable"])
@pytest.mark.parametrize("rlimits", ["", 'rlimits = { as = "1GiB" }'])
def test_a_program_that_cannot_be_run_is_said_once(tmp_path: pathlib.Path, rlimits: str, way: str) -> None:
    if way == "native" and not spawn.has_native:
        pytest.skip("tcpdconf was installed without a C compiler")
    port = daemons.free_port()
    program = tmp_path / "program"
    text = service(f'program = ["{program}"]\n{rlimits}\nmessages.spawn = "try later"', port)
    text = f'log_level = "debug"\n{text}'  # of the daemon, whose table `reloads` has begun
    with reloads.Daemon(tmp_path, text, environment={spawn.WISH: way}) as daemon:
        daemon.await_log(f"^starts programs service=test way={way}$")
        assert [daemons.talk(port) for _ in range(3)] == [b"try later\r\n"] * 3
        missing = daemon.await_log(f"cannot run {program}: No such file or directory service=test errno=2$")
        program.write_text("#!/bin/sh\necho in\n")
        assert daemons.talk(port) == b"try later\r\n"
        daemon.await_log(f"cannot run {program}: Permission denied service=test errno=13$")
        program.chmod(0o755)
        assert daemons.talk(port) == b"in\n"
        daemon.await_log("^end service=test ")
        assert len(missing) == 1
        assert len(daemon.await_log("^refuse service=test reason=spawn ")) == 4
        assert len(daemon.await_log("^accept service=test ")) == 1
        assert len(daemon.await_log("^end service=test ")) == 1
        status = daemon.ask("status")["services"]["test"]
        assert (status["accepted"], status["refused"]["spawn"]) == (1, 4)
        assert status["connections"] == 0


LOGGER = """#!/bin/sh
echo "$$ $*" >> {folder}/started
exec cat >> {folder}/logged
"""


def logger(folder: pathlib.Path) -> pathlib.Path:
    program = folder / "logger"
    program.write_text(LOGGER.format(folder=folder))
    program.chmod(0o755)
    return program


def started(folder: pathlib.Path) -> list[str]:
    found = folder / "started"
    return found.read_text().splitlines() if found.exists() else []


def logged(folder: pathlib.Path) -> str:
    found = folder / "logged"
    return found.read_text() if found.exists() else ""


def test_a_logger_that_dies_is_started_again_and_loses_nothing(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    program = 'program = ["/bin/sh", "-c", "read word; echo $word >&2; echo done"]'
    text = service(f'{program}\nstderr = {{ logger = ["{logger(tmp_path)}", "-x"] }}', port)
    with daemons.Daemon(tmp_path, text) as daemon:
        assert daemons.talk(port, say=b"one\n") == b"done\n"
        daemons.until(lambda: logged(tmp_path) == "one\n", "the first line")
        os.kill(int(started(tmp_path)[0].split()[0]), signal.SIGKILL)
        # one that is about to die may still take a byte with it
        daemon.await_log("^error: logger of test ended with signal 9 ")
        assert daemons.talk(port, say=b"two\n") == b"done\n"
        daemons.until(lambda: logged(tmp_path) == "one\ntwo\n", "the second line")

    assert [line.split()[1:] for line in started(tmp_path)] == [["-x", "sh"]] * 2


def test_a_logger_that_does_not_read_stops_nobody(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    program = 'program = ["/bin/sh", "-c", "head -c 3000000 /dev/zero >&2; echo done"]'
    text = service(f'{program}\nstderr = {{ logger = ["{logger(tmp_path)}"], name = "n" }}', port)
    with daemons.Daemon(tmp_path, text) as daemon:
        daemons.until(lambda: started(tmp_path), "the logger")
        pid = int(started(tmp_path)[0].split()[0])
        os.kill(pid, signal.SIGSTOP)
        try:
            assert daemons.talk(port) == b"done\n"
        finally:
            os.kill(pid, signal.SIGCONT)
        daemon.await_log("^warning: the logger reads too slowly, output discarded service=test lost=")

    assert started(tmp_path) == [f"{pid} n"]


def test_a_missing_logger_stops_nobody(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    program = 'program = ["/bin/sh", "-c", "echo word >&2; echo done"]'
    text = service(f'{program}\nstderr = {{ logger = ["{tmp_path}/none"] }}', port)
    with daemons.Daemon(tmp_path, text) as daemon:
        assert [daemons.talk(port) for _ in range(5)] == [b"done\n"] * 5
        daemon.await_log(
            f"^error: cannot run {tmp_path}/none: No such file or directory service=test errno=2$"
        )


def test_a_worker_killed_under_load_refuses_no_client(tmp_path: pathlib.Path) -> None:
    """A client is never refused: its connection waits in the kernel until the next worker accepts it.

    What the worker had accepted and not yet given to a program dies with it: who came in the same turn of its
    loop, each time at most everybody who is there.
    """
    port = daemons.free_port()
    answers: list[bytes] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            answers.append(daemons.talk(port))

    with daemons.Daemon(tmp_path, service(ECHO, port, "max_connections = 100\nmax_per_ip = 100")) as daemon:
        clients = [threading.Thread(target=load) for _ in range(4)]
        for client in clients:
            client.start()
        kills = 3
        for round_ in range(1, kills + 1):
            before = len(answers)
            daemons.until(lambda before=before: len(answers) > before + 50, "the load")  # type: ignore[misc]
            os.kill(daemon.worker("test"), signal.SIGKILL)
            began = time.monotonic()
            daemon.await_log("^ready service=test ", round_ + 1)
            assert time.monotonic() - began < 1
        stop.set()
        for client in clients:
            client.join()
        assert len(daemon.await_log("worker of test ended with signal 9")) == kills

    lost = [answer for answer in answers if answer != b"in\n"]
    assert len(lost) <= kills * len(clients)
    assert set(lost) <= {b""}


def test_limits_hold_when_a_worker_dies(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    program = GREET + '\nmessages.per_ip = "too many"'
    text = service(program, port, "max_connections = 3\nmax_per_ip = 2")
    with daemons.Daemon(tmp_path, text) as daemon, contextlib.ExitStack() as clients:
        first, second = (clients.enter_context(daemons.connect(port)) for _ in range(2))
        assert (daemons.line(first), daemons.line(second)) == (b"here\n", b"here\n")
        daemon.await_log("^accept ", 2)  # then they are recorded
        os.kill(daemon.worker("test"), signal.SIGKILL)
        daemon.await_log("^ready service=test ", 2)
        assert daemons.talk(port) == b"too many\r\n"
        first.sendall(b"bye\n")  # a program lives on without its worker
        assert daemons.read(first) == b"bye\n"
        daemon.await_log("^end service=test .* status=0 ")
        third = clients.enter_context(daemons.connect(port))
        assert daemons.line(third) == b"here\n"


@pytest.mark.peer
def test_the_end_of_an_adopted_program_is_logged_though_its_worker_has_ended_just_before(
    tmp_path: pathlib.Path,
) -> None:
    """Both are reported to the worker that has adopted it while that one reads nothing."""
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, service(GREET, port)) as daemon, daemons.connect(port) as client:
        assert daemons.line(client) == b"here\n"
        before = daemon.uses()["pid"]
        (said,) = daemon.await_log("^accept ")
        program = int(said.partition(" pid=")[2].split()[0])
        daemon.change(service(GREET + '\numask = "027"', port))
        after = daemon.uses()["pid"]
        os.kill(after, signal.SIGSTOP)
        try:
            os.kill(before, signal.SIGKILL)
            daemons.until(lambda: not pathlib.Path(f"/proc/{before}").exists(), "the end of the worker")
            client.sendall(b"bye\n")
            assert daemons.read(client) == b"bye\n"
            daemons.until(lambda: not pathlib.Path(f"/proc/{program}").exists(), "the end of the program")
        finally:
            os.kill(after, signal.SIGCONT)
        daemon.await_log(rf"^end service=test peer=\S+ pid={program} status=0 ")
        daemons.until(lambda: daemon.uses()["connections"] == 0, "the slot")


def test_a_full_disk_under_the_logs_stops_nobody(tmp_path: pathlib.Path) -> None:
    """/dev/full answers every write as a full disk does."""
    port = daemons.free_port()
    program = 'program = ["/bin/sh", "-c", "echo word >&2; echo done"]'
    text = service(f'{program}\nstderr = {{ file = "/dev/full" }}', port)
    with open("/dev/full", "wb") as full, daemons.Daemon(tmp_path, text, stderr=full.fileno()):
        assert [daemons.talk(port) for _ in range(5)] == [b"done\n"] * 5


@pytest.mark.peer
def test_a_disk_that_fills_up_and_has_room_again(tmp_path: pathlib.Path) -> None:
    peers.need_root()
    port = daemons.free_port()
    disk = tmp_path / "disk"
    disk.mkdir()
    program = 'program = ["/bin/sh", "-c", "echo word >&2; echo done"]'
    text = service(f'{program}\nstderr = {{ file = "{disk}/log" }}', port)
    script = 'mount -t tmpfs -o size=16k none "$0"; head -c 20000 /dev/zero > "$0/fill"; exec "$@"'
    with daemons.Daemon(tmp_path, text, before=["unshare", "-m", "sh", "-c", script, str(disk)]) as daemon:
        inside = pathlib.Path(f"/proc/{daemon.process.pid}/root{disk}")
        assert [daemons.talk(port) for _ in range(5)] == [b"done\n"] * 5
        assert (inside / "log").read_text() == ""
        (inside / "fill").unlink()
        assert daemons.talk(port) == b"done\n"
        assert (inside / "log").read_text() == "word\n"
        assert stat.S_IMODE((inside / "log").stat().st_mode) & 0o007 == 0o000


def test_a_standard_error_that_nobody_reads_stops_nobody(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, bytes(4096))
    os.set_blocking(write, True)
    try:
        with daemons.Daemon(tmp_path, service(ECHO, port), stderr=write):
            assert [daemons.talk(port) for _ in range(5)] == [b"in\n"] * 5
    finally:
        os.close(read)
        os.close(write)


def test_programs_outlive_a_daemon_that_is_killed(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    program = GREET + '\nstderr = "socket"'
    with daemons.Daemon(tmp_path, service(program, port)) as daemon, daemons.connect(port) as client:
        assert daemons.line(client) == b"here\n"
        daemon.stop(signal.SIGKILL)
        daemons.until(lambda: _refused(port), "the worker to close its listener")
        client.sendall(b"bye\n")
        assert daemons.read(client) == b"bye\n"


def _refused(port: int) -> bool:
    try:
        daemons.connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_access_file_that_cannot_be_loaded_stops_the_start(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    bad = tmp_path / "bad.dat"
    bad.write_bytes(b"\xce\x9a\x57\x13" + bytes(100))
    text = service(ECHO, port, rest=f'[[services.test.access]]\nfile = "{bad}"')
    conf = daemons.configure(tmp_path, text)

    found = run(conf)

    line = 1 + text[: text.index(f'"{bad}"')].count("\n")
    place = f"{conf}/test.toml:{line}:8: error: services.test.access[0].file"
    assert found.returncode == 78
    assert f"{place}: cannot load access rules: {bad}: offset" in found.stderr
    assert _refused(port)


def test_an_access_file_that_is_gone_when_a_worker_dies_lets_clients_wait(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    rules = tmp_path / "rules"
    rules.write_text("127.0.0.9\tdeny\n")
    with daemons.Daemon(
        tmp_path, service(ECHO, port, rest=f'[[services.test.access]]\nfile = "{rules}"')
    ) as daemon:
        assert daemons.talk(port, source="127.0.0.9") == b""
        rules.rename(tmp_path / "elsewhere")
        os.kill(daemon.worker("test"), signal.SIGKILL)
        daemon.await_log(
            f"^error: cannot open {rules}: No such file or directory service=test key=access\\[0\\].file"
        )
        with daemons.connect(port) as allowed, daemons.connect(port, source="127.0.0.9") as denied:
            (tmp_path / "elsewhere").rename(rules)
            assert (daemons.read(allowed), daemons.read(denied)) == (b"in\n", b"")


def test_a_shell_file_that_is_wrong_stops_the_start(tmp_path: pathlib.Path) -> None:
    shell = tmp_path / "shell"
    shell.write_text("A=1\nif\n")
    text = f'{ECHO}\nenvironment_files = [{{ path = "{shell}", shell = true }}]'
    found = run(daemons.configure(tmp_path, service(text, daemons.free_port())))

    assert found.returncode == 78
    assert (
        f"services.test.environment_files[0]: cannot read {shell}: /bin/sh ends with status 2" in found.stderr
    )


def test_a_port_in_use_is_said_with_its_service(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = run(daemons.configure(tmp_path, service(ECHO, port)))

    assert found.returncode == 1
    text = f": services.test.listeners[0].port: cannot bind 127.0.0.1:{port}: Address already in use\n"
    assert text in found.stderr


@pytest.mark.peer
def test_what_needs_root_is_said_before_anything_is_bound() -> None:
    peers.need_other_users()
    port = daemons.free_port()
    rest = '[services.low]\nprogram = ["/bin/true"]\nlisteners = [{ address = "127.0.0.1", port = 25 }]'
    as_nobody = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--inh-caps=-all"]
    with daemons.public_folder() as folder:
        conf = daemons.configure(folder, service(f'{ECHO}\nuser = "nobody"', port, rest=rest))
        found = run(conf, *as_nobody)

    assert found.returncode == 78
    assert "services.test.user: running as another user needs root\n" in found.stderr
    assert "services.low.listeners[0].port: listening on port 25 needs root\n" in found.stderr


def test_sockets_of_the_service_manager_are_taken_by_address(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        port, own = passed.getsockname()[1], daemons.free_port()
        text = service(ECHO, port).replace(
            "[services.test.limits]",
            f'[[services.test.listeners]]\naddress = "127.0.0.1"\nport = {own}\n[services.test.limits]',
        )
        activate = 'exec 3<&"$0"; export LISTEN_FDS=1; LISTEN_PID=$$ exec "$@"'
        os.set_inheritable(passed.fileno(), True)
        before = ["/bin/bash", "-c", activate, str(passed.fileno())]
        with daemons.Daemon(tmp_path, text, before=before, pass_fds=[passed.fileno()]):
            assert (daemons.talk(port), daemons.talk(own)) == (b"in\n", b"in\n")


def test_a_passed_socket_that_no_listener_wants_is_an_error(tmp_path: pathlib.Path) -> None:
    conf = daemons.configure(tmp_path, service(ECHO, daemons.free_port()))
    with socket.create_server(("127.0.0.1", 0)) as passed:
        port = passed.getsockname()[1]
        activate = 'exec 3<&"$0"; export LISTEN_FDS=1; LISTEN_PID=$$ exec "$@"'
        before = ["/bin/bash", "-c", activate, str(passed.fileno())]
        found = run(conf, *before, pass_fds=[passed.fileno()])

    assert found.returncode == 1
    assert (
        f"the service manager passes descriptor 3 (127.0.0.1:{port}), but no listener uses it\n"
        in found.stderr
    )


def test_a_signal_during_the_start_is_not_lost(tmp_path: pathlib.Path) -> None:
    """SIGHUP and SIGTERM are caught before anything slow is imported."""
    slow = tmp_path / "slow"
    slow.write_text("sleep 2\n")
    text = f'{ECHO}\nenvironment_files = [{{ path = "{slow}", shell = true }}]'
    conf = daemons.configure(tmp_path, service(text, daemons.free_port()))
    process = subprocess.Popen(
        [sys.executable, "-m", "tcpdconf", "run", str(conf), "--runtime-dir", f"{conf}.run"],
        stderr=subprocess.PIPE,
        text=True,
    )
    daemons.until(lambda: _catches(process.pid, signal.SIGCHLD), "the last of the handlers")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=daemons.SECONDS)

    assert process.returncode == 0
    assert "stopping signal=SIGTERM\n" in said


def _catches(pid: int, number: int) -> bool:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1]
    return bool(int(mask, 16) >> (number - 1) & 1)
