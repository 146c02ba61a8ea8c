"""Courier's own start scripts, unchanged, with our couriertcpd in the place of the real one."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from concurrent import futures

import pytest
from support.courier import courierhost
from support.running import daemons, dialogues, processes

pytestmark = [pytest.mark.peer, pytest.mark.slow]

SCRIPTS = {"imap": "imapd", "pop3": "pop3d", "smtp": "esmtpd"}
REAL = "/usr/sbin/couriertcpd"
OURS = f"#!{sys.executable}\nimport sys\nfrom tcpdconf import couriertcpd\nsys.exit(couriertcpd.main())\n"

LOGIN = f"1 LOGIN {courierhost.USER} {courierhost.PASSWORD}"
VISIT = [LOGIN, "2 SELECT INBOX", "3 LOGOUT"]  # the mailbox gets its identifiers at the first one
COMMANDS = [
    ("imap", "127.0.0.1", "1 CAPABILITY", LOGIN, "2 SELECT INBOX", "3 FETCH 1 (BODY[])", "4 LOGOUT"),
    ("imap", "127.0.0.1", f"1 LOGIN {courierhost.USER} wrong", "2 LOGOUT"),
    ("imap", "127.0.0.8", "1 CAPABILITY", "2 LOGOUT"),
    ("imap", "127.0.0.9"),
    ("pop3", "127.0.0.1", f"USER {courierhost.USER}", f"PASS {courierhost.PASSWORD}", "UIDL", "QUIT"),
    ("smtp", "127.0.0.1", "EHLO client.example.com", "MAIL FROM:<bob@example.com>",
     "RCPT TO:<carol@elsewhere.example>", "QUIT"),
    ("smtp", "127.0.0.7", "HELO client.example.com", "MAIL FROM:<bob@example.com>",
     "RCPT TO:<carol@elsewhere.example>", "QUIT"),
]  # fmt: skip


@pytest.fixture(scope="module")
def ports(host: courierhost.Host) -> dict[str, int]:
    """Their ports; nothing else of the scripts' settings is changed but the asking of a DNS server."""
    return host.listen(SCRIPTS)


@contextlib.contextmanager
def in_its_place(host: courierhost.Host, folder: pathlib.Path) -> Iterator[None]:
    program = folder / "couriertcpd"
    program.write_text(OURS)
    program.chmod(0o755)
    host.run("mount", "--bind", str(program), REAL)
    host.run("cmp", str(program), REAL)
    try:
        yield
    finally:
        host.run("umount", REAL)


def command(host: courierhost.Host, what: str) -> None:
    for script in SCRIPTS.values():
        host.run(f"/usr/sbin/{script}", what)


def await_clients(ports: dict[str, int]) -> None:
    """Two of the scripts return before clients are served."""
    daemons.until(lambda: len(listening(ports)) == len(ports), "the scripts")


def talked(ports: dict[str, int]) -> list[list[list[bytes]]]:
    """Return the messages of all clients, which run at once because some refusals are slow."""
    await_clients(ports)
    with futures.ThreadPoolExecutor(len(COMMANDS)) as pool:
        return list(
            pool.map(
                lambda each: dialogues.dialogue(each[0], ports[each[0]], each[1], list(each[2:])), COMMANDS
            )
        )


def listening(ports: dict[str, int]) -> set[str]:
    """The services whose port is listened on; to connect would use up what one client may have."""
    found = processes.listening()
    return {name for name, port in ports.items() if port in found}


def greeting(port: int, source: str) -> bytes:
    with daemons.connect(port, source=source) as client:
        return daemons.line(client)


def test_the_scripts_serve_with_ours_as_with_the_real_one(
    host: courierhost.Host, ports: dict[str, int], tmp_path: pathlib.Path
) -> None:
    """Started by each, they are stopped by the other."""
    command(host, "start")
    await_clients(ports)
    dialogues.dialogue("imap", ports["imap"], "127.0.0.1", VISIT)
    expected = talked(ports)
    with in_its_place(host, tmp_path):
        command(host, "stop")
        assert listening(ports) == set()
        command(host, "start")
        actual = talked(ports)
        host.path("/etc/courier/imapaccess/test").write_text(courierhost.ACCESS.replace("deny", "allow"))
        host.run("makeimapaccess")
        command(host, "restart")
        daemons.until(lambda: greeting(ports["imap"], "127.0.0.9"), "the new access file")
    command(host, "stop")

    assert listening(ports) == set()
    assert actual == expected
