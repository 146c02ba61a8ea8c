"""A worker that starts programs while it is looked at with strace, perf and gdb."""

import contextlib
import pathlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import IO, Final

import pytest
from support import peers
from support.running import daemons, reloads

from tcpdconf.daemon.process import spawn

pytestmark = [pytest.mark.peer, pytest.mark.slow]

COUNT: Final = 30
SERVICE: Final = """
    [services.test]
    program = ["/bin/echo", "{word}"]
    listeners = [{{ address = "127.0.0.1", port = {port} }}]
    environment_files = ["{folder}/environment"]
"""


@contextlib.contextmanager
def serving(folder: pathlib.Path) -> Iterator[tuple[reloads.Daemon, int]]:
    """A daemon with a service that starts programs natively, and its port."""
    if not spawn.has_native:
        peers.without("an installation with a C compiler")
    peers.need_root()
    (folder / "environment").write_text("NAME=value\n")
    port = daemons.free_port()
    text = SERVICE.format(word="in", port=port, folder=folder)
    with reloads.Daemon(folder, text, environment={spawn.WISH: "native"}) as daemon:
        yield daemon, port


@contextlib.contextmanager
def attached(pid: int, *command: str, output: int | IO[bytes] = subprocess.DEVNULL) -> Iterator[None]:
    """A tracer of a process, which is ended at the end."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process:
        try:
            daemons.until(lambda: traced(pid) or process.poll() is not None, command[0])
            assert process.poll() is None
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(daemons.SECONDS)


def traced(pid: int) -> bool:
    return "TracerPid:\t0\n" not in pathlib.Path(f"/proc/{pid}/status").read_text()


def served(port: int, word: bytes = b"in\n") -> None:
    assert {daemons.talk(port) for _ in range(COUNT)} == {word}


def test_strace_sees_no_fork_of_a_worker(tmp_path: pathlib.Path) -> None:
    """Programs and threads begin, also over a reload that reads files in a thread. All programs run."""
    peers.need("strace")
    calls = tmp_path / "calls"
    options = ["-f", "-e", "trace=fork,vfork,clone,clone3,execve", "-o", str(calls)]
    with serving(tmp_path) as (daemon, port):
        worker = daemon.worker("test")
        with attached(worker, "strace", *options, "-p", str(worker)):
            served(port)
            (tmp_path / "environment").write_text("NAME=changed\n")
            assert daemon.change(SERVICE.format(word="again", port=port, folder=tmp_path)) == ["test"]
            served(port, b"again\n")
        assert daemon.worker("test") == worker

    found = calls.read_text()
    begun = re.findall(r"\b(?:v?fork|clone3?)\(.*", found)
    programs = [each for each in begun if "|SIGCHLD" in each]
    threads = [each for each in begun if "CLONE_THREAD" in each]
    assert len(programs) == 2 * COUNT == len(re.findall(r"\bexecve\(\"/bin/echo\"", found))
    assert all("flags=CLONE_VM|CLONE_CHILD_CLEARTID|SIGCHLD" in each for each in programs)
    assert threads
    assert len(begun) == len(programs) + len(threads)


def test_perf_records_a_worker(tmp_path: pathlib.Path) -> None:
    record = ["perf", "record", "--quiet", "--event=cpu-clock", f"--output={tmp_path / 'data'}"]
    if not shutil.which("perf") or subprocess.run([*record, "true"], check=False).returncode:
        pytest.skip("needs perf, and a kernel that lets it record")  # in CI as well: few containers may
    with serving(tmp_path) as (daemon, port):
        with subprocess.Popen([*record, "--freq=10000", "--pid", str(daemon.worker("test"))]) as process:
            time.sleep(0.5)  # perf does not tell when it has begun
            served(port)
            process.send_signal(signal.SIGINT)
        script = ["perf", "script", f"--input={tmp_path / 'data'}", "--fields=comm"]
        found = subprocess.run(script, capture_output=True, text=True, check=True).stdout.split()
    assert "echo" in found  # perf follows programs as well


# gdb stops at the breakpoint and, in a child that it has kept, at the exec. There it lets the child go, whose
# memory is its own now. SIGINT stops the worker, or gdb at its own work.
GDB: Final = """
set pagination off
set detach-on-fork {detach}
set schedule-multiple on
handle SIGCHLD nostop noprint pass
python
start = gdb.Breakpoint("start")
gdb.execute("catch exec")
stops = []
gdb.events.stop.connect(lambda event: stops.append(getattr(event, "breakpoint", None)))
try:
    while not stops or stops[-1]:
        gdb.execute("inferior 1")
        gdb.execute("continue")
        if stops[-1] not in (start, None):
            gdb.execute(f"detach inferiors {{gdb.selected_inferior().num}}")
except KeyboardInterrupt:
    pass
print("hits:", stops.count(start))
end
"""


@pytest.mark.parametrize("detach", ["on", "off"])
def test_gdb_and_a_worker(tmp_path: pathlib.Path, detach: str) -> None:
    """Gdb loses or keeps its breakpoints as the comment in `_spawn.c` says, and all programs run."""
    peers.need("gdb")
    (tmp_path / "script").write_text(GDB.format(detach=detach))
    with serving(tmp_path) as (daemon, port):
        worker = daemon.worker("test")
        command = ["gdb", "-nx", "-batch", "-p", str(worker), "-x", str(tmp_path / "script")]
        with (tmp_path / "said").open("wb") as said, attached(worker, *command, output=said):
            daemons.until(lambda: "Breakpoint 1" in (tmp_path / "said").read_text(), "gdb's breakpoint")
            served(port)
        assert daemon.worker("test") == worker
        served(port)  # gdb has gone, and has left it as it was

    (hits,) = map(int, re.findall(r"^hits: (\d+)$", (tmp_path / "said").read_text(), re.MULTILINE))
    assert hits == (1 if detach == "on" else COUNT)
