import subprocess
import sys
from typing import Any

import pytest
from support.courier import commandlines

from tcpdconf.config.couriertcpd import grammar, parse


def test_the_defaults_of_couriertcpd_are_written_out() -> None:
    assert commandlines.service() == {
        "program": ["/bin/cat"],
        "inherit_environment": True,
        "lookup_names": True,
        "listeners": [{"port": 25}],
        "keepalive": "kernel",
        "limits": {"max_per_ip": 4, "warn_at": 35},
    }


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "Usage: couriertcpd [options] port prog arg1 arg2..."),
        (["-maxprocs=0"], "Usage: couriertcpd [options] port prog arg1 arg2..."),
        (["25"], "Usage: couriertcpd [options] port prog arg1 arg2..."),
        (["-pid=/p"], "Usage: couriertcpd [options] port prog arg1 arg2..."),
        (["-bogus=1", *commandlines.PROGRAM], "couriertcpd: Invalid option: -bogus=1"),
        (["--nodnslookup", *commandlines.PROGRAM], "couriertcpd: Invalid option: --nodnslookup"),
        (["-nodns", *commandlines.PROGRAM], "couriertcpd: Invalid option: -nodns"),
        (["-stop", "-bogus", "-pid=/p"], "couriertcpd: Invalid option: -bogus"),
        (["-", "-1", "/bin/cat"], "Invalid port: -1"),
        (["-stop"], "couriertcpd: -pid argument is required."),
        (["-restart"], "couriertcpd: -pid argument is required."),
        (["-maxprocs", *commandlines.PROGRAM], "Invalid -maxprocsarg option."),
        (["-maxprocs=abc", *commandlines.PROGRAM], "Invalid -maxprocsarg option."),
        (["-maxperip= ", *commandlines.PROGRAM], "Invalid -maxperip option."),
        (["-maxperip=2147483648", *commandlines.PROGRAM], "Invalid -maxperip option."),
        (["-maxperc=0", *commandlines.PROGRAM], "Invalid -maxperc option."),
        (["-listen=-1", *commandlines.PROGRAM], "Invalid -listen option."),
        (["-maxprocs=0", "abc", "/bin/cat"], "Invalid port: abc"),
        (["-address=bad", *commandlines.PROGRAM], "Invalid IP address: bad"),
        (["-address=", "/bin/true", "/bin/cat"], "Invalid port: /bin/true"),
        (["-haproxy=/port=nonsense.25", *commandlines.PROGRAM], "Invalid IP address: nonsense"),
        (["-haproxy=/port=.25", *commandlines.PROGRAM], "Invalid IP address: "),
        (["-haproxy=/port=*.25", *commandlines.PROGRAM], "Invalid IP address: *"),
        (["-pid=", *commandlines.PROGRAM], "cannot open -pid: no file is named"),
        (["-access=", *commandlines.PROGRAM], "cannot open -access: no file is named"),
        (["-stderr", *commandlines.PROGRAM], "cannot open -stderr: no file is named"),
    ],
)
def test_what_couriertcpd_refuses_is_refused(words: list[str], text: str) -> None:
    assert commandlines.refusal(*words) == text


@pytest.mark.parametrize(
    ("words", "action"),
    [
        (["-pid=/p", "-stop"], "stop"),
        (["-stop", "-pid=/p", *commandlines.PROGRAM], "stop"),
        (["-pid=/p", "-restart"], "restart"),
        (["-pid=/p", "-restart", "-stop"], "restart"),
        (["-pid=/p", "-stop=0"], "stop"),
    ],
)
def test_stop_and_restart_need_only_the_pid_file(words: list[str], action: str) -> None:
    assert parse.parse(words, exact=True) == parse.CommandLine(action, "/p")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ports", "found"),
    [
        (",25,,26,", [{"port": 25}, {"port": 26}]),
        ("smtp,127.0.0.1.imap2", [{"port": "smtp"}, {"port": "imap2", "address": "127.0.0.1"}]),
        ("12345x, 25", [{"port": 12345}, {"port": 25}]),
        ("2130706433.25", [{"port": 25, "address": "127.0.0.1"}]),
        ("127.1.25", [{"port": 25, "address": "127.0.0.1"}]),
        ("0177.0.0.1.25", [{"port": 25, "address": "127.0.0.1"}]),
        ("::.25", [{"port": 25}]),
        ("0:0:0:0:0:0:0:1.25", [{"port": 25, "address": "::1"}]),
        ("::ffff:127.0.0.1.25", [{"port": 25, "address": "127.0.0.1"}]),
        ("0.0.0.0.25", [{"port": 25, "address": "0.0.0.0"}]),
        ("192.0.2.1.25", [{"port": 25, "address": "192.0.2.1", "freebind": True}]),
        ("127.0.0.1:25", [{"port": 1, "address": "127.0.0.0"}]),
    ],
)
def test_port_lists(ports: str, found: list[dict[str, Any]]) -> None:
    assert commandlines.listeners(ports) == found


def test_an_item_that_stands_for_every_address_takes_the_option() -> None:
    assert commandlines.listeners("0.25,0.0.0.0.26,::.27,28", "-address=127.1") == [
        {"port": 25, "address": "127.0.0.1"},
        {"port": 26, "address": "0.0.0.0"},
        {"port": 27},
        {"port": 28, "address": "127.0.0.1"},
    ]


@pytest.mark.parametrize(
    "ports", ["25,25", "25,127.0.0.1.25", "127.0.0.1.25,25", "smtp,25", "0.0.0.0.25,127.1.25"]
)
def test_what_cannot_be_bound_together_is_refused(ports: str) -> None:
    assert commandlines.refusal(ports, "/bin/cat") == "bind: Address already in use"


@pytest.mark.parametrize("ports", ["", ",", ",,"])
def test_a_list_without_ports_is_refused(ports: str) -> None:
    assert commandlines.refusal(ports, "/bin/cat") == f"Invalid port: {ports}"


@pytest.mark.parametrize(
    ("option", "limits"),
    [
        ("-maxprocs=12abc", {"max_connections": 12, "warn_at": 10}),
        ("-maxprocs= +007", {"max_connections": 7, "warn_at": 6}),
        ("-maxprocs=4294967297", {"max_connections": 1, "warn_at": 1}),
        ("-maxperip=3.9", {"max_per_ip": 3}),
        ("-maxperc=5", {"max_per_network": 5, "network": {"ipv6": 120}}),
        ("-warn=3", {"warn_at": 3}),
        ("-warn=40", {"warn_at": 40}),
        ("-warn=0", {"warn_at": 1}),
        ("-warn=garbage", {"warn_at": 1}),
        ("-warn=41", {}),
        ("-warn=-1", {}),
    ],
)
def test_numbers_are_those_of_atoi(option: str, limits: dict[str, Any]) -> None:
    assert commandlines.service(option)["limits"] == {"max_per_ip": 4, "warn_at": 35} | limits


def test_lists_keep_their_order_and_other_options_their_last_value() -> None:
    found = commandlines.service(
        "-block=b.test", "-denymsg=1", "-allow=a.test", "-denymsg=2=3", "-block=b.test", "-drop=A", "-drop"
    )

    assert [table["zone"] for table in found["dns_lists"]] == ["b.test", "a.test", "b.test"]
    assert (found["deny_message"], found["drop"]) == ("2=3\n", ["BLOCK"])


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["-drop=A,B"], {"drop": ["A", "B"]}),
        (["-drop=,B"], {"drop": ["B"]}),
        (["-drop=", "-denymsg"], {"drop": ["BLOCK"], "deny_message": "\n"}),
        (["-denymsg=a\n"], {"deny_message": "a\n\n"}),
        (["-stderr=socket"], {"stderr": "socket"}),
        (["-stderr=/var/log/x"], {"stderr": {"file": "/var/log/x"}}),
        (["-stderr=syslog"], {"stderr": {"file": "/srv/syslog"}}),
        (["-stderrlogger=/bin/l", "-stderr=/x"], {"stderr": {"logger": ["/bin/l"]}}),
        (["-stderrlogger=l", "-stderrloggername=n"], {"stderr": {"logger": ["/srv/l"], "name": "n"}}),
        (["-stderrlogger=", "-stderrloggername="], {}),
        (["-stderrlogger=/bin/l", "-stderr=socket"], {"stderr": "socket"}),
        (["-access=a.dat"], {"access": [{"file": "/srv/a.dat"}]}),
        (["-accesslocal=no", "-access=/a"], {"access": [{"file": "/a", "local": True}]}),
        (["-accesslocal"], {}),
        (["-user=mail"], {"user": "mail"}),
        (["-user=1000"], {"user": 1000, "group": 7}),
        (["-user=1000", "-group=mail"], {"user": 1000, "group": "mail"}),
        (["-user=", "-group"], {"user": 0, "group": 0}),
        (["-group=12abc"], {"group": "12abc"}),
        (["-listen=5"], {"listeners": [{"port": 25, "backlog": 5}]}),
        (["-nodnslookup=0"], {"lookup_names": None}),
        (["-lock=/l", "-proxy", "-forcebind", "-noidentlookup=1", "-pid=/p"], {}),
    ],
)  # fmt: skip
def test_other_options(options: list[str], found: dict[str, Any]) -> None:
    written = parse.parse([*options, *commandlines.PROGRAM], exact=True, directory="/srv", group=7).service
    plain = parse.parse(commandlines.PROGRAM, exact=True, directory="/srv").service
    assert written is not None
    assert plain is not None
    before = plain.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    after = {**before, **found}
    assert written.model_dump(mode="json", by_alias=True, exclude_defaults=True) == {
        key: value for key, value in after.items() if value is not None
    }


def test_the_messages_of_couriertcpd_go_to_the_logger_where_those_of_programs_go_to_the_client() -> None:
    found = parse.parse(["-stderrlogger=/bin/l", "-stderr=socket", *commandlines.PROGRAM], exact=True)

    assert found.log is not None
    assert found.log.model_dump(exclude_none=True) == {"logger": ("/bin/l",)}
    assert parse.parse(["-stderr=socket", *commandlines.PROGRAM], exact=True).log is None


def test_options_behind_the_list_belong_to_the_program() -> None:
    words = ["-", "25", "bin/cat", "-maxprocs=0", "-bogus", "-", "--", "", "a b"]

    assert commandlines.service(rest=tuple(words))["program"] == ["/bin/cat", *words[3:]]


def test_words_that_no_configuration_can_hold_are_refused() -> None:
    assert commandlines.refusal("25", "/bin/cat", "\udcff") == "cannot read '\\udcff': it is not UTF-8"
    assert (
        commandlines.refusal("-user=a:b", *commandlines.PROGRAM)
        == 'user: must be a name or a number, not "a:b"'
    )
    assert parse.parse(["-pid=/\udcff", "-stop"], exact=True).pid_file == "/\udcff"


TWO = "-haproxy=1/port=::1.25,2/port=127.1.25"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["-noidentlookup", "-lock=/x"], [("obsolete", "-lock=/x"), ("obsolete", "-noidentlookup")]),
        (["-pid=/run/p"], [("ignored", "-pid=/run/p")]),
        (["-accesslocal"], [("ignored", "-accesslocal")]),
        (["-stderrloggername=x"], [("ignored", "-stderrloggername=x")]),
        (["-warn=50"], [("ignored", "-warn=50")]),
        (["-drop=A,B"], [("changed", "-drop=A,B")]),
        (["-drop=A,b-c"], [("ignored", "-drop=A,b-c")]),
        (["-user=7"], [("risk", "-user=7")]),
        (["-user="], [("risk", "-user"), ("risk", "-user")]),
        (["-stderr=syslog"], [("risk", "-stderr=syslog")]),
        (["-maxprocs=4"], [("limit", "-maxperip=4 by default")]),
        (["-maxprocs=30", "-maxperip=40"], [("limit", "-maxperip=40")]),
        (["-haproxy"], [("changed", "-haproxy"), ("risk", "-haproxy")]),
        (["-haproxy=/port=9"], [("ignored", "-haproxy=/port=9")]),
        (["-haproxy=1/port=127.1.25,2"], [("risk", "-haproxy=1/port=127.1.25,2")]),
        ([TWO], [("risk", TWO), ("changed", TWO)]),
        (["-drop", "-drop=", "-warn=3", "-warn=4", "-warn=4"], [("ignored", "-warn=3")]),
    ],
)  # fmt: skip
def test_what_a_person_should_know(options: list[str], found: list[tuple[str, str]]) -> None:
    assert commandlines.kinds(*options) == found


@pytest.mark.parametrize(("port", "known"), [("143", True), ("imaps", True), ("110", False)])
def test_four_connections_are_few_for_imap(port: str, known: bool) -> None:
    notes = parse.parse([port, "/bin/cat"], exact=True).notes
    assert [note.key for note in notes] == [("limits", "max_per_ip")] * known


EXAMPLES = {
    "access": "/a", "address": "192.0.2.1", "allow": "a.test", "block": "b.test", "denymsg": "no",
    "drop": "A", "group": "mail", "haproxy": "5", "listen": "7", "maxperc": "8", "maxperip": "9",
    "maxprocs": "60", "stderr": "/log", "stderrlogger": "/bin/l", "stderrloggername": "n", "user": "mail",
    "warn": "3",
}  # fmt: skip


def leaves(value: Any, key: str = "") -> dict[str, Any]:  # noqa: ANN401 (TOML holds any type)
    """Every value by its key, without the places in arrays."""
    if isinstance(value, dict):
        return {
            leaf: item
            for part, below in value.items()
            for leaf, item in leaves(below, f"{key}.{part}").items()
        }
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {leaf: item for below in value for leaf, item in leaves(below, key).items()}
    return {key[1:]: value}


@pytest.mark.parametrize("option", grammar.OPTIONS, ids=lambda option: option.name)
def test_each_option_becomes_the_keys_that_the_reference_names(option: grammar.Option) -> None:
    """docs/reference/couriertcpd-options.md is made of them."""
    if option.name in {"stop", "restart"}:
        return
    around = {
        "accesslocal": ["-access=/a"],
        "stderrloggername": ["-stderrlogger=/bin/l"],
        "maxprocs": ["-warn=35"],
    }
    before = leaves(commandlines.service(*around.get(option.name, ())))
    word = f"-{option.name}={EXAMPLES[option.name]}" if option.name in EXAMPLES else f"-{option.name}=x"
    after = leaves(commandlines.service(*around.get(option.name, ()), word))
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}

    assert bool(option.value) or option.name not in EXAMPLES
    assert all(any(key.startswith(name) for key in changed) for name in option.keys)
    assert all(key.startswith((*option.keys, "limits.network", "access.format")) for key in changed)


def test_stop_and_restart_import_no_models() -> None:
    code = "import sys; from tcpdconf.config.couriertcpd import parse; "
    code += "parse.parse(['-stop', '-pid=/p'], exact=True); print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
