"""The shipped units under the real systemd, which is PID 1 of a box of its own (support.running.systemdbox).

Of the shipped service nothing is changed but where its tcpdconf and its conf.d are, and WatchdogSec, which is
4 here. Nothing of its hardening is taken back: the box has all that it needs.
"""

import json
import pathlib
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import pytest
from support.running import daemons, processes, systemdbox

pytestmark = [pytest.mark.peer, pytest.mark.slow]

PORT = 4025  # that of the shipped socket; in the box nobody else has it
UNIT = pathlib.Path(__file__).parents[2] / "deploy/systemd/tcpdconf.service"
RESTARTS, EACH = 3, 20
AT_A_TIME = 4
# it says when it is told to end, and ends when it has answered
PATIENT = "trap 'echo stopping' TERM; echo here; read word || read word; echo $word"
ANSWER = b"hello\nworld\n"


@pytest.fixture(scope="module")
def booted() -> Iterator[systemdbox.Box]:
    with systemdbox.Box() as box:
        yield box


@pytest.fixture
def box(booted: systemdbox.Box) -> Iterator[systemdbox.Box]:
    """The booted systemd, in which the service has not been started yet."""
    configure(booted)
    yield booted
    booted.run("systemctl", "stop", "tcpdconf.socket", "tcpdconf.service")
    booted.run("systemctl", "reset-failed")
    booted.drop_in()


def configure(
    box: systemdbox.Box, program: str = "read word; echo $word; echo world", settings: str = ""
) -> None:
    """Write a service whose program is a shell's."""
    write(box, f'["/bin/sh", "-c", "{program}"]', settings)


def write(box: systemdbox.Box, program: str, settings: str = "") -> None:
    """Write a service with one listener."""
    (box.conf / "test.toml").write_text(f"""
        [services.test]
        program = {program}
        {settings}
        [[services.test.listeners]]
        address = "127.0.0.1"
        port = {PORT}
        [services.test.limits]
        max_connections = 100
        max_per_ip = 100
        [daemon]
        watch = false
    """)


def talk(say: bytes = b"hello\n") -> bytes:
    return daemons.talk(PORT, say=say)


def main_pid(box: systemdbox.Box) -> int:
    """The supervisor's pid in the box."""
    return int(box.shown("MainPID"))


def greeted(client: socket.socket) -> socket.socket:
    """The client, when its program has begun."""
    assert daemons.line(client) == b"here\n"
    return client


def answer(client: socket.socket) -> bytes:
    """What a client hears who says hello, to the end."""
    with client:
        client.sendall(b"hello\n")
        return daemons.read(client)


class Crowd:
    """Clients, four at a time, one after the other, from entering to leaving."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.errors: list[OSError] = []
        self._leave = threading.Event()
        self._threads = [threading.Thread(target=self._come) for _ in range(AT_A_TIME)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.set()
        for thread in self._threads:
            thread.join()

    def _come(self) -> None:
        while not self._leave.is_set():
            try:
                self.answers.append(talk())
            except OSError as error:
                self.errors.append(error)

    def await_more(self, count: int) -> None:
        """Wait until so many more were answered."""
        enough = len(self.answers) + count
        daemons.until(lambda: len(self.answers) >= enough, f"{count} more clients")

    @property
    def cut(self) -> list[bytes]:
        """What those heard who were not served to the end."""
        return [answer for answer in self.answers if answer != ANSWER]


def test_it_is_ready_when_every_service_accepts(box: systemdbox.Box) -> None:
    box.do("start", "tcpdconf")

    assert talk() == ANSWER
    assert (box.shown("ActiveState"), box.shown("StatusText")) == ("active", "1 service")
    assert box.shown("NFileDescriptorStore") == "1"


def test_a_reload_is_taken_on_or_fails_and_says_why(box: systemdbox.Box) -> None:
    box.do("start", "tcpdconf")
    supervisor = main_pid(box)

    configure(box, "read word; echo changed")
    box.do("reload", "tcpdconf")
    assert talk() == b"changed\n"

    configure(box, "echo never", "umaks = '022'")
    assert box.run("systemctl", "reload", "tcpdconf").returncode != 0

    cause = "test.toml:4:9: error: services.test.umaks: unknown key"
    assert cause in box.journal("--priority=err")
    _, refusal, why = box.shown("StatusText").partition("the last reload was refused: ")
    assert refusal
    assert cause in why
    assert (talk(), main_pid(box)) == (b"changed\n", supervisor)
    assert box.shown("ActiveState") == "active"


def test_a_stop_leaves_nothing(box: systemdbox.Box) -> None:
    configure(box, "echo here; read word")
    box.do("start", "tcpdconf")
    with daemons.connect(PORT) as client:
        assert daemons.line(client) == b"here\n"
        assert len(box.processes()) == 3
        box.do("stop", "tcpdconf")
        assert daemons.read(client) == b""

    assert box.processes() == []
    assert (box.shown("ActiveState"), box.shown("Result")) == ("inactive", "success")
    assert box.shown("NFileDescriptorStore") == "0"
    assert processes.listening() == set()
    assert box.run("ls", "/run/tcpdconf").returncode != 0
    with pytest.raises(ConnectionRefusedError):
        daemons.connect(PORT)


def test_a_killed_daemon_comes_back_and_refuses_nobody(box: systemdbox.Box) -> None:
    """Only those whose programs run at that moment are cut off, with the programs."""
    box.do("start", "tcpdconf")
    before = main_pid(box)
    with Crowd() as crowd:
        crowd.await_more(1)
        box.do("kill", "--kill-whom=main", "--signal=KILL", "tcpdconf")
        daemons.until(lambda: box.shown("NRestarts") == "1", "the restart")
        assert box.shown("NFileDescriptorStore") == "1"
        assert talk() == ANSWER
        crowd.await_more(1)

    assert (crowd.errors, len(crowd.cut) <= AT_A_TIME) == ([], True), crowd.cut
    assert main_pid(box) != before
    assert (box.shown("ActiveState"), box.shown("NFileDescriptorStore")) == ("active", "1")


def test_the_watchdog_replaces_a_daemon_that_stands_still(box: systemdbox.Box) -> None:
    box.do("start", "tcpdconf")
    before = main_pid(box)
    box.do("kill", "--kill-whom=main", "--signal=STOP", "tcpdconf")
    daemons.until(lambda: box.shown("NRestarts") == "1", "the watchdog")

    assert talk() == ANSWER
    daemons.until(lambda: box.shown("ActiveState") == "active", "READY")
    assert main_pid(box) != before


def test_restarts_under_load_lose_nobody(box: systemdbox.Box) -> None:
    """Neither those whose programs go on to their end when they are told to end, nor those who come then."""
    configure(box, PATIENT)
    box.do("start", "tcpdconf")
    served = [greeted(daemons.connect(PORT)) for _ in range(EACH)]
    for _ in range(RESTARTS):
        box.do("restart", "--no-block", "tcpdconf")
        assert {daemons.line(client) for client in served} == {b"stopping\n"}
        waiting = [daemons.connect(PORT) for _ in range(EACH)]
        assert {answer(client) for client in served} == {b"hello\n"}
        served = [greeted(client) for client in waiting]
    assert {answer(client) for client in served} == {b"hello\n"}


def test_the_first_client_starts_it(box: systemdbox.Box) -> None:
    box.do("start", "tcpdconf.socket")
    for _ in range(2):
        assert box.shown("ActiveState") == "inactive"

        assert talk() == ANSWER

        daemons.until(lambda: box.shown("ActiveState") == "active", "READY")
        assert box.shown("NFileDescriptorStore") == "0"  # the socket is the unit's
        box.do("stop", "tcpdconf.service")
    assert processes.listening() == {PORT}


def test_restarts_by_hand_are_never_refused(box: systemdbox.Box) -> None:
    began = time.monotonic()
    for _ in range(6):
        box.do("restart", "tcpdconf")
    assert time.monotonic() - began < 60
    assert talk() == ANSWER


def test_a_configuration_that_cannot_be_used_is_not_tried_again(box: systemdbox.Box) -> None:
    configure(box, settings="usre = 'nobody'")
    assert box.run("systemctl", "start", "tcpdconf").returncode != 0
    assert (box.shown("ActiveState"), box.shown("ExecMainStatus")) == ("failed", "78")
    assert box.shown("NRestarts") == "0"
    assert "services.test.usre: unknown key" in box.journal("--priority=err")

    configure(box)
    box.do("start", "tcpdconf")

    assert talk() == ANSWER


def test_a_crash_is_tried_again_until_it_is_over(box: systemdbox.Box) -> None:
    box.drop_in("[Service]\nExecStart=\nExecStart=/bin/false\n")
    assert box.run("systemctl", "start", "tcpdconf").returncode != 0
    daemons.until(lambda: int(box.shown("NRestarts")) > 5, "more than five attempts")
    assert box.shown("ActiveState") == "activating"
    box.drop_in()

    daemons.until(lambda: box.shown("ActiveState") == "active", "a start")
    assert talk() == ANSWER


def test_a_service_of_another_user_keeps_no_rights(box: systemdbox.Box) -> None:
    write(
        box,
        '["/bin/grep", "-E", "^(Uid|Groups|Cap(Inh|Prm|Eff|Amb)):", "/proc/self/status"]',
        'user = "nobody"',
    )
    box.do("start", "tcpdconf")

    found = dict(line.split(":\t") for line in daemons.talk(PORT).decode().splitlines())

    assert found.pop("Uid").split() == ["65534"] * 4
    assert "0" not in found.pop("Groups").split()
    assert {int(mask, 16) for mask in found.values()} == {0}


# Says what a program can do. What succeeds without the unit's hardening touches nothing outside of the box.
PROBE = """
import ctypes, json, os, socket, sys, tempfile

def outcome(act, *arguments):
    try:
        act(*arguments)
    except OSError as error:
        return error.strerror
    return "done"

def system_call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def set_user_id():
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4755)

def look(path, mode):
    if not os.access(path, mode):
        raise OSError(0, "no")

json.dump({
    "write /usr": outcome(look, "/usr", os.W_OK),
    "write /etc": outcome(look, "/etc", os.W_OK),
    "write /var": outcome(look, "/var", os.W_OK),
    "write /proc/sys": outcome(look, "/proc/sys/kernel/hostname", os.W_OK),
    "write /sys/fs/cgroup": outcome(look, "/sys/fs/cgroup/cgroup.procs", os.W_OK),
    "see /tmp": outcome(look, "/tmp/of-the-box", os.F_OK),
    "see /dev": outcome(look, "/dev/kmsg", os.F_OK),
    "set the host's name": outcome(socket.sethostname, "box"),
    "speak to the network card": outcome(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
    "speak to authdaemond": outcome(socket.socket, socket.AF_UNIX),
    "make a set-user-ID file": outcome(set_user_id),
    "go before others": outcome(os.nice, -1),
    "make a namespace": outcome(system_call, "unshare", 0x04000000),
    "switch off randomised addresses": outcome(system_call, "personality", 0x0040000),
    "read the kernel's log": outcome(system_call, "klogctl", 10, None, 0),
    "capabilities": next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapBnd:")),
}, sys.stdout)
"""
HELD_BACK = {
    **dict.fromkeys(
        ["write /usr", "write /etc", "write /proc/sys", "write /sys/fs/cgroup", "see /tmp", "see /dev"], "no"
    ),
    **dict.fromkeys(["write /var", "speak to authdaemond"], "done"),  # mail is there, and users
    "speak to the network card": "Address family not supported by protocol",
    **dict.fromkeys(
        [
            "set the host's name", "make a set-user-ID file", "go before others", "make a namespace",
            "switch off randomised addresses", "read the kernel's log",
        ],
        "Operation not permitted",
    ),
}  # fmt: skip
# their numbers in linux/capability.h
CAPABILITIES = {
    "CAP_DAC_OVERRIDE": 1, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_NET_BIND_SERVICE": 10,
    "CAP_LEASE": 28,
}  # fmt: skip


def test_the_hardening_holds_for_programs_of_root(box: systemdbox.Box) -> None:
    (box.folder / "probe.py").write_text(PROBE)
    command = [sys.executable, "/run/box/probe.py"]
    box.run("touch", "/tmp/of-the-box")
    free = json.loads(box.run(*command).stdout)
    write(box, json.dumps(command))
    box.do("start", "tcpdconf")

    confined = json.loads(daemons.talk(PORT))

    del free["capabilities"]
    assert set(free.values()) == {"done"}, free
    (kept,) = re.findall("^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    allowed = sum(1 << CAPABILITIES[name] for name in kept.split())
    assert int(confined.pop("capabilities"), 16) & ~allowed == 0
    assert confined == HELD_BACK
