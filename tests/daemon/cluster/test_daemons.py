"""Real daemons that count together: two or three on addresses of 127.0.0.0/8, and a real engine."""

import collections
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from support import engines, peers
from support.running import clusterdaemons, daemons
from support.running.clusterdaemons import REFUSED


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder that nobody's processes get into."""
    with daemons.public_folder() as found:
        yield found


@pytest.fixture
def engine(folder: pathlib.Path) -> Iterator[engines.Engine]:
    """An engine on a Unix socket that everybody may use."""
    with engines.Engine(folder) as found:
        yield found


def test_two_hosts(folder: pathlib.Path, engine: engines.Engine) -> None:
    one, other = (clusterdaemons.Host(folder, engine.url, name) for name in ("mx1", "mx2"))
    with one, other:
        one.asks()
        other.asks()
        assert [host.line() for host in (one, other, one)] == ["in\n"] * 3
        assert [host.line() for host in (one, other)] == [f"{REFUSED}\r\n"] * 2
        assert other.daemon.await_log("^refuse ")[0].endswith("limit=max_per_ip value=3 held=3 elsewhere=2")

        shown = clusterdaemons.command(
            other, "explain", "test", "127.0.0.1", "--conf", str(other.daemon.conf)
        )
        assert "3 of 3 on all hosts (elsewhere: mx1 2)" in shown.stdout, shown
        assert shown.returncode == 1
        daemons.until(lambda: len(other.status()["hosts"]) == 2, "both leases")
        page = clusterdaemons.command(other, "status").stdout
        assert f"cluster        {engine.url}: limits hold over all hosts" in page
        assert [line.split()[0] for line in page.partition("HOST")[2].splitlines()[1:3]] == ["mx2", "mx1"]

        one.end()
        daemons.until(lambda: other.line() == "in\n", "the slot that is free again")
        _exact_descriptors(one)


def _exact_descriptors(host: clusterdaemons.Host) -> None:
    """The cluster process holds nothing but its log, its engine, the supervisor and one worker."""
    pid = host.status()["pid"]
    found: dict[str, int] = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{fd}")
        kind = target.partition(":")[0] if ":" in target else target
        found[kind] = found.get(kind, 0) + 1
    # a connection to ask and one to hear of bans, each twice, to wait for reading and for writing
    assert found == {"/dev/null": 2, "pipe": 1, "anon_inode": 1, "socket": 6}
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    if os.geteuid() == 0:
        assert "\nUid:\t65534\t65534\t65534\t65534\n" in status
        assert "\nCapEff:\t0000000000000000\n" in status
    assert "\nNoNewPrivs:\t1\n" in status


def test_tls_with_a_password(folder: pathlib.Path) -> None:
    """Files that only root reads, a user of the engine with the smallest rights, and a new password."""
    engines.certificates(folder)
    port = daemons.free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", f"{folder}/engine.pem"]
    options += ["--tls-key-file", f"{folder}/engine.key", "--tls-ca-cert-file", f"{folder}/ca.pem"]
    secret = folder / "secret"
    secret.write_text("first\n")
    for path in (secret, folder / "host.key"):
        path.chmod(0o600)
    more = f"""
        username = "tcpdconf"
        password_file = "{secret}"
        ca_file = "{folder}/ca.pem"
        certificate_file = "{folder}/host.pem"
        key_file = "{folder}/host.key"
    """
    with engines.Engine(folder, *options) as engine:
        engine.ask("ACL", "SETUSER", "tcpdconf", *engines.RIGHTS.replace("secret", "first").split())
        host = clusterdaemons.Host(
            folder, f"rediss://127.0.0.1:{port}", "mx1", cluster=more, limits="max_per_ip = 1"
        )
        with host:
            host.asks()
            assert [host.line(), host.line()] == ["in\n", f"{REFUSED}\r\n"]
            assert not [line for line in host.daemon.log if "first" in line]
            before = host.status()["pid"]
            engine.ask("ACL", "SETUSER", "tcpdconf", "<first", ">second")
            engine.ask("CLIENT", "KILL", "USER", "tcpdconf")
            daemons.until(lambda: "refuses username and password" in host.status()["why"], "the reason")
            secret.write_text("second\n")
            host.daemon.ask("reload")
            host.asks(2)
            assert host.status()["pid"] != before
            assert host.line() == f"{REFUSED}\r\n"  # the worker has told the new process


def test_a_cluster_process_that_is_killed_or_stopped(folder: pathlib.Path, engine: engines.Engine) -> None:
    with clusterdaemons.Host(folder, engine.url, "mx1", deadline="1s") as host:
        host.asks()
        assert [host.line() for _ in range(3)] == ["in\n"] * 3
        pid = host.status()["pid"]
        os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        assert host.line() == f"{REFUSED}\r\n"  # by this host's own limit, without waiting
        assert time.monotonic() - begun < 0.8
        others = [host.line("127.0.0.9") for _ in range(3)]
        assert others == ["in\n"] * 3  # each has waited for the deadline at most
        assert time.monotonic() - begun < 4
        begun = time.monotonic()
        assert host.line("127.0.0.8") == "in\n"
        assert time.monotonic() - begun < 0.8  # nobody waits any more
        os.kill(pid, signal.SIGKILL)
        host.asks(2)
        daemons.until(lambda: host.status().get("connections") == 7, "all connections")
        assert clusterdaemons.field(engine, "127.0.0.9") == 3
        assert host.status()["restarts"] == 1


def test_without_an_engine_clients_are_refused(folder: pathlib.Path) -> None:
    more = 'on_failure = "refuse"'
    with clusterdaemons.Host(folder, f"unix://{folder}/redis.sock", "mx1", cluster=more) as host:
        host.daemon.await_log("^warning: the engine does not answer: .* why=")
        assert host.line() == "421 no engine\r\n"
        assert host.daemon.await_log("^refuse ")[0].endswith('error="the engine does not answer"')
        check = clusterdaemons.command(host, "status", "--check")
        assert check.returncode == 2
        assert "the engine of the cluster is down: cannot connect: No such file or directory" in check.stdout
        with engines.Engine(folder):
            host.asks()
            daemons.until(lambda: host.line() == "in\n", "a worker that knows it")
        assert host.daemon.ask("status")["services"]["test"]["refused"]["cluster"] >= 1


@pytest.mark.slow
def test_bans_on_all_hosts(folder: pathlib.Path, engine: engines.Engine) -> None:
    proxied = ', haproxy = { trusted = ["127.0.0.1"] }'
    one, other = (clusterdaemons.Host(folder, engine.url, name, more=proxied) for name in ("mx1", "mx2"))
    protecting = (other.daemon.conf / "never.toml").write_text
    protecting('[daemon]\nnever_ban = ["203.0.113.9"]\n')

    def served(host: clusterdaemons.Host, client: str) -> bool:
        return daemons.talk(host.port, say=f"PROXY TCP4 {client} 192.0.2.1 1 25\r\n".encode()) == b"in\n"

    with one, other:
        one.asks()
        other.asks()
        daemons.until(lambda: engine.ask("PUBSUB", "NUMSUB", "tcpdconf:bans")[1] == 2, "subscriptions")
        assert (
            clusterdaemons.command(one, "ban", "203.0.113.7", "203.0.113.9", "--reason", "guesses").returncode
            == 0
        )
        assert clusterdaemons.command(other, "ban", "203.0.113.8").returncode == 0
        daemons.until(lambda: not served(other, "203.0.113.7"), "the ban on the other host")
        daemons.until(lambda: not served(one, "203.0.113.8"), "the ban on the first host")
        assert served(other, "203.0.113.9")  # protected there
        assert not served(one, "203.0.113.9")
        listed = clusterdaemons.command(other, "bans").stdout
        assert f"mx1: uid {os.geteuid()} (" in listed
        assert "guesses" in listed
        other.daemon.await_log("^ban network=203.0.113.7 host=mx1 by=")

        assert clusterdaemons.command(other, "unban", "203.0.113.7").returncode == 0
        daemons.until(lambda: served(one, "203.0.113.7"), "the end on the host that has banned")
        one.daemon.await_log('^unban network=203.0.113.7 by="another host"')
        assert clusterdaemons.command(one, "unban", "--host", "mx2").stdout == "1 no longer banned\n"
        daemons.until(lambda: served(other, "203.0.113.8"), "the end on the host that has banned")
        assert clusterdaemons.command(one, "unban", "--host", "mx2").returncode == 1


@pytest.mark.slow
def test_penalties_on_all_hosts(folder: pathlib.Path, engine: engines.Engine) -> None:
    more = ', haproxy = { trusted = ["127.0.0.1"] }'
    limits = """max_per_ip = 9
        [services.test.penalties]
        refused = "30s"
        exempt = ["203.0.113.8"]
        [[services.test.access]]
        rules = [{ network = "203.0.113.0/24", action = "deny" }]
        """
    one, other = (
        clusterdaemons.Host(folder, engine.url, name, more=more, limits=limits) for name in ("mx1", "mx2")
    )
    text = (other.daemon.conf / "test.toml").read_text()
    (other.daemon.conf / "test.toml").write_text(text.replace('"deny"', '"allow"'))

    def served(host: clusterdaemons.Host, client: str) -> bool:
        return daemons.talk(host.port, say=f"PROXY TCP4 {client} 192.0.2.1 1 25\r\n".encode()) == b"in\n"

    with one, other:
        one.asks()
        other.asks()
        daemons.until(lambda: engine.ask("PUBSUB", "NUMSUB", "tcpdconf:penalties")[1] == 2, "subscriptions")
        assert served(other, "203.0.113.7")
        assert served(other, "203.0.113.8")
        for client in ("203.0.113.7", "203.0.113.8"):
            assert not served(one, client)
        daemons.until(lambda: not served(other, "203.0.113.7"), "the penalty")
        assert served(other, "203.0.113.8")  # exempt
        assert " reason=penalty " in other.daemon.await_log("^refuse ")[0]
        (source,) = other.daemon.ask("status")["services"]["test"]["penalties"]["sources"]
        assert (source["network"], source["offence"]) == ("203.0.113.7", "refused")
        assert 20 < source["seconds"] <= 30


@pytest.mark.slow
def test_a_take_over_and_a_restart(folder: pathlib.Path, engine: engines.Engine) -> None:
    """Both daemons of a host count while the first one drains; after a crash the next one begins anew."""
    with clusterdaemons.Host(folder, engine.url, "mx1") as first:
        first.asks()
        assert [first.line() for _ in range(2)] == ["in\n"] * 2
        second = folder / "second"
        second.mkdir()
        (second / "run").symlink_to(first.daemon.folder / "run")
        state = {"STATE_DIRECTORY": str(first.daemon.folder / "state")}
        text = clusterdaemons.conf(engine.url, first.port, "mx1")
        with daemons.Daemon(second, text, arguments=["--take-over"], environment=state) as heir:
            heir.await_log("^the engine answers")
            first.daemon.await_log("^stopping drain=300s")
            daemons.until(lambda: first.line() == "in\n", "the third connection, at the second daemon")
            assert clusterdaemons.field(engine, "127.0.0.1") == 3
            assert first.line() == f"{REFUSED}\r\n"
            for _ in range(2):
                first.end()
            assert first.daemon.process.wait(daemons.SECONDS) == 0
            assert engine.ask("HLEN", "tcpdconf:leases") == 1
            daemons.until(lambda: [first.line(), first.line()] == ["in\n"] * 2, "two free slots")
            _kill_all(heir.process.pid)
        with daemons.Daemon(folder / "third", _made(folder / "third", text), environment=state) as again:
            again.await_log("^the engine answers")
            for client in first.clients:
                client.close()
            first.clients.clear()
            daemons.until(lambda: engine.ask("HLEN", "tcpdconf:leases") == 1, "the end of the earlier lease")
            assert [first.line() for _ in range(4)] == ["in\n"] * 3 + [f"{REFUSED}\r\n"]


def _made(folder: pathlib.Path, text: str) -> str:
    folder.mkdir()
    return text


@pytest.mark.slow
def test_workers_and_groups(folder: pathlib.Path, engine: engines.Engine) -> None:
    """An address has its limit over two hosts, two services of a group and three workers of each."""
    limits = "max_connections = 60\nmax_per_ip = 5\ngroup = 'mail'"
    hosts = [
        clusterdaemons.Host(folder, engine.url, name, limits=limits, workers=3) for name in ("mx1", "mx2")
    ]
    for host in hosts:
        file = host.daemon.conf / "test.toml"
        text = file.read_text()
        service = text[text.index("[services.test]") :]
        host.other = daemons.free_port()
        service = service.replace("services.test", "services.imap").replace(str(host.port), str(host.other))
        file.write_text(text + service)
    with hosts[0], hosts[1]:
        for host in hosts:
            host.asks()
        found = []
        for _ in range(4):
            for host in hosts:
                found += [host.line(), host.line(port=host.other)]
        assert found == ["in\n"] * 5 + [f"{REFUSED}\r\n"] * 11
        key = "tcpdconf:c:@mail:127.0.0.1/32"
        assert sum(map(int, engine.ask("HVALS", key))) == 5
        for pid in hosts[0].daemon.ask("status")["services"]["test"]["pids"]:
            os.kill(pid, signal.SIGKILL)
        daemons.until(lambda: len(hosts[0].daemon.log) and _serves(hosts[0]), "other workers")
        assert sum(map(int, engine.ask("HVALS", key))) == 5
        assert hosts[1].line() == f"{REFUSED}\r\n"
        for host in hosts:
            while host.clients:
                host.end()
        daemons.until(lambda: not engine.counted(), "no connection")


@pytest.mark.slow
def test_a_group_of_several_users_without_an_engine(folder: pathlib.Path) -> None:
    """An address has its limit once on a host, not once for each service."""
    peers.need_root()
    limits = "max_connections = 60\nmax_per_ip = 3\ngroup = 'mail'"
    with clusterdaemons.Host(folder, f"unix://{folder}/redis.sock", "mx1", limits=limits, workers=2) as host:
        file = host.daemon.conf / "test.toml"
        text = file.read_text()
        service = text[text.index("[services.test]") :]
        host.other = daemons.free_port()
        service = service.replace("services.test", "services.imap").replace(str(host.port), str(host.other))
        host.daemon.change(text + service.replace('user = "nobody"', 'user = "daemon"'), own="")
        host.daemon.await_log("^warning: the engine does not answer: .* why=")
        # a client may come before its worker has the channel
        daemons.until(lambda: host.line("127.0.0.9") == f"{REFUSED}\r\n", "a limit")
        daemons.until(lambda: host.line("127.0.0.9", host.other) == f"{REFUSED}\r\n", "a common limit")
        found = [host.line(), host.line(port=host.other), host.line()]
        found += [host.line(), host.line(port=host.other)]
        assert found == ["in\n"] * 3 + [f"{REFUSED}\r\n"] * 2
        with engines.Engine(folder) as engine:
            host.asks()
            daemons.until(lambda: clusterdaemons.field(engine, "127.0.0.1", "@mail") == 3, "the counts")
            assert [host.line(), host.line(port=host.other)] == [f"{REFUSED}\r\n"] * 2
            while host.clients:
                host.end()
            daemons.until(lambda: not engine.counted(), "no connection")


def _serves(host: clusterdaemons.Host) -> bool:
    service = host.daemon.ask("status")["services"]["test"]
    return len(service["pids"]) == 3 and bool(service["accepts"])


@pytest.mark.slow
def test_check_probe(folder: pathlib.Path) -> None:
    daemons.configure(folder, clusterdaemons.conf(f"unix://{folder}/redis.sock", daemons.free_port()))

    def said() -> str:
        found = subprocess.run(
            [sys.executable, "-m", "tcpdconf", "check", "--probe", str(folder / "conf.d")],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert found.returncode == 0
        return found.stdout

    url = f"cluster.url: unix://{folder}/redis.sock cannot be used: "
    assert f"{url}cannot connect: No such file or directory" in said()
    with engines.Engine(folder) as engine:
        assert "cannot be used" not in said()
        assert engine.names() == []
        engine.ask("CONFIG", "SET", "requirepass", "secret")
        assert f"{url}the engine wants a password: set password_file" in said()
    options = ("--cluster-enabled", "yes", "--cluster-port", str(daemons.free_port()))
    with engines.Engine(folder, *options, port=daemons.free_port()):
        assert f"{url}the engine is part of a Redis Cluster, which is not supported" in said()


@pytest.mark.slow
def test_a_reload_begins_and_ends_it(folder: pathlib.Path, engine: engines.Engine) -> None:
    with clusterdaemons.Host(folder, engine.url, "mx1") as host:
        host.asks()
        assert host.line() == "in\n"
        text = clusterdaemons.conf(engine.url, host.port, "mx1")
        host.daemon.change(text.replace('scope = "cluster"', 'scope = "host"'))
        daemons.until(
            lambda: clusterdaemons.field(engine, "127.0.0.1") == 0, "a service that counts for itself"
        )
        assert host.line() == "in\n"
        host.daemon.change(text)
        daemons.until(lambda: clusterdaemons.field(engine, "127.0.0.1") == 2, "both connections")
        user = 'user = "daemon"' if os.geteuid() == 0 else "nice = 1"
        host.daemon.change(text.replace('user = "nobody"', user))  # another worker, with these programs
        assert [host.line(), host.line()] == ["in\n", f"{REFUSED}\r\n"]
        assert clusterdaemons.field(engine, "127.0.0.1") == 3
        alone = text[text.index("[services") :].replace('scope = "cluster"', "")
        host.daemon.change(alone)
        assert host.status() is None
        daemons.until(
            lambda: not engine.names("*:c:*") or clusterdaemons.field(engine, "127.0.0.1") == 3, "the end"
        )


def test_another_address_of_the_same_engine(folder: pathlib.Path) -> None:
    """The status shows the host once, although its former lease has not ended."""
    port = daemons.free_port()
    with (
        engines.Engine(folder, port=port) as engine,
        clusterdaemons.Host(folder, engine.url, "mx1") as host,
    ):
        host.asks()
        assert host.line() == "in\n"
        text = clusterdaemons.conf(f"redis://127.0.0.1:{port}", host.port)
        host.daemon.change(text, own="")
        host.asks(2)
        assert [each["own"] for each in host.status()["hosts"]] == [True]
        daemons.until(lambda: len(engine.ask("HGETALL", "tcpdconf:leases")) == 2, "one lease")


@pytest.mark.slow
def test_a_stopped_engine(folder: pathlib.Path, engine: engines.Engine) -> None:
    """Nobody waits longer than the deadline, after three nobody waits at all, and nobody is refused."""
    with clusterdaemons.Host(
        folder, engine.url, "mx1", deadline="1s", limits="max_connections = 200"
    ) as host:
        host.asks()
        usual = _waits(host, 20)
        assert max(usual) < 0.8
        engine.halt()
        waits = _waits(host, 20)
        assert all(0.9 < wait < 1.8 for wait in waits[:3]), waits
        assert all(wait < 0.8 for wait in waits[3:]), waits
        host.daemon.await_log("^warning: the engine does not answer: .*takes more than")
        engine.go_on()
        host.asks(2)
        assert max(_waits(host, 20)) < 0.8
        daemons.until(lambda: clusterdaemons.field(engine, "127.0.0.1") == 60, "all connections")
        assert len([line for line in host.daemon.log if "the engine does not answer" in line]) == 1


def _waits(host: clusterdaemons.Host, count: int) -> list[float]:
    """The seconds from each connection's start to its first line."""
    found = []
    for _ in range(count):
        begun = time.monotonic()
        assert host.line() == "in\n"
        found.append(time.monotonic() - begun)
    return found


@pytest.mark.slow
def test_a_clock_that_is_an_hour_off(folder: pathlib.Path, engine: engines.Engine) -> None:
    """Leases, rates and the ends of bans use the engine's clock."""
    peers.need("faketime")
    one = clusterdaemons.Host(folder, engine.url, "mx1", limits="max_per_ip = 2\nrate = '3/h'")
    ahead = clusterdaemons.Host(folder, engine.url, "mx2", limits="max_per_ip = 2\nrate = '3/h'")
    # not by the command faketime, which stays the parent: the daemon would outlive the test
    (library,) = pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    ahead.daemon._environment |= {"LD_PRELOAD": str(library), "FAKETIME": "+1h"}
    ahead.daemon._environment["FAKETIME_DONT_FAKE_MONOTONIC"] = "1"
    with one, ahead:
        one.asks()
        ahead.asks()
        assert [host.line() for host in (one, ahead)] == ["in\n"] * 2
        assert [host.line() for host in (one, ahead)] == [f"{REFUSED}\r\n"] * 2
        daemons.until(lambda: all(len(host.status()["hosts"]) == 2 for host in (one, ahead)), "both leases")
        for host in (one, ahead):
            assert all(each["alive"] and each["lease_age"] < 10 for each in host.status()["hosts"])
        assert clusterdaemons.command(one, "ban", "203.0.113.7", "--for", "600").returncode == 0
        daemons.until(lambda: ahead.daemon.ask("status")["bans"] == 1, "the ban")
        (ban,) = ahead.daemon.ask("bans")["bans"]
        assert 3600 + 590 < ban["until"] - time.time() <= 3600 + 600.5  # ten minutes on its own clock


HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
    maxconn 4000
listen mail
    bind 127.0.0.1:{port}
    balance roundrobin
    {servers}
"""


@pytest.mark.slow
def test_three_hosts_behind_haproxy(  # noqa: C901, PLR0915 (one story)
    folder: pathlib.Path, engine: engines.Engine
) -> None:
    """500 clients of 50 addresses at once: each address has its limit, exactly, whatever happens."""
    peers.need("haproxy")
    limits = "max_per_ip = 4\nmax_per_network = 150\nmax_connections = 600"
    proxied = ', haproxy = { trusted = ["127.0.0.1"], local = "close" }'
    hosts = [
        clusterdaemons.Host(
            folder, engine.url, f"mx{n}", limits=limits, more=proxied, deadline="1s", address=f"127.0.0.{n}"
        )
        for n in (1, 2, 3)
    ]
    port = daemons.free_port()
    servers = "\n    ".join(
        f"server {n} 127.0.0.{n}:{each.port} send-proxy-v2" for n, each in enumerate(hosts, 1)
    )
    (folder / "haproxy.cfg").write_text(HAPROXY.format(port=port, servers=servers))
    with contextlib.ExitStack() as stack:
        for host in hosts:
            stack.enter_context(host)
            host.asks()
        proxy = subprocess.Popen(
            ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], stderr=subprocess.DEVNULL
        )
        stack.callback(proxy.wait)
        stack.callback(proxy.terminate)
        daemons.until(lambda: _reached(port), "haproxy")
        sources = [f"127.0.{net}.{n}" for net in (1, 2) for n in range(1, 26)]
        clients: list[tuple[str, socket.socket]] = []
        stack.callback(_close, clients)

        def wave() -> dict[str, int]:
            """Ten connections from each address, all at once; how many of each are served."""
            new = [(source, _begun(port, source)) for source in sources * 10]
            for source, client in new:
                client.settimeout(20)
                if daemons.line(client) == b"in\n":
                    clients.append((source, client))
                else:
                    client.close()
            for host in hosts:  # else limits are the hosts' own
                assert host.status()["unanswered"] == 0
            return collections.Counter(source for source, _ in clients)

        # a network has 25 addresses with 4 connections each, which is below its limit
        assert wave() == dict.fromkeys(sources, 4)
        total = sum(clusterdaemons.field(engine, source) for source in sources)
        assert total == 200
        for _ in range(2):  # some go, others come: never more, and never less once it is quiet
            for source, client in clients[::3]:
                client.close()
                clients.remove((source, client))
            daemons.until(
                lambda: sum(clusterdaemons.field(engine, one) for one in sources) == len(clients), "quiet"
            )
            assert wave() == dict.fromkeys(sources, 4)
        assert engine.ask("HGET", "tcpdconf:c:test:127.0.1.0/24", _life(engine, "mx1")) is not None

        engine.ask("FLUSHALL")
        daemons.until(lambda: sum(clusterdaemons.field(engine, one) for one in sources) == 200, "all counts")
        assert wave() == dict.fromkeys(sources, 4)
        engine.stop()
        engine.start()
        for host in hosts:
            host.asks(2)
        daemons.until(
            lambda: sum(clusterdaemons.field(engine, one) for one in sources) == 200, "all counts again"
        )
        assert wave() == dict.fromkeys(sources, 4)

        # a host that is killed with all that it runs: its share is free once its lease has ended
        dead = hosts[2]
        share = sum(
            int(engine.ask("HGET", f"tcpdconf:c:test:{one}/32", _life(engine, "mx3")) or 0) for one in sources
        )
        assert share > 20
        _kill(dead)
        hosts.remove(dead)
        left = [(source, client) for source, client in clients if _lives(client)]
        for source, client in clients:
            if (source, client) not in left:
                client.close()
        clients[:] = left
        assert len(clients) == 200 - share
        assert sum(wave().values()) == 200 - share  # its lease still runs
        daemons.until(lambda: not _has_lease(hosts[0], "mx3"), "the end of its lease")
        assert wave() == dict.fromkeys(sources, 4)


def _reached(port: int) -> bool:
    with contextlib.suppress(OSError), daemons.connect(port):
        return True
    return False


def _begun(port: int, source: str) -> socket.socket:
    """A connection that was begun, and whose line is read later."""
    client = socket.socket()
    client.bind((source, 0))
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", port))
    return client


def _life(engine: engines.Engine, name: str) -> str:
    """The field of a host."""
    leases = engine.ask("HGETALL", "tcpdconf:leases")
    for life, value in zip(leases[::2], leases[1::2], strict=True):
        if json.loads(value.split(b" ", 2)[2])["name"] == name:
            return str(life.decode())
    raise AssertionError(name)


def _has_lease(host: clusterdaemons.Host, name: str) -> bool:
    """Return whether a host still counts for another one; it knows of a lease that it has seen."""
    found = [each["alive"] for each in host.status()["hosts"] if each["name"] == name]
    return not found or found[0]


def _kill(host: clusterdaemons.Host) -> None:
    """Kill a daemon and all that it has started, at once, as the end of a host would."""
    _kill_all(host.daemon.process.pid)


def _kill_all(pid: int) -> None:
    found = [pid]
    for each in found:
        found += daemons.children(each)
    for each in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _lives(client: socket.socket) -> bool:
    """Return whether a connection is open: what it says comes back."""
    with contextlib.suppress(OSError):
        client.sendall(b"x\n")
        return daemons.line(client) == b"x\n"
    return False


def _close(clients: list[tuple[str, socket.socket]]) -> None:
    for _, client in clients:
        client.close()
