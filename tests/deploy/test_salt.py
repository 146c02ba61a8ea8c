"""The Salt formula, run by salt-call on this machine, and a daemon that serves what it writes."""

import contextlib
import grp
import json
import os
import pathlib
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from support import markdown, nastystrings, peers
from support.running import daemons, fakesystemd, greeters

TOP = pathlib.Path(__file__).parents[2]
SECONDS = 110
WRITE = "file_|-tcpdconf-config-file-serialize"
PILLAR = "test_|-tcpdconf-check-pillar"
CHECK = "test_|-tcpdconf-check-config"
RELOAD = "cmd_|-tcpdconf-service-running-reload"

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(600)]  # several runs each


class Run(NamedTuple):
    """Holds the result of a state run: each state's result, changes and comment, by `state_|-id`."""

    status: int
    states: dict[str, Any]

    @property
    def changed(self) -> list[str]:
        """The ids of the states that have changed something, or would."""
        return [name.rpartition("|-")[2] for name, state in self.states.items() if state["changes"]]


class Minion:
    """A minion without a master, its pillar, and a prefix in which the formula works."""

    def __init__(self, folder: pathlib.Path) -> None:
        peers.need("salt-call")
        self.folder = folder
        self.conf = folder / "etc/conf.d"
        self.file = self.conf / "50-salt.toml"
        self.before: list[str] = []  # words in front of the command
        self.path = os.environ["PATH"]
        self.options: list[str] = []  # more of salt-call's own
        self.config: dict[str, Any] = {}
        self.pillar: dict[str, Any] = {
            "directory": str(self.conf),
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "group": grp.getgrgid(os.getegid()).gr_name,
            "package": {"install": False, "venv": sys.prefix},
            "service": {"manager": "none", "runtime_directory": str(folder / "run")},
        }
        minion = {
            "id": "test",
            "root_dir": str(folder / "salt"),
            "file_client": "local",
            "file_roots": {"base": [str(TOP / "deploy/salt"), str(folder)]},
            "pillar_roots": {"base": [str(folder / "pillar")]},
            "enable_fqdns_grains": False,
            "systemd.scope": False,  # systemctl by itself
        }
        (folder / "minion").write_text(json.dumps(minion))
        (folder / "pillar").mkdir()
        (folder / "pillar/top.sls").write_text("base: {'*': [tcpdconf]}\n")

    def apply(self, *options: str, state: str = "tcpdconf", **config: object) -> Run:
        """Apply a state; `config` are tables of the configuration."""
        self.config |= config
        self.write_pillar({**self.pillar, "config": self.config})
        said = self.call("--out=json", "state.apply", state, "sync_mods=serializers", *options)
        assert said.stdout.startswith("{"), said.stdout + said.stderr
        states = json.loads(said.stdout)["local"]
        assert isinstance(states, dict), states
        return Run(
            said.returncode, {"_|-".join(name.split("_|-")[:2]): each for name, each in states.items()}
        )

    def shown(self, *words: str) -> str:
        """Return the output of salt-call for people, with the paths of a real host."""
        self.write_pillar(self.pillar)
        return self.call(*words).stdout.replace(str(self.folder / "etc"), "/etc/tcpdconf")

    def write_pillar(self, pillar: dict[str, Any]) -> None:
        """Write the data for the minion."""
        (self.folder / "pillar/tcpdconf.sls").write_text("#!json\n" + json.dumps({"tcpdconf": pillar}))

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run salt-call."""
        options = ["--local", f"--config-dir={self.folder}", "--retcode-passthrough", "--log-level=quiet"]
        options += self.options
        return subprocess.run(
            [*self.before, "salt-call", *options, *words],
            cwd=self.folder,
            env={**os.environ, "PATH": self.path, "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def daemon_status(self) -> dict[str, Any]:
        """Return the daemon's status."""
        command = [sys.executable, "-m", "tcpdconf", "status", "--format=json"]
        said = subprocess.check_output([*command, f"--runtime-dir={self.folder}/etc/run"])
        found: dict[str, Any] = json.loads(said)
        return found


class Story(NamedTuple):
    """A minion, the daemon on it, and what was run first."""

    minion: Minion
    daemon: daemons.Daemon
    ports: list[int]
    seen: Run
    first: Run


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """A look, the first run, and then a daemon."""
    with daemons.public_folder() as folder:
        minion = Minion(folder)
        minion.pillar["service"]["runtime_directory"] = str(folder / "etc/run")
        ports = [daemons.free_port() for _ in range(4)]
        minion.config = {
            "services": {
                "hello": greeters.service(ports[0], GREETING="hello"),
                "other": greeters.service(ports[1], GREETING="other"),
                "nasty": greeters.nasty(ports[2]),
            },
            "daemon": {"watch": False},
        }
        seen = minion.apply("test=True")
        assert not minion.conf.exists()
        first = minion.apply()
        assert first.status == 0, first.states
        with daemons.Daemon(folder / "etc", None) as daemon:
            yield Story(minion, daemon, ports, seen, first)


def test_first_run_changes_and_second_does_not(story: Story) -> None:
    wanted = ["tcpdconf-config-file-directory", "tcpdconf-config-file-serialize"]
    assert story.seen.changed == wanted
    assert story.first.changed == wanted

    second = story.minion.apply()

    assert second.changed == []
    assert second.status == 0


def test_forty_nasty_strings_reach_the_program(story: Story) -> None:
    assert greeters.nastiness(story.ports[2]) == nastystrings.STRINGS


def test_a_changed_pillar_reloads_one_service(story: Story) -> None:
    minion, port = story.minion, story.ports[0]
    text, before = minion.file.read_text(), minion.daemon_status()
    services = greeters.changed(
        minion.config["services"], hello=greeters.service(port, GREETING='good "day"')
    )

    seen = minion.apply("test=True", services=services)

    shown = '-GREETING = "hello"\n+GREETING = "good \\"day\\""\n'
    assert shown in seen.states[WRITE]["changes"]["diff"]
    assert minion.file.read_text() == text
    assert greeters.greeting(port) == "hello"

    done = minion.apply()

    assert shown in done.states[WRITE]["changes"]["diff"]
    assert (
        done.states[RELOAD]["changes"]["stdout"] == 'hello: environment.GREETING "hello" -> "good \\"day\\""'
    )
    assert greeters.greeting(port) == 'good "day"'
    after = minion.daemon_status()
    assert after["last_reload"]["changed"] == ["hello"]
    assert {name: each["pid"] for name, each in after["services"].items()} == {
        name: each["pid"] for name, each in before["services"].items()
    }


def test_a_bad_value_fails_before_anything_is_moved_into_place(story: Story) -> None:
    minion, services = story.minion, story.minion.config["services"]
    text, before = minion.file.read_text(), minion.daemon_status()
    bad = {**greeters.service(story.ports[1]), "limits": {"max_per_ip": 0}, "umaks": "022"}
    try:
        seen = minion.apply("test=True", services=greeters.changed(services, other=bad))
        done = minion.apply()
    finally:
        minion.config["services"] = services

    assert seen.status != 0
    told = re.findall(rf"^{minion.file}:\d+:\d+: error: (.*)$", seen.states[CHECK]["comment"], re.MULTILINE)
    assert told == [
        "services.other.umaks: unknown key",
        "services.other.limits.max_per_ip: must be at least 1, not 0",
    ], seen.states[CHECK]["comment"]
    assert [seen.states[name]["result"] for name in (WRITE, RELOAD)] == [False, False]
    assert done.status != 0
    assert "services.other.umaks: unknown key" in done.states[WRITE]["comment"]
    assert "services.other.limits.max_per_ip: must be at least 1, not 0" in done.states[WRITE]["comment"]
    assert done.states[RELOAD]["result"] is False
    assert minion.file.read_text() == text
    assert [path.name for path in minion.conf.parent.iterdir() if path.suffix == ".toml"] == []
    assert minion.daemon_status()["config"] == before["config"]


def test_a_bad_access_file_fails_before_anything_is_moved_into_place(story: Story) -> None:
    minion, services = story.minion, story.minion.config["services"]
    rules = minion.folder / "access.toml"
    rules.write_text('[[rules]]\nnetwork = "192.0.2.0/33"\naction = "deny"\n')
    hello = {**services["hello"], "access": [{"file": str(rules)}]}
    text, before = minion.file.read_text(), minion.daemon_status()
    try:
        seen = minion.apply("test=True", services=greeters.changed(services, hello=hello))
        done = minion.apply()
    finally:
        minion.config["services"] = services

    assert f"{rules}:2:11: error: " in seen.states[CHECK]["comment"]
    assert f"{rules}:2:11: error: " in done.states[WRITE]["comment"]
    assert minion.file.read_text() == text
    assert minion.daemon_status()["config"] == before["config"]


def test_show_changes_hides_what_is_configured(story: Story) -> None:
    """The zone of a paid list is a key: neither results nor the log, not even at debug, may have it."""
    minion, services = story.minion, story.minion.config["services"]
    key = "k3yk3yk3yk3y"
    lists = [{"zone": f"{key}.zen.example", "action": "block", "variable": "BLOCK"}]
    hello = {**services["hello"], "dns_lists": lists}
    good, bad = (greeters.changed(services, hello=each) for each in (hello, {**hello, "umaks": "022"}))
    log = minion.folder / "log"
    minion.options = ["--log-file-level=debug", f"--log-file={log}"]
    minion.pillar["show_changes"] = False
    try:
        hidden = [
            minion.apply("test=True", services=bad),
            minion.apply(),
            minion.apply("test=True", services=good),
            minion.apply(),
            minion.apply(services=services),
        ]
        logged = log.read_text()
        minion.pillar["show_changes"] = True
        shown = minion.apply("test=True", services=good)
    finally:
        minion.options = []
        minion.pillar.pop("show_changes")
        minion.config["services"] = services

    assert [run.status for run in hidden] == [2, 2, 0, 0, 0], hidden
    assert "show_changes hides why" in hidden[0].states[CHECK]["comment"]
    assert "show_changes hides why" in hidden[1].states[WRITE]["comment"]
    assert [hidden[run].states[RELOAD]["changes"].get("retcode") for run in (3, 4)] == [0, 0]
    assert [json.dumps(run.states).count(key) for run in hidden] == [0, 0, 0, 0, 0]
    assert "Executing state file.serialize" in logged
    assert key not in logged
    assert key in json.dumps(shown.states)


@pytest.mark.parametrize(
    ("pillar", "said"),
    [
        (
            {"modes": "0640", "xyzzy": 1, "package": {"whel": ""}, "service": {"manger": "none"}},
            [
                "tcpdconf:package:whel: unknown key (did you mean wheel?)",
                "tcpdconf:service:manger: unknown key (did you mean manager?)",
                "tcpdconf:modes: unknown key (did you mean mode?)",
                "tcpdconf:xyzzy: unknown key",
            ],
        ),
        (
            {"mode": 416, "show_changes": "false", "package": {"version": 1.1}},
            [
                "tcpdconf:package:version: must be a string, in quotes (",
                "tcpdconf:mode: must be a string, in quotes (",
                "tcpdconf:show_changes: must be true or false, not 'false'",
            ],
        ),
        (
            {"package": [], "service": None},
            [
                "tcpdconf:package: must be a table of keys and values",
                "tcpdconf:service: must be a table of keys and values",
            ],
        ),
    ],
    ids=["unknown", "numbers", "tables"],
)
def test_a_pillar_that_is_not_what_was_meant_changes_nothing(
    tmp_path: pathlib.Path, pillar: dict[str, Any], said: list[str]
) -> None:
    minion = Minion(tmp_path)
    for name, value in pillar.items():
        nested = isinstance(value, dict)
        minion.pillar[name] = {**minion.pillar[name], **value} if nested else value
    done = minion.apply(services={"hello": greeters.service(daemons.free_port())})
    told = done.states[PILLAR]["comment"].splitlines()
    assert [
        line for line, start in zip(sorted(told), sorted(said), strict=True) if not line.startswith(start)
    ] == []
    assert done.status != 0
    assert done.changed == []
    assert not minion.conf.exists()


def test_a_umask_without_quotes_is_refused_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    minion = Minion(tmp_path)
    done = minion.apply(services={"hello": {**greeters.service(4025), "umask": 18}})
    assert done.states[CHECK]["comment"].startswith(
        'tcpdconf:config: services.hello.umask: quote it, as in "022"'
    )
    assert done.states[WRITE]["result"] is False
    assert not minion.file.exists()


def test_a_misspelt_pillar_is_named(tmp_path: pathlib.Path) -> None:
    minion = Minion(tmp_path)
    (tmp_path / "pillar/top.sls").write_text("base: {'*': [other]}\n")
    (tmp_path / "pillar/other.sls").write_text("tcpdcnof: {}\n")
    done = minion.apply("test=True")
    assert done.states[PILLAR]["comment"] == "the pillar has no key tcpdconf (is tcpdcnof meant?)"
    assert done.changed == []


@pytest.mark.parametrize(
    ("options", "services", "foreign", "said"),
    [
        (
            [],
            {},
            None,
            "no service would run: tcpdconf:config:services is empty, and {conf} has no other file. ",
        ),
        (
            [],
            {},
            "[defaults]\n",
            "{conf}: error: has no enabled service\nhint: describe one under [services.NAME]",
        ),
        (
            ["test=True"],
            {"hello": {**greeters.service(4025), "enabled": False}},
            None,
            "{conf}: error: has no enabled service\nhint: set enabled = true for one of them",
        ),
    ],
    ids=["none", "beside", "disabled"],
)
def test_no_services_are_a_problem_and_not_advised(
    tmp_path: pathlib.Path, options: list[str], services: dict[str, Any], foreign: str | None, said: str
) -> None:
    minion = Minion(tmp_path)
    if foreign:
        minion.conf.mkdir(parents=True)
        (minion.conf / "90-foreign.toml").write_text(foreign)
    done = minion.apply(*options, services=services)
    told = "\n".join(state["comment"] for state in done.states.values())
    assert done.status != 0
    assert said.format(conf=minion.conf) in told
    assert "allow_empty" not in told
    assert not minion.file.exists()


def test_a_removed_service_is_purged_and_its_port_is_anothers(story: Story) -> None:
    (story.minion.conf / "90-foreign.toml").write_text("# somebody else's\n")
    first, second = story.ports[:2]
    services = greeters.changed(
        story.minion.config["services"],
        hello=greeters.service(second, GREETING="moved"),
        other=None,
        third=greeters.service(first, GREETING="third"),
    )

    done = story.minion.apply(services=services)

    assert done.status == 0, done.states
    assert [greeters.greeting(port) for port in (first, second)] == ["third", "moved"]
    assert story.minion.daemon_status()["last_reload"]["changed"] == ["hello", "other", "third"]
    assert sorted(path.name for path in story.minion.conf.iterdir()) == ["50-salt.toml", "90-foreign.toml"]


def test_what_the_daemon_refuses_fails_the_run_until_it_is_well(story: Story) -> None:
    """That a port is somebody else's is known to nobody but the daemon."""
    minion, taken = story.minion, story.ports[3]
    late = greeters.changed(minion.config["services"], late=greeters.service(taken, GREETING="late"))
    with contextlib.closing(socket.create_server(("127.0.0.1", taken))):
        done = minion.apply(services=late)
        assert done.status != 0
        said = done.states[RELOAD]["changes"]["stderr"]
        assert f"cannot bind 127.0.0.1:{taken}: Address already in use" in said
        assert "rejected: the previous configuration stays in effect" in said

    again = minion.apply()

    assert again.status == 0, again.states
    assert again.changed == ["tcpdconf-service-running-reload-again"]
    assert greeters.greeting(taken) == "late"


def test_clean_leaves_what_is_not_its_own(story: Story) -> None:
    foreign = story.minion.conf / "91-foreign.toml"
    foreign.touch()

    done = story.minion.apply(state="tcpdconf.clean")

    assert done.changed == ["tcpdconf-config-clean-file"]
    assert foreign.exists()
    assert not story.minion.file.exists()


def test_with_systemd_there_is_a_unit_that_knows_the_paths(tmp_path: pathlib.Path) -> None:
    """Units are written into a directory that is /etc/systemd/system for these runs only."""
    peers.need("unshare")
    peers.need_root()
    system = fakesystemd.System(tmp_path / "system")
    minion = Minion(tmp_path)
    minion.path, minion.before = system.path, system.before
    minion.pillar["service"]["manager"] = "systemd"

    done = minion.apply(services={"hello": greeters.service(daemons.free_port())})
    again = minion.apply()
    told = system.told("tcpdconf")
    system.become(254)
    newer = minion.apply()
    minion.apply(state="tcpdconf.clean")

    assert done.status == 0, done.states
    assert told == ["start", "enable"]
    assert again.changed == []
    assert newer.changed == ["tcpdconf-service-running-restart", "tcpdconf-service-running-daemon-reload"]
    assert system.told("tcpdconf")[2:] == ["stop", "disable"]
    assert list(system.units.iterdir()) == []


def test_the_how_to_shows_what_happens(tmp_path: pathlib.Path) -> None:
    page = TOP / "docs/how-to/salt.md"
    minion = Minion(tmp_path)
    pillar, _ = markdown.blocks(page, "yaml")
    (tmp_path / "pillar/top.sls").write_text("base: {'*': [page, tcpdconf]}\n")
    (tmp_path / "pillar/page.sls").write_text(pillar.text)
    said = []
    for command in markdown.blocks(page, "sh"):
        _, *words = shlex.split(command.text)
        said.append(minion.shown(*words))
    assert "Failed:    0" in said[0]
    for shown in markdown.blocks(page, "text"):
        assert steady(shown.text) in steady("".join(said[1:])), shown.text


def steady(text: str) -> str:
    """Lines without the indentation that they share, and the random name of a draft."""
    lines = [line.strip() for line in text.splitlines()]
    return re.sub(r"__salt\.tmp\.\w+", "DRAFT", "\n".join(lines))


@pytest.mark.network
def test_it_is_installed_from_a_wheel(tmp_path: pathlib.Path, wheel: pathlib.Path) -> None:
    minion = Minion(tmp_path)
    shutil.copy(wheel, tmp_path)
    venv = tmp_path / "venv"
    minion.pillar["package"] = {"venv": str(venv), "wheel": f"salt://{wheel.name}"}
    services = {"hello": greeters.service(daemons.free_port())}
    installed = [f"tcpdconf-package-install-{what}" for what in ("venv", "wheel", "pip")]

    seen = minion.apply("test=True", services=services)
    assert seen.changed[:3] == installed
    assert not venv.exists()

    done = minion.apply()
    assert done.changed[:3] == installed
    assert done.status == 0, done.states
    assert (venv / "bin/tcpdconf").exists()

    assert minion.apply().changed == []

    minion.apply(state="tcpdconf.clean")
    assert not venv.exists()
