"""The Ansible role, run by ansible-playbook against this machine, and a daemon that serves what it writes."""

import contextlib
import grp
import json
import os
import pathlib
import pwd
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from support import markdown, nastystrings, peers
from support.running import daemons, fakesystemd, greeters

from tcpdconf.config import render

TOP = pathlib.Path(__file__).parents[2]
PLAY = """
- name: Serve
  hosts: localhost
  connection: local
  gather_facts: false
  roles: [tcpdconf]
"""
SECONDS = 110

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(600)]  # several runs each


class Run(NamedTuple):
    """Holds the result of an ansible-playbook: its exit status, its output, the tasks by status."""

    status: int
    text: str

    @property
    def changed(self) -> list[str]:
        """The tasks that have changed something."""
        tasks = re.split(r"^(?:TASK|RUNNING HANDLER) \[tcpdconf : (.*)\] \*+$", self.text, flags=re.MULTILINE)
        return [name for name, said in zip(tasks[1::2], tasks[2::2], strict=True) if "\nchanged: " in said]

    @property
    def figures(self) -> dict[str, int]:
        """The recap: ok, changed, failed, ..."""
        (recap,) = re.findall(r"^localhost +: (.*)$", self.text, re.MULTILINE)
        return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", recap)}


class Host:
    """A prefix in which the role works, with the variables of its playbook."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.conf = folder / "conf.d"
        self.variables: dict[str, Any] = {
            "tcpdconf_install": False,
            "tcpdconf_venv": sys.prefix,
            "tcpdconf_directory": str(self.conf),
            "tcpdconf_owner": pwd.getpwuid(os.geteuid()).pw_name,
            "tcpdconf_group": grp.getgrgid(os.getegid()).gr_name,
            "tcpdconf_service_manager": "none",
            "tcpdconf_runtime_directory": str(folder / "run"),
        }

        self.before: list[str] = []  # words in front of the command
        self.path = os.environ["PATH"]
        self.environment: dict[
            str, str
        ] = {}  # what ansible-playbook and, on this host, modules get beside it

    def log(self) -> pathlib.Path:
        """Let modules log to this file instead of syslog, and ansible-playbook too.

        Debian's Python has syslog built in, which no file on its path replaces.
        """
        log = self.folder / "log"
        (self.folder / "python").mkdir()
        (self.folder / "python/sitecustomize.py").write_text(
            "import sys, types\n"
            "from pathlib import Path\n"
            f"def syslog(priority, text):\n    with Path({str(log)!r}).open('a') as log: log.write(text)\n"
            "found = sys.modules['syslog'] = types.ModuleType('syslog')\n"
            "found.__dict__.update(LOG_USER=0, LOG_INFO=0, openlog=lambda *words: None, syslog=syslog)\n"
        )
        self.environment = {"PYTHONPATH": str(self.folder / "python"), "ANSIBLE_LOG_PATH": str(log)}
        return log

    def play(self, *options: str, playbook: str = PLAY, **variables: object) -> Run:
        """Run the playbook."""
        self.variables |= variables
        (self.folder / "site.yml").write_text(playbook)
        given = [f"{name}: {unsafe(value)}\n" for name, value in self.variables.items()]
        (self.folder / "variables.yml").write_text("".join(given))
        said = subprocess.run(
            [*self.before, "ansible-playbook", "site.yml", "--extra-vars=@variables.yml", *options],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": self.path,
                "ANSIBLE_ROLES_PATH": str(TOP / "deploy/ansible/roles"),
                "ANSIBLE_HOME": str(self.folder / "ansible"),
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "ansible/tmp"),
                "ANSIBLE_PIPELINING": "1",
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
                **self.environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return Run(said.returncode, said.stdout)

    def files(self) -> dict[str, str]:
        """The configuration as it lies there."""
        return {path.name: path.read_text() for path in self.conf.iterdir()}

    def status(self) -> dict[str, Any]:
        """Return the daemon's status."""
        command = [
            sys.executable,
            "-m",
            "tcpdconf",
            "status",
            "--format=json",
            f"--runtime-dir={self.folder}/run",
        ]
        found: dict[str, Any] = json.loads(subprocess.check_output(command))
        return found


def unsafe(value: object) -> str:
    """YAML in which nothing is a template."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {unsafe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(unsafe, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value)
    return f'!unsafe "{escaped}"' if "{" in value else f'"{escaped}"'  # the tag takes "0x10" for a number


class Story(NamedTuple):
    """A host, the daemon on it, and what was run so far."""

    host: Host
    daemon: daemons.Daemon
    ports: list[int]
    first: Run


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """The first run, and then a daemon."""
    peers.need("ansible-playbook")
    with daemons.public_folder() as folder:
        host = Host(folder)
        ports = [daemons.free_port() for _ in range(4)]
        first = host.play(
            tcpdconf_services={
                "hello": greeters.service(ports[0], GREETING="hello"),
                "other": greeters.service(ports[1], GREETING="other"),
                "nasty": greeters.nasty(ports[2]),
            },
            tcpdconf_daemon={"watch": False},
        )
        assert first.status == 0, first.text
        with daemons.Daemon(folder, None) as daemon:
            yield Story(host, daemon, ports, first)


def test_first_run_changes_and_second_does_not(story: Story) -> None:
    assert story.first.changed == ["Make the directory", "Write the configuration"]
    assert sorted(story.host.files()) == [
        "00-tcpdconf.toml",
        "50-hello.toml",
        "50-nasty.toml",
        "50-other.toml",
    ]

    second = story.host.play()

    assert second.figures["changed"] == 0, second.text
    assert second.figures["failed"] == 0


def test_forty_nasty_strings_reach_the_program(story: Story) -> None:
    assert greeters.nastiness(story.ports[2]) == nastystrings.STRINGS
    assert len(nastystrings.STRINGS) == 40
    assert max(len(text.encode()) for text in nastystrings.STRINGS) > 70_000


def test_a_changed_variable_reloads_one_service(story: Story) -> None:
    services = story.host.variables["tcpdconf_services"]
    wanted = greeters.changed(services, hello=greeters.service(story.ports[0], GREETING='good "day"'))
    files, before = story.host.files(), story.host.status()

    seen = story.host.play("--check", "--diff", tcpdconf_services=wanted)

    assert '-GREETING = "hello"\n+GREETING = "good \\"day\\""\n' in seen.text
    assert seen.changed == ["Write the configuration"]
    assert story.host.files() == files
    assert greeters.greeting(story.ports[0]) == "hello"

    done = story.host.play()

    assert done.changed == ["Write the configuration", "Ask for a reload"], done.text
    assert greeters.greeting(story.ports[0]) == 'good "day"'
    after = story.host.status()
    assert after["last_reload"]["changed"] == ["hello"]
    assert {name: each["pid"] for name, each in after["services"].items()} == {
        name: each["pid"] for name, each in before["services"].items()
    }


def test_a_bad_value_fails_before_anything_is_moved_into_place(story: Story) -> None:
    services = story.host.variables["tcpdconf_services"]
    wanted = greeters.changed(
        services,
        hello=greeters.service(story.ports[0], GREETING="never"),
        other={**greeters.service(story.ports[1]), "limits": {"max_per_ip": 0}, "umaks": "022"},
    )
    files, before = story.host.files(), story.host.status()
    try:
        done = story.host.play(tcpdconf_services=wanted)
    finally:
        story.host.variables["tcpdconf_services"] = services

    assert done.status != 0
    problems = [
        "50-other.toml:6:1: services.other.umaks: unknown key (did you mean umask?)",
        "50-other.toml:13:14: services.other.limits.max_per_ip: must be at least 1, not 0",
    ]
    assert "\n".join(f"{story.host.conf}/{problem}" for problem in problems) in done.text
    assert story.host.files() == files
    assert story.host.status()["config"] == before["config"]
    assert greeters.greeting(story.ports[0]) != "never"


def test_a_removed_service_is_purged_and_its_port_is_anothers(story: Story) -> None:
    """One change of three files, each of which would be refused without the others."""
    foreign = story.host.conf / "90-foreign.toml"
    foreign.write_text("# somebody else's\n")
    services = story.host.variables["tcpdconf_services"]
    first, second = story.ports[:2]
    wanted = greeters.changed(
        services,
        hello=greeters.service(second, GREETING="moved"),
        other=None,
        third=greeters.service(first, GREETING="third"),
    )

    done = story.host.play(tcpdconf_services=wanted)

    assert done.changed == ["Write the configuration", "Ask for a reload"], done.text
    assert sorted(story.host.files()) == [
        "00-tcpdconf.toml", "50-hello.toml", "50-nasty.toml", "50-third.toml", "90-foreign.toml",
    ]  # fmt: skip
    assert [greeters.greeting(port) for port in (first, second)] == ["third", "moved"]
    assert story.host.status()["last_reload"]["changed"] == ["hello", "other", "third"]


def test_what_the_daemon_refuses_fails_the_play_until_it_is_well(story: Story) -> None:
    """That a port is somebody else's is known to nobody but the daemon."""
    services = story.host.variables["tcpdconf_services"]
    taken = story.ports[3]
    with contextlib.closing(socket.create_server(("127.0.0.1", taken))):
        done = story.host.play(
            tcpdconf_services=greeters.changed(services, late=greeters.service(taken, GREETING="late"))
        )
        assert done.status != 0
        assert f"cannot bind 127.0.0.1:{taken}: Address already in use" in done.text
        assert "rejected: the previous configuration stays in effect" in done.text

    again = story.host.play()

    assert again.changed == ["See whether the last reload was refused", "Ask for a reload"], again.text
    assert greeters.greeting(taken) == "late"


def test_a_file_of_somebody_else_is_not_replaced(story: Story) -> None:
    services = story.host.variables["tcpdconf_services"]
    (story.host.conf / "50-mine.toml").write_text("# mine\n")
    try:
        done = story.host.play(
            tcpdconf_services=greeters.changed(services, mine=greeters.service(daemons.free_port()))
        )
    finally:
        story.host.variables["tcpdconf_services"] = services
    assert f"{story.host.conf}/50-mine.toml was not written by this role; remove it first" in done.text
    assert (story.host.conf / "50-mine.toml").read_text() == "# mine\n"


def test_a_bad_access_file_fails_before_anything_is_moved_into_place(story: Story) -> None:
    services = story.host.variables["tcpdconf_services"]
    rules = story.host.folder / "access.toml"
    rules.write_text('[[rules]]\nnetwork = "192.0.2.0/33"\naction = "deny"\n')
    hello = {**services["hello"], "access": [{"file": str(rules)}]}
    files, before = story.host.files(), story.host.status()
    try:
        seen = story.host.play("--check", tcpdconf_services=greeters.changed(services, hello=hello))
        done = story.host.play()
    finally:
        story.host.variables["tcpdconf_services"] = services

    assert (seen.status, done.status) == (2, 2)
    assert [f"{rules}:2:11: " in run.text for run in (seen, done)] == [True, True], done.text
    assert story.host.files() == files
    assert story.host.status()["config"] == before["config"]


def test_a_key_that_the_schema_has_not_fails_first(tmp_path: pathlib.Path) -> None:
    peers.need("ansible-playbook")
    done = Host(tmp_path).play(tcpdconf_defaults={"limits": {"max_connection": 10}})
    assert done.status != 0
    known = "Supported parameters include: enforce, group, levels"
    assert f"tcpdconf_defaults.limits.max_connection. {known}" in done.text
    assert not (tmp_path / "conf.d").exists()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"tcpdconf_serivces": {}}, "does not know: tcpdconf_serivces (did you mean tcpdconf_services?). "),
        (
            {"tcpdconf_modes": "0640", "tcpdconf_xyzzy": 1},
            "does not know: tcpdconf_modes (did you mean tcpdconf_mode?), tcpdconf_xyzzy. ",
        ),
        ({"tcpdconf_mode": 416}, "tcpdconf_mode must be a string, in quotes: "),
        ({"tcpdconf_mode": 640}, "tcpdconf_mode must be a string, in quotes: "),
        ({"tcpdconf_version": 1.1}, "tcpdconf_version must be a string, in quotes: "),
    ],
    ids=["misspelt", "several", "octal", "decimal", "version"],
)
def test_a_variable_that_is_not_what_was_meant_fails_first(
    tmp_path: pathlib.Path, variables: dict[str, Any], said: str
) -> None:
    peers.need("ansible-playbook")
    done = Host(tmp_path).play(**variables)
    assert done.status != 0
    assert said in done.text
    assert not (tmp_path / "conf.d").exists()


def test_the_module_by_itself_refuses_a_mode_that_is_a_number(tmp_path: pathlib.Path) -> None:
    peers.need("ansible-playbook")
    host = Host(tmp_path)
    role = TOP / "deploy/ansible/roles/tcpdconf"
    host.environment = {
        "ANSIBLE_LIBRARY": str(role / "library"),
        "ANSIBLE_MODULE_UTILS": str(role / "module_utils"),
    }
    module = {"path": str(host.conf), "command": f"{sys.prefix}/bin/tcpdconf", "tables": {}, "mode": 416}
    tasks = [{"tcpdconf_fragments": module}]
    playbook = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]
    done = host.play(playbook=json.dumps(playbook))
    assert done.status != 0
    assert "mode: must be a string, in quotes as in " in done.text


@pytest.mark.parametrize("services", [{}, {"hello": {**greeters.service(4025), "enabled": False}}])
def test_no_services_are_a_problem_and_not_advised(tmp_path: pathlib.Path, services: dict[str, Any]) -> None:
    peers.need("ansible-playbook")
    host = Host(tmp_path)
    done = host.play(tcpdconf_services=services)
    assert done.status != 0
    said = "enables none of its services" if services else "is empty"
    assert (
        f"no service would run: tcpdconf_services {said}, and no other file in {host.conf} has" in done.text
    )
    assert "allow_empty" not in done.text
    assert host.files() == {}


def test_no_log_hides_what_is_configured(story: Story) -> None:
    """The zone of a paid list is a key: neither output nor --diff nor a log may have it."""
    host, services = story.host, story.host.variables["tcpdconf_services"]
    key = "k3yk3yk3yk3y"
    lists = [{"zone": f"{key}.zen.example", "action": "block", "variable": "BLOCK"}]
    hello = {**services["hello"], "dns_lists": lists}
    good, bad = (greeters.changed(services, hello=each) for each in (hello, {**hello, "umaks": "022"}))
    log = host.log()
    try:
        hidden = [
            host.play("--check", "--diff", "-vvv", tcpdconf_no_log=True, tcpdconf_services=bad),
            host.play("--diff", "-vvv", tcpdconf_services=good),
            host.play("--diff", "-vvv"),
            host.play("--diff", "-vvv", tcpdconf_services=services),
        ]
        logged = log.read_text()
        shown = host.play("--check", "--diff", tcpdconf_no_log=False, tcpdconf_services=good)
        logged_then = log.read_text()
    finally:
        host.environment = {}
        host.variables["tcpdconf_services"] = services

    assert [run.status for run in hidden] == [2, 0, 0, 0], hidden
    assert [run.figures["changed"] for run in hidden] == [0, 2, 0, 2]
    assert [run.text.count(key) for run in hidden] == [0, 0, 0, 0]
    assert key not in logged
    assert ["Invoked with" in logged, "tables=" in logged, "tables=" in logged_then] == [True, False, True]
    assert key in shown.text


def test_with_systemd_there_is_a_unit_that_knows_the_paths(tmp_path: pathlib.Path) -> None:
    """Units are written into a directory that is /etc/systemd/system for this play only."""
    peers.need("ansible-playbook", "unshare", "systemd-analyze")
    peers.need_root()
    system = fakesystemd.System(tmp_path / "system")
    host = Host(tmp_path)
    host.path, host.before = system.path, system.before
    service = greeters.service(daemons.free_port())
    with daemons.Daemon(tmp_path, f"daemon.watch = false\nservices.here = {render.literal(service)}\n"):
        done = host.play(
            tcpdconf_service_manager="systemd",
            tcpdconf_services={"hello": greeters.service(daemons.free_port())},
        )
        again = host.play()
        verify = ["systemd-analyze", "verify", "--man=no", "tcpdconf.service"]
        verified = subprocess.run([*host.before, *verify], check=False, capture_output=True)
        system.become(254)
        newer = host.play()

    assert done.changed == [
        "Write the configuration", "Install the unit", "Make the directory of its settings",
        "Tell it the paths", "Start it", "Restart tcpdconf", "Ask for a reload",
    ], done.text  # fmt: skip
    assert system.told("tcpdconf") == ["enable", "start", "restart"]
    assert again.figures["changed"] == 0
    assert (
        f"{sys.prefix}/bin/tcpdconf run --runtime-dir {tmp_path}/run {host.conf}\n"
        in (system.units / "tcpdconf.service.d/10-paths.conf").read_text()
    )
    assert verified.stderr == b""
    assert newer.changed == ["Let the pauses after crashes grow"]


def test_the_how_to_shows_what_happens(tmp_path: pathlib.Path) -> None:
    peers.need("ansible-playbook")
    page = TOP / "docs/how-to/ansible.md"
    playbook, *_ = (block.text for block in markdown.blocks(page, "yaml"))
    host = Host(tmp_path)
    host.variables |= {"ansible_connection": "local", "ansible_become": False}
    for command, shown in zip(
        markdown.blocks(page, "sh"), markdown.blocks(page, "diff", "text"), strict=True
    ):
        _, play, *options = shlex.split(command.text)
        assert play == "site.yml"
        done = host.play("--inventory=mail,", *options, playbook=playbook)
        assert shown.text in done.text.replace(str(host.conf), "/etc/tcpdconf/conf.d")
    assert not host.conf.exists() or host.files() == {}


def courier_host(folder: pathlib.Path) -> Host:
    """A host that serves SMTP and IMAP with Courier's couriertcpd, and is to be migrated."""
    peers.need("ansible-playbook", "/usr/sbin/courieresmtpd")
    peers.need_root()
    (folder / "courier").mkdir()
    smtp = "PORT=25\nMAXDAEMONS=9\nMAXPERC=9\nMAXPERIP=9\nMAILUSER=daemon\nMAILGROUP=daemon\nPIDFILE=/run/x\n"
    imap = "ADDRESS=0\nPORT=143\nMAXDAEMONS=40\nMAXPERIP=4\nPIDFILE=/run/y\nIMAPDSTART=YES\n"
    (folder / "courier/esmtpd").write_text(smtp)
    (folder / "courier/imapd").write_text(imap)
    host = Host(folder)
    host.variables |= {"tcpdconf_migrate": True, "tcpdconf_courier_directory": str(folder / "courier")}
    return host


def test_a_migration_is_done_once_and_keeps_what_somebody_has_edited(tmp_path: pathlib.Path) -> None:
    host = courier_host(tmp_path)

    seen = host.play("--check", "--diff")
    first = host.play()
    second = host.play()

    assert "+[services.smtp]" in seen.text
    assert seen.changed == first.changed == ["Make the directory", "Write the configuration"], first.text
    assert "systemctl disable --now courier-mta courier-imap" in first.text
    assert second.figures["changed"] == second.figures["failed"] == 0, second.text
    assert "systemctl disable" not in second.text

    edited = host.conf / "smtp.toml"
    edited.write_text(mine := edited.read_text().replace("max_connections = 9", "max_connections = 8"))
    imap = tmp_path / "courier/imapd"
    imap.write_text(imap.read_text().replace("MAXDAEMONS=40", "MAXDAEMONS=41"))

    seen = host.play("--check", "--diff")
    assert "max_connections = 41" not in (host.conf / "imap.toml").read_text()
    done = host.play()
    again = host.play()

    assert "-max_connections = 40\n+max_connections = 41\n" in seen.text
    assert "max_connections = 8" not in seen.text
    assert seen.changed == done.changed == ["Write the configuration"], done.text
    assert [str(edited) in run.text for run in (second, seen, done, again)] == [False, True, True, True]
    assert edited.read_text() == mine
    assert "max_connections = 41" in (host.conf / "imap.toml").read_text()
    assert again.figures["changed"] == again.figures["failed"] == 0, again.text


def test_a_migration_leaves_out_what_the_variables_describe(tmp_path: pathlib.Path) -> None:
    """The role validates the configuration as a whole: it writes nothing if one part is rejected."""
    host = courier_host(tmp_path)
    smtp = {**greeters.service(daemons.free_port()), "umaks": "022"}
    refused = host.play(tcpdconf_services={"smtp": smtp}, tcpdconf_defaults={"lookup_names": True})
    assert "50-smtp.toml:6:1: services.smtp.umaks: unknown key (did you mean umask?)" in refused.text
    assert host.files() == {}

    first = host.play(tcpdconf_services={"smtp": greeters.service(daemons.free_port())})
    second = host.play()

    assert sorted(host.files()) == ["00-tcpdconf.toml", "50-smtp.toml", "imap.toml"], first.text
    assert second.figures["changed"] == second.figures["failed"] == 0, second.text


def test_a_migration_of_nothing_fails_and_says_so(tmp_path: pathlib.Path) -> None:
    host = courier_host(tmp_path)
    done = host.play(tcpdconf_courier_directory=str(tmp_path / "no"))
    assert done.status != 0
    assert f"{tmp_path}/no" in done.text
    assert host.files() == {}


@pytest.mark.network
def test_a_courier_host_gets_it_from_a_wheel(tmp_path: pathlib.Path, wheel: pathlib.Path) -> None:
    """Nothing is there before, and a dry run says what would be."""
    host = courier_host(tmp_path)
    variables: dict[str, Any] = {
        "tcpdconf_install": True,
        "tcpdconf_venv": str(tmp_path / "venv"),
        "tcpdconf_wheel": str(wheel),
    }
    seen = host.play("--check", **variables)
    assert seen.status == 0, seen.text
    assert not (tmp_path / "venv").exists()
    assert not host.conf.exists()

    done = host.play()

    assert done.changed == [
        "Make the directory of the virtual environment", "Copy the wheel", "Install the wheel",
        "Note what was installed", "Make the directory", "Write the configuration",
    ], done.text  # fmt: skip
    assert "[services.smtp]" in (host.conf / "smtp.toml").read_text()

    assert host.play("--check").figures["changed"] == 0
    assert host.play().figures["changed"] == 0
