"""Configurations that are too large are refused at once, whatever is large in them; what runs goes on."""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from support.running import daemons, reloads

from tcpdconf.daemon.control import client as control_client

pytestmark = pytest.mark.slow

MANY = 250_000
CPU = 2.0  # seconds of processor time, of which starting takes some
MEMORY = 300_000  # kB of addresses; the rusage of a child begins with what the tests themselves have used
SMALL = """
    [services.test]
    program = ["/usr/bin/env", "-0"]
    listeners = [{{ address = "127.0.0.1", port = {port} }}]
"""


def rules(count: int, more: str = "") -> str:
    return "".join(
        f'{{ network = "{16 + (n >> 16)}.{n >> 8 & 255}.{n & 255}.0/24", action = "deny"{more} }},\n'
        for n in range(count)
    )


def service(more: str) -> str:
    return SMALL.format(port=4999) + more


def services(count: int) -> str:
    return "".join(
        f'[services.s{n}]\nprogram = ["/bin/true"]\nlisteners = [{{ address = "127.{n >> 16}.{n >> 8 & 255}.'
        f'{n & 255}", port = 4999 }}]\n'
        for n in range(count)
    )


def one_file(text: str) -> dict[str, str]:
    return {"large.toml": text}


KINDS = {
    "rules": lambda: one_file(service(f"access = [{{ rules = [\n{rules(MANY)}] }}]")),
    "rules in one line": lambda: one_file(
        service(f"access = [{{ rules = [{rules(MANY)}] }}]".replace("\n", ""))
    ),
    "rules as tables": lambda: one_file(
        service('[[services.test.access.rules]]\nnetwork = "192.0.2.1"\naction = "deny"\n' * MANY)
    ),
    "rules in many files": lambda: {
        f"{n}.toml": f"[services.s{n}]\naccess = [{{ rules = [\n{rules(MANY // 250)}] }}]" for n in range(250)
    },
    "rules of the defaults": lambda: one_file(
        f"[[defaults.access]]\nrules = [\n{rules(MANY)}]" + service("")
    ),
    "defaults of many services": lambda: one_file(
        f"[[defaults.access]]\nrules = [\n{rules(1000)}]\n" + services(400)
    ),
    "listeners": lambda: one_file(service("[[services.test.listeners]]\nport = 4999\n" * MANY)),
    "DNS lists": lambda: one_file(
        service("dns_lists = [" + "".join(f'{{ zone = "z{n}.example" }},' for n in range(MANY)) + "]")
    ),
    "variables": lambda: one_file(
        service("[services.test.environment]\n" + "".join(f'V{n} = "x"\n' for n in range(MANY)))
    ),
    "arguments": lambda: one_file(SMALL.format(port=4999).replace('"-0"', '"-0"' + ', "x"' * MANY)),
    "services": lambda: one_file(services(MANY)),
    "more services than workers": lambda: one_file(services(1000)),
    "a text": lambda: one_file(service(f'deny_message = "{"x" * 5_000_000}"')),
    "a megabyte in each of many files": lambda: dict.fromkeys(
        (f"{n}.toml" for n in range(300)), f"# {'x' * 1_000_000}\n"
    ),
    "comments": lambda: one_file("# a comment\n" * MANY + service("")),
    "what is no TOML": lambda: one_file("[" * 5_000_000),
    "files": lambda: {f"{n}.toml": "" for n in range(2000)},
}  # fmt: skip


def write(folder: pathlib.Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


def check(folder: pathlib.Path, *options: str, stdin: int = subprocess.DEVNULL) -> list[dict[str, str]]:
    """Return the problems that `check` finds within these limits of time and memory."""
    limited = ["/bin/sh", "-c", f'ulimit -v {MEMORY}; exec "$@"', "sh"]
    command = [*limited, sys.executable, "-m", "tcpdconf", "check", str(folder), "--format", "json", *options]
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert used.ru_utime + used.ru_stime < CPU
    found: list[dict[str, str]] = json.loads(said)
    assert process.returncode == (78 if any(each["severity"] == "error" for each in found) else 0)
    return found


QUICK = {"rules", "rules in many files", "services", "files"}
ALL = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize("kind", ALL)
def test_what_is_too_large_is_refused_at_once(kind: str, tmp_path: pathlib.Path) -> None:
    write(tmp_path, KINDS[kind]())
    found = check(tmp_path)

    assert {each["code"] for each in found if each["severity"] == "error"} == {"too-large"}
    assert all(each["file"].startswith(str(tmp_path)) for each in found)


def test_a_size_is_enough_to_refuse_a_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "small.toml").write_text(service(""))
    with (tmp_path / "sparse.toml").open("wb") as file:
        file.truncate(2**30)
    (found,) = check(tmp_path)

    assert (found["file"], found["code"]) == (str(tmp_path / "sparse.toml"), "too-large")
    assert found["message"].startswith("has 1073741824 bytes, ")
    assert 'file = "..."' in found["hint"]


@pytest.mark.parametrize("what", ["a device", "a FIFO"])
def test_what_has_no_end_is_no_configuration(what: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "small.toml").write_text(service(""))
    path = tmp_path / "x.toml"
    if what == "a FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")

    assert ("x.toml", "unreadable") in [(pathlib.Path(p["file"]).name, p["code"]) for p in check(tmp_path)]


def test_a_candidate_without_an_end(tmp_path: pathlib.Path) -> None:
    with open("/dev/zero", "rb") as zeros:
        found = check(tmp_path, "--replace", f"{tmp_path}/x.toml=/dev/stdin", stdin=zeros.fileno())

    assert [each["code"] for each in found] == ["too-large"]


@pytest.mark.parametrize("more", ["", ', environment = { RELAYCLIENT = "" }'])
def test_thousands_of_rules_are_taken(more: str, tmp_path: pathlib.Path) -> None:
    count = 3500 if more else 5000
    comments = "# a comment = [ with, many. tokens\n\n" * 10_000
    write(tmp_path, one_file(service(f"access = [{{ rules = [\n{rules(count, more)}] }}]\n{comments}")))

    assert not [each for each in check(tmp_path) if each["severity"] == "error"]


def test_an_access_file_may_be_larger(tmp_path: pathlib.Path) -> None:
    count = 20_000
    (tmp_path / "rules.toml").write_text(f"rules = [\n{rules(count)}]\n")
    port = daemons.free_port()
    source = f'access = [{{ file = "{tmp_path}/rules.toml", format = "toml" }}]'
    with reloads.Daemon(tmp_path, SMALL.format(port=port) + source):
        assert b"TCPREMOTEIP" in daemons.talk(port)


def test_so_many_problems_are_shown_and_no_more(tmp_path: pathlib.Path) -> None:
    files = {f"{n}.toml": f"[services.s{n}]\naccess = [{{ rules = [\n{rules(40, ', lokal = 1')}] }}]"
             for n in range(100)}  # fmt: skip
    write(tmp_path, files)
    found = check(tmp_path)

    assert len(found) == 501
    assert found[0]["code"] == "too-many-problems"
    assert {each["code"] for each in found[1:]} == {"unknown-key"}


def test_a_daemon_does_not_start_with_it(tmp_path: pathlib.Path) -> None:
    conf = daemons.configure(tmp_path, KINDS["rules"]()["large.toml"])
    command = [sys.executable, "-m", "tcpdconf", "run", str(conf), "--runtime-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)

    assert done.returncode == 78
    assert f"{conf}/test.toml: error: has " in done.stderr


def asked(daemon: reloads.Daemon, until: int) -> Iterator[float]:
    """Yield the time of each answer, while this number of reloads is rejected."""
    while len([line for line in daemon.log if "reload rejected" in line]) < until:
        began = time.monotonic()
        assert control_client.ask(daemon.runtime, {"command": "status"}, daemons.SECONDS)["pid"]
        yield time.monotonic() - began


@pytest.mark.parametrize("kind", ["rules", "rules in many files", "services", "what is no TOML"])
def test_a_daemon_goes_on_when_it_comes(kind: str, tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    small = SMALL.format(port=port)
    with reloads.Daemon(tmp_path, small, environment={"WATCHDOG_USEC": "30000000"}) as daemon:
        large = KINDS[kind]()
        write(daemon.conf, large)
        daemon.process.send_signal(1)
        longest = max(asked(daemon, 1), default=0)
        assert longest < 5  # a machine that does much else
        last = daemon.ask("status")["last_reload"]
        assert [each["code"] for each in last["problems"]] == ["too-large"]
        assert b"TCPREMOTEIP" in daemons.talk(port)
        for name in large:
            (daemon.conf / name).unlink()
        assert daemon.reload() == []
