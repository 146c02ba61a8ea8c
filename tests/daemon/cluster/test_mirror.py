"""Bans that hosts share: they are there on all hosts, bounded, and outlive the engine."""

import contextlib
import json
import pathlib
import socket
from collections.abc import Iterator

import pytest
from support import clusters, engines

from tcpdconf.config.model import values
from tcpdconf.daemon.cluster import engine as cluster_engine
from tcpdconf.daemon.cluster import mirror

A, NET = "192.0.2.1", "2001:db8::/48"


def hosts(world: clusters.World, engine: engines.Engine, count: int) -> list[clusters.Host]:
    """Hosts that are asked already, and hear of each other's bans."""
    made = [clusters.Host(world, engine.url, f"mx{n}", host=f"{n:016x}") for n in range(1, count + 1)]
    found = [each.up() for each in made]
    world.until(lambda: engine.ask("PUBSUB", "NUMSUB", "tcpdconf:bans")[1] == count, "subscriptions")
    return found


def fields(engine: engines.Engine) -> list[str]:
    """The bans in the engine, sorted."""
    return sorted(field.decode() for field in engine.ask("HKEYS", "tcpdconf:bans"))


def write(engine: engines.Engine, field: str, **entry: object) -> None:
    """Write to the engine like another host, perhaps a hostile one."""
    now = int(engine.ask("TIME")[0]) * 1000
    whole = {"until": now + 60_000, "by": "uid 0", "reason": "", "name": "evil", **entry}
    engine.ask("HSET", "tcpdconf:bans", field, json.dumps(whole))


def news(engine: engines.Engine, host: str = "f" * 16) -> None:
    """Say that there is something new."""
    engine.ask("PUBLISH", "tcpdconf:bans", json.dumps({"host": host, "lifted": []}))


def test_a_ban_is_on_all_hosts(world: clusters.World, engine: engines.Engine) -> None:
    one, other, third = hosts(world, engine, 3)
    one.ban(A, NET, seconds=60)
    one.ban(A, service="smtp")
    for host in (other, third):
        world.until(lambda host=host: len(host.mirrored) == 3, "all bans")  # type: ignore[misc]
        found = host.mirrored[A, None]
        assert found.seconds is not None
        assert 58 < found.seconds <= 60
        assert (found.host, found.by, found.reason) == ("mx1", "uid 0", "guesses")
        forever = host.mirrored[A, "smtp"].seconds
        assert forever is not None
        assert 6.9 * 86400 < forever <= 7 * 86400  # for ever here is a week there, and renewed
    assert one.mirrored == {}


def test_it_is_lifted_on_all_hosts(world: clusters.World, engine: engines.Engine) -> None:
    one, other, third = hosts(world, engine, 3)
    one.ban(A, NET)
    world.until(lambda: len(other.mirrored) == len(third.mirrored) == 2, "both bans")
    other.hub.mirror.lift([(A, None)])  # by a host that has not made it
    world.until(lambda: third.lifted == one.lifted == [(A, None)], "its end")
    assert fields(engine) == [f"{1:016x} {NET} -"]


def test_a_subscriber_that_is_cut_off_comes_back(world: clusters.World, engine: engines.Engine) -> None:
    one, other = hosts(world, engine, 2)
    one.ban(NET)
    world.until(lambda: other.mirrored, "a ban")
    world.pass_(0.2)  # until the comparisons after it are over
    assert engine.ask("CLIENT", "KILL", "TYPE", "pubsub") == 2
    one.ban(A)  # announced to nobody
    world.until(lambda: len(other.mirrored) == 2, "the next ban", 5)
    assert engine.ask("PUBSUB", "NUMSUB", "tcpdconf:bans")[1] == 2
    assert [each.reports[-1].state for each in (one, other)] == ["up", "up"]


def test_a_subscriber_whose_engine_falls_silent(
    world: clusters.World, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a firewall forgets an idle connection: nothing comes any more, and nobody says so."""
    monkeypatch.setattr(cluster_engine, "_PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as clients:
        server.bind(str(tmp_path / "silent.sock"))
        server.listen()

        def accept() -> None:
            client = clients.enter_context(server.accept()[0])
            answers = iter([b"+PONG\r\n", b"*3\r\n$9\r\nsubscribe\r\n$4\r\nbans\r\n:1\r\n"])
            world.loop.watch(client, lambda: answer(client, answers))

        def answer(client: socket.socket, answers: Iterator[bytes]) -> None:
            if client.recv(65536):
                client.sendall(next(answers, b""))
            else:
                world.loop.forget(client)

        world.loop.watch(server, accept)
        access = cluster_engine.Access(values.engine_url(f"unix://{tmp_path}/silent.sock"), None, None, None)
        subscribed: list[None] = []
        made = cluster_engine.Subscription(
            world.loop, access, ["bans"], lambda: subscribed.append(None), lambda _: None
        )
        world.until(lambda: len(subscribed) == 3, "the third subscription")
        made.close()
        world.loop.forget(server)


def test_without_the_engine(world: clusters.World, engine: engines.Engine) -> None:
    one, other = hosts(world, engine, 2)
    one.ban(A)
    world.until(lambda: other.mirrored, "the ban")
    engine.stop()
    world.until(lambda: other.hub._engine is None and one.hub._engine is None, "two hosts without an engine")
    one.ban(NET)
    assert other.lifted == []
    engine.start()  # it has forgotten everything
    world.until(lambda: (NET, None) in other.mirrored, "what was banned meanwhile")
    world.until(lambda: len(fields(engine)) == 2, "both bans in the engine")
    other.hub.mirror._compare()
    world.pass_(0.1)
    assert other.lifted == []


def test_what_is_lifted_without_the_engine(world: clusters.World, engine: engines.Engine) -> None:
    one, other = hosts(world, engine, 2)
    one.ban(A)
    world.until(lambda: other.mirrored, "the ban")
    engine.halt()
    one.hub._give_up("cut")
    one.own.clear()
    one.hub.mirror.lift([(A, None)])
    engine.go_on()
    world.until(lambda: other.lifted == [(A, None)], "its end")
    assert fields(engine) == []


def test_a_ban_that_nobody_has_any_more(world: clusters.World, engine: engines.Engine) -> None:
    one, other = hosts(world, engine, 2)
    one.ban(A)
    world.until(lambda: other.mirrored, "the ban")
    one.hub.mirror._own.clear()
    engine.ask("DEL", "tcpdconf:bans")
    world.until(lambda: not other.hub.mirror._scanning, "the end of an earlier comparison")
    other.hub.mirror._compare()
    world.until(lambda: not other.hub.mirror._scanning, "the end of this one")
    assert other.lifted == []  # its host may be about to write it again
    other.hub.mirror._compare()
    world.until(lambda: other.lifted == [(A, None)], "its end")


def test_a_host_that_begins_again(world: clusters.World, engine: engines.Engine) -> None:
    one, other = hosts(world, engine, 2)
    one.ban(A, NET)
    world.until(lambda: len(other.mirrored) == 2, "both bans")
    again = clusters.Host(world, engine.url, "mx1", host=f"{1:016x}")
    again.ban(NET)  # the other one was lifted while it did not run
    again.up()
    world.until(lambda: fields(engine) == [f"{1:016x} {NET} -"], "what it has")


def test_what_a_host_that_was_taken_over_can_do(world: clusters.World, engine: engines.Engine) -> None:
    (one,) = hosts(world, engine, 1)
    for wrong in (
        "0.0.0.0/0", "10.0.0.0/8", "192.0.0.0/15", "::/0", "2001::/16", "192.0.2.1/24", "nonsense", "",
        "1.2.3.4%a",
    ):  # fmt: skip
        write(engine, f"{'e' * 16} {wrong} -")
    write(engine, f"{'e' * 16} 192.0.2.2 ../etc")
    write(engine, f"{'e' * 16} 192.0.2.3 -", until="soon")
    write(engine, f"{'e' * 16} 192.0.2.4 -", until=1 << 60)
    write(engine, f"{'e' * 16} 192.0.2.5 -", name="a b")
    write(engine, f"{'e' * 16} 192.0.2.6 -", reason="x" * 201)
    write(engine, f"{'e' * 16} 192.0.2.7 -", until=1)
    write(engine, "without blanks")
    engine.ask("HSET", "tcpdconf:bans", f"{'e' * 16} 192.0.2.8 -", "no json")
    write(engine, f"{'e' * 16} 198.51.100.0/24 smtp", until=(1 << 52), reason="a\x1b[31m")
    news(engine)
    world.until(lambda: one.mirrored, "the one that is right")
    world.pass_(0.05)
    assert list(one.mirrored) == [("198.51.100.0/24", "smtp")]
    ban = one.mirrored["198.51.100.0/24", "smtp"]
    assert ban.host == "evil"
    assert ban.seconds is not None
    assert ban.seconds <= 7 * 86400
    assert "\x1b" not in ban.reason
    for said in ("", "[]", "{}", '{"host": 1, "lifted": []}', '{"host": "x", "lifted": [[1]]}', "\xff"):
        engine.ask("PUBLISH", "tcpdconf:bans", said)
    news(engine)
    assert one.worker().await_serving().ask(A).verdict == "admitted"


def test_the_number_is_bounded(
    world: clusters.World, engine: engines.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "OF_A_HOST", 100)
    monkeypatch.setattr(mirror, "MOST", 130)
    one, other, third = hosts(world, engine, 3)
    one.ban(*(f"10.1.0.{n}" for n in range(150)))
    world.until(lambda: len(other.mirrored) == 100, "as many as one host may share")
    other.ban(*(f"10.2.0.{n}" for n in range(100)))
    world.until(lambda: len(third.mirrored) == 130, "as many as are mirrored")
    world.pass_(0.1)
    assert len(third.mirrored) == 130


def test_a_supervisor_that_takes_its_time(world: clusters.World, engine: engines.Engine) -> None:
    """No more is sent than the supervisor has taken on: its disk is slower than the engine."""
    one, other = hosts(world, engine, 2)
    waiting: list[int] = []
    go_on = other.hub.mirror.taken
    other.hub.mirror.taken = lambda: waiting.append(len(other.mirrored))  # type: ignore[method-assign]
    one.ban(*(f"10.{n // 250}.{n % 250}.1" for n in range(3000)))
    world.until(lambda: waiting, "some bans")
    world.pass_(0.1)
    assert len(other.mirrored) < 1000
    while len(other.mirrored) < 3000:
        world.until(lambda: waiting, "more bans")
        waiting.clear()
        for _ in range(20):
            go_on()
    assert len(other.mirrored) == 3000


def test_penalties_are_told(world: clusters.World, engine: engines.Engine) -> None:
    one, other = hosts(world, engine, 2)
    smtp, imap = one.worker("smtp").await_serving(), one.worker("imap").await_serving()
    theirs, not_theirs = other.worker("smtp").await_serving(), other.worker("imap").await_serving()
    smtp.penalise(A, 60)
    smtp.penalise("2001:db8::1", 30)
    world.until(lambda: len(theirs.penalised) == 2, "both penalties")
    assert [(each.version, each.length, each.offence) for each in theirs.penalised] == [
        (4, 32, "refused"), (6, 128, "refused"),
    ]  # fmt: skip
    assert theirs.penalised[0].bits == clusters.peer(A).value
    assert 59 < theirs.penalised[0].seconds <= 60
    assert imap.penalised == not_theirs.penalised == smtp.penalised == []


def test_penalties_are_repeated(world: clusters.World, engine: engines.Engine) -> None:
    # for a host that has begun, or was cut off, when they were told
    (one,) = hosts(world, engine, 1)
    worker = one.worker("smtp").await_serving()
    worker.penalise(A, 60)
    worker.penalise("192.0.2.2", 0.05)
    world.pass_(0.1)
    late = clusters.Host(world, engine.url, "mx2", host=f"{2:016x}").up().worker("smtp").await_serving()
    world.until(lambda: engine.ask("PUBSUB", "NUMSUB", "tcpdconf:penalties")[1] == 2, "its subscription")
    one.hub.mirror._compare()
    world.until(lambda: late.penalised, "the penalty")
    (told,) = late.penalised  # the other one has ended
    assert told.bits == clusters.peer(A).value


def test_penalties_are_bounded(world: clusters.World, engine: engines.Engine) -> None:
    one, other = hosts(world, engine, 2)
    worker, theirs = one.worker("smtp").await_serving(), other.worker("smtp").await_serving()
    for number in range(1000):
        worker.penalise(f"10.0.{number // 250}.{number % 250}", 60)
    world.until(lambda: len(theirs.penalised) >= 100, "some penalties")
    world.pass_(0.1)
    assert len({each.bits for each in theirs.penalised}) == 100  # some may have been repeated
    for wrong in (
        '[4, 4294967296, 32, 9.0, "refused"]', '[4, 1, 33, 9.0, "refused"]', '[5, 1, 32, 9.0, "refused"]',
        '[4, 1, 32, 0.0, "refused"]', '[4, 1, 32, 1e9, "refused"]', '[4, 1, 32, 9.0, "\\u001b"]', "1",
    ):  # fmt: skip
        said = f'{{"host": "{"e" * 16}", "service": "smtp", "said": {{"penalties": [{wrong}]}}}}'
        engine.ask("PUBLISH", "tcpdconf:penalties", said)
    right = (
        f'{{"host": "{"e" * 16}", "service": "smtp", "said": {{"penalties": [[4, 1, 32, 9.0, "refused"]]}}}}'
    )
    engine.ask("PUBLISH", "tcpdconf:penalties", right.replace("smtp", "imap"))
    engine.ask("PUBLISH", "tcpdconf:penalties", right)
    world.until(lambda: any(each.bits == 1 for each in theirs.penalised), "the right one")
    world.pass_(0.05)
    assert [each.seconds for each in theirs.penalised if each.bits == 1] == [9.0]
    assert len({each.bits for each in theirs.penalised}) == 101
