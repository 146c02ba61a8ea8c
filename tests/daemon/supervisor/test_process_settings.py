"""Settings of a service's processes: a program shows them, and an impossible one is a problem."""

import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import peers
from support.running import daemons, reloads

from tcpdconf.config import host
from tcpdconf.config.model.service import Service
from tcpdconf.daemon.process import child
from tcpdconf.daemon.supervisor import process_settings

pytestmark = pytest.mark.slow

# of a program: whether it may gain rights, its groups, how soon it is killed, its nice value
SHOW = """program = ["/bin/sh", "-c", '''
    grep -E "^(NoNewPrivs|Groups):" /proc/self/status; cat /proc/self/oom_score_adj; nice
''']
"""
NICE = os.getpriority(os.PRIO_PROCESS, 0)
USER, GROUP = 54321, 54322
UNPRIVILEGED = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")


def shown(port: int) -> tuple[int, list[int], int, int]:
    """The same of the program of a service."""
    groups, may_not, *numbers = daemons.talk(port).decode().splitlines()
    adjust, nice = map(int, numbers)
    return int(may_not.split()[1]), [int(group) for group in groups.split()[1:]], adjust, nice


@pytest.fixture
def port() -> int:
    return daemons.free_port()


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder of a user who has no rights."""
    peers.need_other_users()
    with daemons.public_folder() as made:
        os.chown(made, USER, USER)
        yield made


def test_by_default_a_program_is_as_the_daemon(tmp_path: pathlib.Path, port: int) -> None:
    inherited = int(pathlib.Path("/proc/self/oom_score_adj").read_text())
    with reloads.Daemon(tmp_path, reloads.service(port, SHOW)):
        assert shown(port) == (0, sorted(os.getgroups()), inherited, NICE)


def test_a_program_has_them_and_a_change_gives_it_another_worker(tmp_path: pathlib.Path, port: int) -> None:
    values = {"no_new_privileges": 0, "oom_score_adjust": 900, "nice": NICE}
    written = {"no_new_privileges": "true", "oom_score_adjust": "1000", "nice": "19"}
    after = {"no_new_privileges": 1, "oom_score_adjust": 1000, "nice": 19}
    settings = f"{SHOW}oom_score_adjust = 900\n"
    with reloads.Daemon(tmp_path, reloads.service(port, settings)) as daemon:
        workers = {daemon.uses()["pid"]}
        for key, value in written.items():
            settings = re.sub(rf"^{key} = .*\n", "", settings, flags=re.MULTILINE) + f"{key} = {value}\n"
            assert daemon.change(reloads.service(port, settings)) == ["test"]
            values[key] = after[key]
            may_not, _, adjust, nice = shown(port)
            assert {"no_new_privileges": may_not, "oom_score_adjust": adjust, "nice": nice} == values
            workers.add(daemon.uses()["pid"])
        assert len(workers) == 4

        assert daemon.change(reloads.service(port, f"{SHOW}oom_score_adjust = 900\n")) == ["test"]
        assert shown(port)[::2] == (0, 900)


@pytest.mark.peer
@pytest.mark.parametrize(
    ("identity", "groups"),
    [
        (f"user = {USER}\ngroup = {USER}", [GROUP, USER]),
        (f"group = {USER}", [GROUP]),
        ("", sorted({*os.getgroups(), GROUP})),
        ('user = "root"', sorted({*os.getgrouplist("root", 0), GROUP})),
    ],
)
def test_supplementary_groups_are_added(
    identity: str, groups: list[int], tmp_path: pathlib.Path, port: int
) -> None:
    peers.need_root()
    settings = f"{SHOW}{identity}\nsupplementary_groups = [{GROUP}]"
    with reloads.Daemon(tmp_path, reloads.service(port, settings)) as daemon:
        assert sorted(shown(port)[1]) == sorted(groups)
        status = pathlib.Path(f"/proc/{daemon.uses()['pid']}/status").read_text()
        assert re.findall(r"^Groups:\s+(.*?) *$", status, re.MULTILINE)[0].split() == [
            str(group) for group in sorted(groups)
        ]


@pytest.mark.peer
def test_a_set_user_id_program_changes_its_user_only_if_it_may(tmp_path: pathlib.Path, port: int) -> None:
    peers.need_root()
    found = shutil.which("id")
    assert found is not None
    with daemons.public_folder() as public:
        program = pathlib.Path(shutil.copy(os.path.realpath(found), public / "id"))
        os.chown(program, GROUP, GROUP)
        program.chmod(0o6755)
        settings = f'program = ["{program}", "-un"]\nuser = {USER}\ngroup = {USER}\nstderr = "socket"'
        with reloads.Daemon(tmp_path, reloads.service(port, settings)) as daemon:
            if str(GROUP) not in daemons.talk(port).decode():
                peers.without("a file system with set-user-ID programs")
            daemon.change(reloads.service(port, f"{settings}\nno_new_privileges = true"))
            assert str(USER) in daemons.talk(port).decode()


NEEDS = {
    "nice": "services.test.nice: needs CAP_SYS_NICE",
    "oom_score_adjust": "services.test.oom_score_adjust: needs CAP_SYS_RESOURCE, because the daemon has a"
    " higher value",
    "supplementary_groups": "services.test.supplementary_groups: other groups need root",
}
VALUES = {"nice": str(NICE - 1), "oom_score_adjust": "-1000", "supplementary_groups": f"[{GROUP}]"}


@pytest.mark.peer
@pytest.mark.parametrize("key", NEEDS)
def test_what_the_daemon_may_not_is_a_problem(key: str, folder: pathlib.Path, port: int) -> None:
    """At a start, at a reload and before it, and in a check that tries."""
    good, bad = reloads.service(port, SHOW), reloads.service(port, f"{SHOW}{key} = {VALUES[key]}")
    with reloads.Daemon(folder, good, before=UNPRIVILEGED) as daemon:
        pid = daemon.uses()["pid"]
        (said,) = daemon.refusal(bad)
        assert f"services.test.{key}: {said}" == NEEDS[key]
        answer = daemon.ask("compare")
        assert [each["message"] for each in answer["problems"] if each["severity"] == "error"] == [said]
        assert daemon.uses()["pid"] == pid
        assert shown(port)[0] == 0
        assert daemon.log.count(
            "hint: a drop-in for the unit gives it: share/tcpdconf/systemd/nice.conf"
        ) == (key == "nice")

    command = [*UNPRIVILEGED, sys.executable, "-m", "tcpdconf"]
    for words, status in ((["run"], 78), (["check", "--probe"], 78 if key != "supplementary_groups" else 0)):
        ended = subprocess.run(
            [*command, *words, str(folder / "conf.d")],
            capture_output=True, text=True, timeout=daemons.SECONDS, check=False,
        )  # fmt: skip
        assert ended.returncode == status
        assert status == 0 or NEEDS[key] in ended.stdout + ended.stderr


def test_a_user_may_keep_what_the_daemon_has(tmp_path: pathlib.Path, port: int) -> None:
    """Even where it may not be set: no call is made."""
    inherited = int(pathlib.Path("/proc/self/oom_score_adj").read_text())
    settings = f"{SHOW}nice = {NICE}\noom_score_adjust = {inherited}"
    with reloads.Daemon(tmp_path, reloads.service(port, settings)):
        assert shown(port)[2:] == (inherited, NICE)


def test_a_call_that_a_filter_forbids(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    service = Service.model_validate({"program": ["/bin/cat"], "listeners": [{"port": 1}], "nice": 19})
    settings = process_settings.of(service)._replace(identity=host.Identity(None, None, (), None))
    with monkeypatch.context() as patched:
        patched.setattr(os, "setpriority", forbidden)
        (failure,) = applied(settings)

    assert failure == (
        "needs the system call setpriority, which SystemCallFilter= of the unit forbids",
        "a drop-in for the unit gives it: share/tcpdconf/systemd/nice.conf",
    )


def applied(settings: process_settings.ProcessSettings) -> list[tuple[str, str]]:
    """The failures in a process that has just been forked."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)

    def run() -> int:
        with open(theirs, "w", encoding="utf-8") as pipe:
            pipe.writelines(f"{each.text}\t{each.hint}\n" for each in process_settings.apply(settings))
        return 0

    pid = child.fork(run, {theirs})
    os.close(theirs)
    with open(ours, encoding="utf-8") as pipe:
        lines = pipe.read().splitlines()
    os.waitpid(pid, 0)
    return [(text, hint) for text, _, hint in (line.partition("\t") for line in lines)]


def test_a_worker_that_is_restarted_has_them_too(tmp_path: pathlib.Path, port: int) -> None:
    settings = f"{SHOW}nice = 19\nno_new_privileges = true"
    with reloads.Daemon(tmp_path, reloads.service(port, settings)) as daemon:
        before = shown(port)
        os.kill(daemon.uses()["pid"], 9)
        daemon.await_log("^ready service=test ", 2)
        assert shown(port) == before


def test_set_user_id_programs_are_warned_of(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755 | stat.S_ISUID)
    text = reloads.service(4999, f'program = ["{program}"]\nno_new_privileges = true')
    conf = daemons.configure(tmp_path, text)
    ended = subprocess.run(
        [sys.executable, "-m", "tcpdconf", "check", str(conf)],
        capture_output=True, text=True, timeout=daemons.SECONDS, check=False,
    )  # fmt: skip

    assert ended.returncode == 0
    assert f"no_new_privileges: {program} does not become another user" in ended.stdout
