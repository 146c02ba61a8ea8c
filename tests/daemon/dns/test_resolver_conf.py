"""Tests the resolver's settings from resolv.conf and from the configuration."""

import itertools
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dns import dnsservers, resolvers
from support.running import daemons

from tcpdconf.config.model import values
from tcpdconf.config.model.dns import Dns
from tcpdconf.daemon.dns import resolvconf, resolvfile
from tcpdconf.daemon.process import loop
from tcpdconf.policy.dns import query

LOCAL = ["127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", LOCAL),
        ("nameserver 192.0.2.1\nnameserver 2001:DB8::1\n", ["192.0.2.1", "2001:db8::1"]),
        ("nameserver\t192.0.2.1 # mine\nnameserver 192.0.2.2;2\r\n", ["192.0.2.1", "192.0.2.2"]),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4",
         ["192.0.2.1", "192.0.2.2", "192.0.2.3"]),
        ("nameserver fe80::1%eth0", ["fe80::1%eth0"]),
        ("nameserver\nnameserver ns.example\nnameserver 192.0.2\nnameserver 192.0.2.1:53\nnameserver [::1]",
         LOCAL),
        ("#nameserver 192.0.2.1\n;nameserver 192.0.2.2\n nameserver 192.0.2.3", LOCAL),
        ("nameservers 192.0.2.4\nNAMESERVER 192.0.2.5", ["192.0.2.5"]),
        ("search example.org\ndomain example.org\nsortlist 192.0.2.0\nlookup file bind", LOCAL),
    ],
)  # fmt: skip
def test_name_servers(text: str, servers: list[str]) -> None:
    assert resolvconf.parse(text).servers == tuple(values.ServerAddress(server, 53) for server in servers)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("", (5, 2, False)),
        ("options timeout:3 attempts:4 rotate", (3, 4, True)),
        ("options timeout:3\noptions ndots:5 rotate\noptions timeout:7 edns0", (7, 2, True)),
        ("options timeout:0 attempts:0", (1, 1, False)),
        ("options timeout:31 attempts:6", (30, 5, False)),
        ("options timeout:99999999999999999999999999", (30, 2, False)),
        ("options timeout: attempts:x timeout:-1 rotates", (5, 2, False)),
        ("options", (5, 2, False)),
    ],
)
def test_options(options: str, told: tuple[int, int, bool]) -> None:
    found = resolvconf.parse(options)

    assert (found.timeout, found.attempts, found.rotate) == told


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("", ""),
        ("domain Example.org.", "example.org"),
        ("domain one.example\ndomain two.example", "two.example"),
        ("search example.org", ""),
    ],
)
def test_the_domain(text: str, domain: str) -> None:
    assert resolvconf.parse(text).domain == domain


@given(st.text() | st.from_regex(r"(nameserver |options timeout:|\n|.)*"))
def test_any_text_is_read(text: str) -> None:
    found = resolvconf.parse(text)

    assert 1 <= len(found.servers) <= 3
    assert 1 <= found.timeout <= 30
    assert 1 <= found.attempts <= 5


def test_the_configuration_goes_before_resolv_conf() -> None:
    text = "nameserver 192.0.2.1\noptions timeout:3 attempts:4 rotate"
    written = Dns.model_validate(
        {"servers": ["127.0.0.1:5353", "::1"], "timeout": 0.5, "attempts": 1, "rotate": False, "min_ttl": 60}
    )

    assert resolvconf.settings(Dns(), text) == resolvconf.parse(text)
    assert resolvconf.settings(written, text) == resolvconf.ResolverSettings(
        servers=(values.ServerAddress("127.0.0.1", 5353), values.ServerAddress("::1", 53)),
        timeout=0.5,
        attempts=1,
        min_ttl=60,
    )
    assert resolvconf.settings(Dns(), "") == resolvconf.ResolverSettings()


def test_a_file_that_was_written_or_replaced_has_changed(tmp_path: pathlib.Path) -> None:
    path, other = tmp_path / "resolv.conf", tmp_path / "other"
    file = resolvfile.File(str(path))
    assert (file.read(), file.changed) == ("", False)

    path.write_text("nameserver 192.0.2.1\n")
    assert (file.changed, file.read()) == (True, "nameserver 192.0.2.1\n")
    # while the clock of files has not gone on, it may change again unseen
    daemons.until(lambda: file.read() and not file.changed, "the clock")
    other.write_text("nameserver 192.0.2.2\n")
    other.rename(path)
    assert (file.changed, file.read()) == (True, "nameserver 192.0.2.2\n")
    daemons.until(lambda: file.read() and not file.changed, "the clock")
    path.unlink()
    assert not file.changed


def test_other_servers_are_asked_when_the_settings_change(
    server: dnsservers.Server, second: dnsservers.Server
) -> None:
    shift, looks = 0.0, 0
    changes: list[resolvconf.ResolverSettings] = []

    def renewed() -> resolvconf.ResolverSettings | None:
        nonlocal looks
        looks += 1
        return changes.pop() if changes else None

    client = resolvers.Client(server.address, renewed=renewed, clock=lambda: loop.now() + shift)
    names = (f"{number}.example" for number in itertools.count())

    def ask() -> list[int]:
        client.ask(query.Question(next(names), "A"))
        return [len(server.asked), len(second.asked)]

    changes.append(resolvconf.ResolverSettings((second.address,)))
    assert [ask(), ask(), looks] == [[1, 0], [2, 0], 0]
    shift = 5
    assert [ask(), ask(), looks] == [[2, 1], [2, 2], 1]
    shift = 10
    changes.append(resolvconf.ResolverSettings((server.address,)))
    assert [ask(), ask(), looks] == [[3, 2], [4, 2], 2]
