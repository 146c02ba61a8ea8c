"""Tests that text of strangers, and of authors of files that the daemon reads, stays a single value."""

import pathlib
import socket
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import headers, loglines
from support.dns import dnsservers, lookedup
from support.running import daemons

from tcpdconf.config import problems
from tcpdconf.daemon.process.logs import lines

CLIENT = "5.0.0.127"


@given(st.dictionaries(st.sampled_from(["peer", "value", "error"]), st.text(), max_size=3))
@example({"value": '\\" peer=192.0.2.1 x="'})
@example({"value": "\\"})
@example({"value": "a\nrefuse service=other"})
def test_a_log_line_reads_back(fields: dict[str, str]) -> None:
    line = "refuse" + "".join(f" {key}={lines.value(value)}" for key, value in fields.items())

    found = loglines.read(line)

    assert line.isprintable()
    assert (found.event, list(found.fields)) == ("refuse", list(fields))
    for key, value in fields.items():
        if value.isprintable():
            assert found.fields[key] == value


@pytest.mark.parametrize("where", ["text", "key", "file"])
def test_a_problem_is_one_line(where: str) -> None:
    """It goes to the log and, in a word on the last reload, to the service manager."""
    said: dict[str, str] = {"file": "a.toml", "key": "services", "text": "cannot"}
    said[where] = "x\nMAINPID=1\r\x1b[2J\u2028y"
    problem = problems.Problem(said["file"], 0, 0, said["key"], said["text"], "cannot-use")

    assert str(problem).isprintable()
    assert problems.render([problem]).count("\n") == 1


PTR = [
    r"evil\010TCPREMOTEIP=6.6.6.6.example",  # a line end
    r"evil\000.example",
    r"\$\(touch\).example",
    r"a\027[2J.example",
    "x=y.example",
    r"%n%s\;\|.example",
]


@pytest.mark.parametrize("name", PTR)
def test_a_name_that_is_no_host_name_reaches_nobody(
    tmp_path: pathlib.Path, server: dnsservers.Server, name: str
) -> None:
    server.says(f"{CLIENT}.in-addr.arpa", "PTR", dnsservers.Reply(records=(f"PTR {name}.",)))
    server.says(f"{name}", "A", dnsservers.Reply(records=("A 127.0.0.5",)))
    with lookedup.running(tmp_path, server, "lookup_names = true") as (daemon, port):
        assert "TCPREMOTEHOST" not in lookedup.answer(port)
        daemon.await_log("^end ")
        assert [line for line in daemon.log if "evil" in line or "touch" in line] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r'"a\010TCPREMOTEIP=6.6.6.6\000b"', "a TCPREMOTEIP=6.6.6.6 b"),
        (r'"\027[2J\" peer=192.0.2.9 x=\""', ' [2J" peer=192.0.2.9 x="'),
        (r'"\\\" peer=192.0.2.9 x=\""', '\\" peer=192.0.2.9 x="'),
    ],
)
def test_a_text_of_a_list_is_one_value(
    tmp_path: pathlib.Path, server: dnsservers.Server, text: str, shown: str
) -> None:
    lookedup.healthy(server, "bl.example")
    server.says(f"{CLIENT}.bl.example", "A", lookedup.A)
    server.says(f"{CLIENT}.bl.example", "TXT", dnsservers.Reply(records=(f"TXT {text}",)))
    entry = 'dns_lists = [{ zone = "bl.example", action = "block", variable = "BLOCK", txt = true }]'
    settings = f'{entry}\nmessages.dropped = "no"'
    with lookedup.running(tmp_path, server, settings) as (daemon, port):
        found = lookedup.answer(port)
        assert {name: value for name, value in found.items() if name.endswith("TXT") or name == "BLOCK"} == {
            "BLOCK": shown, "BLOCK_TXT": shown,
        }  # fmt: skip
    (tmp_path / "dropping").mkdir()
    with lookedup.running(tmp_path / "dropping", server, f'{settings}\ndrop = ["BLOCK"]') as (daemon, port):
        assert daemons.talk(port, source="127.0.0.5") == b"no\r\n"
        line = loglines.read(daemon.await_log("^refuse ")[0])
    assert set(line.fields) == {"service", "reason", "peer", "variable", "value"}
    assert (line.fields["peer"].partition(":")[0], line.fields["value"]) == ("127.0.0.5", shown)


FOREIGN = b"mail.example\nTCPREMOTEIP=6.6.6.6\0LD_PRELOAD=/x"


def proxied() -> tuple[str, int]:
    port = daemons.free_port()
    return (
        f"""
        [services.test]
        program = ["/usr/bin/env", "-0"]
        [[services.test.listeners]]
        address = "127.0.0.1"
        port = {port}
        haproxy = {{ trusted = ["127.0.0.1"], timeout = 5 }}
    """,
        port,
    )


def test_vectors_of_a_header_are_values_or_nothing(tmp_path: pathlib.Path) -> None:
    text, port = proxied()
    ends = socket.inet_aton("192.0.2.7") + socket.inet_aton("192.0.2.8") + b"\0\7\0\x19"
    hostile = b"".join(headers.tlv(kind, FOREIGN) for kind in (1, 2, 5, 0xE0, 0xEA, 0xEE))
    hostile += headers.ssl(7, 0, *(headers.tlv(kind, FOREIGN) for kind in range(0x21, 0x2A)))
    with daemons.Daemon(tmp_path, text):
        found = daemons.environment(daemons.talk(port, say=headers.v2(ends + hostile)))

    assert found == {
        "PROTO": "TCP",
        "PROXY_SSL": "1",
        "PROXY_UNIQUE_ID": FOREIGN.hex(),
        "TCPLOCALIP": "::ffff:192.0.2.8",
        "TCPLOCALPORT": "25",
        "TCPREMOTEINFO": "proxy via ::ffff:192.0.2.8, port 25",
        "TCPREMOTEIP": "::ffff:192.0.2.7",
        "TCPREMOTEPORT": "7",
    }


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 1.2.3.4\nrefuse service=other 5.6.7.8 1 2\r\n",
        b'PROXY TCP4 \\" peer=192.0.2.9 x=" 1.2.3.4 1 2\r\n',
        b"\r\n\r\n\0\r\nQUIT\n" + b"\x21\x11\0\x02\x1b[",
    ],
)  # fmt: skip
def test_a_bad_header_is_one_line_of_the_log(tmp_path: pathlib.Path, header: bytes) -> None:
    text, port = proxied()
    with daemons.Daemon(tmp_path, text) as daemon:
        with daemons.connect(port) as client:
            client.sendall(header)
            assert daemons.read(client) == b""
        line = loglines.read(daemon.await_log("^refuse ")[0])
        assert set(line.fields) == {"service", "reason", "peer", "error"}
        assert line.fields["peer"].startswith("127.0.0.1:")
        assert [
            each for each in daemon.log if "service=other" in each and not each.startswith("refuse")
        ] == []


def test_no_rule_speaks_for_the_connection(tmp_path: pathlib.Path) -> None:
    """An access file may set any variable of a program, but for what is known of the connection."""
    rules = tmp_path / "rules"
    rules.write_bytes(b"127.0.0\tallow,TCPREMOTEIP=6.6.6.6,TCPREMOTEPORT=1,PROTO=UDP,A=\x1b[2J,B=x=y,C\n")
    port = daemons.free_port()
    text = f"""
        [services.test]
        program = ["/usr/bin/env", "-0"]
        listeners = [{{ address = "127.0.0.1", port = {port} }}]
        [[services.test.access]]
        file = "{rules}"
    """
    with daemons.Daemon(tmp_path, text), daemons.connect(port) as client:
        own = client.getsockname()[1]
        found = daemons.environment(daemons.read(client))

    assert found == {
        "A": "\x1b[2J", "B": "x=y", "C": "", "PROTO": "TCP",
        "TCPLOCALIP": "::ffff:127.0.0.1", "TCPLOCALPORT": str(port),
        "TCPREMOTEIP": "::ffff:127.0.0.1", "TCPREMOTEPORT": str(own),
    }  # fmt: skip


def test_a_shell_file_says_nothing_to_the_service_manager(tmp_path: pathlib.Path) -> None:
    """Its standard error is in the line about the rejected reload, escaped."""
    shell = tmp_path / "shell"
    shell.write_text("A=1\n")
    port = daemons.free_port()
    text = f"""
        [services.test]
        program = ["/usr/bin/env", "-0"]
        listeners = [{{ address = "127.0.0.1", port = {port} }}]
        environment_files = [{{ path = "{shell}", shell = true }}]
    """
    with daemons.Daemon(tmp_path, text) as daemon:
        shell.write_text("printf 'x\\nMAINPID=1\\naccept service=other\\033[2J' >&2; exit 3\n")
        daemon.process.send_signal(1)
        daemon.await_log("reload rejected")
        daemon.await_notice("READY=1", 2)
        states = {said.partition("=")[0] for said in daemon.notified}
        assert states <= {"READY", "STATUS", "RELOADING", "MONOTONIC_USEC", "STOPPING", "FDSTORE", "FDNAME"}
        assert [line for line in daemon.log if line.startswith("accept service=other")] == []
        assert all(line.isprintable() for line in daemon.log)
        assert all(set(said) <= {*string.printable[:95], "\ufffd"} for said in daemon.notified)
