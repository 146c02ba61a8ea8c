"""control.sock from both of its sides, over the real socket."""

import contextlib
import errno
import json
import os
import pathlib
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import peers
from support.running import controls, daemons, processes

from tcpdconf.daemon.control import client as control_client
from tcpdconf.daemon.control import credentials, runtimedir
from tcpdconf.daemon.control import server as control_server
from tcpdconf.daemon.control.client import ControlConnection, ControlError
from tcpdconf.daemon.control.server import Command, Control, Reply, RunningError
from tcpdconf.daemon.process import channel, loop


def echo(request: dict[str, Any], reply: Reply) -> None:
    reply({"ok": True, "said": request.get("say")})


def descriptors(request: dict[str, Any], reply: Reply) -> None:
    read, write = os.pipe()
    os.write(write, b"through")
    reply({"ok": True}, [read] * request["count"])
    channel.close_all([read, write])


def fail(_request: dict[str, Any], _reply: Reply) -> None:
    raise ZeroDivisionError


def large(request: dict[str, Any], reply: Reply) -> None:
    reply({"ok": True, "data": "x" * request["size"]})


def twice(_request: dict[str, Any], reply: Reply) -> None:
    reply({"ok": True})
    reply({"ok": False})


late: list[Reply] = []
COMMANDS: dict[str, Command] = {
    "echo": echo,
    "descriptors": descriptors,
    "fail": fail,
    "large": large,
    "later": lambda _, reply: late.append(reply),
    "twice": twice,
    "unanswerable": lambda _, reply: reply({"ok": object()}),
}


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[controls.Server]:
    with controls.Server(tmp_path / "run", COMMANDS) as made:
        yield made


def lines(end: socket.socket) -> Iterator[dict[str, Any]]:
    with end.makefile("rb") as file:
        yield from (json.loads(line) for line in file)


def test_a_question_and_its_answer(server: controls.Server) -> None:
    directory = str(server.directory)

    assert control_client.ask(directory, {"command": "echo", "say": "x"}) == {"ok": True, "said": "x"}


def test_many_questions_of_one_client_come_in_order(server: controls.Server) -> None:
    with server.connect() as end:
        requests = b"".join(b'{"command": "echo", "say": %d}\n' % number for number in range(1500))
        end.sendall(requests)
        end.shutdown(socket.SHUT_WR)

        assert [answer["said"] for answer in lines(end)] == list(range(1500))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (b"echo\n", "the request must be one line of JSON"),
        (b"\xff\n", "the request must be one line of JSON"),
        (b"[" * 60_000 + b"\n", "the request must be one line of JSON"),
        (b"[]\n", 'the request must be an object with one of these as "command": echo, descriptors'),
        (b"{}\n", 'the request must be an object with one of these as "command": echo, descriptors'),
        (
            b'{"command": []}\n',
            'the request must be an object with one of these as "command": echo, descriptors',
        ),
        (
            b'{"command": "x"}\n',
            'the request must be an object with one of these as "command": echo, descriptors',
        ),
        (b"x" * (control_server.REQUEST + 1), "the request is too long: at most 65536 bytes"),
        (b'{"command": "fail"}\n', "a defect of tcpdconf: see the log"),
        (b'{"command": "unanswerable"}\n', "a defect of tcpdconf: see the log"),
        (b'{"command": "large", "size": 4194304}\n', "an answer of 4194329 bytes"),
    ],
)
def test_what_is_no_request(request_: bytes, error: str, server: controls.Server) -> None:
    with server.connect() as end:
        end.sendall(request_)
        answer = next(lines(end))

    assert answer["ok"] is False
    assert answer["error"].startswith(error)


def test_an_error_is_an_exception_for_commands(server: controls.Server) -> None:
    with pytest.raises(ControlError, match=rf"^the daemon \(pid {os.getpid()}\) says: a defect"):
        control_client.ask(str(server.directory), {"command": "fail"})


def test_large_answers(server: controls.Server) -> None:
    answer = control_client.ask(str(server.directory), {"command": "large", "size": 4_000_000})

    assert len(answer["data"]) == 4_000_000


DAEMON = """
import socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind("control.sock")
    listener.listen()
    print("ready", flush=True)
    end, _ = listener.accept()
    end.recv(1000)
    end.sendall(b"{}\\n")
    sys.stdin.read()
"""


def test_the_daemon_whose_end_is_awaited_is_the_one_that_has_answered(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may have been given to another process by then: so nobody looks for that."""
    command = [sys.executable, "-c", DAEMON]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with ControlConnection(str(tmp_path)) as end:
            assert end.pid == process.pid
            end.ask({"command": "stop"})
            process.communicate()
            monkeypatch.setattr(os, "pidfd_open", lambda _: pytest.fail("looks for a number"))
            end.wait()


@pytest.mark.parametrize("count", [1, 250, 600])
def test_answers_carry_descriptors(count: int, server: controls.Server) -> None:
    with ControlConnection(str(server.directory)) as end:
        assert end.ask({"command": "descriptors", "count": count}) == {"ok": True}
        assert len(end.fds) == count
        assert os.read(end.fds[-1], 100) == b"through"
        assert not any(os.get_inheritable(fd) for fd in end.fds)
        channel.close_all(end.fds)


def test_a_command_answers_when_it_is_ready_and_only_once(server: controls.Server) -> None:
    late.clear()
    with server.connect() as end, server.connect() as other:
        end.sendall(b'{"command": "later"}\n{"command": "twice"}\n')
        other.sendall(b'{"command": "echo", "say": 1}\n')
        assert next(lines(other)) == {"ok": True, "said": 1}
        (reply,) = late
        server.do(lambda: reply({"ok": True, "said": 2}))
        end.shutdown(socket.SHUT_WR)

        assert list(lines(end)) == [{"ok": True, "said": 2}, {"ok": True}]


def test_a_client_that_does_not_read_delays_nobody(server: controls.Server) -> None:
    with server.connect() as end:
        end.sendall(b'{"command": "large", "size": 4000000}\n')
        for number in range(20):
            answer = control_client.ask(str(server.directory), {"command": "echo", "say": number})
            assert answer["said"] == number


@pytest.mark.parametrize("sent", [b"", b'{"command": ', b'{"command": "large", "size": 4000000}\n'])
def test_a_client_that_stalls_is_closed(
    sent: bytes, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_server, "SECONDS", 1)
    with controls.Server(tmp_path / "run", COMMANDS) as made, made.connect() as end:
        end.sendall(sent)
        daemons.until(lambda: made.control._clients, "the connection")
        daemons.until(lambda: not made.control._clients, "its end")


def test_clients_at_once_are_bounded(server: controls.Server) -> None:
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(server.connect()) for _ in range(control_server.CLIENTS)]
        ends[-1].sendall(b'{"command": "echo"}\n')
        assert next(lines(ends[-1]))["ok"]
        with pytest.raises(ControlError, match="too many clients"):
            control_client.ask(str(server.directory), {"command": "echo"})
    daemons.until(lambda: not server.control._clients, "their end")
    assert control_client.ask(str(server.directory), {"command": "echo"})["ok"]


def test_no_answer_in_time(server: controls.Server) -> None:
    with pytest.raises(ControlError, match=r"^the daemon \(pid \d+\) does not answer within 0.1 s$"):
        control_client.ask(str(server.directory), {"command": "later"}, 0.1)


def leaves_nothing(server: controls.Server, before: int) -> None:
    """Earlier clients are gone, and as many descriptors are open as before."""
    assert control_client.ask(str(server.directory), {"command": "echo"})["ok"]
    daemons.until(lambda: not server.control._clients, "the end of all clients")
    assert processes.own_descriptors() == before


def test_without_room_for_descriptors_none_is_handed_over(
    server: controls.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More often than there are places; what was duplicated before is closed."""
    real, allowed = os.dup, 3

    def few(fd: int) -> int:
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(fd)

    before = processes.own_descriptors()
    for _ in range(2 * control_server.CLIENTS):
        allowed = 3
        monkeypatch.setattr(os, "dup", few)
        with pytest.raises(ControlError, match=r"says: cannot hand over 5 descriptors: Too many"):
            control_client.ask(str(server.directory), {"command": "descriptors", "count": 5})
        monkeypatch.setattr(os, "dup", real)
        leaves_nothing(server, before)
    with ControlConnection(str(server.directory)) as end:
        end.ask({"command": "descriptors", "count": 5})
        assert len(end.fds) == 5
        channel.close_all(end.fds)


def test_a_client_that_has_gone_waits_for_no_answer(server: controls.Server) -> None:
    """Its place is free, and nobody is confused by the answer."""
    late.clear()
    before = processes.own_descriptors()
    for number in range(2 * control_server.CLIENTS):
        with server.connect() as end:
            end.sendall(b'{"command": "later"}\n{"command": "echo"}\n')
            daemons.until(lambda number=number: len(late) > number, "the request")  # type: ignore[misc]
        leaves_nothing(server, before)
    for reply in late:
        server.do(lambda reply=reply: reply({"ok": True}, [0]))  # type: ignore[misc]
    leaves_nothing(server, before)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b'{"comm',
        b'{"command": "echo"}\n',
        b'{"command": "fail"}\n',
        b'{"command": "unanswerable"}\n',
        b'{"command": "descriptors", "count": 600}\n',
        b'{"command": "large", "size": 4000000}\n',
        b"x" * (control_server.REQUEST + 1),
    ],
    ids=["nothing", "half", "echo", "defect", "unanswerable", "descriptors", "large", "oversize"],
)
@pytest.mark.parametrize("how", [None, socket.SHUT_WR, socket.SHUT_RDWR], ids=["close", "half", "both"])
def test_a_client_that_does_not_wait_for_its_answer_leaves_nothing(
    sent: bytes, how: int | None, server: controls.Server
) -> None:
    before = processes.own_descriptors()
    for _ in range(control_server.CLIENTS + 1):
        with server.connect() as end:
            end.sendall(sent)
            if how is not None:
                end.shutdown(how)
        leaves_nothing(server, before)


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_nobody_else_may_connect(umask: int, tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").mkdir()
    before = os.umask(umask)
    try:
        with controls.Server(tmp_path / "run", COMMANDS) as server:
            mode = (server.directory / "control.sock").stat().st_mode
        assert os.umask(umask) == umask
    finally:
        os.umask(before)

    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)


def test_a_socket_that_cannot_take_its_place_leaves_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "control.sock").mkdir()
    before = processes.own_descriptors()
    for _ in range(2):
        with pytest.raises(IsADirectoryError):
            Control(loop.Loop(), str(tmp_path), {}, replace=True)

    assert [path.name for path in tmp_path.iterdir()] == ["control.sock"]
    assert processes.own_descriptors() == before


@pytest.mark.peer
def test_who_got_in_all_the_same_is_not_answered(
    server: controls.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers.need_root()
    monkeypatch.setattr(credentials, "of", lambda _: credentials.Credentials(1, 65534, 65534))
    with pytest.raises(ControlError, match="permission denied: commands are for root and the daemon's user"):
        control_client.ask(str(server.directory), {"command": "echo"})


def test_the_socket_goes_with_the_daemon(tmp_path: pathlib.Path) -> None:
    with controls.Server(tmp_path / "run", COMMANDS):
        pass

    assert list((tmp_path / "run").iterdir()) == []


def test_a_second_daemon_is_told_about_the_first(server: controls.Server) -> None:
    with pytest.raises(RunningError, match=rf"^pid {os.getpid()} already uses {server.directory}/control"):
        Control(loop.Loop(), str(server.directory), {})
    assert control_client.ask(str(server.directory), {"command": "echo"})["ok"]


def test_the_socket_of_a_daemon_that_died_is_replaced(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "control.sock"))
        stale.listen()
    with controls.Server(directory, COMMANDS):
        assert control_client.ask(str(directory), {"command": "echo"})["ok"]


def test_a_successor_takes_the_place_and_keeps_it(server: controls.Server) -> None:
    heir = Control(loop.Loop(), str(server.directory), {}, replace=True)
    server.do(server.control.close)
    with server.connect():
        assert sorted(path.name for path in server.directory.iterdir()) == ["control.sock"]
    server.control = heir


def test_a_client_that_is_kept_may_take_its_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its end is told."""
    monkeypatch.setattr(control_server, "SECONDS", 1)
    gone: list[int] = []

    def keep(_: dict[str, Any], reply: Reply) -> None:
        pid = reply.pid
        reply.keep(lambda: gone.append(pid))
        reply({"ok": True})

    with controls.Server(tmp_path / "run", {"keep": keep, **COMMANDS}) as server:
        with server.connect() as kept, server.connect() as other:
            kept.sendall(b'{"command": "keep"}\n')
            assert next(lines(kept)) == {"ok": True}
            other.sendall(b'{"command": "echo"}\n')
            assert [answer["ok"] for answer in lines(other)] == [True]  # it has had its time
            kept.sendall(b'{"command": "echo", "say": "still here"}\n')
            assert next(lines(kept))["said"] == "still here"
            assert gone == []
        daemons.until(lambda: gone, "that its end is told")
    assert gone == [os.getpid()]


def test_a_long_path(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / ("x" * 200)
    with controls.Server(directory, COMMANDS):
        assert control_client.ask(str(directory), {"command": "echo"})["ok"]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda _: None, r"no daemon runs: .*/control.sock: No such file or directory"),
        (lambda path: path.mkdir(), r"no daemon runs: .*/control.sock: No such file or directory"),
        (lambda path: path.touch(), r"no daemon runs: .*/control.sock: Not a directory"),
    ],
)
def test_without_a_daemon(make: Callable[[pathlib.Path], object], error: str, tmp_path: pathlib.Path) -> None:
    make(tmp_path / "run")
    with pytest.raises(ControlError, match=f"^{error}$"):
        control_client.ask(str(tmp_path / "run"), {"command": "echo"})


@pytest.mark.parametrize(
    ("environment", "uid", "argument", "found"),
    [
        ({}, 0, None, "/run/tcpdconf"),
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, None, "/run/tcpdconf"),
        ({"XDG_RUNTIME_DIR": "/run/user/5"}, 5, None, "/run/user/5/tcpdconf"),
        ({}, 5, None, None),
        ({"RUNTIME_DIRECTORY": "/run/a:/run/b"}, 0, None, "/run/a"),
        ({"RUNTIME_DIRECTORY": "/run/a"}, 5, "/here", "/here"),
    ],
)
def test_where_the_runtime_directory_is(
    environment: dict[str, str],
    uid: int,
    argument: str | None,
    found: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    assert runtimedir.find(argument) == found
