"""guard.sock: who may connect, what it takes, and how a reload changes it."""

import json
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import pytest
from support import peers
from support.running import controls, daemons, reloads

from tcpdconf.daemon.control import client as control_client
from tcpdconf.daemon.control import credentials
from tcpdconf.daemon.control.client import ControlConnection, ControlError
from tcpdconf.daemon.control.server import Reply
from tcpdconf.daemon.supervisor import control_sockets

GROUP, OTHER = 54321, 54322  # groups need no name
ECHO = 'program = ["/bin/echo", "in"]'
# says what is answered to a line, as another user: nothing of tcpdconf is needed for that
ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as end:
    end.settimeout(20)
    try:
        end.connect(sys.argv[1])
    except OSError as error:
        print('{"errno": %d}' % error.errno)
    else:
        end.sendall(sys.argv[2].encode() + b"\\n")
        print(end.makefile().readline())
"""

pytestmark = pytest.mark.peer


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder that every user gets into."""
    peers.need_root()
    with daemons.public_folder() as found:
        yield found


def own(group: object) -> str:
    return f"{reloads.ALONE}control_group = {json.dumps(group)}\n"


def running(folder: pathlib.Path, group: object = GROUP, **more: Any) -> reloads.Daemon:  # noqa: ANN401 (as Daemon's)
    """A daemon with a guard.sock."""
    text = f"control_group = {json.dumps(group)}\n" + reloads.service(daemons.free_port(), ECHO)
    return reloads.Daemon(folder, text, **more)


def asked(path: pathlib.Path | str, request: dict[str, Any], groups: Sequence[int] = (GROUP,)) -> Any:  # noqa: ANN401 (JSON)
    """Return the answer to a user with only these groups, or the errno."""
    peers.need("setpriv")
    rights = ["--reuid=65534", "--regid=65534", f"--groups={','.join(map(str, groups)) or '65534'}"]
    command = ["setpriv", *rights, "/usr/bin/python3", "-c", ASK, str(path), json.dumps(request)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=True)
    return json.loads(said.stdout)


def through_guard(daemon: daemons.Daemon, request: object) -> dict[str, Any]:
    """The answer on guard.sock."""
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(daemons.SECONDS)
        end.connect(f"{daemon.runtime}/guard.sock")
        end.sendall(json.dumps(request).encode() + b"\n")
        found: dict[str, Any] = json.loads(daemons.line(end))
        return found


def known(daemon: daemons.Daemon) -> list[str]:
    """All commands of the supervisor, as it names them itself."""
    with pytest.raises(ControlError) as error:
        control_client.ask(daemon.runtime, {"command": "no such command"})
    return str(error.value).rpartition(": ")[2].split(", ")


def modes(folder: pathlib.Path) -> dict[str, tuple[str, int]]:
    """Mode and group of the sockets."""
    found = {path.name: path.stat() for path in (folder / "run").iterdir()}
    return {name: (oct(stat.S_IMODE(each.st_mode)), each.st_gid) for name, each in found.items()}


def test_every_other_command_is_refused(folder: pathlib.Path) -> None:
    with running(folder) as daemon:
        names = known(daemon)
        assert {"status", "connections", "compare", "reload", "stop", "hand-over"} <= set(names)
        for name in {*names} - {*control_sockets.GUARDED}:
            answer = through_guard(daemon, {"command": name, "drain": 0})
            assert answer["ok"] is False
            assert answer["error"].startswith("the request must be an object with one of these"), name
            (line,) = daemon.await_log(f"^command refused name={name} ")
            assert line.endswith(f" socket=guard.sock uid=0 pid={os.getpid()}")
        nonsense: Any
        for nonsense in ({}, [], 1, None, {"command": None}, {"command": {}}, {"command": "Stop"}):
            assert through_guard(daemon, nonsense)["ok"] is False
        assert daemon.ask("status")["last_reload"]["ok"]
        assert daemon.process.poll() is None


def test_only_the_group_may_connect(folder: pathlib.Path) -> None:
    with running(folder):
        guard, control = folder / "run/guard.sock", folder / "run/control.sock"
        assert modes(folder) == {"control.sock": ("0o600", 0), "guard.sock": ("0o660", GROUP)}
        assert asked(guard, {"command": "status"})["error"].startswith("the request must be")
        assert asked(guard, {"command": "bans"}, [OTHER]) == {"errno": 13}
        assert asked(control, {"command": "status"}) == {"errno": 13}
    assert list((folder / "run").iterdir()) == []


def test_neither_the_umask_nor_lacking_cap_chown_matters(folder: pathlib.Path) -> None:
    """The shipped unit does not give CAP_CHOWN."""
    peers.need("setpriv")
    before = ["setpriv", "--bounding-set=-chown,-fowner", "sh", "-c", 'umask 0; exec "$@"', "sh"]
    with running(folder, before=before) as daemon:
        assert modes(folder)["guard.sock"] == ("0o660", GROUP)
        status = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
        assert str(GROUP) not in re.findall(r"^Groups:.*", status, re.MULTILINE)[0]


def test_a_reload_adds_changes_and_removes_it(folder: pathlib.Path) -> None:
    service = reloads.service(daemons.free_port(), ECHO)
    with reloads.Daemon(folder, service) as daemon:
        assert set(modes(folder)) == {"control.sock"}
        daemon.change(service)
        descriptors = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        daemon.change(service, own(GROUP))
        assert modes(folder)["guard.sock"] == ("0o660", GROUP)

        with socket.socket(socket.AF_UNIX) as former:
            former.settimeout(daemons.SECONDS)
            former.connect(str(folder / "run/guard.sock"))
            inode = (folder / "run/guard.sock").stat().st_ino
            daemon.change(service, own(GROUP))
            daemon.change(service.replace('"in"', '"more"'), own(GROUP))
            assert (folder / "run/guard.sock").stat().st_ino == inode
            daemon.change(service, own(OTHER))
            assert modes(folder)["guard.sock"] == ("0o660", OTHER)
            assert former.recv(1) == b""  # whoever was in the former group has to go
        assert asked(folder / "run/guard.sock", {}, [GROUP]) == {"errno": 13}
        assert asked(folder / "run/guard.sock", {}, [OTHER])["ok"] is False

        assert (
            "no-such-group" in daemon.refusal(own("no-such-group").removeprefix(reloads.ALONE) + service)[0]
        )
        assert modes(folder)["guard.sock"] == ("0o660", OTHER)
        daemon.change(service)
        assert set(modes(folder)) == {"control.sock"}
        assert daemon.ask("status")["last_reload"]["ok"]
        # the connections of the commands end a moment after their answers
        daemons.until(
            lambda: len(os.listdir(f"/proc/{daemon.process.pid}/fd")) <= descriptors, "the descriptors"
        )


def test_a_successor_takes_it_over(folder: pathlib.Path) -> None:
    with running(folder) as first:
        (folder / "second").mkdir()
        (folder / "second/run").symlink_to(folder / "run")
        text = (folder / "conf.d/test.toml").read_text()
        with daemons.Daemon(folder / "second", text, arguments=["--take-over"]) as second:
            assert first.process.wait(daemons.SECONDS) == 0
            assert modes(folder)["guard.sock"] == ("0o660", GROUP)
            assert through_guard(second, {})["ok"] is False
            with socket.socket(socket.AF_UNIX) as end:
                end.connect(str(folder / "run/guard.sock"))
                assert credentials.of(end).pid == second.process.pid
    assert list((folder / "run").iterdir()) == []


def test_one_that_a_dead_daemon_has_left_is_replaced(folder: pathlib.Path) -> None:
    with running(folder) as daemon:
        daemon.stop(signal.SIGKILL)
    assert set(modes(folder)) == {"control.sock", "guard.sock"}
    (folder / "second").mkdir()
    (folder / "second/run").symlink_to(folder / "run")
    with running(folder / "second") as daemon:
        assert through_guard(daemon, {})["ok"] is False


def test_a_directory_that_lets_nobody_through_is_told(folder: pathlib.Path) -> None:
    (folder / "run").mkdir(mode=0o700)
    with running(folder) as daemon:
        daemon.await_log(
            f"^warning: the mode of {folder}/run does not let group {GROUP} through to guard.sock"
        )


def test_a_directory_that_lets_only_the_group_through(folder: pathlib.Path) -> None:
    (folder / "run").mkdir()
    os.chown(folder / "run", 0, GROUP)
    (folder / "run").chmod(0o710)
    with running(folder) as daemon:
        assert not any("does not let group" in line for line in daemon.log)
        assert asked(folder / "run/guard.sock", {})["ok"] is False


def test_a_daemon_that_may_not_give_it_says_so(folder: pathlib.Path) -> None:
    peers.need("setpriv")
    text = f"[daemon]\ncontrol_group = {GROUP}\n" + reloads.service(daemons.free_port(), ECHO)
    conf = daemons.configure(folder, text)
    command = [sys.executable, "-m", "tcpdconf", "run", str(conf), "--runtime-dir", str(folder / "run")]
    without = ["setpriv", "--bounding-set=-setgid,-setuid"]
    ended = subprocess.run(
        [*without, *command], capture_output=True, text=True, timeout=daemons.SECONDS, check=False
    )
    assert ended.returncode == 78
    assert f"{conf}/test.toml:2:17: error: daemon.control_group: " in ended.stderr
    assert "needs root" in ended.stderr


def test_refused_commands_do_not_fill_the_log(folder: pathlib.Path) -> None:
    with running(folder) as daemon, socket.socket(socket.AF_UNIX) as end:
        end.settimeout(daemons.SECONDS)
        end.connect(f"{daemon.runtime}/guard.sock")
        end.sendall(b'{"command": "stop"}\n' * 1000)
        for _ in range(1000):
            assert b"error" in daemons.line(end)
        assert len([line for line in daemon.log if line.startswith("command refused")]) < 100
        daemon.await_log(r'^suppressed socket=guard\.sock line="command refused" unlogged=')


def test_a_member_bans_and_unbans(folder: pathlib.Path) -> None:
    """The group may ban no protected network, neither without force nor with it."""
    state = {"STATE_DIRECTORY": str(folder / "state")}
    with running(folder, environment=state) as daemon:
        guard = folder / "run/guard.sock"

        def banned() -> list[str]:
            return [each["network"] for each in asked(guard, {"command": "bans"})["bans"]]

        assert asked(guard, {"command": "ban", "networks": ["192.0.2.7"], "for": 60})["ok"]
        assert banned() == ["192.0.2.7"]
        for own in ("127.0.0.1", "::1", "10.0.0.0/7", "0.0.0.0/0"):
            assert asked(guard, {"command": "ban", "networks": [own]})["ok"] is False
            assert asked(guard, {"command": "ban", "networks": [own], "force": True})["ok"] is False
        assert banned() == ["192.0.2.7"]
        assert asked(guard, {"command": "unban", "networks": ["192.0.2.7"]})["ok"]
        assert banned() == []
        daemon.await_log(r"^command name=unban socket=guard\.sock uid=65534 ")
        assert asked(guard, {"command": "disconnect", "networks": ["192.0.2.7"]})["ok"] is False


class Sockets(controls.Threaded):
    """Both sockets, with commands that keep what they are asked in `asked`."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []
        commands = dict.fromkeys((*control_sockets.GUARDED, "status"), self._answer)
        self._sockets = control_sockets.ControlSockets(self.loop, str(directory), commands)
        self._sockets.open(replace=False)
        self._sockets.follow(GROUP)

    def _answer(self, request: dict[str, Any], reply: Reply) -> None:
        self.asked.append(request)
        reply({"ok": True})

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, value, trace)
        self._sockets.close()


def test_its_commands_are_taken_but_never_with_force(folder: pathlib.Path) -> None:
    directory = folder / "run"
    with Sockets(directory) as sockets:
        for name in control_sockets.GUARDED:
            assert asked(directory / "guard.sock", {"command": name, "address": "192.0.2.1"}) == {"ok": True}
            for force in (True, 1, "yes"):
                answer = asked(directory / "guard.sock", {"command": name, "force": force})
                assert answer["error"] == "guard.sock does not take force: ask over control.sock"
            assert asked(directory / "guard.sock", {"command": name, "force": False})["ok"]
        assert len(sockets.asked) == 6
        assert control_client.ask(str(directory), {"command": "ban", "force": True})["ok"]


def test_a_command_goes_through_guard_only_where_it_must(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = folder / "run"
    with Sockets(directory), ControlConnection(str(directory), or_guard=True) as end:
        assert end.ask({"command": "status"}) == {"ok": True}  # which guard.sock does not take
    connect = socket.socket.connect

    def barred(self: socket.socket, address: str) -> None:
        if address.endswith("control.sock"):
            raise PermissionError(13, "Permission denied")
        connect(self, address)

    with Sockets(directory):
        monkeypatch.setattr(socket.socket, "connect", barred)
        assert control_client.ask(str(directory), {"command": "ban"}, or_guard=True) == {"ok": True}
        with pytest.raises(ControlError, match=r"control\.sock: Permission denied"):
            control_client.ask(str(directory), {"command": "ban"})
    with pytest.raises(ControlError, match=r"cannot talk to the daemon: .*control\.sock: Permission denied"):
        control_client.ask(str(directory), {"command": "ban"}, or_guard=True)
