"""Services of a group with several users count together by way of the broker."""

import contextlib
import os
import pathlib
import signal
import socket
import struct
from collections.abc import Iterator

import pytest
from support import engines, peers
from support.running import daemons, processes, reloads

from tcpdconf.daemon.broker.decisions import Broker
from tcpdconf.daemon.cluster.records import Answer, Request, answers
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.cluster import Layout, Limit
from tcpdconf.daemon.process import channel, loop

ADDRESS = Limit(32, 128, 3, None, enforced=True)
NETWORK = Limit(24, 64, 4, None, enforced=True)
COUNTED = Limit(24, 64, 0, None, enforced=False)
RATE = Limit(32, 128, 2, 60.0, enforced=True)
HOLD = (
    'program = ["/bin/sh", "-c", "echo in; read line"]\nmessages = { per_ip = "421 full", rate = "421 slow" }'
)


class Office:
    """A broker, and the workers' ends of its channels."""

    def __init__(self) -> None:
        self.loop = loop.Loop()
        self.broker = Broker(self.loop)
        self.workers: list[Worker] = []

    def worker(self, service: str, *limits: Limit, space: str = "@mail") -> "Worker":
        """A worker that has told its limits."""
        ours, theirs = channel.Channel.pair()
        self.broker.members.add(service, space, ours, Answer("serving"))
        self.workers.append(Worker(self, theirs))
        theirs.send(wire.written(Layout(limits)))
        self.workers[-1].heard()
        return self.workers[-1]

    def two(self) -> "tuple[Worker, Worker]":
        """Workers of two services with the same limit."""
        return self.worker("imap", ADDRESS), self.worker("pop3", ADDRESS)

    def close(self) -> None:
        """Close all channels."""
        for each in list(self.broker.members.all):
            self.broker.members.remove(each)
        for worker in self.workers:
            worker.end.close()


class Worker:
    """A worker's end."""

    def __init__(self, office: Office, end: channel.Channel) -> None:
        self.end = end
        self._office = office
        self._number = 0

    def say(self, verb: str, address: str, count: int = 0) -> list[Answer]:
        """Send a request, and return the answers."""
        value = int.from_bytes(socket.inet_aton(address))
        self._number += 1
        request = Request(verb, 4, value, self._number, count)  # type: ignore[arg-type] # one of its verbs
        self.end.send(request.packed())
        return self.heard()

    def take(self, address: str = "192.0.2.1", most: int = 0) -> str:
        """Ask for one more connection, and return the verdict."""
        (answer,) = self.say("take", address, most)
        return answer.verdict

    def heard(self) -> list[Answer]:
        """Let the broker work, and return what it says."""
        self._office.loop.after(0.01, self._office.loop.stop)
        self._office.loop.run()
        found: list[Answer] = []
        while (received := self.end.receive()) is not None:
            found += [each for each in answers(received[0]) if each.verdict != "serving"]
        return found


@pytest.fixture
def office() -> Iterator[Office]:
    found = Office()
    yield found
    found.close()


def test_workers_of_several_services_count_an_address_together(office: Office) -> None:
    imap, pop = office.two()

    assert [imap.take(), pop.take(), imap.take()] == ["admitted"] * 3
    assert [imap.take(), pop.take()] == ["refused"] * 2
    assert pop.take("192.0.2.9") == "admitted"
    imap.say("release", "192.0.2.1", 1)
    assert pop.take() == "admitted"
    assert pop.take() == "refused"


def test_another_group_has_counts_of_its_own(office: Office) -> None:
    one = office.worker("imap", ADDRESS)
    other = office.worker("smtp", ADDRESS, space="@smtp")

    assert [one.take() for _ in range(4)] == ["admitted"] * 3 + ["refused"]
    assert other.take() == "admitted"


def test_a_network_counts_for_services_that_do_not_limit_it(office: Office) -> None:
    imap = office.worker("imap", ADDRESS, NETWORK)
    pop = office.worker("pop3", ADDRESS, COUNTED)

    assert [pop.take(f"192.0.2.{number}") for number in range(4)] == ["admitted"] * 4
    assert imap.take("192.0.2.77") == "refused"
    assert pop.take("192.0.2.77") == "admitted"


def test_the_number_of_an_access_rule_counts_instead_of_the_service_s(office: Office) -> None:
    imap = office.worker("imap", ADDRESS)

    assert [imap.take(most=1), imap.take(most=1), imap.take()] == ["admitted", "refused", "admitted"]


def test_a_rate_is_common_and_a_refusal_spends_no_token(office: Office) -> None:
    one = ADDRESS._replace(most=1)
    imap, pop = office.worker("imap", one, RATE), office.worker("pop3", ADDRESS, RATE)

    assert [imap.take(), imap.take()] == ["admitted", "refused"]  # by the number of connections
    assert [pop.take(), pop.take()] == ["admitted", "refused"]  # by the rate
    assert pop.take("192.0.2.9") == "admitted"


def test_what_is_not_enforced_is_told(office: Office) -> None:
    imap = office.worker("imap", ADDRESS._replace(most=1, enforced=False))

    assert imap.take() == "admitted"
    (answer,) = imap.say("take", "192.0.2.1")
    assert (answer.verdict, answer.limit, answer.held) == ("admitted", 1, 1)


def test_a_killed_worker_counts_until_its_successor_has_told_what_it_holds(office: Office) -> None:
    imap, pop = office.two()
    assert [imap.take() for _ in range(3)] == ["admitted"] * 3
    imap.end.close()
    pop.heard()

    assert pop.take() == "refused"
    again = office.worker("imap", ADDRESS)
    again.say("hold", "192.0.2.1", 3)
    assert pop.take() == "refused"
    again.say("release", "192.0.2.1", 3)
    assert [pop.take() for _ in range(4)] == ["admitted"] * 3 + ["refused"]


@pytest.mark.parametrize("data", [b"X" * 30, b"{}", struct.pack("=cBII16s", b"R", 4, 0, 0, b"")], ids=repr)
def test_a_malformed_request_costs_its_worker_the_channel(office: Office, data: bytes) -> None:
    imap, pop = office.two()
    imap.end.send(data)

    assert pop.take() == "admitted"
    assert [each.service for each in office.broker.members.all] == ["pop3"]


def test_a_worker_releases_no_connection_of_another(office: Office) -> None:
    imap, hostile = office.two()
    assert [imap.take() for _ in range(3)] == ["admitted"] * 3
    hostile.say("release", "192.0.2.1", 3)

    assert imap.take() == "refused"
    assert hostile.take() == "refused"


def test_a_worker_that_floods_the_broker_keeps_nobody_waiting(office: Office) -> None:
    """The broker's work for one worker in a turn is bounded: another worker is answered in the next."""
    imap, hostile = office.two()
    request = Request("hold", 4, 1, 0, 1).packed() * 400
    sent = 0
    with contextlib.suppress(channel.ChannelError):
        for _ in range(1000):
            hostile.end.send(request)
            sent += 1
    assert sent > 10
    assert imap.take() == "admitted"


# From outside.


@pytest.fixture
def daemon(tmp_path: pathlib.Path) -> Iterator[tuple[reloads.Daemon, int, int]]:
    """Two services of different users in one group, each with three connections for an address."""
    peers.need_root()
    ports = daemons.free_port(), daemons.free_port()
    text = "".join(
        reloads.service(port, f'{HOLD}\nuser = "{user}"', name=name, limits='max_per_ip = 3\ngroup = "mail"')
        for port, user, name in zip(ports, ("nobody", "daemon"), ("imap", "pop3"), strict=True)
    )
    with reloads.Daemon(tmp_path, text) as running:
        running.await_log("^broker ready ")
        yield running, *ports


def greeted(client: socket.socket) -> str:
    return daemons.line(client).decode().strip()


def await_full(port: int) -> None:
    """Wait until a client is refused: without the broker's word in time, a worker decides alone."""
    daemons.until(lambda: daemons.talk(port, say=b"\n") == b"421 full\r\n", "the refusal")


@pytest.mark.peer
def test_an_address_has_its_limit_over_services_of_different_users(
    daemon: tuple[reloads.Daemon, int, int],
) -> None:
    running, imap, pop = daemon
    with (
        daemons.connect(imap) as first,
        daemons.connect(pop) as second,
        daemons.connect(pop) as third,
    ):
        assert [greeted(each) for each in (first, second, third)] == ["in"] * 3
        for port in (imap, pop):
            await_full(port)
        assert daemons.talk(pop, source="127.0.0.9", say=b"\n") == b"in\n"
        (line, *_) = running.await_log("^refuse service=imap ")
        assert "reason=per_ip" in line
        assert "limit=max_per_ip value=3 held=3" in line


def is_refused_by_the_group(imap: int, pop: int, source: str) -> bool:
    with daemons.connect(imap, source=source) as held:
        assert greeted(held) == "in"
        return daemons.talk(pop, source=source, say=b"\n") == b"421 full\r\n"


@pytest.mark.peer
@pytest.mark.parametrize("workers", [1, 2])
def test_a_client_that_the_group_refuses_spends_no_token_of_the_service(
    tmp_path: pathlib.Path, workers: int
) -> None:
    peers.need_root()
    imap, pop = daemons.free_port(), daemons.free_port()
    text = reloads.service(imap, f'{HOLD}\nuser = "daemon"', name="imap", limits='group = "mail"')
    text += reloads.service(
        pop,
        f'{HOLD}\nuser = "nobody"\nworkers = {workers}',
        name="pop3",
        limits='max_per_ip = 1\nrate = "2/h"\ngroup = "mail"',
    )
    with reloads.Daemon(tmp_path, text) as running:
        running.await_log("^broker ready ")
        others = (f"127.0.{third}.{last}" for third in range(1, 255) for last in range(1, 255))
        daemons.until(
            lambda: all(is_refused_by_the_group(imap, pop, next(others)) for _ in range(8)), "the broker"
        )
        with daemons.connect(imap) as held:
            assert greeted(held) == "in"
            assert [daemons.talk(pop) for _ in range(5)] == [b"421 full\r\n"] * 5
            held.sendall(b"\n")
            assert held.recv(1) == b""
        said: list[bytes] = []

        def is_slow() -> bool:
            said.append(daemons.talk(pop, say=b"\n"))
            return said[-1] == b"421 slow\r\n"

        daemons.until(is_slow, "the rate")
        assert said.count(b"in\n") == 2


@pytest.mark.peer
def test_a_broker_that_is_killed_is_told_again_what_is_held(daemon: tuple[reloads.Daemon, int, int]) -> None:
    running, imap, pop = daemon
    with daemons.connect(imap) as first, daemons.connect(imap) as second, daemons.connect(pop) as third:
        assert [greeted(each) for each in (first, second, third)] == ["in"] * 3
        (line,) = running.await_log("^broker ready ")
        os.kill(int(line.rpartition("pid=")[2]), signal.SIGKILL)
        running.await_log("^broker ready ", 1)
        for port in (pop, imap):
            await_full(port)


@pytest.mark.peer
def test_a_broker_that_logs_in_another_form_has_not_failed(
    daemon: tuple[reloads.Daemon, int, int],
) -> None:
    running, imap, pop = daemon
    with daemons.connect(imap) as first, daemons.connect(imap) as second, daemons.connect(pop) as third:
        assert [greeted(each) for each in (first, second, third)] == ["in"] * 3
        text = (running.conf / "test.toml").read_text().removeprefix(reloads.ALONE)
        running.change(text, reloads.ALONE + 'log_format = "json"\n')
        daemons.until(lambda: sum("broker ready" in line for line in running.log) == 2, "the next broker")
        await_full(pop)
    assert [line for line in running.log if "broker ended" in line] == []


@pytest.mark.peer
def test_a_stopped_broker_delays_a_client_for_its_deadline_at_most(
    daemon: tuple[reloads.Daemon, int, int],
) -> None:
    running, imap, _ = daemon
    (line,) = running.await_log("^broker ready ")
    pid = int(line.rpartition("pid=")[2])
    os.kill(pid, signal.SIGSTOP)
    try:
        daemons.until(lambda: processes.stopped(pid), "the broker to stop")
        clients = [daemons.connect(imap) for _ in range(3)]
        assert [greeted(each) for each in clients] == ["in"] * 3
        for each in clients:
            each.close()
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.peer
def test_the_broker_holds_its_channels_and_the_log_alone(daemon: tuple[reloads.Daemon, int, int]) -> None:
    running, _, _ = daemon
    (line,) = running.await_log("^broker ready ")
    pid = int(line.rpartition("pid=")[2])
    kinds = {os.readlink(entry).partition(":")[0] for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir()}
    assert kinds <= {"/dev/null", "pipe", "socket", "anon_inode"}
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapPrm:\t0000000000000000" in status


@pytest.mark.peer
@pytest.mark.parametrize("on_failure", ["local", "refuse"])
def test_without_the_engine_of_a_cluster_the_group_counts_on_this_host(on_failure: str) -> None:
    peers.need_root()
    peers.need("redis-server")
    ports = daemons.free_port(), daemons.free_port()
    with daemons.public_folder() as folder, engines.Engine(folder) as engine:
        text = f'[cluster]\nurl = "{engine.url}"\ndeadline = "1s"\non_failure = "{on_failure}"\n'
        for port, user, name in zip(ports, ("nobody", "daemon"), ("imap", "pop3"), strict=True):
            limits = 'max_per_ip = 3\ngroup = "mail"\nscope = "cluster"'
            text += reloads.service(port, f'{HOLD}\nuser = "{user}"', name=name, limits=limits)
        imap, pop = ports
        (folder / "daemon").mkdir()
        with reloads.Daemon(folder / "daemon", text) as running:
            running.await_log("^the engine answers")
            with daemons.connect(imap) as first:
                assert greeted(first) == "in"
                engine.stop()
                running.await_log("^warning: the engine does not answer")
                if on_failure == "refuse":
                    daemons.until(lambda: daemons.talk(pop, say=b"\n") == b"", "the refusal")
                    return
                with daemons.connect(pop) as second, daemons.connect(imap) as third:
                    assert [greeted(each) for each in (second, third)] == ["in"] * 2
                    for port in ports:
                        await_full(port)
                    assert daemons.talk(pop, source="127.0.0.9", say=b"\n") == b"in\n"
                    engine.start()
                    running.await_log("^the engine answers", 1)
                    daemons.until(lambda: list(engine.counted().values()) == [3], "the counts")
                    for port in ports:
                        await_full(port)
