"""Starting programs, natively and portably: what both ways do. The native one has more in test_spawn.py."""

import errno
import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest
from support import peers
from support.running import programs

from tcpdconf.config.model import tables
from tcpdconf.daemon.process import spawn
from tcpdconf.daemon.worker import program

NATIVE = pytest.mark.skipif(
    not spawn.has_native, reason="needs the C extension: install tcpdconf where there is a C compiler"
)


def test_the_extension_is_there() -> None:
    """Without it, the tests of the native way are skipped; in CI this test fails then."""
    if not spawn.has_native:
        peers.without("a C compiler and Python's headers, when tcpdconf is installed")


@pytest.fixture(params=[pytest.param("native", marks=NATIVE), "portable"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the way of starting programs in this test."""
    monkeypatch.setenv(spawn.WISH, request.param)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_a_program_has_its_connection_and_its_environment() -> None:
    script = "printenv | sort; echo error >&2"
    base = {"A": "1", "B": "1", "PATH": "/bin"}
    setting = program.Setting(["/bin/sh", "-c", script], base, "socket")
    found = programs.said(setting, {"B": "2", "C": "one\udce9\nC=2"})

    assert found == b"A=1\nB=2\nC=2\nC=one\xe9\nPATH=/bin\nPWD=" + os.getcwdb() + b"\nerror\n"


@pytest.mark.usefixtures("way")
def test_environments_of_any_size() -> None:
    """One after the other, so that a job is used again; also a variable without a name."""
    base = {f"BASE{number}": "é" for number in range(300)}
    for count, size in ((0, 0), (1000, 1), (1, 100_000), (50, 50), (1000, 100)):
        variables = {f"NAME{number}": "x" * size for number in range(count)} | {"BASE7": "1", "": "nothing"}
        wanted = {f"{name}={value}".encode() for name, value in (base | variables).items()}
        found = programs.said(program.Setting(["/usr/bin/env"], base, "socket"), variables).splitlines()
        assert (set(found), len(found)) == (wanted, len(wanted))


@pytest.mark.usefixtures("way")
def test_arguments_are_passed_as_they_are() -> None:
    setting = program.Setting(["/usr/bin/printf", "%s|", "", "a b", "\udcff", "é"], {}, "socket")

    assert programs.said(setting) == b"|a b|\xff|\xc3\xa9|"


@pytest.mark.usefixtures("way")
def test_the_signals_of_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is ignored or blocked; with the drop-in they are as its own were, but for those it sets itself."""
    script = (
        "import signal, sys\n"
        "for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(number, signal.SIG_DFL)\n"  # a shell may have had some ignored
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGWINCH, lambda *_: None)\n"
        "signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR2])\n"
        "from support.running import programs; programs.tell(sys.argv[1])"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    toml, dropin = (
        programs.masks(
            subprocess.run([sys.executable, "-c", script, name], check=True, capture_output=True).stdout
        )
        for name in ("TOML", "COURIERTCPD")
    )

    assert toml == {"SigBlk:": set(), "SigIgn:": set()}
    assert dropin == {"SigBlk:": {signal.SIGUSR2}, "SigIgn:": {signal.SIGUSR1}}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("missing", errno.ENOENT),
        ("plain", errno.EACCES),
        ("garbage", errno.ENOEXEC),
        ("loop", errno.ELOOP),
        ("plain/below", errno.ENOTDIR),
        ("x" * 300, errno.ENAMETOOLONG),
        ("busy", errno.ETXTBSY),
        (".", errno.EACCES),
    ],
)
def test_what_cannot_be_run(tmp_path: pathlib.Path, path: str, expected: int) -> None:
    (tmp_path / "plain").touch(0o600)
    (tmp_path / "garbage").write_bytes(b"\0\1")
    (tmp_path / "garbage").chmod(0o700)
    (tmp_path / "loop").symlink_to("loop")
    made = program.make(programs.plain(str(tmp_path / path)))
    with (tmp_path / "busy").open("wb") as writer, programs.connected() as (_, theirs):
        (tmp_path / "busy").chmod(0o700)
        writer.write(pathlib.Path("/bin/true").read_bytes())
        writer.flush()
        with pytest.raises(OSError, match=r".") as raised:
            programs.start(made, theirs.fileno())

    assert (raised.value.errno, raised.value.strerror) == (expected, os.strerror(expected))
    assert raised.value.filename == str(tmp_path / path)


@pytest.mark.usefixtures("way")
def test_too_long_an_environment() -> None:
    made = program.make(programs.plain("/bin/true"))
    with programs.connected() as (_, theirs):
        with pytest.raises(OSError, match="Argument list too long"):
            programs.start(made, theirs.fileno(), {"A": "x" * 200_000})
        pid = programs.start(made, theirs.fileno())
        assert os.waitpid(pid, 0) == (pid, 0)


@pytest.mark.usefixtures("way")
def test_a_nul_does_not_end_a_variable() -> None:
    made = program.make(programs.plain("/bin/true"))
    with programs.connected() as (_, theirs):
        for variables in ({"A": "b\0c"}, {"A\0": "b"}, {"A": "\udcff\0"}):
            with pytest.raises(ValueError, match="null byte"):
                made.start(theirs.fileno(), variables)
    with pytest.raises(ValueError, match="null byte"):
        program.make(programs.plain("/bin/true", "a\0b"))


@pytest.mark.usefixtures("way")
def test_limits_are_those_of_the_program() -> None:
    wanted = {"as": "1GiB", "core": 0, "cpu": 60, "nofile": 77, "stack": "4MiB", "fsize": "unlimited"}
    setting = program.Setting(
        ["/bin/cat", "/proc/self/limits"], {}, "socket", tables.Rlimits.model_validate(wanted)
    )
    found = {
        line[:25].strip(): line[25:].split()[:2] for line in programs.said(setting).decode().splitlines()
    }

    assert found["Max address space"] == [str(2**30)] * 2
    assert found["Max core file size"] == ["0"] * 2
    assert found["Max cpu time"] == ["60"] * 2
    assert found["Max open files"] == ["77"] * 2
    assert found["Max stack size"] == [str(2**22)] * 2
    assert found["Max file size"] == ["unlimited"] * 2
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] != 77


def test_any_descriptors_become_the_standard_ones(way: str) -> None:
    """Posix_spawn would replace descriptors 0 and 1 before it duplicates them; a worker has those open."""
    script = """
        import itertools
        for connection, stderr in itertools.product((0, 1, 2, 7), (0, 1, 2, 8, "socket")):
            if connection != stderr and (sys.argv[1] == "native" or stderr not in (0, 1)):
                pid = os.fork()
                if pid == 0:
                    try:
                        programs.become_standard(connection, stderr)
                    finally:
                        os._exit(1)
                assert os.waitpid(pid, 0) == (pid, 0), (connection, stderr)
        print("all of them")
    """
    assert programs.alone(script, way) == b"all of them\n"


@pytest.mark.usefixtures("way")
def test_the_interpreters_descriptors_stay_here(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "file").open("w") as opened:
        os.set_inheritable(opened.fileno(), False)
        found = programs.said(program.Setting(["/bin/ls", "/proc/self/fd"], {}, "socket"))

    assert found.split() == [b"0", b"1", b"2", b"3"]  # the last is the directory


@pytest.mark.usefixtures("way")
def test_a_connection_beyond_the_limit_of_descriptors(way: str) -> None:
    """Somebody has lowered the limit since: posix_spawn refuses that, the kernel does not."""
    made = program.make(programs.plain("/bin/true"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with programs.connected() as (_, theirs):
        resource.setrlimit(resource.RLIMIT_NOFILE, (theirs.fileno(), hard))
        try:
            begun = made.start(theirs.fileno(), {})
        except OSError as error:
            refused = error.errno
        else:
            refused = 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if way == "portable":
        assert refused == errno.EMFILE
    else:
        assert os.waitpid(begun[0], 0)[1] == 0
        assert programs.settled(made, begun[1] or 0) == "executed"
