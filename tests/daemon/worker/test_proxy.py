"""The PROXY protocol before a running service."""

import contextlib
import os
import pathlib
import random
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from support import headers
from support.running import daemons

ENV = 'program = ["/usr/bin/env", "-0"]'
CAT = 'program = ["/bin/cat"]'
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.9 5555 25\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(
    source: str = "2001:db8::7",
    destination: str = "2001:db8::9",
    *,
    command: int = 1,
    tlvs: bytes = b"",
) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    body = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    body += struct.pack("!HH", 5555, 25) + tlvs
    kind = 0x21 if family == socket.AF_INET6 else 0x11
    return SIGNATURE + bytes([0x20 | command, kind]) + struct.pack("!H", len(body)) + body


def service(port: int, program: str = ENV, haproxy: str = "", rest: str = "") -> str:
    trusted = "" if "trusted" in haproxy else 'trusted = ["127.0.0.1"]'
    keys = ", ".join(part for part in (trusted, haproxy) if part)
    return f"""
        [services.test]
        {program}
        [[services.test.listeners]]
        address = "127.0.0.1"
        port = {port}
        haproxy = {{ {keys} }}
        [services.test.limits]
        max_per_network = 5000
        {rest}
    """


@contextlib.contextmanager
def running(folder: pathlib.Path, *args: str, **keys: str) -> Iterator[tuple[daemons.Daemon, int]]:
    port = daemons.free_port()
    with daemons.Daemon(folder, service(port, *args, **keys)) as daemon:
        yield daemon, port


def seen(answer: bytes) -> dict[str, str]:
    return daemons.environment(answer)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (V1, ("::ffff:192.0.2.7", "5555", "::ffff:198.51.100.9", "25")),
        (b"PROXY TCP6 2001:db8::7 2001:db8::9 1 65535\r\n", ("2001:db8::7", "1", "2001:db8::9", "65535")),
        (v2(), ("2001:db8::7", "5555", "2001:db8::9", "25")),
        (v2("192.0.2.7", "198.51.100.9"), ("::ffff:192.0.2.7", "5555", "::ffff:198.51.100.9", "25")),
        (v2("::ffff:192.0.2.7", "2001:db8::9"), ("::ffff:192.0.2.7", "5555", "2001:db8::9", "25")),
    ],
    ids=["v1-ipv4", "v1-ipv6", "v2-ipv6", "v2-ipv4", "v2-mapped"],
)
def test_the_program_sees_the_headers_addresses(
    tmp_path: pathlib.Path, header: bytes, expected: tuple[str, ...]
) -> None:
    with running(tmp_path) as (daemon, port):
        found = seen(daemons.talk(port, say=header))
        daemon.await_log(r"^accept service=test peer=\S+ via=127\.0\.0\.1:\d+ local=")

    names = ("TCPREMOTEIP", "TCPREMOTEPORT", "TCPLOCALIP", "TCPLOCALPORT")
    assert tuple(found[name] for name in names) == expected
    assert found["TCPREMOTEINFO"] == f"proxy via {expected[2]}, port {expected[3]}"


@pytest.mark.parametrize(
    "header",
    [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN a b c d\r\n", v2(command=0)],
    ids=["unknown", "unknown-more", "local"],
)
def test_a_proxys_own_connection_is_served_with_the_sockets_addresses(
    tmp_path: pathlib.Path, header: bytes
) -> None:
    with running(tmp_path) as (_, port):
        found = seen(daemons.talk(port, say=header))

    assert (found["TCPREMOTEIP"], found["TCPLOCALPORT"]) == ("::ffff:127.0.0.1", str(port))
    assert "TCPREMOTEINFO" not in found


def test_a_proxys_own_connection_can_be_closed_instead(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, haproxy='local = "close"') as (daemon, port):
        assert daemons.talk(port, say=v2(command=0)) == b""
        assert b"192.0.2.7" in daemons.talk(port, say=V1)
    assert not any("refuse" in line for line in daemon.log)  # a health check every second would fill it


@pytest.mark.parametrize("header", [V1, v2(), v2(tlvs=b"\x04\0\x02xx")], ids=["v1", "v2", "v2-tlv"])
@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_every_byte_after_the_header_is_the_programs(
    tmp_path: pathlib.Path, header: bytes, pieces: int
) -> None:
    data = header + b"EHLO\r\n" + V1 + bytes(range(256))
    with running(tmp_path, CAT) as (_, port), daemons.connect(port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), pieces):
            client.sendall(data[start : start + pieces])
        client.shutdown(socket.SHUT_WR)

        assert daemons.read(client) == data[len(header) :]


def test_the_programs_socket_blocks_again(tmp_path: pathlib.Path) -> None:
    program = 'program = ["/usr/bin/python3", "-Ic", "import os; print(os.get_blocking(0))"]'
    with running(tmp_path, program) as (_, port):
        assert daemons.talk(port, say=V1) == b"True\n"


def test_a_peer_that_is_not_trusted_is_refused_before_a_byte_is_read(tmp_path: pathlib.Path) -> None:
    with running(tmp_path) as (daemon, port):
        with daemons.connect(port, source="127.0.0.2") as client:
            assert daemons.read(client) == b""
        daemon.await_log(r'^refuse .* reason=proxy peer=127\.0\.0\.2:\d+ error="not a trusted proxy"$')
        assert b"192.0.2.7" in daemons.talk(port, say=V1)


def test_an_exempt_peer_needs_no_header(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, haproxy='exempt = ["127.0.0.2"]') as (_, port):
        found = seen(daemons.talk(port, source="127.0.0.2"))

    assert found["TCPREMOTEIP"] == "::ffff:127.0.0.2"


@pytest.mark.parametrize(
    ("addresses", "client"),
    [('["127.0.0.2", "::/0"]', "::ffff:127.0.0.1"), ('["127.0.0.2", "127.0.0.1"]', "::ffff:192.0.2.7")],
)
def test_a_header_may_belong_to_some_local_addresses_only(
    tmp_path: pathlib.Path, addresses: str, client: str
) -> None:
    with running(tmp_path, haproxy=f"local_addresses = {addresses}") as (_, port):
        assert seen(daemons.talk(port, say=V1))["TCPREMOTEIP"] == client


@pytest.mark.parametrize(
    ("keys", "header", "passes"),
    [
        ('versions = ["v1"]', V1, True),
        ('versions = ["v1"]', v2(), False),
        ('versions = ["v2"]', V1, False),
        ('versions = ["v2"]', v2(), True),
        ('trusted = "any"', V1, True),
    ],
    ids=["v1-v1", "v1-v2", "v2-v1", "v2-v2", "any"],
)
def test_versions_and_trust(tmp_path: pathlib.Path, keys: str, header: bytes, passes: bool) -> None:
    with running(tmp_path, haproxy=keys) as (_, port):
        assert bool(daemons.talk(port, say=header)) == passes


@pytest.mark.parametrize(
    "start",
    [b"EHLO x\r\n", b"PROXY TCP4 1.2.3.4\r\n", b"\r\n\r\n\0\r\nQUIX", b"\x16\x03\x01\0"],
    ids=["smtp", "v1-short", "v2-almost", "tls"],
)
def test_a_client_without_a_header_is_refused_at_its_first_wrong_byte(
    tmp_path: pathlib.Path, start: bytes
) -> None:
    with running(tmp_path, haproxy="timeout = 600") as (daemon, port):
        with daemons.connect(port) as client:
            client.sendall(start)
            assert daemons.read(client) == b""
        daemon.await_log(r"^refuse service=test reason=proxy peer=127\.0\.0\.1:\d+ error=")


def test_a_late_header_is_refused_and_the_log_names_the_usual_cause(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, haproxy="timeout = 0.3") as (daemon, port):
        with daemons.connect(port) as silent, daemons.connect(port) as slow:
            slow.sendall(V1[:20])
            assert (daemons.read(silent), daemons.read(slow)) == (b"", b"")
        found = daemon.await_log("reason=proxy", 2)

    assert all("on_first_ack_with_payload" in line for line in found)


def test_pending_headers_are_bounded_in_all_and_per_proxy(tmp_path: pathlib.Path) -> None:
    keys = 'trusted = ["127.0.0.0/8"], max_pending = 3, max_pending_per_peer = 2'
    with running(tmp_path, haproxy=keys) as (daemon, port), contextlib.ExitStack() as silent:
        for _ in range(2):
            silent.enter_context(daemons.connect(port, source="127.0.0.2"))
        assert daemons.talk(port, source="127.0.0.2") == b""
        daemon.await_log('peer=127.0.0.2:\\d+ error="2 PROXY headers of this proxy are already awaited"')
        third = silent.enter_context(daemons.connect(port, source="127.0.0.3"))
        assert daemons.talk(port, source="127.0.0.4") == b""
        daemon.await_log('peer=127.0.0.4:\\d+ error="3 PROXY headers are already awaited"')
        third.sendall(V1)
        assert b"192.0.2.7" in daemons.read(third)
        assert b"192.0.2.7" in daemons.talk(port, source="127.0.0.4", say=V1)


def test_a_health_check_that_only_connects_is_not_news(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, rest="[daemon]\nlog_level = 'debug'") as (daemon, port):
        daemons.connect(port).close()
        daemon.await_log(r"^left service=test peer=127\.0\.0\.1:\d+$")
        assert not [line for line in daemon.log if line.startswith("refuse")]


def test_rules_and_limits_are_for_the_headers_client(tmp_path: pathlib.Path) -> None:
    rest = """max_per_ip = 1
        [[services.test.access]]
        rules = [
          { network = "203.0.113.0/24", action = "deny" },
          { network = "127.0.0.0/8", action = "deny" },
          { local = "127.0.0.1", action = "allow", environment = { OWN = "1" } },
          { proxied_local = "198.51.100.9:25", action = "allow", environment = { PROXIED = "1" } },
        ]"""
    hold = r"""program = ["/bin/sh", "-c", "echo $OWN$PROXIED; exec cat"]"""
    with running(tmp_path, hold, rest=rest) as (daemon, port):
        assert daemons.talk(port, say=V1.replace(b"192.0.2.7", b"203.0.113.7")) == b""
        with daemons.connect(port) as first:
            first.sendall(V1)
            assert daemons.line(first) == b"11\n"
            assert daemons.talk(port, say=V1) == b""
            daemon.await_log(r"reason=per_ip peer=192\.0\.2\.7:5555 via=127\.0\.0\.1:\d+ limit=max_per_ip")
            assert daemons.talk(port, say=V1.replace(b"192.0.2.7", b"192.0.2.8")) == b"11\n"


def test_headers_are_read_while_every_slot_is_taken(tmp_path: pathlib.Path) -> None:
    hold = r"""program = ["/bin/sh", "-c", "echo here; exec cat"]"""
    with (
        running(tmp_path, hold, rest="max_connections = 1") as (daemon, port),
        daemons.connect(port) as early,
        daemons.connect(port) as first,
    ):
        first.sendall(V1)
        assert daemons.line(first) == b"here\n"
        early.sendall(V1)
        daemon.await_log("all slots are taken")
        first.shutdown(socket.SHUT_RDWR)
        assert daemons.line(early) == b"here\n"


def test_values_of_v2_reach_the_program_clean(tmp_path: pathlib.Path) -> None:
    tlvs = b"\x02\0\x0cmail.example" + b"\x05\0\x05id\n\0x" + b"\xea\0\x05\x01vpce"
    with running(tmp_path) as (_, port):
        answer = daemons.talk(port, say=v2(tlvs=tlvs))

    found = seen(answer)
    assert (found["PROXY_AUTHORITY"], found["PROXY_AWS_VPCE_ID"]) == ("mail.example", "vpce")
    assert all(value.isprintable() for value in found.values())


def test_the_largest_header_is_a_setting(tmp_path: pathlib.Path) -> None:
    certificate = headers.ssl(7, 0, headers.tlv(0x28, bytes(range(256)) * 40))
    with running(tmp_path, haproxy="max_header = 16384") as (daemon, port):
        found = seen(daemons.talk(port, say=v2(tlvs=certificate)))
        assert found["PROXY_SSL"] == "1"
        assert not any(value.startswith("\1") or len(value) > 255 for value in found.values())
        assert daemons.talk(port, say=v2(tlvs=headers.tlv(4, bytes(16384)))) == b""
        daemon.await_log('error="v2: 16439 bytes, at most 16384 are allowed"')


def test_many_silent_peers_do_not_delay_a_good_one(tmp_path: pathlib.Path) -> None:
    keys = "timeout = 2, max_pending = 600, max_pending_per_peer = 600"
    with running(tmp_path, haproxy=keys) as (daemon, port), contextlib.ExitStack() as silent:
        began = time.monotonic()
        peers = [silent.enter_context(daemons.connect(port)) for _ in range(500)]
        assert b"192.0.2.7" in daemons.talk(port, say=V1)
        assert time.monotonic() - began < 2  # none of them has been waited for
        assert {daemons.read(peer) for peer in peers} == {b""}
        worker = daemon.worker("test")
        daemons.until(lambda: len(os.listdir(f"/proc/{worker}/fd")) < 20, "their descriptors to be closed")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_random_headers(tmp_path: pathlib.Path) -> None:
    """A hundred thousand, mutated from good ones, while the service goes on."""
    chance = random.Random(20261122)  # noqa: S311 (reproducible on purpose)
    good = [
        V1,
        v2(),
        v2("192.0.2.7", "198.51.100.9"),
        v2(tlvs=b"\x20\0\x08\x01\0\0\0\0\x21\0\0"),
        b"PROXY UNKNOWN\r\n",
    ]
    program = 'program = ["/bin/true"]\nstderr = { file = "/dev/null" }'
    with running(tmp_path, program, haproxy="max_pending = 5000, max_pending_per_peer = 5000") as (
        daemon,
        port,
    ):
        for _ in range(1000):
            with contextlib.ExitStack() as batch:
                for _ in range(100):
                    data = bytearray(chance.choice(good))
                    for _ in range(chance.randrange(1, 4)):
                        data[chance.randrange(len(data))] = chance.randrange(256)
                    client = batch.enter_context(daemons.connect(port))
                    with contextlib.suppress(OSError):
                        client.sendall(data)
        assert daemons.talk(port, say=V1) == b""
        assert len(daemon.await_log("^ready service=test")) == 1
        assert not [line for line in daemon.log if "cannot serve" in line]
