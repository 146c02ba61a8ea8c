"""That `explain` and a running daemon agree: random services, random clients, one name server for both."""

import pathlib
import random
import re
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import tomli_w
from support import links, randomservices
from support.dns import dnsservers
from support.running import daemons, explaining

from tcpdconf.daemon.control import client as control_client
from tcpdconf.policy.dns import query

SERVICES = 12
CLIENTS = 11
SEEDS = (1, 2, 3, 4)  # 528 connections
GIVEN = {"GIVEN": "by the daemon's own", "PATH": "/usr/bin:/bin"}
REFUSED = re.compile(r"^refuse service=(\S+) reason=(\S+) peer=(\S+)")
WOULD = re.compile(REFUSED.pattern.replace("refuse", "would-refuse", 1))


class Seen(NamedTuple):
    """Holds the result of a connection: the ends of its socket, its client's input, the earlier state."""

    service: str
    client: randomservices.Client
    source: str
    read: bytes
    live: tuple[str, ...]
    penalties: dict[str, Any] | None


def test_explain_and_the_daemon_agree_on_the_number_of_cases() -> None:
    assert SERVICES * CLIENTS * len(SEEDS) >= 500


@pytest.mark.parametrize(
    "seed", [SEEDS[0], *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:])]
)
def test_what_is_explained_is_what_happens(tmp_path: pathlib.Path, seed: int) -> None:
    maker = randomservices.Maker(seed, tmp_path)
    services = [maker.service(f"s{number}", CLIENTS) for number in range(SERVICES)]
    with dnsservers.Server() as server:
        _script(server, services, seed)
        text = tomli_w.dumps(
            {
                "services": {service.name: service.settings for service in services},
                "dns": {"servers": [str(server.address)], "timeout": 5.0},
            }
        )
        with daemons.Daemon(tmp_path, text, environment=GIVEN) as daemon:
            seen = [each for service in services for each in _visit(service, daemon.runtime)]
            daemon.stop()
        requests = [_request(each) for each in seen]
        explained = explaining.ask(daemon.conf, requests)

    refusals, would = (
        {(found[1], found[3]): found[2] for line in daemon.log if (found := pattern.match(line))}
        for pattern in (REFUSED, WOULD)
    )
    verdicts = set()
    for each, said in zip(seen, explained, strict=True):
        _compare(each, said, refusals)
        assert said["would_refuse"] == would.get((each.service, said["client"])), (each, said)
        verdicts.add(said["reason"])
    assert any(said["would_refuse"] for said in explained)
    assert verdicts >= {None, "access", "dropped", "proxy", "per_ip", "per_network", "penalty"}


def _script(server: dnsservers.Server, services: list[randomservices.Service], seed: int) -> None:
    """Listings and names for some of the clients."""
    chosen = random.Random(seed)  # noqa: S311 (the same answers in every run)
    for zone in randomservices.ZONES:
        server.says(f"2.0.0.127.{zone}", "A", dnsservers.Reply(records=("A 127.0.0.2",)))
    clients = [client for service in services for client in service.clients]
    for address in dict.fromkeys(c.header[0] if c.header else c.source for c in clients):
        labels = query.labels(links.end(address))
        for zone in randomservices.ZONES:
            if chosen.random() < 0.5:
                records = chosen.choice([("A 127.0.0.2",), ("A 127.0.0.3", "A 127.0.0.9"), ("A 127.0.0.9",)])
                server.says(f"{labels}.{zone}", "A", dnsservers.Reply(records=records))
                server.says(f"{labels}.{zone}", "TXT", dnsservers.Reply(records=('TXT "listed, see us"',)))
        reverse = labels + (".ip6.arpa" if ":" in address else ".in-addr.arpa")
        name = f"h{chosen.randrange(1000)}.example"
        answer = chosen.choice([(f"PTR {name}.",), (f"PTR {name}.",), ()])
        server.says(
            reverse, "PTR", dnsservers.Reply(records=answer, rcode=chosen.choice(["NOERROR", "SERVFAIL"]))
        )
        kind, other = ("AAAA", "2001:db8::1") if ":" in address else ("A", "192.0.2.1")
        server.says(
            name, kind, dnsservers.Reply(records=(f"{kind} {chosen.choice([address, address, other])}",))
        )


def _visit(service: randomservices.Service, runtime: str) -> Iterator[Seen]:
    """Be every client of a service, one after the other; those that are held stay to the end.

    The next one comes when the daemon knows of the end of the one before.
    """

    def there_are_only_the_held() -> bool:
        answer = control_client.ask(runtime, {"command": "connections"})
        found = [each for each in answer["connections"] if each["service"] == service.name]
        return len(found) == len(live)

    held: list[socket.socket] = []
    live: list[str] = []
    try:
        for client in service.clients:
            for source in client.held:
                there = daemons.connect(client.port, client.address, source)
                held.append(there)
                there.sendall(b"!")
                if _read_to(there, b"!"):
                    live.append(source)
            penalties = control_client.ask(runtime, {"command": "status"})["services"][service.name][
                "penalties"
            ]
            with daemons.connect(client.port, client.address, client.source) as made:
                name = made.getsockname()
                source = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
                header = _header(client)
                try:
                    made.sendall(header)
                    made.shutdown(socket.SHUT_WR)
                except OSError:  # refused before it could speak
                    pass
                read = daemons.read(made).removesuffix(header)
            daemons.until(there_are_only_the_held, "the end of the program")
            yield Seen(service.name, client, source, read, tuple(live), penalties)
    finally:
        for each in held:
            each.close()


def _read_to(client: socket.socket, end: bytes) -> bool:
    """Read until this has come; False when it never does."""
    found = b""
    while not found.endswith(end):
        try:
            data = client.recv(65536)
        except ConnectionResetError:
            return False
        if not data:
            return False
        found += data
    return True


def _header(client: randomservices.Client) -> bytes:
    if client.header is None:
        return b"PROXY UNKNOWN\r\n" if client.proxied else b""
    peer, local = client.header
    return f"PROXY TCP{6 if ':' in peer else 4} {peer} {local} 4321 25\r\n".encode()


def _request(each: Seen) -> dict[str, Any]:
    client = each.client
    where = f"[{client.address}]" if ":" in client.address else client.address
    request: dict[str, Any] = {
        "service": each.service,
        "client": each.source,
        "local": f"{where}:{client.port}",
        "daemon": GIVEN,
        "live": each.live,
        "penalties": each.penalties,
    }
    if client.header is not None:
        peer, local = (f"[{end}]" if ":" in end else end for end in client.header)
        request |= {"client": f"{peer}:4321", "proxied_by": each.source, "proxied_local": f"{local}:25"}
    return request


def _compare(each: Seen, said: dict[str, Any], refusals: dict[tuple[str, str], str]) -> None:
    reason = refusals.get((each.service, said["client"]))
    case = (each, said)
    if reason is None and each.client.proxied and each.client.header is None and each.read == b"":
        # a proxy's own connection with local = "close", which the daemon does not log as a refusal
        assert (said["verdict"], said["reason"]) == ("refused", "proxy"), case
    elif reason is None:
        assert said["verdict"] == "admitted", case
        assert daemons.environment(each.read) == said["environment"], case
    else:
        assert (said["verdict"], said["reason"]) == ("refused", reason.replace("-", "_")), case
        assert each.read == (said["message"] or "").encode(), case
