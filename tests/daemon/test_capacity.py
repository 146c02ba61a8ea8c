"""Warnings of limits of the host that a configuration may exceed, and where these limits are found."""

import os
import pathlib
import subprocess
import sys

import pytest
from support.running import daemons

from tcpdconf.config.load import load
from tcpdconf.daemon import capacity

SERVICE = """
[services.{name}]
program = ["/bin/cat"]
listeners = [{{ address = "127.0.0.1", port = {port}{haproxy} }}]
lookup_names = {lookup}
limits = {{ max_connections = {most}, max_per_ip = 4 }}
"""
DNS = '[dns]\nservers = ["127.0.0.1:9"]\n'
HAPROXY = ', haproxy = { trusted = ["192.0.2.7"], max_pending = 1000 }'


def service(name: str, port: int, most: int, *, lookup: bool = False, haproxy: str = "") -> str:
    return SERVICE.format(name=name, port=port, most=most, lookup=str(lookup).lower(), haproxy=haproxy)


def command(*arguments: str, runtime: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tcpdconf", *arguments],
        env={"PATH": os.defpath, "RUNTIME_DIRECTORY": runtime},
        capture_output=True,
        text=True,
        timeout=daemons.SECONDS,
        check=False,
    )


def test_run_reload_and_check_warn_of_the_running_daemons_limit(tmp_path: pathlib.Path) -> None:
    """Each says it of the daemon's own limit, and not of that of the shell in which `check` runs."""
    port = daemons.free_port()
    few, many = (service("a", port, most, lookup=True) + DNS for most in (20, 200))
    before = ["prlimit", "--nofile=128:128"]
    with daemons.Daemon(tmp_path, few, before=before) as daemon:
        assert not [line for line in daemon.log if "above" in line or "descriptors" in line]
        quiet = command("check", str(daemon.conf), runtime=daemon.runtime)
        (daemon.conf / "test.toml").write_text(many)
        checked = command("check", str(daemon.conf), runtime=daemon.runtime)
        reloaded = command("reload", runtime=daemon.runtime)
        logged = daemon.await_log("may need 265 descriptors in the worker")
    text = "may need 265 descriptors in the worker, and the limit of open files of "

    assert (quiet.returncode, "descriptors" in quiet.stdout) == (0, False)
    assert (checked.returncode, reloaded.returncode) == (0, 0)
    assert "test.toml:6:30: warning: services.a.limits.max_connections: " in checked.stdout
    assert f"{text}the running daemon (pid {daemon.process.pid}) is 128\n" in checked.stdout
    assert "hint: lower max_connections, or raise this limit (LimitNOFILE= " in checked.stdout
    assert f"{text}the daemon is 128" in reloaded.stderr
    assert f"{text}the daemon is 128" in logged[0]


LIMITS = capacity.HostLimits(
    (capacity.Limit(2000, "fds"), capacity.Limit(1000, "low fds")),
    (capacity.Limit(5000, "tasks"), capacity.Limit(1000, "low tasks")),
)


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (service("a", 4991, 500) + service("b", 4992, 480), []),
        (service("a", 4991, 500) + service("b", 4992, 520), ["services.b low tasks"]),
        (service("a", 4991, 990) + service("b", 4992, 10), ["services.a low tasks"]),
        (service("a", 4991, 900), []),  # a program has the descriptor, and its worker none
        (service("a", 4991, 900, lookup=True), []),
        (service("a", 4991, 940, lookup=True), ["services.a low fds"]),
        (service("a", 4991, 4) + service("b", 4992, 4, haproxy=HAPROXY), ["services.b low fds"]),
        (service("a", 4991, 10) + service("b", 4992, 5000).replace("limits", "enabled = false\nlimits"), []),
    ],
)
def test_each_limit_is_held_against_whom_it_is_for(
    tmp_path: pathlib.Path, text: str, warned: list[str]
) -> None:
    loaded = load.load(daemons.configure(tmp_path, text), to_serve=False)

    found = [
        f"{problem.key.removesuffix('.limits.max_connections')} {origin}"
        for problem in capacity.warnings(loaded, LIMITS)
        for origin in ("low tasks", "low fds")
        if f" and {origin} is 1000" in problem.text
    ]
    assert found == warned


@pytest.mark.parametrize(
    ("origin", "raised_by"),
    [("kernel.pid_max", "sysctl(8)"), ("TasksMax= in /etc/unit", "TasksMax= in a unit of systemd")],
)
def test_the_hint_names_what_raises_the_limit(tmp_path: pathlib.Path, origin: str, raised_by: str) -> None:
    loaded = load.load(daemons.configure(tmp_path, service("a", 4991, 50)), to_serve=False)
    (found,) = capacity.warnings(loaded, capacity.HostLimits((), (capacity.Limit(20, origin),)))

    assert found.hint == f"lower max_connections, or raise this limit ({raised_by})"


def files(root: pathlib.Path, contents: dict[str, str]) -> capacity.Host:
    """A host with these files only."""
    for path, content in contents.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return capacity.Host(str(root))


KERNEL = {"proc/sys/kernel/pid_max": "32768\n", "proc/sys/kernel/threads-max": "20000\n"}
OPEN = "Limit                     Soft Limit           Hard Limit           Units     \n"
OPEN += "Max open files            1024                 4096                 files     \n"
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
LEGACY = "36 32 0:31 {root} /sys/fs/cgroup/pids rw shared:18 - cgroup cgroup rw,pids\n"
LEGACY += "37 32 0:32 / /sys/fs/cgroup/cpu rw shared:19 - cgroup cgroup rw,cpu\n"
IN_LEGACY = "9:name=systemd:/\n8:cpu,pids:{path}\n0::/\n"


@pytest.mark.parametrize(
    ("mounts", "cgroup", "levels", "expected"),
    [
        (UNIFIED, "0::/system.slice/t.service\n", {"": "900", "system.slice": "max"}, {"": 900}),
        (
            UNIFIED,
            "0::/a/b\n",
            {"": "max", "a": "50", "a/b": "60"},
            {"a/": 50, "a/b/": 60},
        ),
        (UNIFIED, "0::/\n", {}, {}),
        (LEGACY.format(root="/"), IN_LEGACY.format(path="/a"), {"pids/a": "7"}, {"pids/a/": 7}),
        (LEGACY.format(root="/d/1"), IN_LEGACY.format(path="/d/1"), {"pids": "8"}, {"pids/": 8}),
        (LEGACY.format(root="/d/1"), IN_LEGACY.format(path="/d/1/x"), {"pids/x": "8"}, {"pids/x/": 8}),
        (UNIFIED, "0::/../other\n", {"": "5"}, {"": 5}),
    ],
)  # fmt: skip
def test_a_process_has_its_own_limits_and_those_of_every_cgroup_above(
    tmp_path: pathlib.Path, mounts: str, cgroup: str, levels: dict[str, str], expected: dict[str, int]
) -> None:
    written = {f"sys/fs/cgroup/{level}/pids.max": f"{most}\n" for level, most in levels.items()}
    proc = {"proc/self/mountinfo": mounts, "proc/7/cgroup": cgroup, "proc/7/limits": OPEN}
    found = files(tmp_path, {**KERNEL, **written, **proc}).of_process("7", "it")

    assert found.descriptors == ((1024, "the limit of open files of it"),)
    tasks = {origin: most for most, origin in found.tasks}
    assert tasks == {"kernel.pid_max": 32768, "kernel.threads-max": 20000} | {
        f"/sys/fs/cgroup/{level}pids.max": most for level, most in expected.items()
    }


def test_the_limits_of_this_process_are_found() -> None:
    with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
        most = int(file.read())
    assert capacity.Limit(most, "kernel.pid_max") in capacity.Host().own("this").tasks


def test_where_nothing_can_be_read_nothing_is_said(tmp_path: pathlib.Path) -> None:
    assert files(tmp_path, {}).own("this") == capacity.HostLimits((), ())
    assert files(tmp_path, {"proc/self/limits": ""}).own("this") == capacity.HostLimits((), ())


UNIT = "etc/systemd/system/tcpdconf.service"
BY_DEFAULT = "the default of systemd for tcpdconf.service,"


@pytest.mark.parametrize(
    ("written", "descriptors", "tasks"),
    [
        ({UNIT: "[Service]\n"}, (1024, f"LimitNOFILE, {BY_DEFAULT}"), (3000, f"TasksMax, {BY_DEFAULT}")),
        (
            {UNIT: "[Service]\nLimitNOFILE=65536\n# TasksMax=1\n TasksMax = 2K \n"},
            (65536, f"LimitNOFILE= in /{UNIT}"),
            (2048, f"TasksMax= in /{UNIT}"),
        ),
        (
            {
                UNIT: "LimitNOFILE=100:200\nTasksMax=50%\n",
                f"{UNIT}.d/b.conf": "TasksMax=\nTasksMax=infinity\n",
            },
            (100, f"LimitNOFILE= in /{UNIT}"),
            None,
        ),
        (
            {
                "lib/systemd/system/tcpdconf.service": "LimitNOFILE=1\nTasksMax=1\n",
                "run/systemd/system/tcpdconf.service.d/a.conf": "LimitNOFILE=2\nTasksMax=2\n",
                f"{UNIT}.d/a.conf": "LimitNOFILE=3\n",
                f"{UNIT}.d/b.conf": "TasksMax=10%\n",
            },
            (3, f"LimitNOFILE= in /{UNIT}.d/a.conf"),
            (2000, f"TasksMax= in /{UNIT}.d/b.conf"),
        ),
        (
            {
                UNIT: "LimitNOFILE=infinity\n",
                "etc/systemd/system.conf": "#DefaultTasksMax=15%\n",
                "etc/systemd/system.conf.d/x.conf": "DefaultTasksMax=700\n",
            },
            None,
            (700, "DefaultTasksMax= in /etc/systemd/system.conf.d/x.conf"),
        ),
    ],
)  # fmt: skip
def test_without_a_daemon_the_unit_tells(
    tmp_path: pathlib.Path,
    written: dict[str, str],
    descriptors: tuple[int, str] | None,
    tasks: tuple[int, str] | None,
) -> None:
    found = files(tmp_path, {**KERNEL, **written}).of_unit()

    assert found is not None
    assert found.descriptors == (() if descriptors is None else (descriptors,))
    assert [limit for limit in found.tasks if not limit.origin.startswith("kernel.")] == (
        [] if tasks is None else [tasks]
    )


def test_the_shipped_unit_is_read_as_it_is_and_carries_the_shipped_services(tmp_path: pathlib.Path) -> None:
    top = pathlib.Path(__file__).parent.parent.parent
    text = (top / "deploy/systemd/tcpdconf.service").read_text()
    found = files(tmp_path, {**KERNEL, UNIT: text}).of_unit()

    assert found is not None
    assert found.descriptors == ((65536, f"LimitNOFILE= in /{UNIT}"),)
    assert list(capacity.warnings(load.load(top / "conf.d", to_serve=False), found)) == []


def test_a_host_without_the_unit_has_none(tmp_path: pathlib.Path) -> None:
    assert files(tmp_path, KERNEL).of_unit() is None
