"""Starting programs without waiting for their exec. worker/test_program.py tests what both ways do."""

import contextlib
import fcntl
import os
import pathlib
import signal
import stat
from typing import TYPE_CHECKING, Any

import pytest
from support.running import daemons, processes, programs

from tcpdconf.daemon.process import spawn
from tcpdconf.daemon.worker import program

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start programs natively."""
    if not spawn.has_native:
        pytest.skip("tcpdconf was installed without a C compiler")
    monkeypatch.setenv(spawn.WISH, "native")


def test_a_limit_that_cannot_be_set() -> None:
    script = """
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
        made = program.make(programs.plain("/bin/true")._replace(rlimits=tables.Rlimits(nofile=60)))
        try:
            with programs.connected() as (_, theirs):
                programs.start(made, theirs.fileno())
        except OSError as error:
            print(error.errno, error.strerror)
    """
    if os.geteuid():
        script = script.replace("os.setgroups", "#").replace("os.setres", "#")

    assert programs.alone(script) == b"1 cannot set the limit nofile: Operation not permitted\n"


@pytest.mark.parametrize("reason", [False, True])
def test_the_child_tells_the_client(reason: bool) -> None:
    """And what the client has said first does not turn the end into a reset."""
    setting = programs.plain("/nonexistent")._replace(told=b"421 try later: ", tells_reason=reason)
    made = program.make(setting)
    with programs.over_tcp() as (ours, theirs):
        ours.sendall(b"EHLO early\r\n" * 5000)
        begun = made.start(theirs.fileno(), {})
        theirs.close()
        assert daemons.read(ours) == b"421 try later: " + b"No such file or directory\n" * reason
        assert os.waitstatus_to_exitcode(os.waitpid(begun[0], 0)[1]) == 127
    assert isinstance(made.outcome(begun[1] or 0), OSError)


def test_a_client_that_is_gone_or_does_not_read_is_not_waited_for() -> None:
    made = program.make(programs.plain("/nonexistent")._replace(told=b"x" * 300_000))
    for reads in (False, True):
        with programs.over_tcp() as (ours, theirs):
            if not reads:
                ours.close()
            begun = made.start(theirs.fileno(), {})
            assert isinstance(programs.settled(made, begun[1] or 0), OSError)
            assert os.waitstatus_to_exitcode(os.waitpid(begun[0], 0)[1]) == 127  # not by SIGPIPE


def test_the_child_tells_the_client_whatever_standard_error_replaces() -> None:
    script = """
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        os.dup2(theirs.fileno(), 2, inheritable=False)
        setting = programs.plain("/nonexistent")._replace(stderr=write, told=b"421 try later")
        try:
            programs.start(program.make(setting), 2)
        except FileNotFoundError:
            os.close(2)
            theirs.close()
            print(ours.recv(100).decode())
    """
    assert programs.alone(script) == b"421 try later\n"


def test_many_are_before_their_exec(tmp_path: pathlib.Path) -> None:
    """This process does not wait. Each has its own variables, and its job until its outcome is known."""
    with programs.hung(tmp_path, "echo $NUMBER") as (path, lease), programs.connected() as (ours, theirs):
        made = program.make(programs.plain(path))
        quick = program.make(programs.plain("/bin/true"))
        begun = [made.start(theirs.fileno(), {"NUMBER": str(number)}) for number in range(100)]
        pids, numbers = [pid for pid, _ in begun], [number or 0 for _, number in begun]
        assert len({*numbers}) == len(numbers)
        assert {made.outcome(number) for number in numbers} == {"pending"}

        os.kill(pids[7], signal.SIGKILL)
        assert os.waitpid(pids[7], 0) == (pids[7], signal.SIGKILL)
        assert made.outcome(numbers[7]) == "executed"  # not known to be otherwise
        pid, number = quick.start(theirs.fileno(), {})
        assert number == numbers[7]
        assert os.waitpid(pid, 0) == (pid, 0)
        assert quick.outcome(number) == "executed"

        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        del made  # what the children read belongs to their jobs
        for pid in pids[:7] + pids[8:]:
            assert os.waitpid(pid, 0) == (pid, 0)
        theirs.close()
        assert {int(word) for word in daemons.read(ours).split()} == {*range(100)} - {7}
    for number in numbers[:7] + numbers[8:]:
        assert quick.outcome(number) == "executed"
        with pytest.raises(ValueError, match="no such job"):
            quick.outcome(number)


def test_a_fork_has_no_jobs(tmp_path: pathlib.Path) -> None:
    """No child of the parent uses the memory of a copy of the parent."""
    with programs.hung(tmp_path) as (path, lease), programs.connected() as (_, theirs):
        made = program.make(programs.plain(path))
        begun = [made.start(theirs.fileno(), {}) for _ in range(10)]
        quick = program.make(programs.plain("/bin/true"))
        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                other, number = quick.start(theirs.fileno(), {})
                assert number == min(number or 0 for _, number in begun)
                status = os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
            os._exit(status)
        assert os.waitpid(pid, 0) == (pid, 0)
        assert {made.outcome(number or 0) for _, number in begun} == {"pending"}
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        for pid, number in begun:
            assert os.waitpid(pid, 0) == (pid, 0)
            assert made.outcome(number or 0) == "executed"


def test_the_parent_dies_before_the_exec(tmp_path: pathlib.Path) -> None:
    """The child has the memory until its exec, and its client."""
    with programs.hung(tmp_path, 'echo "$TEXT"') as (path, lease), programs.connected() as (ours, theirs):
        pid = os.fork()
        if pid == 0:
            program.make(programs.plain(path)).start(theirs.fileno(), {"TEXT": "t" * 5000})
            os.kill(os.getpid(), signal.SIGKILL)
        assert os.waitpid(pid, 0) == (pid, signal.SIGKILL)
        theirs.close()
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        assert daemons.read(ours) == b"t" * 5000 + b"\n"


def test_a_signal_before_the_exec_acts_on_the_child_alone(tmp_path: pathlib.Path) -> None:
    """This process's handlers do not run in it, which would use the same memory."""
    caught = []
    before = signal.signal(signal.SIGTERM, lambda *_: caught.append(os.getpid()))
    try:
        with programs.hung(tmp_path) as (path, _), programs.connected() as (_, theirs):
            made = program.make(programs.plain(path))
            begun = made.start(theirs.fileno(), {})
            os.kill(begun[0], signal.SIGTERM)
            assert os.waitpid(begun[0], 0) == (begun[0], signal.SIGTERM)
            assert made.outcome(begun[1] or 0) == "executed"
        assert not caught
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught == [os.getpid()]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_no_handler_of_this_process_is_left_in_a_child(tmp_path: pathlib.Path) -> None:
    """The C library has one for its own signals as soon as there is a second thread."""
    script = """
        import pathlib, re, signal, threading
        made = program.make(programs.plain(sys.argv[1]))
        thread = threading.Thread(target=print)
        thread.start()
        thread.join()

        def caught(pid):
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            return int(re.search("^SigCgt:(.*)$", status, re.MULTILINE)[1], 16)

        with programs.connected() as (_, theirs):
            pid, number = made.start(theirs.fileno(), {})
            daemons.until(lambda: not caught(pid), "its signals")
            assert made.outcome(number) == "pending"
            assert caught(os.getpid())
            os.kill(pid, signal.SIGKILL)
    """
    with programs.hung(tmp_path) as (path, _):
        assert programs.alone(script, path) == b"\n"


def test_this_process_keeps_its_own_mask_and_handlers() -> None:
    fields = ("SigBlk", "SigIgn", "SigCgt")

    def own() -> list[str]:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return [line for line in lines if line.startswith(fields)]

    made = program.make(programs.plain("/bin/true"))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        was = own()
        with programs.connected() as (_, theirs):
            pid = programs.start(made, theirs.fileno())
            assert os.waitpid(pid, 0) == (pid, 0)
        assert own() == was
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_way_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "has_native", False)
    monkeypatch.delenv(spawn.WISH, raising=False)
    assert spawn.way() == "portable"
    monkeypatch.setenv(spawn.WISH, "native")
    with pytest.raises(spawn.UnknownWayError, match="without a C compiler"):
        spawn.way()
    monkeypatch.setenv(spawn.WISH, "quick")
    with pytest.raises(spawn.UnknownWayError, match='must be "native" or "portable", not \'quick\''):
        spawn.way()


def test_orders_that_make_no_sense() -> None:
    order: Callable[..., Any] = spawn.native.order
    start_: Callable[..., Any] = spawn.native.start
    outcome = spawn.native.outcome
    right: tuple[Any, ...] = (b"/bin/true\0", b"A=1\0", ("A",), -1, 0, False, (), b"", False)
    wrong: list[tuple[int, Any, type[Exception]]] = [
        (0, b"", ValueError),
        (0, b"/bin/true", ValueError),
        (0, "/bin/true", TypeError),
        (1, b"A=1", ValueError),
        (2, (), ValueError),
        (2, ["A"], TypeError),
        (6, ((1,),), TypeError),
        (6, ((1, 1),) * 17, ValueError),
        (6, [], TypeError),
    ]
    for place, value, error in wrong:
        with pytest.raises(error):
            order(*right[:place], value, *right[place + 1 :])
    made = order(*right)
    calls: list[tuple[Any, ...]] = [
        (),
        (made, 0),
        (made, "x", {}),
        (made, 0, []),
        (made, 0, {"A": 1}),
        (made, 0, {1: "A"}),
    ]
    for given in calls:
        with pytest.raises(TypeError):
            start_(*given)
    with pytest.raises(ValueError, match="PyCapsule_GetPointer"):
        start_(object(), 0, {})
    for descriptor in (-1, 2**32):
        with pytest.raises(ValueError, match="no descriptor"):
            start_(made, descriptor, {})
    for number in (-1, 1000, 0, 2**40):
        with pytest.raises(ValueError, match="no such job"):
            outcome(number)


def test_without_processes(tmp_path: pathlib.Path) -> None:
    """The parent knows at once, and the job is free."""
    if os.geteuid():
        pytest.skip("needs root, to become a user without processes")
    script = """
        made = program.make(programs.plain("/bin/true"))
        os.setgroups([])
        os.setresuid(54322, 54322, 54322)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        with programs.connected() as (_, theirs):
            for _ in range(100):
                try:
                    made.start(theirs.fileno(), {})
                except BlockingIOError as error:
                    last = error.strerror
        print(last)
    """
    tmp_path.chmod(stat.S_IRWXU)

    assert programs.alone(script) == b"Resource temporarily unavailable\n"


def test_a_stopped_child(tmp_path: pathlib.Path) -> None:
    with programs.hung(tmp_path) as (path, lease), programs.connected() as (_, theirs):
        made = program.make(programs.plain(path))
        begun = made.start(theirs.fileno(), {})
        os.kill(begun[0], signal.SIGSTOP)
        daemons.until(lambda: processes.stopped(begun[0]), "its stop")
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        assert made.outcome(begun[1] or 0) == "pending"
        os.kill(begun[0], signal.SIGCONT)
        assert os.waitpid(begun[0], 0) == (begun[0], 0)
        assert made.outcome(begun[1] or 0) == "executed"
