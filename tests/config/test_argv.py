from typing import Any

import pytest

from tcpdconf.config import argv

PROGRAM = ("25", "/bin/cat")


def service(*options: str, exact: bool = True, rest: tuple[str, ...] = PROGRAM) -> dict[str, Any]:
    """The service of a command line as TOML's types, what is default left out."""
    found = argv.parse([*options, *rest], exact=exact).service
    assert found is not None
    return found.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def listeners(ports: str, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service(*options, rest=(ports, "/bin/cat"))["listeners"]
    return found


def refusal(*words: str) -> str:
    with pytest.raises(argv.CommandLineError) as error:
        argv.parse(words, exact=True)
    return str(error.value)


def kinds(*options: str, exact: bool = False) -> list[tuple[str, str]]:
    return [note[:2] for note in argv.parse([*options, *PROGRAM], exact=exact).notes]


def test_the_defaults_of_couriertcpd_are_written_out() -> None:
    assert service() == {
        "program": ["/bin/cat"],
        "inherit_environment": True,
        "lookup_names": True,
        "listeners": [{"port": 25}],
        "limits": {"max_per_ip": 4, "warn_at": 35},
    }


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "Usage: couriertcpd [options] port prog arg1 arg2..."),
        (["-maxprocs=0"], "Usage: couriertcpd [options] port prog arg1 arg2..."),
        (["25"], "Usage: couriertcpd [options] port prog arg1 arg2..."),
        (["-pid=/p"], "Usage: couriertcpd [options] port prog arg1 arg2..."),
        (["-bogus=1", *PROGRAM], "couriertcpd: Invalid option: -bogus=1"),
        (["--nodnslookup", *PROGRAM], "couriertcpd: Invalid option: --nodnslookup"),
        (["-nodns", *PROGRAM], "couriertcpd: Invalid option: -nodns"),
        (["-stop", "-bogus", "-pid=/p"], "couriertcpd: Invalid option: -bogus"),
        (["-", "-1", "/bin/cat"], "Invalid port: -1"),
        (["-stop"], "couriertcpd: -pid argument is required."),
        (["-restart"], "couriertcpd: -pid argument is required."),
        (["-maxprocs", *PROGRAM], "Invalid -maxprocsarg option."),
        (["-maxprocs=abc", *PROGRAM], "Invalid -maxprocsarg option."),
        (["-maxperip= ", *PROGRAM], "Invalid -maxperip option."),
        (["-maxperip=2147483648", *PROGRAM], "Invalid -maxperip option."),
        (["-maxperc=0", *PROGRAM], "Invalid -maxperc option."),
        (["-listen=-1", *PROGRAM], "Invalid -listen option."),
        (["-maxprocs=0", "abc", "/bin/cat"], "Invalid port: abc"),
        (["-address=bad", *PROGRAM], "Invalid IP address: bad"),
        (["-address=", "/bin/true", "/bin/cat"], "Invalid port: /bin/true"),
        (["-haproxy=/port=nonsense.25", *PROGRAM], "Invalid IP address: nonsense"),
        (["-haproxy=/port=.25", *PROGRAM], "Invalid IP address: "),
        (["-haproxy=/port=*.25", *PROGRAM], "Invalid IP address: *"),
        (["-pid=", *PROGRAM], "cannot open -pid: no file is named"),
        (["-access=", *PROGRAM], "cannot open -access: no file is named"),
        (["-stderr", *PROGRAM], "cannot open -stderr: no file is named"),
    ],
)
def test_what_couriertcpd_refuses_is_refused(words: list[str], text: str) -> None:
    assert refusal(*words) == text


@pytest.mark.parametrize(
    ("words", "action"),
    [
        (["-pid=/p", "-stop"], "stop"),
        (["-stop", "-pid=/p", *PROGRAM], "stop"),
        (["-pid=/p", "-restart"], "restart"),
        (["-pid=/p", "-restart", "-stop"], "restart"),
        (["-pid=/p", "-stop=0"], "stop"),
    ],
)
def test_stop_and_restart_need_only_the_pid_file(words: list[str], action: str) -> None:
    assert argv.parse(words, exact=True) == argv.CommandLine(action, "/p")  # type: ignore[arg-type]


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
    assert listeners(ports) == found
