import grp
import os
import pwd
import socket
from pathlib import Path

import pytest

from tcpdconf.config import host, problems
from tcpdconf.config.load import load
from tcpdconf.config.model.service import Service

NOBODY = pwd.getpwnam("nobody")
FREE = 3999999999  # no user has this number


def service(**settings: object) -> Service:
    return Service.model_validate({"program": ["/bin/cat"], "listeners": [{"port": 5000}], **settings})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (None, None, (), None)),
        ({"group": 7}, (None, 7, (), None)),
        ({"user": "root", "group": 7}, (0, 7, tuple(os.getgrouplist("root", 7)), "root")),
        (
            {"user": "nobody"},
            (NOBODY.pw_uid, NOBODY.pw_gid, tuple(os.getgrouplist("nobody", NOBODY.pw_gid)), "nobody"),
        ),
        ({"user": 0}, (0, 0, tuple(os.getgrouplist("root", 0)), "root")),
        ({"user": FREE, "group": 7}, (FREE, 7, (7,), None)),
        ({"user": FREE, "group": 7, "supplementary_groups": [9, "root", 7]}, (FREE, 7, (7, 9, 0), None)),
        ({"group": 7, "supplementary_groups": [9]}, (None, 7, (9,), None)),
        (
            {"supplementary_groups": [FREE]},
            (None, os.getegid(), tuple(dict.fromkeys((*os.getgroups(), FREE))), None),
        ),
        ({"user": FREE, "group": grp.getgrgid(0).gr_name}, (FREE, 0, (0,), None)),
    ],
)
def test_a_service_is_the_user_and_groups_that_it_names(
    settings: dict[str, object], expected: tuple[object, ...]
) -> None:
    assert host.identity(service(**settings)) == expected


@pytest.mark.parametrize(
    ("settings", "key", "text", "hint"),
    [
        ({"user": "nobdoy"}, ("user",), 'unknown user "nobdoy"', 'did you mean "nobody"?'),
        ({"user": "zzzzzzzz"}, ("user",), 'unknown user "zzzzzzzz"', None),
        ({"group": "zzzzzzzz"}, ("group",), 'unknown group "zzzzzzzz"', None),
        (
            {"supplementary_groups": ["root", "zzzzzzzz"]},
            ("supplementary_groups", 1),
            'unknown group "zzzzzzzz"',
            None,
        ),
        (
            {"user": FREE},
            ("user",),
            f"user {FREE} is not in the user database, so it needs a group",
            'add group = "..."',
        ),
    ],
)
def test_unknown_users_and_groups_are_lookup_errors(
    settings: dict[str, object], key: tuple[str | int, ...], text: str, hint: str | None
) -> None:
    with pytest.raises(LookupError) as error:
        host.identity(service(**settings))

    assert isinstance(error.value, host.UnknownNameError)
    assert (error.value.key, str(error.value), error.value.hint) == (key, text, hint)


@pytest.mark.parametrize(("port", "number"), [(25, 25), ("smtp", 25), ("imaps", 993), ("submission", 587)])
def test_ports_have_names(monkeypatch: pytest.MonkeyPatch, port: int | str, number: int) -> None:
    assert host.port_number(port) == number

    def unknown(*_: object) -> int:
        raise OSError("service/proto not found")

    monkeypatch.setattr(socket, "getservbyname", unknown)  # as in a container without /etc/services

    assert host.port_number(port) == number


def test_an_unknown_port_name_gets_a_suggestion() -> None:
    with pytest.raises(LookupError, match='unknown port name "imapps"') as error:
        host.port_number("imapps")

    assert getattr(error.value, "hint", None) == 'did you mean "imaps"?'


def told(directory: Path, text: str) -> list[str]:
    (directory / "a.toml").write_text(text)
    try:
        found = load.load(directory).warnings
    except problems.ConfigError as error:
        found = error.problems
    return [f"{problem.line}:{problem.column}: {problem.severity}: {problem.text}" for problem in found]


def listeners(*ends: tuple[object, object]) -> str:
    tables = [f'{{ address = "{address}", port = {port!r} }}' for address, port in ends]
    head = '[services.a]\nprogram = ["/bin/cat"]\nuser = "nobody"\nlimits.max_per_ip = 4\n'
    return head + "listeners = [\n" + ",\n".join(tables) + "\n]\n"


@pytest.mark.parametrize(
    ("one", "other", "taken"),
    [
        (("127.0.0.1", 25), ("127.0.0.1", 25), True),
        (("127.0.0.1", 25), ("127.0.0.1", 26), False),
        (("127.0.0.1", 25), ("127.0.0.2", 25), False),
        (("127.0.0.1", 25), ("127.0.0.1", "smtp"), True),
        (("*", 25), ("127.0.0.1", 25), True),
        (("::1", 25), ("*", 25), True),
        (("*", 25), ("0.0.0.0", 25), True),
        (("*", 25), ("::", 25), True),
        (("0.0.0.0", 25), ("127.0.0.1", 25), True),
        (("0.0.0.0", 25), ("::", 25), False),
        (("0.0.0.0", 25), ("::1", 25), False),
        (("::", 25), ("::1", 25), True),
        (("::", 25), ("127.0.0.1", 25), False),
        (("127.0.0.1", 25), ("::ffff:127.0.0.1", 25), True),
        (("2001:DB8::1", 25), ("2001:db8:0::1", 25), True),
    ],
)
def test_listeners_that_cannot_both_be_bound_are_problems(
    tmp_path: Path, one: tuple[str, object], other: tuple[str, object], taken: bool
) -> None:
    found = told(tmp_path, listeners(one, other))

    assert [line.partition(" is taken by ")[0].split(":")[0] for line in found] == (["7"] if taken else [])


def test_an_unknown_port_collides_with_nothing(tmp_path: Path) -> None:
    found = told(tmp_path, listeners(("*", "zzzz"), ("*", "zzzz")))

    assert found == [f'{line}:25: error: unknown port name "zzzz"' for line in (6, 7)]


LOOPBACK = '{ port = 5000, address = "::1"'


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['program = ["/nonexistent"]'], "4:12: warning: there is no program /nonexistent"),
        (['program = ["/etc/passwd"]'], "4:12: warning: /etc/passwd is not executable"),
        (["listeners = [{ port = 5000 }]"], "1:1: warning: one address may take all 40 connections"),
        (
            ["limits = { max_connections = 9 }", "listeners = [{ port = 5000 }]"],
            "4:10: warning: one address may take all 9 connections",
        ),
        (
            [f'listeners = [{LOOPBACK}, haproxy = {{ trusted = "any" }} }}]'],
            "4:68: warning: any client of this port can claim any address",
        ),
        (
            [f'listeners = [{LOOPBACK}, haproxy = {{ trusted = ["::1"], timeout = 2.5 }} }}]'],
            "4:87: warning: too short for a header whose packet is lost once: 2.5 s",
        ),
    ],
)
def test_what_is_doubtful_is_a_warning(tmp_path: Path, lines: list[str], expected: str) -> None:
    text = "\n".join(["[services.a]", 'user = "nobody"', "enabled = true", *lines, ""])
    if "program" not in text:
        text += 'program = ["/bin/cat"]\n'
    if "listeners" not in text:
        text += f"listeners = [{LOOPBACK} }}]\n"

    assert told(tmp_path, text) == [expected]


@pytest.mark.parametrize(
    ("user", "euid", "warned"), [("", 0, True), ("", 1000, False), ('user = "nobody"', 0, False)]
)
def test_running_as_root_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, euid: int, warned: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    text = f'[services.a]\n{user}\nprogram = ["/bin/cat"]\nlisteners = [{{ port = 5000, address = "::1" }}]\n'

    assert told(tmp_path, text) == (["1:1: warning: runs as root"] if warned else [])


def test_the_host_is_not_asked_about_disabled_services(tmp_path: Path) -> None:
    enabled = listeners(("127.0.0.1", 25))
    disabled = (
        enabled.replace("services.a", "services.b").replace("/bin/cat", "/nonexistent") + "enabled = false\n"
    )

    assert told(tmp_path, enabled + disabled) == []


def test_environment_files_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "variables"
    file.write_text("export A=1\n")

    assert told(tmp_path, listeners(("127.0.0.1", 25)) + f'environment_files = ["{file}"]\n') == []


def test_files_that_nobody_may_read_are_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "access"
    file.touch()
    monkeypatch.setattr(os, "access", lambda path, mode, **_: path != str(file) or not mode & os.R_OK)

    found = told(tmp_path, listeners(("127.0.0.1", 25)) + f'access = [{{ file = "{file}" }}]\n')

    assert found == [f"8:20: error: cannot read {file}: Permission denied"]


@pytest.mark.parametrize(
    ("line", "names"),
    [('environment_files = ["/no/such/file"]', ["a"]), ('environment_files = ["/no/such/file"]\nx = 1', [])],
)
def test_what_only_the_host_objects_to_is_known_all_the_same(
    line: str, names: list[str], tmp_path: Path
) -> None:
    (tmp_path / "a.toml").write_text(
        f'[services.a]\nprogram = ["/bin/cat"]\n{line}\n[[services.a.listeners]]\nport = 5000\n'
    )
    with pytest.raises(load.LoadError) as error:
        load.load(tmp_path)

    assert list(error.value.config.services) == names
