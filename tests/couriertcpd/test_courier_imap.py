"""Debian's Courier served as the shipped conf.d says, beside couriertcpd as Debian's scripts start it."""

import contextlib
import functools
import imaplib
import pathlib
import poplib
import re
import socket
import ssl
import tomllib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import tomli_w
from support.courier import courierhost
from support.running import daemons, dialogues, processes

pytestmark = pytest.mark.peer

TOP = pathlib.Path(__file__).parents[2]
# Debian's start scripts, which have the names of their settings in /etc/courier.
SCRIPTS = {"imap": "imapd", "pop3": "pop3d", "smtp": "esmtpd", "submission": "esmtpd-msa"}
LIMITS = {"max_connections": "MAXDAEMONS", "max_per_ip": "MAXPERIP", "max_per_network": "MAXPERC"}
MESSAGE = b"From: bob@example.com\r\nSubject: hello\r\n\r\nHello, Alice.\r\n"

# Side effects of Debian's scripts on the environment, and PROTO, which the contract adds. ACCESSFILE names
# another file, because it is made of a variable of the script's own; only makesmtpaccess reads it.
BY_THE_WAY = {"PWD", "prefix", "exec_prefix", "PROXY_HOSTNAME", "ACCESSFILE", "PROTO"}
OF_THE_CONNECTION = {"TCPREMOTEPORT", "TCPLOCALPORT"}


def shipped(name: str) -> dict[str, Any]:
    """A service of the shipped conf.d, as TOML reads it."""
    (path,) = TOP.glob(f"conf.d/*-{name}.toml")
    return service(name, path.read_text())


def documented(name: str) -> dict[str, Any]:
    """A service that is shown whole in the how-to."""
    page = (TOP / "docs/how-to/serve-courier-imap.md").read_text()
    (text,) = re.findall(rf"```toml\n( *\[services\.{name}\]\n.*?)```", page, re.DOTALL)
    return service(name, text)


def service(name: str, text: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(text)["services"][name]
    return found


class Served(NamedTuple):
    """A daemon, and the port of each of its services."""

    daemon: daemons.Daemon
    ports: dict[str, int]


def answers(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), daemons.connect(port) as client:
        return daemons.line(client) != b""
    return False


class Imap(imaplib.IMAP4):
    """A mail program at a chosen loopback address."""

    def __init__(self, port: int, source: str) -> None:
        self._source = source
        super().__init__("127.0.0.1", port)

    def _create_socket(self, timeout: float | None) -> socket.socket:  # noqa: ARG002 (daemons has its own)
        return daemons.connect(self.port, source=self._source)


@pytest.fixture(scope="module")
def theirs(host: courierhost.Host) -> dict[str, int]:
    """The ports of Debian's start scripts as they are, but for these ports and the asking of a DNS server."""
    ports = host.listen(SCRIPTS)
    for name, script in SCRIPTS.items():
        host.run(f"/usr/sbin/{script}", "start")
        daemons.until(functools.partial(answers, ports[name]), script)
    with Imap(ports["imap"], "127.0.0.1") as client:  # the mailbox gets its identifiers at the first visit
        client.login(courierhost.USER, courierhost.PASSWORD)
        client.select("INBOX")
    return ports


@pytest.fixture(scope="module")
def ours(
    host: courierhost.Host,
    theirs: dict[str, int],  # noqa: ARG001 (what it adds to the environment files is read once)
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """The shipped services as they are, but for the ports and the asking of a DNS server."""
    services = {name: shipped(name) for name in SCRIPTS} | {"imaps": documented("imaps")}
    ports = {name: daemons.free_port() for name in services}
    for name, settings in services.items():
        settings |= {"enabled": True, "lookup_names": False}
        (listener,) = settings["listeners"]
        listener |= {"address": "127.0.0.1", "port": ports[name]}
    text = tomli_w.dumps({"services": services})
    with daemons.Daemon(tmp_path_factory.mktemp("ours"), text, before=host.inside) as daemon:
        yield Served(daemon, ports)


@pytest.fixture(params=["tcpdconf", "couriertcpd"])
def ports(request: pytest.FixtureRequest, ours: Served, theirs: dict[str, int]) -> dict[str, int]:
    return ours.ports if request.param == "tcpdconf" else theirs


def test_a_user_writes_and_reads_mail(host: courierhost.Host, ours: Served) -> None:
    with Imap(ours.ports["imap"], "127.0.0.8") as client:
        peer = client.sock.getsockname()[1]
        client.login(courierhost.USER, courierhost.PASSWORD)
        client.create("INBOX.Sent")
        client.append("INBOX.Sent", "", "", MESSAGE)
        assert client.select("INBOX.Sent") == ("OK", [b"1"])
        _, parts = client.fetch("1", "(BODY[])")
    (file,) = host.path(f"{courierhost.HOME}/Maildir/.Sent/cur").iterdir()

    assert [part[1] for part in parts if isinstance(part, tuple)] == [MESSAGE]
    assert (file.stat().st_uid, file.stat().st_gid) == (courierhost.UID, courierhost.UID)
    ours.daemon.await_log(rf"^accept service=imap peer=127\.0\.0\.8:{peer} ")
    ours.daemon.await_log(rf"^end service=imap peer=127\.0\.0\.8:{peer} pid=\d+ status=0 ")
    logged = f"imapd: LOGOUT, user=alice, ip=[::ffff:127.0.0.8], port=[{peer}],"
    daemons.until(lambda: any(logged in line for line in host.syslog), "the logger")


def test_the_access_database_denies_and_allows(ports: dict[str, int]) -> None:
    denied = daemons.talk(ports["imap"], source="127.0.0.9")
    with Imap(ports["imap"], "127.0.0.8") as with_variable, Imap(ports["imap"], "127.0.0.7") as without:
        offered, ordinary = with_variable.capabilities, without.capabilities

    assert denied == b""
    assert {"IMAP4REV1", "STARTTLS"} <= set(offered)
    assert {"UIDPLUS", "SORT", "IDLE"} <= set(ordinary) - set(offered)


def test_a_refusal_names_the_access_database(ours: Served) -> None:
    with daemons.connect(ours.ports["imap"], source="127.0.0.9") as client:
        peer = client.getsockname()[1]
        ours.daemon.await_log(
            rf"^refuse service=imap reason=access peer=127\.0\.0\.9:{peer}"
            r" source=/etc/courier/imapaccess\.dat$"
        )


def trusting(host: courierhost.Host, certificate: str) -> ssl.SSLContext:
    """For a client of one of Debian's self-signed certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(host.path(f"/etc/courier/{certificate}"))
    return context


def test_imap_with_starttls(host: courierhost.Host, ports: dict[str, int]) -> None:
    with Imap(ports["imap"], "127.0.0.1") as client:
        client.starttls(trusting(host, "imapd.pem"))
        assert client.login(courierhost.USER, courierhost.PASSWORD) == ("OK", [b"LOGIN Ok."])


def test_imap_over_tls(host: courierhost.Host, ours: Served) -> None:
    context = trusting(host, "imapd.pem")
    with imaplib.IMAP4_SSL("127.0.0.1", ours.ports["imaps"], ssl_context=context) as client:
        assert client.login(courierhost.USER, courierhost.PASSWORD) == ("OK", [b"LOGIN Ok."])


def test_pop3_with_starttls(host: courierhost.Host, ports: dict[str, int]) -> None:
    client = poplib.POP3("127.0.0.1", ports["pop3"])
    client.stls(trusting(host, "pop3d.pem"))
    client.user(courierhost.USER)
    assert client.pass_(courierhost.PASSWORD) == b"+OK logged in."
    assert client.quit().startswith(b"+OK")


@pytest.mark.parametrize(
    ("service", "source", "commands"),
    [
        ("imap", "127.0.0.1", ["1 CAPABILITY", "2 NOOP", "3 SELECT INBOX", "4", "5 LOGOUT"]),
        ("imap", "127.0.0.8", ["1 CAPABILITY", "2 LOGOUT"]),
        (
            "imap",
            "127.0.0.1",
            [
                f"1 LOGIN {courierhost.USER} {courierhost.PASSWORD}",
                "2 CAPABILITY",
                "3 NAMESPACE",
                '4 LIST "" "INBOX"',
                "5 STATUS INBOX (MESSAGES UIDNEXT UNSEEN)",
                "6 EXAMINE INBOX",
                "7 FETCH 1 (FLAGS INTERNALDATE RFC822.SIZE BODY[])",
                "8 STORE 1 +FLAGS (\\Deleted)",
                "9 SELECT INBOX.Missing",
                "10 LOGOUT",
            ],
        ),
        ("pop3", "127.0.0.1", ["CAPA", "STAT", "QUIT"]),
        (
            "pop3",
            "127.0.0.1",
            [
                f"USER {courierhost.USER}",
                f"PASS {courierhost.PASSWORD}",
                "STAT",
                "LIST",
                "UIDL",
                "RETR 1",
                "QUIT",
            ],
        ),
        ("smtp", "127.0.0.1", ["EHLO client.example.com", "NOOP", "RSET", "QUIT"]),
        ("smtp", "127.0.0.7", ["HELO client.example.com", "MAIL FROM:<bob@example.com>", "QUIT"]),
        ("submission", "127.0.0.1", ["EHLO client.example.com", "MAIL FROM:<bob@example.com>", "QUIT"]),
    ],
)
def test_every_answer_is_the_same(
    ours: Served, theirs: dict[str, int], service: str, source: str, commands: list[str]
) -> None:
    expected = dialogues.dialogue(service, theirs[service], source, commands)
    actual = dialogues.dialogue(service, ours.ports[service], source, commands)

    assert len(expected) == len(commands) + 2
    assert expected == actual


@pytest.mark.parametrize("service", SCRIPTS)
def test_limits_are_those_of_debian(host: courierhost.Host, service: str) -> None:
    settings: dict[str, str] = {}
    for file in shipped(service)["environment_files"]:
        settings.update(re.findall(r"^(MAX\w+)=(\d+)$", host.path(file["path"]).read_text(), re.MULTILINE))

    assert {LIMITS[key]: str(value) for key, value in shipped(service)["limits"].items()} == settings


@pytest.mark.parametrize("service", SCRIPTS)
def test_programs_start_with_the_same(ours: Served, theirs: dict[str, int], service: str) -> None:
    found = []
    for ports in (theirs, ours.ports):
        with daemons.connect(ports[service]) as client:
            daemons.line(client)
            found.append(processes.of(client, shipped(service)["program"]))
    expected, actual = found
    differing = dict(expected.environment.items() ^ actual.environment.items()).keys()

    assert differing <= BY_THE_WAY | OF_THE_CONNECTION
    assert expected._replace(environment={}) == actual._replace(environment={})
