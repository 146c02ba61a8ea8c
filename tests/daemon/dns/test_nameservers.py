"""A service whose name servers do not answer: its clients do not wait for ever, and everybody can see why."""

import concurrent.futures
import contextlib
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from support import peers
from support.dns import dnsservers, lookedup
from support.running import daemons, reloads

# A network with a loopback interface and no route.
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
WAIT = 1.5  # seconds for which a client is looked up at most
PAUSE = 1.0  # seconds, the first
FAILED = {"TCPREMOTEHOST": "softdnserr", "TCPLOCALHOST": "softdnserr"}
TALK = "import sys; from support.running import daemons\n"
TALK += "sys.stdout.buffer.write(daemons.talk(int(sys.argv[1]), source=sys.argv[2]))"


def talk(daemon: daemons.Daemon, port: int, source: str) -> dict[str, str]:
    """The environment of a client's program, in the daemon's own network."""
    inside = ["nsenter", f"--net=/proc/{daemon.process.pid}/ns/net", sys.executable, "-c", TALK]
    done = subprocess.run(
        [*inside, str(port), source],
        env={"PYTHONPATH": str(pathlib.Path(daemons.__file__).parents[2])},
        stdout=subprocess.PIPE,
        timeout=daemons.SECONDS,
        check=True,
    )
    return daemons.environment(done.stdout)


@pytest.mark.peer
def test_lists_without_a_network_are_paused(tmp_path: pathlib.Path) -> None:
    """ENETUNREACH is known before a question is on its way; it is counted like any other failure."""
    peers.need_root()
    peers.need("unshare", "nsenter", "ip")
    port = daemons.free_port()
    text = f"""
        [services.test]
        program = ["/usr/bin/env", "-0"]
        listeners = [{{ address = "127.0.0.1", port = {port} }}]
        dns_lists = [{{ zone = "bl.example", probe = false }}, {{ zone = "tested.example" }}]
        [dns]
        servers = ["192.0.2.1"]
    """
    with reloads.Daemon(tmp_path, text, before=ALONE) as daemon:
        for number in range(5, 10):
            assert "BLOCK" not in talk(daemon, port, f"127.0.0.{number}")
        daemon.await_log("zone=bl.example state=paused .*unreachable")
        lists = daemon.uses()["dns_lists"]

    assert {name: lists["bl.example"][name] for name in ("state", "asked", "unreachable")} == {
        "state": "paused", "asked": 3, "unreachable": 3,
    }  # fmt: skip
    assert (lists["tested.example"]["state"], lists["tested.example"]["why"]) == (
        "untested", "cannot be tested: unreachable",
    )  # fmt: skip


@pytest.mark.peer
def test_names_without_a_network_are_paused(tmp_path: pathlib.Path) -> None:
    peers.need_root()
    peers.need("unshare", "nsenter", "ip")
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, service(port, "192.0.2.1"), before=ALONE) as daemon:
        for number in range(5, 9):
            found = talk(daemon, port, f"127.0.0.{number}")
            assert (found["TCPREMOTEHOST"], found["TCPLOCALHOST"]) == ("softdnserr", "softdnserr")
        daemon.await_log("^warning: names service=test state=paused .*, the last: unreachable")


def service(port: int, server: str) -> str:
    """A service whose clients have names."""
    return f"""
        [services.test]
        program = ["/usr/bin/env", "-0"]
        lookup_names = true
        listeners = [{{ address = "127.0.0.1", port = {port} }}]
        dns = {{ deadline = {WAIT}, pause = {PAUSE} }}
        limits = {{ max_connections = 100 }}
        [dns]
        servers = ["{server}"]
    """


@contextlib.contextmanager
def running(folder: pathlib.Path, server: dnsservers.Server) -> Iterator[tuple[reloads.Daemon, int]]:
    port = daemons.free_port()
    with reloads.Daemon(folder, service(port, f"127.0.0.1:{server.address.port}")) as daemon:
        yield daemon, port


class Served(NamedTuple):
    """Holds the seconds of a client's look-up, and its names."""

    seconds: float
    names: dict[str, str]


def served(port: int, source: str) -> Served:
    began = time.monotonic()
    names = lookedup.answer(port, source)
    return Served(time.monotonic() - began, names)


def at_once(port: int, network: str, count: int) -> list[Served]:
    """Many clients of a network together."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda n: served(port, f"{network}.{n}"), range(1, count + 1)))


def names(server: dnsservers.Server, address: str, name: str) -> None:
    """Give an address a name that leads back to it."""
    reverse = ".".join(address.split(".")[::-1])
    server.says(f"{reverse}.in-addr.arpa", "PTR", dnsservers.Reply(records=(f"PTR {name}.",)))
    server.says(name, "A", dnsservers.Reply(records=(f"A {address}",)))


def own(server: dnsservers.Server) -> list[str]:
    """The questions that no client has caused, about addresses in 240.0.0.0/4."""
    return [asked.name for asked in server.asked if re.search(r"\.2[45]\d\.in-addr\.arpa$", asked.name)]


LOST = 1 << 30  # datagrams: all of them


@pytest.mark.slow
def test_few_clients_wait_for_name_servers_that_are_dead_and_names_come_back(tmp_path: pathlib.Path) -> None:
    with dnsservers.Server() as server, running(tmp_path, server) as (daemon, port):
        names(server, "127.0.0.5", "kept.example")
        names(server, "127.0.0.6", "new.example")
        assert served(port, "127.0.0.5").names == {"TCPREMOTEHOST": "kept.example"}
        server.lose = LOST
        waited = [served(port, f"127.1.0.{n}") for n in range(1, 5)]
        paused = daemon.await_log("names service=test")
        status = daemon.uses()["names"]
        kept, unknown = served(port, "127.0.0.5"), served(port, "127.0.0.6")
        others = len(server.asked) - len(own(server))
        rest = at_once(port, "127.2.0", 20)
        others -= len(server.asked) - len(own(server))

        server.lose = 0
        back = time.monotonic()
        daemons.until(lambda: served(port, "127.0.0.6").names["TCPREMOTEHOST"] == "new.example", "names")
        after = time.monotonic() - back
        up = daemon.await_log("names service=test", 2)[1]
        status_up = daemon.uses()["names"]

    assert paused[0].startswith('warning: names service=test state=paused why="no name server answers: ')
    assert up == 'names service=test state=up why="a name server answers"'
    assert waited[0].seconds >= WAIT
    assert waited[-1].seconds < WAIT
    assert all(each.names["TCPREMOTEHOST"] == "softdnserr" for each in waited)
    assert (status["state"], status["why"]) == ("paused", paused[0].partition("why=")[2].strip('"'))
    assert status["timeout"] == status["asked"] - status["answered"] - status["no_such_name"] > 0
    assert kept.names["TCPREMOTEHOST"] == "kept.example"  # it is in the cache
    assert unknown.names["TCPREMOTEHOST"] == "softdnserr"
    assert max(each.seconds for each in (kept, unknown, *rest)) < WAIT
    assert others == 0
    assert after < 10 * PAUSE  # one pause or two have gone by, the second of which is twice as long
    assert status_up["state"] == "up"


@pytest.mark.slow
def test_many_clients_who_wait_together_are_one_pause(tmp_path: pathlib.Path) -> None:
    with dnsservers.Server() as server, running(tmp_path, server) as (daemon, port):
        server.lose = LOST
        waited = at_once(port, "127.1.0", 50)
        daemon.await_log("names service=test state=paused")
        paused = time.monotonic()
        server.lose = 0
        daemons.until(lambda: served(port, "127.0.0.6").names == {}, "names")
        after = time.monotonic() - paused

    assert all(each.names == FAILED for each in waited)
    assert after < 10 * PAUSE
    assert len(daemon.await_log("names service=test")) == 2


def test_a_reverse_zone_that_does_not_answer_is_no_dead_name_server(tmp_path: pathlib.Path) -> None:
    """However many of its clients come, and nobody else: whoever owns it could keep names from others."""
    with dnsservers.Server() as server, running(tmp_path, server) as (daemon, port):
        server.says("*.1.127.in-addr.arpa", "PTR")
        names(server, "127.0.0.6", "new.example")
        waited = [*at_once(port, "127.1.0", 20), served(port, "127.1.0.77")]
        found = served(port, "127.0.0.6")
        status = daemon.uses()["names"]
        said = daemon.log

    assert all(each.names["TCPREMOTEHOST"] == "softdnserr" for each in waited)
    assert found.names["TCPREMOTEHOST"] == "new.example"
    assert (status["state"], status["timeout"]) == ("up", 21)
    assert not [line for line in said if "names service=" in line]
    assert own(server)


@pytest.mark.slow
def test_a_reverse_zone_of_this_host_that_does_not_answer_costs_few_clients_a_wait(
    tmp_path: pathlib.Path,
) -> None:
    """Each of them is looked up with the same question about this host."""
    with dnsservers.Server() as server, running(tmp_path, server) as (daemon, port):
        server.says("1.0.0.127.in-addr.arpa", "PTR")
        names(server, "127.0.0.6", "client.example")
        waited = [served(port, "127.0.0.6") for _ in range(3)]
        paused = daemon.await_log("names service=test")
        rest = [served(port, source) for source in ("127.0.0.6", "127.0.0.7")]
        state = daemon.uses()["names"]["state"]

        names(server, "127.0.0.1", "host.example")
        daemons.until(lambda: served(port, "127.0.0.6").names["TCPLOCALHOST"] == "host.example", "the name")
        back = daemon.await_log("names service=test", 2)[1]

    assert all(each.seconds >= WAIT for each in waited)
    assert all(each.seconds < WAIT for each in rest)
    assert [each.names for each in (*waited, *rest)] == [
        *[{"TCPREMOTEHOST": "client.example", "TCPLOCALHOST": "softdnserr"}] * 4,
        {"TCPLOCALHOST": "softdnserr"},
    ]
    assert state == "up"
    about = "service=test about=1.0.0.127.in-addr.arpa"
    assert paused == [f'warning: names {about} state=paused why="3 failures in a row, the last: timeout"']
    assert back == f'names {about} state=up why="a name server answers"'


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED"])
def test_a_failure_that_a_server_tells_is_an_answer(tmp_path: pathlib.Path, rcode: str) -> None:
    with dnsservers.Server() as server, running(tmp_path, server) as (daemon, port):
        server.says("*.in-addr.arpa", "PTR", dnsservers.Reply(rcode=rcode))
        found = [served(port, f"127.0.0.{n}") for n in range(5, 12)]
        status = daemon.uses()["names"]

    assert all(each.names == FAILED for each in found)
    assert (status["state"], status["timeout"], status[rcode.lower()]) == ("up", 0, status["asked"])
    assert own(server) == []


@pytest.mark.slow
def test_the_probe_tells_whether_a_name_server_answers(tmp_path: pathlib.Path) -> None:
    with dnsservers.Server() as server:
        conf = daemons.configure(tmp_path, service(4999, f"127.0.0.1:{server.address.port}"))
        rows = []
        for lost in (0, LOST):
            server.lose = lost
            found = lookedup.probed(conf)
            assert (found.returncode, found.stderr) == (0, "")
            rows.append(next(line.split() for line in found.stdout.splitlines() if "(names)" in line))

    assert (rows[0][1], rows[0][-1]) == ("up", "none")
    assert (rows[1][1], rows[1][4:]) == ("down", ["timeout", "no", "name", "server", "answers"])


def test_status_and_metrics_show_it(tmp_path: pathlib.Path) -> None:
    with dnsservers.Server() as server, running(tmp_path, server) as (daemon, port):
        server.lose = LOST
        at_once(port, "127.1.0", 4)
        daemon.await_log("names service=test state=paused")
        command = [sys.executable, "-m", "tcpdconf", "status", "--runtime-dir", daemon.runtime, "--format"]
        page, metrics = (
            subprocess.run([*command, form], capture_output=True, text=True, check=True).stdout
            for form in ("text", "prometheus")
        )

    assert re.search(
        r"^NAMES  STATE   ASKED  UNANSWERED  WHY\ntest   paused  (\d) {6}\1 {11}no name", page, re.MULTILINE
    )
    assert 'tcpdconf_names_up{service="test"} 0.0\n' in metrics
    assert re.search(
        r'^tcpdconf_names_answers_total{class="timeout",service="test"} [5-9]\.0$', metrics, re.MULTILINE
    )
