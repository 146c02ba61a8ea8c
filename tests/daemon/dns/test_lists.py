"""Tests the answers of lists, faults included: their effect for a client, and their class in counters."""

import dataclasses
import itertools
import pathlib
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest
from support import links
from support.dns import chains, dnsservers, lookedup, resolvers
from support.running import daemons

from tcpdconf.config.model import values
from tcpdconf.config.model.service import Service
from tcpdconf.daemon.dns import lookups
from tcpdconf.policy import connection
from tcpdconf.policy.dns import chain as dns_chain

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = "5.0.0.127.bl.example"
LISTED = {"BLOCK": "Blacklisted by bl.example", "BLOCK_IP": "127.0.0.2", "BLOCK_ZONE": "bl.example"}
LINK = connection.Link(chains.CLIENT, links.end("127.0.0.1"))


def looking(client: resolvers.Client, *lists: chains.Table, **keys: Any) -> lookups.Lookups:  # noqa: ANN401
    """The lookups of a service with these lists."""
    settings = Service.model_validate(
        {
            "program": ["/bin/true"],
            "listeners": [{"port": 25}],
            "dns_lists": lists,
            "dns": {"deadline": resolvers.PATIENCE},
            **keys,
        }
    )
    chain = dns_chain.build(settings, {}, {})
    return lookups.Lookups(client.loop, "test", settings, chain=chain, asked=client.resolver)


def found(client: resolvers.Client, looked: lookups.Lookups, link: connection.Link = LINK) -> chains.Table:
    """The variables that a connection gets."""
    told: list[dict[str, str]] = []

    def done(variables: dict[str, str]) -> None:
        told.append(variables)
        client.loop.stop()

    looked.begin(link, {}, done)
    if not told:
        client.run(resolvers.PATIENCE)
    return told[0]


def counted(looked: lookups.Lookups, shown: str = "bl.example") -> dict[str, int]:
    """The classes of its status that are not 0."""
    status = dataclasses.asdict(looked.status()[shown])
    del status["times"], status["seconds"]
    return {name: n for name, n in status.items() if name not in {"state", "why", "asked"} and n}


MANY = tuple(f"A 127.0.0.{n}" for n in range(2, 62))
FAULTS: list[tuple[str, tuple[dnsservers.Reply, ...], str]] = [
    ("no such name", (dnsservers.NOT_FOUND,), "not_listed"),
    ("no records", (dnsservers.Reply(soa=60),), "not_listed"),
    ("servfail", (dnsservers.Reply(rcode="SERVFAIL"),), "servfail"),
    ("refused", (dnsservers.Reply(rcode="REFUSED"),), "refused"),
    ("silence", (), "timeout"),
    ("slow drip", (dnsservers.Reply(records=MANY, truncated=True, drip=0.1),), "timeout"),
    ("wrong id", (dnsservers.Reply(records=MANY, forged="id"),), "timeout"),
    ("wrong question", (dnsservers.Reply(records=MANY, forged="question"),), "timeout"),
    ("wrong port", (dnsservers.Reply(records=MANY, forged="port"),), "timeout"),
    ("wrong address", (dnsservers.Reply(records=MANY, forged="address"),), "timeout"),
    ("garbage", (dnsservers.Reply(garbage=b"\xc0"),), "malformed"),
    ("cut off", (dnsservers.Reply(records=MANY, truncated=True, closed=True),), "malformed"),
    ("error code", (dnsservers.Reply(records=("A 127.255.255.254",)),), "error_code"),
    ("filtered", (dnsservers.Reply(records=("A 127.0.0.1",)),), "error_code"),
    ("parked", (dnsservers.Reply(records=("A 203.0.113.1",)),), "outside_127"),
    ("parked among many", (dnsservers.Reply(records=(*MANY, "A 203.0.113.1")),), "outside_127"),
]


@pytest.mark.parametrize(("replies", "counts"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_fault_refuses_nobody_and_counts_where_it_belongs(
    server: dnsservers.Server, replies: tuple[dnsservers.Reply, ...], counts: str
) -> None:
    server.says(CLIENT, "A", *replies)
    client = resolvers.Client(server.address)
    deadline = 0.3 if counts == "timeout" else resolvers.PATIENCE
    looked = looking(client, {"zone": "bl.example", "probe": False}, dns={"deadline": deadline})

    began = time.monotonic()

    assert found(client, looked) == {}
    assert time.monotonic() - began < deadline + 2
    assert counted(looked) == {counts: 1}
    assert looked.status()["bl.example"].asked == 1
    assert sum(looked.status()["bl.example"].times) == (counts != "timeout")


def test_without_a_name_server_nobody_is_refused() -> None:
    client = resolvers.Client(dnsservers.nowhere())
    looked = looking(client, {"zone": "bl.example", "probe": False})
    began = time.monotonic()

    assert found(client, looked) == {}
    assert counted(looked) == {"unreachable": 1}
    assert time.monotonic() - began < 2


def test_a_question_that_cannot_be_sent_counts_like_any_other() -> None:
    """It fails before it is on its way, so that the answer is there at once, as one from the cache is."""
    client = resolvers.Client(values.ServerAddress("255.255.255.255", 53))  # connect(2): EACCES
    looked = looking(client, {"zone": "bl.example", "probe": False})
    clients = [LINK._replace(peer=links.end(f"127.0.0.{n}")) for n in (5, 5, 6, 7, 8)]

    assert [found(client, looked, link) for link in clients] == [{}] * 5
    assert counted(looked) == {"unreachable": 3}  # the second is kept, the fifth not asked
    assert looked.status()["bl.example"].state == "paused"
    assert looked.status()["bl.example"].why == "3 failures in a row, the last: unreachable"


@pytest.mark.parametrize(
    "reply",
    [
        dnsservers.Reply(records=("A 127.0.0.2",), ttl=0),
        dnsservers.Reply(records=("A 127.0.0.2",), truncated=True),
        dnsservers.Reply(
            records=("CNAME a.example.", "@a.example. CNAME b.example.", "@b.example. A 127.0.0.2")
        ),
        dnsservers.Reply(records=MANY),
    ],
    ids=["ttl 0", "truncated", "cname chain", "many records"],
)
def test_a_listing_is_one_however_it_comes(server: dnsservers.Server, reply: dnsservers.Reply) -> None:
    server.says(CLIENT, "A", reply)
    client = resolvers.Client(server.address)
    looked = looking(client, {"zone": "bl.example", "probe": False})

    assert [found(client, looked), found(client, looked)] == [LISTED] * 2
    assert counted(looked) == {"listed": 1 if reply.ttl else 2}  # what the cache says is not counted


def test_clients_who_come_at_once_are_asked_about_once(server: dnsservers.Server) -> None:
    """So the silence about one client, however often it comes, is one failure of the list."""
    server.says(CLIENT, "A", dnsservers.Reply(records=("A 127.0.0.2",), delay=0.1))
    server.says("6.0.0.127.bl.example", "A")
    client = resolvers.Client(server.address)
    looked = looking(client, {"zone": "bl.example", "probe": False}, dns={"deadline": 0.9})
    told: list[dict[str, str]] = []

    def tell(variables: dict[str, str]) -> None:
        told.append(variables)
        if len(told) == 8:
            client.loop.stop()

    for _ in range(4):
        looked.begin(LINK, {}, tell)
        looked.begin(LINK._replace(peer=links.end("127.0.0.6")), {}, tell)
    client.run(resolvers.PATIENCE)

    assert told == [LISTED] * 4 + [{}] * 4
    assert len(server.asked) == 2
    assert counted(looked) == {"listed": 1, "timeout": 1}
    assert looked.status()["bl.example"].state == "up"


def test_a_score_of_many_lists_is_judged(server: dnsservers.Server) -> None:
    weights = {"a": 2, "b": 2, "c": 1, "w": -3}
    lists = [
        {"zone": name, "weight": n, "action": "block" if n > 0 else "allow", "probe": False}
        for name, n in weights.items()
    ]
    for listed, address in (("ab", "1"), ("bc", "2"), ("abw", "3"), ("ac", "4")):
        for name in listed:
            server.says(f"{address}.0.0.127.{name}", "A", lookedup.A)
    client = resolvers.Client(server.address)
    looked = looking(client, *lists, drop=["BLOCK"], dns={"threshold": {"BLOCK": 3}})

    def zone(address: int) -> str | None:
        peer = links.end(f"127.0.0.{address}")
        return found(client, looked, LINK._replace(peer=peer)).get("BLOCK_ZONE")

    assert [zone(address) for address in (1, 2, 3, 4, 5)] == ["a", "b", None, "a", None]


def test_a_text_without_an_address_is_none_where_no_text_is_asked_for(server: dnsservers.Server) -> None:
    server.says(CLIENT, "A", dnsservers.Reply(soa=60))
    server.says(CLIENT, "TXT", dnsservers.Reply(records=('TXT "listed"',)))
    client = resolvers.Client(server.address)
    looked = looking(client, {"zone": "bl.example", "probe": False})

    assert (found(client, looked), counted(looked)) == ({}, {"not_listed": 1})
    assert [asked.type for asked in server.asked] == ["A"]


def test_a_mapped_address_is_asked_about_once_and_as_ipv4(server: dnsservers.Server) -> None:
    server.says(CLIENT, "A", lookedup.A)
    client = resolvers.Client(server.address)
    looked = looking(client, {"zone": "bl.example", "probe": False})

    assert found(client, looked, LINK._replace(peer=links.end("::ffff:127.0.0.5"))) == LISTED
    assert [asked.name for asked in server.asked] == [CLIENT]


def test_the_status_of_secret_zones_names_what_is_shown(server: dnsservers.Server) -> None:
    lists = [{"zone": f"key{n}.example", "display_zone": "dq.example", "probe": False} for n in (1, 2)]
    server.says("5.0.0.127.key1.example", "A", dnsservers.Reply(rcode="SERVFAIL"))
    client = resolvers.Client(server.address)
    looked = looking(client, *lists)
    found(client, looked)

    assert list(looked.status()) == ["dq.example"]
    assert looked.status()["dq.example"].asked == 2
    assert counted(looked, "dq.example") == {"servfail": 1, "not_listed": 1}
    assert "key" not in repr((looked.status(), looked.report()))


def test_a_sure_refusal_waits_for_no_other_list(server: dnsservers.Server) -> None:
    """Nor for names; but a list before it that may say otherwise is waited for."""
    server.says("*.slow.example", "A")
    server.says("5.0.0.127.in-addr.arpa", "PTR")
    server.says(CLIENT, "A", lookedup.A)
    client = resolvers.Client(server.address)
    block, slow = {"zone": "bl.example", "probe": False}, {"zone": "slow.example", "probe": False}
    keys = {"drop": ["BLOCK"], "dns": {"deadline": 2}}
    looked = looking(client, {**slow, "variable": "OTHER"}, block, slow, lookup_names=True, **keys)
    began = time.monotonic()

    assert found(client, looked) == LISTED
    assert time.monotonic() - began < 1
    assert found(client, looking(client, {**slow, "action": "allow"}, block, **keys)) == LISTED
    assert 2 < time.monotonic() - began < 4
    client.resolver.close()  # what it asked about names is still on its way


@pytest.mark.peer
def test_a_real_list_passes_its_test_and_is_believed() -> None:
    data = ":127.0.0.2:See http://$/\n127.0.0.2\n10.0.0.0/16\n!10.0.5.0/24\n"
    with dnsservers.Rbldnsd({"bl.example": ("ip4set", data)}) as server:
        client = resolvers.Client(server.address)
        looked = looking(client, {"zone": "bl.example", "txt": True})
        text = "See http://10.0.1.7/"

        def asked(address: str) -> chains.Table:
            return found(client, looked, LINK._replace(peer=links.end(address)))

        assert asked("10.0.1.7") == {**LISTED, "BLOCK": text, "BLOCK_TXT": text}
        assert [asked("10.0.5.7"), asked("192.0.2.1"), asked("2001:db8::1")] == [{}] * 3
    assert looked.status()["bl.example"].state == "up"
    assert counted(looked) == {"listed": 1, "not_listed": 3}


class _Served(NamedTuple):
    """One connection of a stream: when it began, how long it took, what it got."""

    began: float
    seconds: float
    variables: dict[str, str]


class _Stream:
    """Connections, each from a new address, four at a time, until it is left."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sources: Iterator[int] = itertools.count(0x7F010000)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]
        self.served: list[_Served] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(daemons.SECONDS)

    def _run(self) -> None:
        while not self._over.is_set():
            source = connection.endpoint(4, next(self._sources), 0).text
            began = time.monotonic()
            found = lookedup.answer(self._port, source)
            self.served.append(_Served(began, time.monotonic() - began, found))

    def since(self, moment: float) -> list[_Served]:
        """The connections that began after this and have been served."""
        return [each for each in self.served if each.began > moment]


WAIT = 0.8  # seconds that a question takes that nobody answers
PAUSE = 0.5


def test_a_list_that_goes_dead_under_load_delays_few_and_comes_back_by_itself(
    tmp_path: pathlib.Path,
) -> None:
    settings = f"""dns = {{ pause = {PAUSE} }}
        dns_lists = [
            {{ zone = "dies.example", probe = false }},
            {{ zone = "lives.example", probe = false }},
        ]"""
    with dnsservers.Server() as server:
        server.says("*.dies.example", "A", lookedup.A)
        with lookedup.running(tmp_path, server, settings, WAIT) as (daemon, port), _Stream(port) as stream:
            daemons.until(lambda: len(stream.served) > 20, "the stream")

            server.says("*.dies.example", "A")
            died = time.monotonic()
            daemon.await_log("zone=dies.example state=paused")
            paused = time.monotonic()
            daemons.until(lambda: stream.since(paused), "a connection without the list")
            asked = len(server.asked)  # with all questions of before

            def tries() -> int:
                return sum(question.name.endswith("dies.example") for question in server.asked[asked:])

            # it is tried again, and nobody waits for that
            daemons.until(lambda: tries() > 1, "two tries")
            dead = stream.since(paused)

            server.says("*.dies.example", "A", lookedup.A)
            back = time.monotonic()
            daemon.await_log("zone=dies.example state=up")
            up = time.monotonic()
            daemons.until(lambda: len(stream.since(up)) > 20, "connections with the list")
            alive = stream.since(up)

    slow = [each for each in stream.served if each.seconds >= WAIT]
    assert slow
    assert all(died - WAIT < each.began < paused for each in slow)
    assert max(each.seconds for each in slow) < 3 * WAIT
    assert paused - died < 4 * WAIT  # three deadlines in a row
    assert len(dead) > 20
    assert all(each.variables == {} for each in dead)
    assert up - back < 16 * PAUSE + WAIT  # the pause after the third try at most
    assert all(each.variables["BLOCK_ZONE"] == "dies.example" for each in alive)
