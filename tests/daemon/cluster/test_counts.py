"""Tests the common counts of hosts in a real engine: exact limits, leases, the end of counts."""

import pytest
from support import clusters, engines

from tcpdconf.daemon.cluster.exchange import Exchange
from tcpdconf.daemon.process import loop
from tcpdconf.policy.connection import endpoint

A, B = "192.0.2.1", "192.0.2.2"


def hosts(world: clusters.World, engine: engines.Engine, count: int, **more: object) -> list[clusters.Host]:
    """Hosts that are asked already."""
    made = [clusters.Host(world, engine.url, f"mx{n}", **more) for n in range(1, count + 1)]  # type: ignore[arg-type]
    return [each.up() for each in made]


def workers(
    world: clusters.World, engine: engines.Engine, count: int, **limits: object
) -> list[clusters.Worker]:
    """A worker of the same service on each of several hosts."""
    return [host.worker(**limits).await_serving() for host in hosts(world, engine, count)]  # type: ignore[arg-type]


def verdicts(worker: clusters.Worker, address: str, count: int) -> list[str]:
    """The verdicts on connections that come one after the other."""
    return [worker.ask(address).verdict for _ in range(count)]


def field(engine: engines.Engine, key: str, worker: clusters.Worker) -> int:
    """Return the engine's copy of a host's count."""
    return int(engine.ask("HGET", f"tcpdconf:{key}", worker.host.life) or 0)


def test_a_limit_over_all_hosts(world: clusters.World, engine: engines.Engine) -> None:
    one, other = workers(world, engine, 2, max_per_ip=3)
    assert verdicts(one, A, 2) == ["admitted", "admitted"]
    assert verdicts(other, A, 2) == ["admitted", "refused"]
    refused = one.ask(A)
    assert (refused.verdict, refused.limit, refused.held, refused.elsewhere) == ("refused", 0, 3, 1)
    assert one.ask(B).verdict == "admitted"
    other.release(A)
    world.until(lambda: field(engine, f"c:smtp:{A}/32", other) == 0, "the release")
    assert verdicts(one, A, 2) == ["admitted", "refused"]


def test_many_at_once(world: clusters.World, engine: engines.Engine) -> None:
    # one request asks for all of them, and the script judges one after the other
    one, other = workers(world, engine, 2, max_per_ip=5, max_per_network=7)
    for _ in range(3):
        assert other.ask(A).verdict == "admitted"
    answers = one.ask_many(*([A] * 50), *([B] * 50))
    assert [each.verdict for each in answers].count("admitted") == 4
    assert [each.verdict for each in answers[:50]].count("admitted") == 2
    assert field(engine, "c:smtp:192.0.2.0/24", one) == 4


def test_all_or_nothing(world: clusters.World, engine: engines.Engine) -> None:
    # a connection that its network may not have costs no token of its address
    (one,) = workers(world, engine, 1, rate="2/h", max_per_network=1)
    assert one.ask(A).verdict == "admitted"
    assert [one.ask(A).limit for _ in range(3)] == [1, 1, 1]
    one.release(A)
    world.until(lambda: not engine.names("tcpdconf:c:*"), "the release")
    assert one.ask(A).verdict == "admitted"
    one.release(A)
    world.until(lambda: not engine.names("tcpdconf:c:*"), "the release")
    assert (one.ask(A).verdict, one.ask(B).verdict) == ("refused", "admitted")


def test_a_rate_over_all_hosts(world: clusters.World, engine: engines.Engine) -> None:
    one, other = workers(world, engine, 2, rate="4/h")
    found = [each.ask(A).verdict for each in (one, other) * 3]
    assert found == ["admitted"] * 4 + ["refused"] * 2
    assert one.share.described(one.ask(A)).name == "rate"  # type: ignore[union-attr]


def test_a_rate_gives_back(world: clusters.World, engine: engines.Engine) -> None:
    (one,) = workers(world, engine, 1, rate="2/4s")
    assert verdicts(one, A, 3) == ["admitted", "admitted", "refused"]
    world.pass_(2.2)
    assert verdicts(one, A, 2) == ["admitted", "refused"]
    assert 0 < engine.ask("PTTL", f"tcpdconf:r:smtp:2/4:{A}/32") <= 4001


def test_limits_that_only_observe(world: clusters.World, engine: engines.Engine) -> None:
    (one,) = workers(
        world,
        engine,
        1,
        max_per_ip=1,
        enforce=False,
        levels=[{"ipv4": 16, "max_connections": 3, "enforce": True}],
    )
    found = [one.ask(A) for _ in range(4)]
    assert [each.verdict for each in found] == ["admitted"] * 3 + ["refused"]
    assert [each.limit for each in found] == [0, 1, 1, 1]
    assert one.share.described(found[1]).name == "max_per_ip"  # type: ignore[union-attr]
    assert one.share.described(found[3]).name == "levels[0].max_connections"  # type: ignore[union-attr]


def test_a_family_that_a_level_does_not_limit(world: clusters.World, engine: engines.Engine) -> None:
    (one,) = workers(world, engine, 1, levels=[{"ipv6": 48, "max_connections": 1}])
    assert verdicts(one, A, 3) == ["admitted"] * 3
    assert [one.ask(f"2001:db8::{n}").verdict for n in (1, 2)] == ["admitted", "refused"]


def test_an_access_rule_raises_the_limit(world: clusters.World, engine: engines.Engine) -> None:
    (one,) = workers(world, engine, 1, max_per_ip=1)
    assert [one.ask(A, 3).verdict for _ in range(4)] == ["admitted"] * 3 + ["refused"]


def test_services_count_for_themselves(world: clusters.World, engine: engines.Engine) -> None:
    (host,) = hosts(world, engine, 1)
    smtp, imap = host.worker("smtp", max_per_ip=1), host.worker("imap", max_per_ip=1)
    assert smtp.await_serving().ask(A).verdict == imap.await_serving().ask(A).verdict == "admitted"
    assert smtp.ask(A).verdict == "refused"


def test_a_dead_host_counts_for_nothing(world: clusters.World, engine: engines.Engine) -> None:
    one, other = (clusters.Host(world, engine.url, name, lease=3).up() for name in ("mx1", "mx2"))
    left, right = one.worker(max_per_ip=2).await_serving(), other.worker(max_per_ip=2).await_serving()
    assert verdicts(right, A, 2) == ["admitted", "admitted"]
    assert left.ask(A).verdict == "refused"
    other.hub._engine.close()  # type: ignore[union-attr]
    other.hub._engine = None
    other.hub._connect = lambda: None  # type: ignore[method-assign]
    world.pass_(0.3)
    assert left.ask(A).verdict == "refused"  # its lease still runs
    world.pass_(3)
    assert verdicts(left, A, 3) == ["admitted", "admitted", "refused"]
    assert field(engine, f"c:smtp:{A}/32", right) == 0  # removed with the dead host


def test_a_long_session_keeps_its_count(world: clusters.World, engine: engines.Engine) -> None:
    one, other = (clusters.Host(world, engine.url, name, lease=0.3).up() for name in ("mx1", "mx2"))
    left, right = one.worker(max_per_ip=1).await_serving(), other.worker(max_per_ip=1).await_serving()
    assert right.ask(A).verdict == "admitted"
    world.pass_(1.2)
    assert left.ask(A).verdict == "refused"


def test_flushall(world: clusters.World, engine: engines.Engine) -> None:
    one, other = workers(world, engine, 2, max_per_ip=2)
    assert one.ask(A).verdict == other.ask(A).verdict == "admitted"
    engine.ask("FLUSHALL")
    # each host finds out when it asks, or when it renews its lease
    assert other.ask(B).verdict == "admitted"
    assert one.ask(B).verdict == "admitted"
    world.until(lambda: field(engine, f"c:smtp:{A}/32", one) == 1, "the counts of one host")
    world.until(lambda: field(engine, f"c:smtp:{A}/32", other) == 1, "the counts of the other")
    assert one.ask(A).verdict == "refused"


def test_script_flush(world: clusters.World, engine: engines.Engine) -> None:
    (one,) = workers(world, engine, 1, max_per_ip=2)
    assert one.ask(A).verdict == "admitted"
    engine.ask("SCRIPT", "FLUSH")
    assert verdicts(one, A, 2) == ["admitted", "refused"]


def test_restart_of_the_engine(world: clusters.World, engine: engines.Engine) -> None:
    one, other = workers(world, engine, 2, max_per_ip=3)
    assert one.ask(A).verdict == other.ask(A).verdict == "admitted"
    engine.stop()
    world.until(lambda: not one.share.asks and not other.share.asks, "two hosts that ask nobody")
    one.share.hold(clusters.peer(A))  # decided by the limits of the host
    engine.start()
    one.await_serving()
    other.await_serving()
    world.until(lambda: field(engine, f"c:smtp:{A}/32", one) == 2, "what was held meanwhile")
    world.until(lambda: field(engine, f"c:smtp:{A}/32", other) == 1, "the other host's")
    assert other.ask(A).verdict == "refused"


def test_a_restarted_worker_is_not_counted_twice(world: clusters.World, engine: engines.Engine) -> None:
    (host,) = hosts(world, engine, 1)
    first = host.worker(max_per_ip=4).await_serving()
    assert verdicts(first, A, 3) == ["admitted"] * 3
    first.share.close()
    second = host.worker(max_per_ip=4)
    for _ in range(2):  # one program has ended with its worker
        second.share.hold(clusters.peer(A))
    second.await_serving()
    assert second.ask(A).verdict == "admitted"  # 3 before: as many as the first one had, and one more
    assert second.ask(A).verdict == "refused"
    world.pass_(2.1)
    assert verdicts(second, A, 2) == ["admitted", "refused"]


def test_nothing_is_left_behind(world: clusters.World, engine: engines.Engine) -> None:
    (one,) = workers(world, engine, 1, max_per_ip=2, rate="100/s", max_per_network=10)
    assert one.ask(A).verdict == "admitted"
    assert all(engine.ask("PTTL", key) > 0 for key in engine.names())
    one.release(A)
    world.until(lambda: not engine.names("*:c:*"), "a key without fields")
    done: list[bool] = []
    one.host.hub.leave(lambda: done.append(True))
    world.until(lambda: done, "the end of the lease")
    assert engine.ask("HLEN", "tcpdconf:leases") == 0
    world.until(lambda: not engine.names("*:r:*"), "the end of the rate's bucket")


def test_a_late_refusal_counts_what_is_served(world: clusters.World, engine: engines.Engine) -> None:
    one = clusters.Host(world, engine.url, "mx1", deadline=1).up().worker(max_per_ip=1).await_serving()
    assert one.ask(A).verdict == "admitted"
    engine.halt()
    late = one.ask(A)  # the engine will refuse it, but it is served already
    assert late.verdict == "unknown"
    engine.go_on()
    world.until(lambda: field(engine, f"c:smtp:{A}/32", one) == 2, "both connections")
    one.release(A)
    one.release(A)
    world.until(lambda: not engine.names("*:c:*"), "no connection")


def test_a_late_admission_is_counted_once(world: clusters.World, engine: engines.Engine) -> None:
    one = clusters.Host(world, engine.url, "mx1", deadline=0.05).up().worker(max_per_ip=9).await_serving()
    engine.halt()
    assert one.ask(A).verdict == "unknown"
    engine.go_on()
    world.until(lambda: field(engine, f"c:smtp:{A}/32", one) == 1, "the connection")
    world.pass_(0.1)
    assert field(engine, f"c:smtp:{A}/32", one) == 1


def test_an_earlier_turn_changes_nothing(world: clusters.World, engine: engines.Engine) -> None:
    # what a broken connection has left in the engine's queue must not undo what the next one tells
    (one,) = workers(world, engine, 1, max_per_ip=9)
    assert one.ask(A).verdict == "admitted"
    hub = one.host.hub
    command = Exchange(hub._tally, (), [("smtp", 4, 32, 0xC0000201)]).command("tcpdconf:", one.host.life, 7)
    assert engine.ask(*command) is None
    assert field(engine, f"c:smtp:{A}/32", one) == 1


def test_hosts_in_the_status(world: clusters.World, engine: engines.Engine) -> None:
    _, other = hosts(world, engine, 2, lease=0.6)
    world.until(lambda: len(other.status().hosts) == 2, "both hosts")
    own, first = other.status().hosts
    assert (own.name, own.own, own.alive) == ("mx2", True, True)
    assert (first.name, first.own, first.alive) == ("mx1", False, True)
    assert 0 <= first.renewed < 1


def test_a_host_begins_again(world: clusters.World, engine: engines.Engine) -> None:
    first = clusters.Host(world, engine.url, host="0123456789abcdef").up()
    assert first.worker(max_per_ip=1).await_serving().ask(A).verdict == "admitted"
    first.hub._engine.close()  # type: ignore[union-attr]  # killed, with its lease alive
    first.hub._connect = lambda: None  # type: ignore[method-assign]
    again = clusters.Host(world, engine.url, host="0123456789abcdef").up().worker(max_per_ip=1)
    assert again.await_serving().ask(A).verdict == "admitted"


@pytest.mark.slow
def test_a_hundred_thousand_addresses(world: clusters.World, engine: engines.Engine) -> None:
    """An engine that has lost them all gets them again, and connections do not wait for that."""
    worker = clusters.Host(world, engine.url, deadline=0.5).up().worker(max_per_ip=2, max_per_network=9)
    worker.await_serving()
    first = 10 << 24
    for number in range(100_000):
        worker.share.hold(endpoint(4, first + 256 * number, 1))
    world.until(lambda: engine.ask("DBSIZE") >= 200_000, "all of them", 60)
    engine.ask("FLUSHALL")
    waits: list[float] = []
    while engine.ask("DBSIZE") < 200_000:
        begun = loop.now()
        assert worker.ask(f"172.{len(waits) // 250}.{len(waits) % 250}.1").verdict == "admitted"
        waits.append(loop.now() - begun)
        world.pass_(0.005)
    assert worker.host.status().state == "up"
    assert worker.host.status().unanswered == 0
    assert sorted(waits)[len(waits) // 2] < 0.1
    assert worker.ask("10.0.0.0").verdict == "admitted"
    assert worker.ask("10.0.0.0").verdict == "refused"
