"""Tests connections while the engine is slow, gone, strange or hostile."""

import contextlib
import pathlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import clusters, engines
from support.running import daemons

from tcpdconf.policy import breaker

A, B = "192.0.2.1", "192.0.2.2"


def why(host: clusters.Host) -> str:
    """Why the engine is not asked, once that is known."""
    host.world.until(lambda: host.reports and host.status().state == "down", "a reason")
    return host.status().why


class Liar:
    """A server on a Unix socket that says to each connection what it is told to say, whatever it is asked."""

    def __init__(self, folder: pathlib.Path, says: Callable[[socket.socket], None]) -> None:
        self.path = folder / "liar.sock"
        self._says = says
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    @property
    def url(self) -> str:
        """Return its URL."""
        return f"unix://{self.path}"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                with client, contextlib.suppress(OSError):
                    client.settimeout(5)
                    self._says(client)


class Relay:
    """A Unix socket that passes bytes on to an engine, `delay` seconds late, and none once it is cut."""

    def __init__(self, folder: pathlib.Path, engine: engines.Engine, delay: float = 0) -> None:
        self.delay = delay
        self.cut = False
        self._liar = Liar(folder, self._pass)
        self._target = str(engine.socket)
        self.url = self._liar.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.cut = True
        self._liar.__exit__()

    def _pass(self, client: socket.socket) -> None:
        """One connection at a time: a hub has one."""
        with socket.socket(socket.AF_UNIX) as target:
            target.connect(self._target)
            both = {client: target, target: client}
            for each in both:
                each.settimeout(0.01)
            late: list[tuple[float, socket.socket, bytes]] = []
            while not self.cut:
                for each, other in both.items():
                    with contextlib.suppress(TimeoutError):
                        data = each.recv(65536)
                        if not data:
                            return
                        late.append((time.monotonic() + self.delay, other, data))
                while late and late[0][0] <= time.monotonic():
                    _, other, data = late.pop(0)
                    other.sendall(data)


# The breaker.


def test_three_failures_in_a_row_open_the_breaker() -> None:
    one = breaker.Breaker()
    assert one.open
    assert one.close()
    assert [one.fail(), one.fail()] == [False, False]
    one.succeed()
    assert [one.fail(), one.fail(), one.fail()] == [False, False, True]
    assert one.open
    assert not one.fail()
    assert one.close()
    assert one.trip()
    assert not one.trip()


# An engine that does not answer.


def test_a_stopped_engine(world: clusters.World, engine: engines.Engine) -> None:
    worker = clusters.Host(world, engine.url, deadline=1).up().worker(max_per_ip=9).await_serving()
    assert worker.ask(A).verdict == "admitted"
    engine.halt()
    waits = []
    while worker.share.asks:
        begun = time.monotonic()
        assert worker.ask(A).verdict == "unknown"
        waits.append(time.monotonic() - begun)
    assert len(waits) == 3
    assert max(waits) < 2
    world.until(lambda: worker.host.status().state == "slow", "the state")
    engine.go_on()
    worker.await_serving()
    assert worker.host.status().state == "up"
    key = f"tcpdconf:c:smtp:{A}/32"
    world.until(lambda: engine.ask("HGET", key, worker.host.life) == b"4", "what was served without it")


def test_one_slow_answer_is_no_failure_of_others(world: clusters.World, engine: engines.Engine) -> None:
    worker = clusters.Host(world, engine.url, deadline=1).up().worker(max_per_ip=9).await_serving()
    engine.halt()
    assert worker.ask(A).verdict == "unknown"
    engine.go_on()
    assert [worker.ask(A).verdict for _ in range(3)] == ["admitted"] * 3


def test_latency_above_the_deadline(
    world: clusters.World, engine: engines.Engine, tmp_path: pathlib.Path
) -> None:
    # nobody is asked for, but each host knows of the other's connections all the same
    direct = clusters.Host(world, engine.url, "mx1").up().worker(max_per_ip=3).await_serving()
    with Relay(tmp_path, engine, 0.2) as relay:
        far = clusters.Host(world, relay.url, "mx2", deadline=0.05)
        worker = far.worker(max_per_ip=3)
        world.until(lambda: far.reports and "ms to answer" in far.status().why, "an engine that is slow")
        assert far.status().state == "slow"
        assert not worker.share.asks
        worker.share.hold(clusters.peer(A))
        worker.share.hold(clusters.peer(A))
        key = f"tcpdconf:c:smtp:{A}/32"
        world.until(lambda: engine.ask("HGET", key, far.life) == b"2", "the far host's connections")
        assert [direct.ask(A).verdict for _ in range(2)] == ["admitted", "refused"]


def test_a_partition(world: clusters.World, engine: engines.Engine, tmp_path: pathlib.Path) -> None:
    near = clusters.Host(world, engine.url, "mx1", lease=0.6).up().worker(max_per_ip=2).await_serving()
    with Relay(tmp_path, engine) as relay:
        far = clusters.Host(world, relay.url, "mx2", lease=0.6)
        worker = far.up().worker(max_per_ip=2).await_serving()
        assert worker.ask(A).verdict == "admitted"
        relay.cut = True
        world.until(lambda: not worker.share.asks, "the partition")
        worker.share.hold(clusters.peer(A))  # the host's own limit allows it
        world.pass_(0.7)
        assert [near.ask(A).verdict for _ in range(3)] == ["admitted", "admitted", "refused"]
        relay.cut = False
        worker.await_serving()
        assert worker.ask(A).verdict == near.ask(A).verdict == "refused"
        near.release(A)
        near.release(A)
        assert near.ask(A).verdict == "refused"  # the far host has both


def test_a_request_that_is_lost_with_its_connection(
    world: clusters.World, engine: engines.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It told of the end of a connection; the engine must not count that one until its key expires."""
    host = clusters.Host(world, engine.url).up()
    worker = host.worker(max_per_ip=3).await_serving()
    assert worker.ask(A).verdict == "admitted"
    assert engine.counted()
    lost: list[object] = []
    monkeypatch.setattr(host.hub._engine, "send", lambda *words, **_: lost.append(words))
    worker.release(A)
    world.until(lambda: lost, "the request")
    host.hub._give_up("cut")
    assert why(host)
    host.up()
    world.until(lambda: not engine.counted(), "the end of the connection")


# Services of a group with several users, which share no memory.


def test_a_group_of_several_users_while_nobody_listens(world: clusters.World, tmp_path: pathlib.Path) -> None:
    host = clusters.Host(world, f"unix://{tmp_path}/redis.sock")
    assert why(host)
    limits = {"max_per_ip": 3, "max_per_network": 4, "rate": "9/h"}
    imap, pop = (host.worker(name, group="mail", **limits).await_serving() for name in ("imap", "pop3"))
    assert not host.worker("smtp", max_per_ip=3).share.asks  # its own memory has all that it may know
    assert [each.ask(A).verdict for each in (imap, pop, imap)] == ["admitted"] * 3  # by this host's counts
    for each in (imap, pop):
        refused = each.ask(A)
        assert (refused.verdict, refused.limit, refused.held, refused.elsewhere) == ("refused", 0, 3, 0)
    assert imap.ask(A, 4).verdict == "admitted"  # an access rule allows one more
    network = pop.ask(B)
    assert (network.verdict, network.limit, network.held) == ("refused", 1, 4)
    imap.release(A)
    assert [pop.ask(B).verdict, imap.ask(B).verdict] == ["admitted", "refused"]
    with engines.Engine(tmp_path) as engine:
        host.up()
        key = f"tcpdconf:c:@mail:{A}/32"
        world.until(lambda: engine.ask("HGET", key, host.life) == b"3", "what was served without it")
        assert [each.ask(A).verdict for each in (imap, pop)] == ["refused"] * 2
        for each in (imap, imap, pop):
            each.release(A)
        world.until(lambda: engine.ask("HGET", key, host.life) is None, "the ends of connections")
        pop.release(B)
        world.until(lambda: not engine.counted(), "the end of the last one")


def test_a_group_of_several_users_while_the_engine_is_stopped(
    world: clusters.World, engine: engines.Engine
) -> None:
    host = clusters.Host(world, engine.url, deadline=0.5).up()
    imap, pop = (host.worker(name, group="mail", max_per_ip=3).await_serving() for name in ("imap", "pop3"))
    assert [each.ask(A).verdict for each in (imap, pop)] == ["admitted"] * 2
    engine.halt()
    waits, found = [], []
    for each in (imap, pop, imap, pop, imap, pop):
        begun = time.monotonic()
        found.append(each.ask(A).verdict)
        waits.append(time.monotonic() - begun)
    assert found == ["admitted"] + ["refused"] * 5
    assert max(waits) < 0.5 + 0.4  # a busy machine may be late
    assert len([wait for wait in waits if wait > 0.4]) == 3, waits  # then nobody waits any more
    engine.go_on()
    world.until(lambda: host.status().state == "up", "the engine")
    # the engine has admitted one that it was asked for in time, and that was refused by then
    key = f"tcpdconf:c:@mail:{A}/32"
    world.until(lambda: engine.ask("HGET", key, host.life) == b"3", "the true count")
    assert [each.ask(A).verdict for each in (imap, pop)] == ["refused"] * 2
    for each in (imap, imap, pop):
        each.release(A)
    world.until(lambda: not engine.counted(), "no connection")


# An engine that refuses.


@pytest.mark.parametrize(
    ("rights", "login", "text"),
    [
        ("on >secret ~* +@all", ("tcpdconf", "wrong"), "refuses username and password"),
        ("on >secret ~other:* +@all", ("tcpdconf", "secret"), "does not permit"),
        ("on >secret ~* +@all -hset", ("tcpdconf", "secret"), "does not permit"),
        ("on >secret ~* +@all -evalsha", ("tcpdconf", "secret"), "does not permit"),
    ],
)
def test_rights_that_do_not_suffice(
    world: clusters.World, engine: engines.Engine, rights: str, login: tuple[str, str], text: str
) -> None:
    engine.ask("ACL", "SETUSER", "tcpdconf", *rights.split())
    host = clusters.Host(world, engine.url, login=login)
    assert text in why(host)
    assert not host.worker().share.asks


def test_no_password(world: clusters.World, engine: engines.Engine) -> None:
    engine.ask("CONFIG", "SET", "requirepass", "secret")
    assert "wants a password" in why(clusters.Host(world, engine.url))


def test_the_smallest_rights(world: clusters.World, engine: engines.Engine) -> None:
    engine.ask("ACL", "SETUSER", "tcpdconf", *engines.RIGHTS.split())
    host = clusters.Host(world, engine.url, login=("tcpdconf", "secret"))
    limits = {
        "max_per_ip": 2,
        "rate": "100/s",
        "levels": [{"ipv4": 16, "max_connections": 9, "rate": "99/h"}],
    }
    worker = host.up().worker(**limits).await_serving()  # type: ignore[arg-type]
    assert [worker.ask(A).verdict for _ in range(3)] == ["admitted", "admitted", "refused"]
    worker.release(A)
    world.pass_(1.1)
    assert worker.ask(A).verdict == "admitted"
    told: list[object] = []
    done: list[bool] = []
    from tcpdconf.daemon.messages.cluster import Ask  # noqa: PLC0415

    host.hub.ask(Ask(1, "smtp", 4, 0xC0000201, (32, 16)), told.append)
    world.until(lambda: told, "the counts of others")
    host.hub.leave(lambda: done.append(True))
    world.until(lambda: done, "the end")
    assert engine.ask("HLEN", "tcpdconf:leases") == 0
    denied = engine.ask("ACL", "LOG")
    assert denied == []


def test_the_rights_are_those_of_the_documentation() -> None:
    page = pathlib.Path(__file__).parents[3] / "docs/how-to/cluster.md"
    command = page.read_text().translate(str.maketrans("", "", "'\\"))  # without the shell's quotes
    user, _, rights = engines.RIGHTS.partition(" >secret ")
    assert user in command
    assert " ".join(rights.split()) in " ".join(command.split())


def test_out_of_memory(world: clusters.World, engine: engines.Engine) -> None:
    worker = clusters.Host(world, engine.url).up().worker(max_per_ip=9).await_serving()
    assert worker.ask(A).verdict == "admitted"
    engine.ask("CONFIG", "SET", "maxmemory", "1")
    assert worker.ask(A).verdict == "unknown"
    assert "out of memory" in why(worker.host)
    engine.ask("CONFIG", "SET", "maxmemory", "0")
    assert worker.await_serving().ask(A).verdict == "admitted"


def test_a_replica(world: clusters.World, engine: engines.Engine) -> None:
    worker = clusters.Host(world, engine.url).up().worker(max_per_ip=9).await_serving()
    engine.ask("REPLICAOF", "127.0.0.1", "1")
    assert worker.ask(A).verdict == "unknown"
    assert "a replica that takes no writes" in why(worker.host)


def test_a_redis_cluster(world: clusters.World, tmp_path: pathlib.Path) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(daemons.free_port()))
    with engines.Engine(tmp_path, *options, port=daemons.free_port()) as engine:
        assert "Redis Cluster, which is not supported" in why(clusters.Host(world, engine.url))


def test_nobody_listens(world: clusters.World, tmp_path: pathlib.Path) -> None:
    assert why(clusters.Host(world, f"unix://{tmp_path}/none")) == "cannot connect: No such file or directory"
    port = daemons.free_port()
    host = clusters.Host(world, f"redis://127.0.0.1:{port}")
    assert why(host) == "cannot connect: Connection refused"


def test_a_name_that_is_unknown(world: clusters.World) -> None:
    host = clusters.Host(world, "redis://no-such-host.invalid")
    assert why(host).startswith("cannot look up no-such-host.invalid: ")


# An engine that lies.


def says(data: bytes) -> Callable[[socket.socket], None]:
    """Say the same to every request."""

    def act(client: socket.socket) -> None:
        while client.recv(65536):
            client.sendall(data)

    return act


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not the protocol of Redis"),
        (b"*-7\r\n", "not the protocol of Redis"),
        (b"+OK\r\n" * 10, "something else than the script"),
        (b":1\r\n" * 10, "something else than the script"),
        (b"-LOADING dataset\r\n", "loading its data"),
        (b"-ERR \x1b[31m\xff\r\n", "the engine answers: ERR "),
        (b"", "closed the connection"),
    ],
)
def test_garbage(world: clusters.World, tmp_path: pathlib.Path, data: bytes, text: str) -> None:
    act = says(data) if data else lambda client: client.recv(9999)
    with Liar(tmp_path, act) as liar:
        host = clusters.Host(world, liar.url)
        assert text in why(host)
        assert "\x1b" not in why(host)
        if host.hub._engine is not None:
            host.hub._engine.close()
        host.hub._connect = lambda: None  # type: ignore[method-assign]


def test_half_an_answer(world: clusters.World, tmp_path: pathlib.Path) -> None:
    begun = threading.Event()

    def act(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"+PO")
        begun.set()
        client.recv(65536)

    with Liar(tmp_path, act) as liar:
        host = clusters.Host(world, liar.url)
        worker = host.worker()
        world.until(begun.is_set, "half an answer")
        world.pass_(0.1)
        assert not worker.share.asks
        assert host.hub._engine is not None
        host.hub._engine.close()
        host.hub._connect = lambda: None  # type: ignore[method-assign]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                [b"+OK\r\n", b"*0\r\n", b"$-1\r\n", b"*3\r\n:1\r\n$1\r\n5\r\n*0\r\n", b":7\r\n", b"*4\r\n"]
            ),
            st.sampled_from(
                [b"*4\r\n:0\r\n:0\r\n:0\r\n:0\r\n", b"*4\r\n:1\r\n:9\r\n:0\r\n:0\r\n", b"-NOSCRIPT\r\n"]
            ),
        ),
        max_size=12,
    )
)
def test_whatever_the_engine_says(answers: list[bytes]) -> None:
    """The hub goes on, and a connection is decided; no exception leaves the loop."""
    world = clusters.World()
    ours, theirs = socket.socketpair()
    try:
        host = clusters.Host(world, "unix:///nowhere", deadline=0.002)
        worker = host.worker(max_per_ip=2, rate="5/min")
        engine = host.hub._engine
        assert engine is not None
        engine._connect = lambda *_: None  # type: ignore[method-assign]
        engine._socket, engine._writer, engine._connected = ours, ours.dup(), True
        ours.setblocking(False)
        world.loop.watch(ours, engine._readable)
        engine._log_in()
        for number, data in enumerate([b"+PONG\r\n", b"$1\r\na\r\n", b"$1\r\nb\r\n", *answers]):
            with contextlib.suppress(OSError):
                theirs.sendall(data)
            world.pass_(0)
            if worker.share.asks:
                worker.ask(f"192.0.2.{number}")
        assert host.hub.serving.verdict in {"serving", "absent"}
    finally:
        world.close()
        theirs.close()
        ours.close()


# TLS.


@pytest.mark.slow
def test_tls(world: clusters.World, tmp_path: pathlib.Path) -> None:
    engines.certificates(tmp_path)
    port = daemons.free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", f"{tmp_path}/engine.pem"]
    options += ["--tls-key-file", f"{tmp_path}/engine.key", "--tls-ca-cert-file", f"{tmp_path}/ca.pem"]
    with engines.Engine(tmp_path, *options):
        url = f"rediss://127.0.0.1:{port}"
        known = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        assert why(clusters.Host(world, url, tls=known))  # it wants a certificate
        known.load_cert_chain(tmp_path / "host.pem", tmp_path / "host.key")
        worker = clusters.Host(world, url, tls=known).up().worker(max_per_ip=1).await_serving()
        assert [worker.ask(A).verdict for _ in range(2)] == ["admitted", "refused"]
        stranger = ssl.create_default_context()
        assert "cannot verify the engine's certificate" in why(clusters.Host(world, url, tls=stranger))
        by_name = clusters.Host(world, f"rediss://localhost:{port}", tls=known)
        assert "cannot verify the engine's certificate" in why(by_name)
