"""Tests the exit statuses of Courier's programs: nothing about failed logins, something about scanners."""

import base64
import contextlib
import pathlib
import re
import tomllib
from collections.abc import Iterator
from concurrent import futures
from typing import Final, NamedTuple

import pytest
import tomli_w
from support.courier import courierhost
from support.running import daemons, reloads

pytestmark = [pytest.mark.peer, pytest.mark.slow]

TOP: Final = pathlib.Path(__file__).parents[2]
SERVICES: Final = ("imap", "pop3", "submission")
GARBAGE: Final = ["GET / HTTP/1.0"] * 10
# An address for each that is served, so that none is penalised for another.
GOOD, WRONG, GONE, SCANNER, SILENT = (f"127.0.0.{number}" for number in range(21, 26))


class Served(NamedTuple):
    """A daemon, and the port of each of its services."""

    daemon: reloads.Daemon
    ports: dict[str, int]


def login(service: str, password: str) -> list[str]:
    """The commands of a login that may fail."""
    user = courierhost.USER
    if service == "imap":
        return [f"1 LOGIN {user} {password}"]
    if service == "pop3":
        return [f"USER {user}", f"PASS {password}"]
    secret = base64.b64encode(b"\0" + user.encode() + b"\0" + password.encode()).decode()
    return ["EHLO client.example.com", f"AUTH PLAIN {secret}"]


def leave(service: str) -> str:
    return "2 LOGOUT" if service == "imap" else "QUIT"


@pytest.fixture(scope="module")
def served(host: courierhost.Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The shipped services with penalties for every exit status; submission offers AUTH without TLS."""
    with host.path("/etc/courier/esmtpd-msa").open("a") as file:
        file.write('ESMTPAUTH="PLAIN"\n')
    ports = {name: daemons.free_port() for name in SERVICES}
    services = {}
    for name in SERVICES:
        (path,) = TOP.glob(f"conf.d/*-{name}.toml")
        settings = services[name] = tomllib.loads(path.read_text())["services"][name]
        settings |= {"enabled": True, "lookup_names": False}
        settings["listeners"] = [{"address": "127.0.0.1", "port": ports[name]}]
        statuses = {str(status): 60 for status in range(1, 256)}
        settings["penalties"] = {"killed": 60, "status": statuses, "exempt": []}
    text = tomli_w.dumps({"services": services})
    with reloads.Daemon(tmp_path_factory.mktemp("ours"), text, before=host.inside) as daemon:
        yield Served(daemon, ports)


def status(served: Served, service: str, source: str, commands: list[str]) -> str:
    """Return the end of a client's program; the client hangs up after the last answer, or the server does."""
    with daemons.connect(served.ports[service], source=source) as client, client.makefile("rb") as stream:
        client.settimeout(4 * daemons.SECONDS)  # Courier makes those wait who fail
        port = client.getsockname()[1]
        stream.readline()
        for command in commands:
            with contextlib.suppress(OSError):
                client.sendall(f"{command}\r\n".encode())
                while (line := stream.readline()) and (line[3:4] == b"-" or line.startswith(b"* ")):
                    pass
    (line_of_log,) = served.daemon.await_log(rf"^end service={service} peer={source}:{port} ")
    (found,) = re.findall(r"(?:status|signal)=(\S+)", line_of_log)
    return str(found)


def test_a_failed_login_ends_with_the_status_of_any_other(served: Served) -> None:
    """The status is the same if the client says goodbye and if it hangs up."""
    cases = []
    for service in SERVICES:
        cases += [(service, GOOD, [*login(service, courierhost.PASSWORD), leave(service)])]
        cases += [(service, WRONG, [*login(service, "wrong") * 2, leave(service)])]
        cases += [(service, GONE, login(service, "wrong"))]
    with futures.ThreadPoolExecutor(len(cases)) as threads:
        found = list(threads.map(lambda case: status(served, *case), cases))

    assert found == ["0"] * len(cases)
    for service in SERVICES:
        assert served.daemon.uses(service)["penalties"]["charged"] == 0


def test_a_scanner_that_speaks_no_imap_is_told_by_the_status(served: Served) -> None:
    """As is shown in the how-to."""
    assert status(served, "imap", SCANNER, GARBAGE) == "1"
    served.daemon.await_log(rf'^penalty service=imap peer={SCANNER}:\d+ .* offence="status 1" .* active=yes$')
    assert daemons.talk(served.ports["imap"], source=SCANNER) == b""
    assert served.daemon.uses("imap")["refused"]["penalty"] == 1
    assert status(served, "pop3", SCANNER, GARBAGE) == "0"


@pytest.mark.parametrize("service", ["imap", "pop3"])
def test_who_does_not_log_in_within_a_minute_is_ended_by_a_signal(served: Served, service: str) -> None:
    with daemons.connect(served.ports[service], source=SILENT) as client:
        client.settimeout(4 * daemons.SECONDS)
        daemons.line(client)
        assert daemons.read(client) == b""
    served.daemon.await_log(rf"^end service={service} peer={SILENT}:\d+ pid=\d+ signal=SIGALRM seconds=6\d")
    served.daemon.await_log(rf"^penalty service={service} peer={SILENT}:\d+ .* offence=killed .* active=yes$")
