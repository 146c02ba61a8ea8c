"""Debian's Courier, started by its own scripts, beside what tcpdconf-migrate makes of its configuration."""

import functools
import imaplib
import os
import pathlib
import poplib
import smtplib
import socket
import ssl
import sys
import tomllib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest
from support import peers
from support.courier import courierhost
from support.running import daemons, dialogues, processes

pytestmark = pytest.mark.peer

# the services that are to be written, and the start scripts that they stand for
SCRIPTS: Final = {
    "smtp": "esmtpd", "submission": "esmtpd-msa", "smtps": "esmtpd-ssl",
    "imap": "imapd", "imaps": "imapd-ssl", "pop3": "pop3d", "pop3s": "pop3d-ssl",
}  # fmt: skip
SPOKEN: Final = ["imap", "pop3", "smtp", "submission"]
LOGIN: Final = (courierhost.USER, courierhost.PASSWORD)
ACCESS: Final = "127.0.0.9\tdeny\n127.0.0.8\tallow,IMAP_CAPABILITY=IMAP4rev1,RELAYCLIENT\n"

# what the package of the mail server makes, so that it takes mail
SPOOL: Final = """
cd /var/lib/courier
install -d -o courier -g courier -m 770 allfilters filters msgq msgs tmp track
echo mail.example.com >/etc/courier/me
makealiases
makeacceptmailfor
"""

# Variables that the scripts' own shells leave in the environment, and PROTO, which couriertcpd does not set.
# pop3d-ssl passes on PATH and SHELL of the user who starts it.
BY_THE_WAY: Final = {"PWD", "prefix", "exec_prefix", "PROXY_HOSTNAME", "ACCESSFILE", "PROTO"}
OF_THE_STARTER: Final = {"PATH", "SHELL"}
OF_THE_CONNECTION: Final = {"TCPREMOTEPORT", "TCPLOCALPORT"}


class Served(NamedTuple):
    """The services as tcpdconf-migrate has written them, the daemon that serves them, and their ports."""

    services: dict[str, Any]
    daemon: daemons.Daemon
    ports: dict[str, int]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[courierhost.Host]:
    courierhost.need()
    peers.need("couriertcpd", "makeimapaccess", "makesmtpaccess", *SCRIPTS.values())
    with courierhost.Host(tmp_path_factory.mktemp("courier")) as made:
        for folder in ("imapaccess", "smtpaccess"):
            made.path(f"/etc/courier/{folder}/test").write_text(ACCESS)
        made.run("makeimapaccess")
        made.run("makesmtpaccess")
        made.run("sh", "-ec", SPOOL)
        yield made


@pytest.fixture(scope="module")
def theirs(host: courierhost.Host) -> dict[str, int]:
    """The ports of Debian's start scripts as they are, but for these ports and the asking of a DNS server."""
    ports = {name: daemons.free_port() for name in SCRIPTS}
    for name, script in SCRIPTS.items():
        over_tls = "SSL" if script.endswith("-ssl") else ""
        with host.path(f"/etc/courier/{script}").open("a") as file:
            file.write(f"{over_tls}ADDRESS=127.0.0.1\n{over_tls}PORT={ports[name]}\nESMTPDSTART=YES\n")
            file.write("BOFHCHECKDNS=0\n")
    with host.path("/etc/courier/esmtpd").open("a") as file:
        file.write('TCPDOPTS="$TCPDOPTS -nodnslookup"\n')
    for name, script in SCRIPTS.items():
        host.run(f"/usr/sbin/{script}", "start")
        daemons.until(functools.partial(accepts, ports[name]), script)
    with imaplib.IMAP4(
        "127.0.0.1", ports["imap"]
    ) as client:  # the mailbox gets identifiers at the first visit
        client.login(*LOGIN)
        client.select("INBOX")
    return ports


def accepts(port: int) -> bool:
    try:
        daemons.connect(port).close()
    except ConnectionRefusedError:
        return False
    return True


def free_distance(ports: dict[str, int]) -> int:
    """Return the distance to higher ports that can all be bound; no other process of the tests takes them."""
    step = 2 * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return next(
        more for more in range(step, 1000, step) if all(is_free(port + more) for port in ports.values())
    )


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="module")
def ours(
    host: courierhost.Host, theirs: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Serve the tool's output, unchanged except for its ports, which are moved up."""
    folder, more = tmp_path_factory.mktemp("ours"), free_distance(theirs)
    conf = folder / "written"
    host.run(
        sys.executable, "-m", "tcpdconf_migrate", "courier", "-o", str(conf), "--add-to-ports", str(more)
    )
    text = "\n".join(path.read_text() for path in sorted(conf.iterdir()))
    with daemons.Daemon(folder, text, before=host.inside) as daemon:
        ports = {name: port + more for name, port in theirs.items()}
        yield Served(tomllib.loads(text)["services"], daemon, ports)


def test_every_start_script_becomes_a_service(ours: Served, theirs: dict[str, int]) -> None:
    assert ours.services.keys() == theirs.keys()
    for name, service in ours.services.items():
        assert service.get("enabled", True), name


def test_the_running_processes_say_the_same(
    host: courierhost.Host, ours: Served, theirs: dict[str, int], tmp_path: pathlib.Path
) -> None:
    """Running services are read as the files are, but for the courierlogger in front of them."""
    host.run(sys.executable, "-m", "tcpdconf_migrate", "running", "-o", str(tmp_path / "conf.d"))
    found = {
        service["listeners"][0]["port"]: service
        for path in (tmp_path / "conf.d").iterdir()
        for service in tomllib.loads(path.read_text())["services"].values()
    }

    for name, port in theirs.items():
        for key in ("program", "environment_files", "user", "limits", "access"):  # its own group is courier
            assert found[port].get(key) == ours.services[name].get(key), (name, key)
        environments = [each.get("environment", {}).items() for each in (found[port], ours.services[name])]
        differing = dict(environments[0] ^ environments[1])
        assert differing.keys() <= OF_THE_STARTER | {"POP3_TLS_REQUIRED"}  # that of the file is the script's


@pytest.mark.parametrize("name", SPOKEN)
def test_programs_start_with_the_same(ours: Served, theirs: dict[str, int], name: str) -> None:
    """With the same environment, folder, umask, user, groups and limits.

    Root's own group may be named among its other groups as well: `user = "root"` takes all from the database.
    """
    found = []
    for ports in (theirs, ours.ports):
        with daemons.connect(ports[name]) as client:
            daemons.line(client)
            process = processes.of(client, ours.services[name]["program"])
        status = [line.replace("Groups:\t0 ", "Groups:\t ") for line in process.status]
        found.append(process._replace(status=status))
    expected, actual = found
    differing = dict(expected.environment.items() ^ actual.environment.items()).keys()

    assert differing <= BY_THE_WAY | OF_THE_STARTER | OF_THE_CONNECTION
    assert expected._replace(environment={}) == actual._replace(environment={})


@pytest.mark.parametrize(
    ("name", "source", "commands"),
    [
        ("imap", "127.0.0.1", ["1 CAPABILITY", "2 NOOP", "3 SELECT INBOX", "4 LOGOUT"]),
        ("imap", "127.0.0.8", ["1 CAPABILITY", "2 LOGOUT"]),
        ("imap", "127.0.0.1", [f"1 LOGIN {' '.join(LOGIN)}", '2 LIST "" "*"', "3 EXAMINE INBOX", "4 LOGOUT"]),
        ("pop3", "127.0.0.1", ["CAPA", f"USER {LOGIN[0]}", f"PASS {LOGIN[1]}", "LIST", "RETR 1", "QUIT"]),
        ("submission", "127.0.0.1", ["EHLO client.example.com", "MAIL FROM:<bob@example.com>", "QUIT"]),
    ],
)
def test_every_answer_is_the_same(
    ours: Served, theirs: dict[str, int], name: str, source: str, commands: list[str]
) -> None:
    expected = dialogues.dialogue(name, theirs[name], source, commands)
    actual = dialogues.dialogue(name, ours.ports[name], source, commands)

    assert len(expected) == len(commands) + 2
    assert expected == actual


@pytest.mark.slow
@pytest.mark.parametrize(("source", "answer"), [("127.0.0.7", b"513 "), ("127.0.0.8", b"250 ")])
def test_who_may_relay_is_the_same(ours: Served, theirs: dict[str, int], source: str, answer: bytes) -> None:
    """RELAYCLIENT comes from the access database."""
    commands = ["EHLO client.example", "MAIL FROM:<bob@example.com>", "RCPT TO:<carol@example.net>", "QUIT"]
    expected = dialogues.dialogue("smtp", theirs["smtp"], source, commands)
    actual = dialogues.dialogue("smtp", ours.ports["smtp"], source, commands)

    assert expected == actual
    assert actual[3][-1].startswith(answer)


@pytest.fixture(params=["tcpdconf", "couriertcpd"])
def ports(request: pytest.FixtureRequest, ours: Served, theirs: dict[str, int]) -> dict[str, int]:
    return ours.ports if request.param == "tcpdconf" else theirs


def trusting(host: courierhost.Host, certificate: str) -> ssl.SSLContext:
    """For a client of one of Debian's self-signed certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(host.path(f"/etc/courier/{certificate}"))
    return context


def test_a_user_logs_in_over_tls(host: courierhost.Host, ports: dict[str, int]) -> None:
    with imaplib.IMAP4_SSL("127.0.0.1", ports["imaps"], ssl_context=trusting(host, "imapd.pem")) as imap:
        assert imap.login(*LOGIN) == ("OK", [b"LOGIN Ok."])
    pop3 = poplib.POP3_SSL("127.0.0.1", ports["pop3s"], context=trusting(host, "pop3d.pem"))
    pop3.user(LOGIN[0])
    assert pop3.pass_(LOGIN[1]) == b"+OK logged in."
    assert pop3.quit().startswith(b"+OK")
    with smtplib.SMTP_SSL("127.0.0.1", ports["smtps"], context=trusting(host, "esmtpd.pem")) as smtp:
        assert smtp.ehlo("client.example.com")[0] == 250


@pytest.mark.parametrize("name", ["imap", "imaps", "smtp", "submission", "smtps"])
def test_whom_the_database_denies_is_not_served(ports: dict[str, int], name: str) -> None:
    assert daemons.talk(ports[name], source="127.0.0.9") == b""
