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
from support import markdown, peers
from support.running import daemons, processes, systemdbox

from tcpdconf.daemon.process import spawn

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


def write(box: systemdbox.Box, program: str, settings: str = "", log_level: str = "info") -> None:
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
        log_level = "{log_level}"
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
    """Return everything that a client reads after it says hello."""
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
        """Return the answers to clients that were not served to the end."""
        return [answer for answer in self.answers if answer != ANSWER]


def test_it_is_ready_when_every_service_accepts(box: systemdbox.Box) -> None:
    box.do("start", "tcpdconf")

    assert talk() == ANSWER
    assert (box.shown("ActiveState"), box.shown("StatusText")) == ("active", "1 service")
    assert box.shown("NFileDescriptorStore") == "1"


def test_the_unit_lets_a_group_through_to_guard_sock(box: systemdbox.Box) -> None:
    """It has no CAP_CHOWN; a member of the group has no right but his group."""
    file = box.conf / "test.toml"
    file.write_text(file.read_text().replace("[daemon]", '[daemon]\ncontrol_group = "nogroup"'))
    box.do("start", "tcpdconf")
    sockets = ["/run/tcpdconf/guard.sock", "/run/tcpdconf/control.sock"]
    reach = "import socket, sys; [socket.socket(socket.AF_UNIX).connect(path) for path in sys.argv[1:]]"
    member = [
        "setpriv",
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
        reach,
    ]

    assert box.run("stat", "-c", "%a %U %G", *sockets).stdout.split("\n")[:2] == [
        "660 root nogroup",
        "600 root root",
    ]
    assert box.run(*member, sockets[0]).returncode == 0
    assert "PermissionError" in box.run(*member, sockets[1]).stdout


def test_http_serves_under_the_unit(box: systemdbox.Box) -> None:
    """Its process has another user and no capability; its Unix socket belongs to a group."""
    file = box.conf / "test.toml"
    path = "/run/tcpdconf/http.sock"
    text = file.read_text()
    file.write_text(f'{text}\n[daemon.http]\nlisten = "unix:{path}"\ngroup = "nogroup"\n')
    box.do("start", "tcpdconf")
    ask = """
import socket, sys
end = socket.socket(socket.AF_UNIX)
end.connect(sys.argv[1])
end.sendall(b"GET /healthz HTTP/1.0\\r\\n\\r\\n")
print(end.recv(100))
"""
    member = ["setpriv", "--reuid=54321", "--regid=nogroup", "--clear-groups", "/usr/bin/python3", "-c", ask]

    assert box.run("stat", "-c", "%a %U %G", path).stdout.strip() == "660 root nogroup"
    assert "HTTP/1.1 " in box.run(*member, path).stdout
    pid = re.search(r"http ready .*pid=(\d+)", box.journal())
    assert pid is not None
    assert box.run("stat", "-c", "%U", f"/proc/{pid[1]}/mem").stdout.strip() == "root"  # not traced
    assert "Uid:\t65534" in box.run("cat", f"/proc/{pid[1]}/status").stdout


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
    _, refusal, why = box.shown("StatusText").partition("last reload rejected: ")
    assert refusal
    assert cause in why
    assert (talk(), main_pid(box)) == (b"changed\n", supervisor)
    assert box.shown("ActiveState") == "active"


def test_marked_packets_need_the_drop_in(box: systemdbox.Box) -> None:
    configure(box, settings='tcp = { interface = "lo", mark = 7 }')
    assert box.run("systemctl", "start", "tcpdconf").returncode != 0
    assert "services.test.tcp.mark: needs CAP_NET_RAW" in box.journal("--priority=err")
    box.run("systemctl", "stop", "tcpdconf")

    box.drop_in(UNIT.with_name("net-raw.conf").read_text())
    box.do("start", "tcpdconf")
    assert talk() == ANSWER


SHOW = "grep -E '^(Groups|NoNewPrivs):' /proc/self/status; nice; cat /proc/self/oom_score_adj"


def test_settings_of_a_service_that_the_unit_allows(box: systemdbox.Box) -> None:
    settings = """
        user = "nobody"
        supplementary_groups = ["daemon", 54321]
        oom_score_adjust = 500
        no_new_privileges = true
        max_duration = 60
        log_level = "warning"
    """
    configure(box, SHOW, settings)
    box.do("start", "tcpdconf")

    groups, privileges, nice, score = talk(b"").decode().splitlines()
    assert {"1", "54321"} < {*groups.split()[1:]}
    assert (privileges, nice, score) == ("NoNewPrivs:\t1", "0", "500")
    box.do("stop", "tcpdconf")
    assert "accept service=test" not in box.journal("--boot", "--lines=4")


NICE = UNIT.with_name("nice.conf").read_text()
FILTERED = (
    "services.test.nice: needs the system call setpriority, which SystemCallFilter= of the unit forbids"
)
SCORE = "[Service]\nOOMScoreAdjust=-500\n"
UNSCORED = "services.test.oom_score_adjust: needs CAP_SYS_RESOURCE, because the daemon has a higher value"
CAP_SYS_RESOURCE = 1 << 24


@pytest.mark.parametrize(
    ("setting", "shown", "without"),
    [
        ("nice = 5", ["5", "0"], ["0", "0"]),
        ("nice = -5", ["-5", "0"], ["0", "0"]),
        ("oom_score_adjust = -500", ["0", "-500"], ["0", "-500"]),
        ("oom_score_adjust = -400", ["0", "-400"], ["0", "-500"]),
    ],
    ids=["lower priority", "higher priority", "score of the unit", "score above it"],
)
def test_settings_of_a_service_that_need_a_drop_in(
    setting: str, shown: list[str], without: list[str], box: systemdbox.Box
) -> None:
    """At the start, at a reload, and before it."""
    cause, drop_in = (FILTERED, NICE) if setting.startswith("nice") else (UNSCORED, SCORE)
    configure(box, SHOW, f'user = "nobody"\n{setting}')
    assert box.run("systemctl", "start", "tcpdconf").returncode != 0
    assert (box.shown("ExecMainStatus"), cause in box.journal()) == ("78", True)

    configure(box, SHOW, 'user = "nobody"')
    box.do("start", "tcpdconf")
    configure(box, SHOW, f'user = "nobody"\n{setting}')
    previewed = box.run(systemdbox.COMMAND, "reload", "--dry-run", "--runtime-dir", "/run/tcpdconf")
    assert (previewed.returncode, cause in previewed.stdout) == (78, True)
    assert box.run("systemctl", "reload", "tcpdconf").returncode != 0
    assert talk(b"").decode().splitlines()[2:] == ["0", "0"]

    held = re.findall(r"^CapEff:\t(\w+)$", pathlib.Path("/proc/self/status").read_text(), re.MULTILINE)[0]
    if drop_in == SCORE and not int(held, 16) & CAP_SYS_RESOURCE:
        pytest.skip("root may not lower a score here, nor may systemd")
    box.drop_in(drop_in)
    box.do("restart", "tcpdconf")
    assert talk(b"").decode().splitlines()[2:] == shown
    configure(box, SHOW, 'user = "nobody"')
    box.do("reload", "tcpdconf")
    assert talk(b"").decode().splitlines()[2:] == without


def test_a_program_is_ended_after_its_time(box: systemdbox.Box) -> None:
    """Also one that has become another user, as imaplogin does."""
    become = "import os, time; os.setgid(65534); os.setuid(65534); print('here', flush=True); time.sleep(60)"
    write(box, json.dumps([sys.executable, "-c", become]), "max_duration = 5")
    box.do("start", "tcpdconf")
    with greeted(daemons.connect(PORT)) as client:
        assert daemons.read(client) == b""
    daemons.until(lambda: "ended=max-duration" in box.journal(), "the log")


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


def test_bans_are_in_the_state_directory_and_survive_a_crash(box: systemdbox.Box) -> None:
    box.do("start", "tcpdconf")
    tcpdconf = pathlib.Path(sys.executable).with_name("tcpdconf")
    done = box.run("env", "-i", tcpdconf, "ban", "127.0.0.9", "--force")
    assert (done.returncode, done.stdout) == (0, "")
    shown = box.run("stat", "--format=%a %U", "/var/lib/tcpdconf", "/var/lib/tcpdconf/bans").stdout
    assert shown.splitlines() == ["700 root", "600 root"]
    for _ in range(2):
        with daemons.connect(PORT, source="127.0.0.9") as client:
            assert client.recv(1) == b""
        assert talk() == ANSWER
        restarts = int(box.shown("NRestarts"))
        box.do("kill", "--kill-whom=main", "--signal=KILL", "tcpdconf")
        daemons.until(lambda restarts=restarts: int(box.shown("NRestarts")) > restarts, "the restart")  # type: ignore[misc]
        daemons.until(lambda: box.shown("ActiveState") == "active", "READY")
    box.run("env", "-i", tcpdconf, "unban", "127.0.0.9")


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


def test_a_drop_in_announces_a_stop_to_haproxy(box: systemdbox.Box) -> None:
    """As docs/how-to/proxy-protocol.md has it; it takes longer than the watchdog waits."""
    page = UNIT.parents[2] / "docs/how-to/proxy-protocol.md"
    (shown,) = (block.text for block in markdown.blocks(page, "ini"))
    asked = PORT + 1
    configure(box, PATIENT, f'agent = {{ listen = "127.0.0.1:{asked}", announce = "2s" }}')
    box.drop_in(shown.replace("/opt/tcpdconf/bin/tcpdconf", str(systemdbox.COMMAND)))
    box.do("start", "tcpdconf")
    assert daemons.talk(asked) == b"up 100% ready\n"
    served = greeted(daemons.connect(PORT))

    box.do("stop", "--no-block", "tcpdconf")
    daemons.until(lambda: daemons.talk(asked) == b"drain\n", "the announcement")
    late = greeted(daemons.connect(PORT))
    time.sleep(6)
    with pytest.raises(ConnectionRefusedError):
        daemons.connect(PORT)
    assert daemons.talk(asked) == b"drain\n"
    assert {answer(served), answer(late)} == {b"hello\n"}
    daemons.until(lambda: box.shown("ActiveState") == "inactive", "the end")

    assert box.shown("Result") == "success"


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


def entries(box: systemdbox.Box, *matches: str) -> list[dict[str, str]]:
    """The entries of the service's journal since its latest start that have these fields, oldest first."""
    invocation = box.shown("InvocationID")
    options = ["--output=json", f"_SYSTEMD_INVOCATION_ID={invocation}", *matches]
    return [json.loads(line) for line in box.journal(*options).splitlines()]


def test_the_journal_finds_lines_by_their_fields(box: systemdbox.Box) -> None:
    """The worker's user is not root, and its lines have its pid."""
    write(box, '["/bin/sh", "-c", "read word; echo $word; echo world; echo said >&2"]', 'user = "nobody"')
    box.do("start", "tcpdconf")
    assert talk() == ANSWER
    daemons.until(lambda: entries(box, "TCPDCONF_EVENT=end"), "the end")
    ready, accept, end = entries(box, "TCPDCONF_SERVICE=test")

    assert [each["TCPDCONF_EVENT"] for each in (ready, accept, end)] == ["ready", "accept", "end"]
    assert accept["MESSAGE"].startswith("accept service=test peer=127.0.0.1:")
    assert (accept["PRIORITY"], accept["_UID"], ready["_UID"]) == ("6", "65534", "0")
    assert accept["_PID"] == ready["TCPDCONF_PID"]
    assert {each["SYSLOG_IDENTIFIER"] for each in (ready, accept, end)} == {"tcpdconf"}
    assert (end["TCPDCONF_PEER"], end["TCPDCONF_PID"]) == (accept["TCPDCONF_PEER"], accept["TCPDCONF_PID"])
    assert len(entries(box, f"TCPDCONF_PEER={accept['TCPDCONF_PEER']}")) == 2
    assert [each["MESSAGE"] for each in entries(box) if "TCPDCONF_EVENT" not in each][-1] == "said"

    (box.conf / "test.toml").write_text("[services.test]\nusre = 1\n")
    assert box.run("systemctl", "reload", "tcpdconf").returncode != 0
    problem = entries(box, "TCPDCONF_CODE=unknown-key")[0]
    assert (problem["PRIORITY"], problem["TCPDCONF_LINE"]) == ("3", "2")
    assert problem["MESSAGE"].count("\n") > 2


def test_json_in_the_journal_is_the_message(box: systemdbox.Box) -> None:
    configure(box)
    box.do("start", "tcpdconf")
    assert talk() == ANSWER
    text = (box.conf / "test.toml").read_text()
    (box.conf / "test.toml").write_text(text + 'log_format = "json"\n')
    box.do("reload", "tcpdconf")
    assert talk() == ANSWER
    daemons.until(lambda: '"event":"end"' in box.journal(), "the end")
    said = [each for each in entries(box) if each["MESSAGE"].startswith("{")]

    assert [json.loads(each["MESSAGE"])["event"] for each in said] == ["reloaded", "accept", "end"]
    assert {each["PRIORITY"] for each in said} == {"6"}
    assert [each for each in said if "TCPDCONF_EVENT" in each] == []


def test_lines_of_a_crowd_are_in_order_and_none_is_missing(box: systemdbox.Box) -> None:
    configure(box)
    box.do("start", "tcpdconf")
    with Crowd() as crowd:
        crowd.await_more(200)
    count = len(crowd.answers)
    daemons.until(lambda: len(entries(box, "TCPDCONF_EVENT=end")) == count, "the ends")
    found = entries(box, "TCPDCONF_EVENT=accept", "TCPDCONF_EVENT=end")

    events: dict[str, list[str]] = {}
    for each in found:
        events.setdefault(each["TCPDCONF_PID"], []).append(each["TCPDCONF_EVENT"])
    assert (len(events), {*map(tuple, events.values())}) == (count, {("accept", "end")})
    assert "log lines lost" not in box.journal()


def test_a_journald_that_stands_still_or_is_replaced_keeps_nobody_waiting(box: systemdbox.Box) -> None:
    configure(box)
    box.do("start", "tcpdconf")
    try:
        box.do("kill", "--kill-whom=main", "--signal=STOP", "systemd-journald")
        with Crowd() as crowd:
            for _ in range(6):  # more lines than the kernel lets wait
                crowd.await_more(100)
    finally:
        box.do("kill", "--kill-whom=main", "--signal=CONT", "systemd-journald")
    assert (crowd.errors, crowd.cut) == ([], [])
    count = len(crowd.answers)
    daemons.until(lambda: len(entries(box, "TCPDCONF_EVENT=end")) == count, "the lines")

    box.do("restart", "systemd-journald")
    assert talk() == ANSWER
    daemons.until(lambda: len(entries(box, "TCPDCONF_EVENT=end")) == count + 1, "the line after it")


def test_programs_are_started_natively_and_have_their_limits(box: systemdbox.Box) -> None:
    """Nothing of the hardening stands against it."""
    if not spawn.has_native:
        peers.without("an installation with a C compiler")
    limits = "rlimits = { nofile = 77, core = 0 }"
    write(box, '["/bin/grep", "open files", "/proc/self/limits"]', limits, log_level="debug")
    box.do("start", "tcpdconf")

    assert daemons.talk(PORT).split()[-3:-1] == [b"77", b"77"]
    assert "starts programs service=test way=native" in box.journal()


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
