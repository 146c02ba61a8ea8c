"""Tests the answers of a service's agent: slots, an announced stop, reloads, odd and many clients."""

import contextlib
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from support.running import daemons, reloads, stores

from tcpdconf.daemon.supervisor.service import agent

SERVES = agent.State(
    draining=False, serves=True, stays_up=True, running=60, connections=0, max_connections=40
)
DIED = SERVES._replace(serves=False)
RESTLESS = SERVES._replace(stays_up=False)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (SERVES, "up 100% ready"),
        (SERVES._replace(connections=8), "up 80% ready"),
        (SERVES._replace(connections=39), "up 2% ready"),
        (SERVES._replace(connections=40), "up 1% ready"),
        (SERVES._replace(connections=999, max_connections=1000), "up 1% ready"),
        # max_connections was lowered; and a worker may write any number
        (SERVES._replace(connections=50), "up 1% ready"),
        (SERVES._replace(connections=2**64 - 1), "up 1% ready"),
        (SERVES._replace(connections=1, max_connections=1), "up 1% ready"),
        # it has ended once, and the next one starts
        (DIED._replace(running=0.1), "up 100% ready"),
        (DIED._replace(running=2), "down"),
        # it ends again and again
        (RESTLESS._replace(serves=False, running=0.1), "down"),
        (RESTLESS._replace(running=9.9), "down"),
        (RESTLESS._replace(running=10), "up 100% ready"),
        *((each._replace(draining=True), "drain") for each in (SERVES, DIED, RESTLESS)),
    ],
)
def test_an_answer(state: agent.State, said: str) -> None:
    assert agent.answer(state).decode() == said + "\n"


def with_agent(port: int, listen: str, *, more: str = "", settings: str = reloads.HOLD) -> str:
    """A service of four slots with an agent."""
    text = reloads.service(port, settings, limits="max_connections = 4\nmax_per_ip = 4")
    return f'{text}\n[services.test.agent]\nlisten = "{listen}"\n{more}\n'


def says(port: int, address: str = "127.0.0.1", source: str | None = None) -> str:
    """Return the answer of an agent."""
    return daemons.talk(port, address, source).decode().removesuffix("\n")


def until_it_says(word: str, port: int) -> None:
    daemons.until(lambda: says(port) == word, word)


def refuses(port: int) -> bool:
    """Return whether nobody listens there."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


@contextlib.contextmanager
def stop(daemon: daemons.Daemon, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`tcpdconf stop`, while it waits for the end of the daemon."""
    command = [sys.executable, "-m", "tcpdconf", "stop", "--runtime-dir", daemon.runtime, *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        yield process
        assert process.wait(daemons.SECONDS) == 0


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_slots_and_reloads_and_a_stop_that_is_announced(tmp_path: pathlib.Path) -> None:
    """One daemon for all: a daemon takes long to start."""
    port, other, asked, later = (daemons.free_port() for _ in range(4))
    text = with_agent(port, f"127.0.0.1:{asked}", more='announce = "2s"\nallow = ["127.0.0.1"]')
    without = reloads.service(other, name="plain")
    with reloads.Daemon(tmp_path, text + without) as daemon, contextlib.ExitStack() as stack:
        # slots
        assert says(asked) == "up 100% ready"
        held = [stack.enter_context(reloads.held(port))]
        until_it_says("up 75% ready", asked)
        held += [stack.enter_context(reloads.held(port)) for _ in range(3)]
        until_it_says("up 1% ready", asked)
        # a client that is not allowed
        assert says(asked, source="127.0.0.9") == ""
        assert says(asked, source="127.0.0.9") == ""
        assert daemon.await_log("^agent refused service=test peer=127.0.0.9$")
        # an agent that stays is not bound again: a client waits at its socket meanwhile
        os.kill(daemon.process.pid, signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", asked)) as waiting:
            daemon.process.send_signal(signal.SIGHUP)
            os.kill(daemon.process.pid, signal.SIGCONT)
            assert daemons.read(waiting) == b"up 1% ready\n"
        # another process has the port: nothing changes
        with socket.create_server(("127.0.0.1", later)):
            moved = text.replace(f":{asked}", f":{later}")
            assert daemon.refusal(moved + without) == [
                f"cannot bind 127.0.0.1:{later}: Address already in use"
            ]
            (problem,) = daemon.ask("status")["last_reload"]["problems"]
            assert (problem["key"], problem["code"]) == ("services.test.agent.listen", "cannot-bind")
        assert says(asked) == "up 1% ready"
        # the agent moves; a service gets the port that it had
        assert set(daemon.change(moved + reloads.service(asked, name="plain"))) == {"plain", "test"}
        assert says(later) == "up 1% ready"
        with reloads.held(asked):
            assert not daemon.uses()["draining"]
        # no agent, then one again
        daemon.change(reloads.service(port))
        assert refuses(later)
        daemon.change(text + without)
        assert says(asked) == "up 1% ready"
        # a stop is announced where there is an agent, and accepts so long
        begun = time.monotonic()
        assert reloads.lives(held.pop())
        with stop(daemon, "--drain", "20"):
            daemon.await_log("^announcing service=test for=2s$")
            assert says(asked) == "drain"
            daemons.until(lambda: refuses(other), "the end of the service without an agent")
            held.append(stack.enter_context(reloads.held(port)))
            status = daemon.uses()
            assert (status["accepts"], status["draining"], len(status["listeners"])) == (True, True, 1)
            daemons.until(lambda: refuses(port), "the end of the announcement")
            assert time.monotonic() - begun >= 2
            assert says(asked) == "drain"
            for each in held:
                assert reloads.lives(each)
        assert daemon.process.wait(daemons.SECONDS) == 0
        assert not [line for line in daemon.log if "defect" in line]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["stop", "stop again", "SIGTERM", "stop, then SIGTERM", "stop, then stop"])
def test_a_stop_in_a_hurry(tmp_path: pathlib.Path, way: str) -> None:
    port, asked = daemons.free_port(), daemons.free_port()
    with reloads.Daemon(tmp_path, with_agent(port, f"127.0.0.1:{asked}", more="announce = 3600")) as daemon:
        begun = time.monotonic()
        if way == "stop":
            with stop(daemon):
                pass
        elif way == "SIGTERM":
            daemon.process.terminate()
        else:
            with stop(daemon, "--drain", "10"):
                daemon.await_log("^announcing ")
                assert (says(asked), refuses(port)) == ("drain", False)
                if way == "stop again":
                    with stop(daemon, "--drain", "10"):
                        pass
                elif way == "stop, then stop":
                    with stop(daemon):
                        pass
                else:
                    daemon.process.terminate()
        assert daemon.process.wait(daemons.SECONDS) == 0
        assert time.monotonic() - begun < 8
        assert sum(line.startswith("announcing ") for line in daemon.log) == ("," in way or "again" in way)


@pytest.mark.slow
def test_a_worker_that_dies_while_its_end_is_announced_is_started_again(tmp_path: pathlib.Path) -> None:
    port, asked = daemons.free_port(), daemons.free_port()
    with reloads.Daemon(tmp_path, with_agent(port, f"127.0.0.1:{asked}", more="announce = 3")) as daemon:
        with stop(daemon, "--drain", "5"):
            daemon.await_log("^announcing ")
            os.kill(daemon.worker("test"), signal.SIGKILL)
            daemon.await_log("^ready ", 2)
            assert says(asked) == "drain"
            with reloads.held(port) as client:
                assert reloads.lives(client)
        assert daemon.process.wait(daemons.SECONDS) == 0


@pytest.mark.slow
def test_a_worker_that_does_not_stay_up(tmp_path: pathlib.Path) -> None:
    """One end is not told: the next worker serves in a moment. After ten steady seconds it is up again."""
    port, asked = daemons.free_port(), daemons.free_port()
    with reloads.Daemon(tmp_path, with_agent(port, f"127.0.0.1:{asked}")) as daemon:
        os.kill(daemon.worker("test"), signal.SIGKILL)
        found = set()
        while sum(line.startswith("ready ") for line in daemon.log) < 2:
            found.add(says(asked))
        assert found <= {"up 100% ready"}
        os.kill(daemon.worker("test"), signal.SIGKILL)
        daemon.await_log("^error: worker of test ended ", 2)
        assert says(asked) == "down"
        daemon.await_log("^ready ", 3)
        begun = time.monotonic()
        assert says(asked) == "down"
        until_it_says("up 100% ready", asked)
        assert 8 < time.monotonic() - begun < 12


@pytest.mark.slow
def test_many_clients_that_neither_read_nor_close_cost_nothing(tmp_path: pathlib.Path) -> None:
    port, asked = daemons.free_port(), daemons.free_port()
    with reloads.Daemon(tmp_path, with_agent(port, f"127.0.0.1:{asked}")) as daemon:
        pid = daemon.process.pid
        before = descriptors(pid)
        with contextlib.ExitStack() as stack:
            for number in range(500):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", asked)))
                if number % 2:  # as with agent-send
                    client.sendall(b"x" * 4096)
            begun = time.monotonic()
            assert daemon.uses()["accepts"]
            assert time.monotonic() - begun < 1
            assert says(asked) == "up 100% ready"
            daemons.until(lambda: descriptors(pid) <= before, "the supervisor to close them")
            with reloads.held(port) as held:
                assert reloads.lives(held)
        # clients that have gone before they are answered
        for _ in range(100):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.connect(("127.0.0.1", asked))
        assert says(asked) == "up 100% ready"
        daemons.until(lambda: descriptors(pid) <= before, "the supervisor to close theirs")
        assert not [line for line in daemon.log if "defect" in line or "cannot" in line]
        # no descriptor is left for a client: it waits, and the service goes on
        most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, most[1]))
        with socket.create_connection(("127.0.0.1", asked)) as waiting:
            daemon.await_log("^error: agent cannot accept: Too many open files service=test$")
            with reloads.held(port) as held:
                assert reloads.lives(held)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, most)
            assert daemons.read(waiting) == b"up 100% ready\n"


@pytest.mark.slow
def test_a_client_that_asks_while_no_daemon_runs_waits_for_the_next_one(tmp_path: pathlib.Path) -> None:
    port, asked = daemons.free_port(), daemons.free_port()
    text = with_agent(port, f"127.0.0.1:{asked}")
    with contextlib.ExitStack() as stack:
        stored = stack.enter_context(stores.store())
        with daemons.Daemon(tmp_path, text, stored=stored):
            daemons.until(lambda: len(stored) == 2, "the store")
        waiting = stack.enter_context(daemons.connect(asked))
        stack.enter_context(stores.activated(tmp_path / "second", text, stored))
        assert daemons.read(waiting) == b"up 100% ready\n"


@pytest.mark.slow
def test_a_successor_answers_up_and_its_predecessor_announces_nothing(tmp_path: pathlib.Path) -> None:
    port, asked = daemons.free_port(), daemons.free_port()
    text = with_agent(port, f"127.0.0.1:{asked}")
    with reloads.Daemon(tmp_path, text) as first, reloads.held(port) as client:
        folder = tmp_path / "second"
        folder.mkdir()
        (folder / "run").symlink_to(tmp_path / "run")
        with reloads.Daemon(folder, text, arguments=["--take-over"]) as second:
            first.await_log("^stopping ")
            found = {says(asked) for _ in range(20)}
            assert reloads.lives(client)
            assert first.process.wait(daemons.SECONDS) == 0
            # those are of the first, or the second, which has no slot in use yet
            assert found <= {"up 100% ready", "up 75% ready"}
            assert says(asked) == "up 100% ready"
            assert f"taken over pid={first.process.pid}" in second.log
        assert not [line for line in first.log if line.startswith("announcing")]
