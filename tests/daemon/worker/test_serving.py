"""Tests a running daemon from the side of a client and of a program."""

import contextlib
import os
import pathlib
import signal
import socket
import time

import pytest
from support import peers
from support.running import daemons

ENV = 'program = ["/usr/bin/env", "-0"]'
GREET = r"""program = ["/bin/sh", "-c", "echo here; read answer; echo \"$answer\""]"""
HOLD = r"""program = ["/bin/sh", "-c", "echo here; exec cat"]"""


def service(program: str, port: int, rest: str = "", address: str = "127.0.0.1") -> str:
    return f"""
        [services.test]
        {program}
        [[services.test.listeners]]
        address = "{address}"
        port = {port}
        [services.test.limits]
        max_per_ip = 1000
        {rest}
    """


def test_a_program_gets_the_variables_of_the_contract_and_no_others(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with (
        daemons.Daemon(tmp_path, service(ENV, port), environment={"SECRET": "x"}),
        daemons.connect(port) as client,
    ):
        own_port = client.getsockname()[1]
        found = daemons.environment(daemons.read(client))

    assert found == {
        "PROTO": "TCP",
        "TCPLOCALIP": "::ffff:127.0.0.1",
        "TCPLOCALPORT": str(port),
        "TCPREMOTEIP": "::ffff:127.0.0.1",
        "TCPREMOTEPORT": str(own_port),
    }


@pytest.mark.parametrize(
    ("address", "proto", "seen"), [("127.0.0.1", "TCP", "127.0.0.1"), ("::1", "TCP6", "::1")]
)
def test_plain_addresses(tmp_path: pathlib.Path, address: str, proto: str, seen: str) -> None:
    port = daemons.free_port(address)
    text = service(f'{ENV}\naddress_format = "plain"', port, address=address)
    with daemons.Daemon(tmp_path, text):
        found = daemons.environment(daemons.talk(port, address))

    assert (found["PROTO"], found["TCPREMOTEIP"], found["TCPLOCALIP"]) == (proto, seen, seen)


def test_an_ipv4_client_of_a_listener_for_both_families_is_an_ipv4_client(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    rest = """[[services.test.access]]
        rules = [{ network = "127.0.0.0/8", action = "allow", environment = { FAMILY = "4" } }]"""
    with daemons.Daemon(tmp_path, service(ENV, port, rest, "*")):
        ipv4 = daemons.environment(daemons.talk(port, "127.0.0.1"))
        ipv6 = daemons.environment(daemons.talk(port, "::1"))

    assert (ipv4["TCPREMOTEIP"], ipv4["TCPLOCALIP"], ipv4.get("FAMILY")) == (
        "::ffff:127.0.0.1", "::ffff:127.0.0.1", "4",
    )  # fmt: skip
    assert (ipv6["TCPREMOTEIP"], ipv6["TCPLOCALIP"], ipv6.get("FAMILY")) == ("::1", "::1", None)


def test_nothing_of_the_daemon_leaks_into_an_inheriting_program(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    environment = {"KEPT": "yes", "TCPREMOTEHOST": "stale", "WATCHDOG_USEC": "60000000", "LISTEN_FDS": "0"}
    with daemons.Daemon(
        tmp_path, service(ENV + "\ninherit_environment = true", port), environment=environment
    ):
        found = daemons.environment(daemons.talk(port))

    assert found["KEPT"] == "yes"
    assert not {"TCPREMOTEHOST", "WATCHDOG_USEC", "LISTEN_FDS", "NOTIFY_SOCKET", "LC_CTYPE"} & found.keys()


def test_variables_are_utf_8_whatever_the_locale(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = service(ENV + '\nenvironment = { A = "\u4e2d\u6587" }\ninherit_environment = ["B"]', port)
    surroundings = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "B": "\xe4"}
    with daemons.Daemon(tmp_path, text, environment=surroundings):
        found = daemons.environment(daemons.talk(port))

    assert (found["A"], found["B"]) == ("\u4e2d\u6587", "\xe4")


def test_layers_of_the_environment(tmp_path: pathlib.Path) -> None:
    """Daemon, environment files in order, table, access rule, connection: each over the one before."""
    port = daemons.free_port()
    plain, shell = tmp_path / "plain", tmp_path / "shell"
    plain.write_text('A=plain\nB="plain"\nC=plain\nD=plain\n')
    shell.write_text('B=shell\nJOINED="$B and more"\nC=$(echo shell)\nD=shell\necho noise\n')
    text = service(
        f"""{ENV}
        inherit_environment = ["A", "FROM_DAEMON"]
        environment = {{ C = "table", D = "table", TCPLOCALPORT = "1" }}
        environment_files = ["{plain}", {{ path = "{shell}", shell = true }}]""",
        port,
        """[[services.test.access]]
        rules = [
          { network = "*", action = "allow", environment = { D = "rule", TCPREMOTEIP = "1.2.3.4" } },
        ]""",
    )
    with daemons.Daemon(tmp_path, text, environment={"A": "daemon", "FROM_DAEMON": "daemon"}):
        found = daemons.environment(daemons.talk(port))

    assert {name: found[name] for name in ("A", "B", "C", "D", "FROM_DAEMON", "JOINED")} == {
        "A": "plain", "B": "shell", "C": "table", "D": "rule",
        "FROM_DAEMON": "daemon", "JOINED": "shell and more",
    }  # fmt: skip
    assert (found["TCPREMOTEIP"], found["TCPLOCALPORT"]) == ("::ffff:127.0.0.1", str(port))
    assert not {"PWD", "SHLVL", "OLDPWD", "_"} & found.keys()


def test_a_program_has_its_connection_and_nothing_else_open(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    script = (
        "ls /proc/self/fd; stat -L -c %F /proc/self/fd/0 /proc/self/fd/1;"
        " grep -E 'SigBlk|SigIgn' /proc/self/status"
    )
    text = service(f'program = ["/bin/sh", "-c", "{script}"]\nstderr = "socket"', port)
    with daemons.Daemon(tmp_path, text):
        lines = daemons.talk(port).decode().split("\n")

    assert lines[:6] == ["0", "1", "2", "3", "socket", "socket"]  # 3 is the listing's own
    masks = {name: int(value, 16) for name, _, value in (line.partition(":\t") for line in lines[6:8])}
    ordinary = (1 << 31) - 1  # 32 and 33 belong to the C library
    assert {name: mask & ordinary for name, mask in masks.items()} == {"SigBlk": 0, "SigIgn": 0}


def test_the_connection_blocks_and_is_kept_alive(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    program = tmp_path / "program.py"
    program.write_text(
        "import os, socket, sys\n"
        "s = socket.socket(fileno=0)\n"
        "print(os.get_blocking(0), s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), flush=True)\n"
    )
    text = service(f'program = ["/usr/bin/python3", "-I", "{program}"]', port)
    with daemons.Daemon(tmp_path, text):
        assert daemons.talk(port) == b"True 1\n"


def test_place_mask_and_limits_of_a_program(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    script = "pwd; umask; ulimit -S -v; ulimit -H -v; ulimit -H -n; ulimit -H -t"
    text = service(
        f"""program = ["/bin/sh", "-c", "{script}"]
        directory = "/usr"
        umask = "027"
        rlimits = {{ as = "512MiB", nofile = 99, cpu = "unlimited" }}""",
        port,
    )
    with daemons.Daemon(tmp_path, text):
        assert daemons.talk(port).decode().split() == ["/usr", "0027", "524288", "524288", "99", "unlimited"]


@pytest.mark.peer
def test_a_service_runs_as_its_user_with_all_of_its_groups(tmp_path: pathlib.Path) -> None:
    peers.need_root()
    port = daemons.free_port()
    groups = tmp_path / "group"
    groups.write_text(pathlib.Path("/etc/group").read_text() + "extra:x:4711:nobody\n")
    with_groups = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/group; exec "$@"', str(groups)]
    text = service('program = ["/usr/bin/id"]\nuser = "nobody"\ngroup = "daemon"', port)
    with daemons.Daemon(tmp_path, text, before=with_groups) as daemon:
        seen = daemons.talk(port)
        status = pathlib.Path(f"/proc/{daemon.worker('test')}/status").read_text()

    assert seen == b"uid=65534(nobody) gid=1(daemon) groups=1(daemon),4711(extra)\n"
    assert "Uid:\t65534\t65534\t65534\t65534\n" in status


def test_denied_clients_are_told_and_counted_and_others_are_served(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    rest = """[[services.test.access]]
        rules = [
          { network = "127.0.0.9", action = "deny" },
          { network = "127.0.0.8", action = "allow", environment = { BLOCK = "listed" } },
        ]"""
    text = service(ENV + '\ndeny_message = "550 go away"\ndrop = ["BLOCK"]', port, rest)
    with daemons.Daemon(tmp_path, text) as daemon:
        assert daemons.talk(port, source="127.0.0.9") == b"550 go away\r\n"
        assert daemons.talk(port, source="127.0.0.8") == b"550 go away\r\n"
        assert b"PROTO" in daemons.talk(port, source="127.0.0.7")
        daemon.await_log(r"^refuse service=test reason=access peer=127\.0\.0\.9:\d+ source=access\[0\]$")
        daemon.await_log(
            r"^refuse service=test reason=dropped peer=127\.0\.0\.8:\d+ variable=BLOCK value=listed$"
        )


def test_rules_for_the_local_end(tmp_path: pathlib.Path) -> None:
    first, second = daemons.free_port(), daemons.free_port()
    text = f"""
        [services.test]
        {ENV}
        listeners = [{{ port = {first} }}, {{ port = {second} }}]
        [[services.test.access]]
        rules = [
          {{ local = "*:{first}", action = "allow", environment = {{ WHERE = "first", WHO = "local" }} }},
          {{ local = "127.0.0.3:{second}", action = "deny" }},
          {{ network = "127.0.0.0/8", action = "allow", environment = {{ WHO = "peer" }} }},
        ]"""
    with daemons.Daemon(tmp_path, text):
        found = daemons.environment(daemons.talk(first))
        assert (found["WHERE"], found["WHO"]) == ("first", "peer")
        assert b"WHERE" not in daemons.talk(second)
        assert daemons.talk(second, "127.0.0.3") == b""


def test_a_full_service_lets_clients_wait_and_then_serves_them(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = service(GREET, port).replace("max_per_ip = 1000", "max_connections = 2")
    with daemons.Daemon(tmp_path, text) as daemon:
        first, second = daemons.connect(port), daemons.connect(port)
        assert (daemons.line(first), daemons.line(second)) == (b"here\n", b"here\n")
        third = daemons.connect(port)
        daemon.await_log("^alert: all slots are taken service=test max_connections=2$")
        third.settimeout(0.2)
        with pytest.raises(TimeoutError):
            third.recv(1)
        third.settimeout(daemons.SECONDS)
        first.sendall(b"bye\n")
        assert daemons.read(first) == b"bye\n"
        assert daemons.line(third) == b"here\n"
        for client in (first, second, third):
            client.close()


def test_limits_per_address_and_network_leave_the_total_alone(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    limits = """max_connections = 4
        max_per_ip = 1
        max_per_network = 2
        [services.test.messages]
        per_ip = "421 too many from you"
        per_network = "421 too many around you"
        """
    text = service(GREET, port).replace("max_per_ip = 1000", limits)
    with daemons.Daemon(tmp_path, text) as daemon:
        clients = [daemons.connect(port, source=source) for source in ("127.0.0.2", "127.0.0.3", "127.0.9.2")]
        assert [daemons.line(client) for client in clients] == [b"here\n"] * 3
        for _ in range(10):
            assert daemons.talk(port, source="127.0.0.2") == b"421 too many from you\r\n"
            assert daemons.talk(port, source="127.0.0.4") == b"421 too many around you\r\n"
        with daemons.connect(port, source="127.0.8.8") as another:
            assert daemons.line(another) == b"here\n"
        daemon.await_log(r"reason=per_ip peer=127\.0\.0\.2:\d+ limit=max_per_ip value=1 held=1$")
        daemon.await_log(r"reason=per_network peer=127\.0\.0\.4:\d+ limit=max_per_network value=2 held=2$")
        for client in clients:
            client.close()


def test_warnings_come_at_most_once_a_minute(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    limits = "max_connections = 3\nwarn_at = 2"
    with daemons.Daemon(tmp_path, service(GREET, port).replace("max_per_ip = 1000", limits)) as daemon:
        for _ in range(5):
            clients = [daemons.connect(port) for _ in range(3)]
            for client in clients:
                assert daemons.line(client) == b"here\n"
                client.sendall(b"bye\n")
            for client in clients:
                daemons.read(client)
                client.close()
        daemon.await_log("^end ", 15)
        log = daemon.log

    assert log.count("warning: slots run out service=test slots=2/3") == 1
    assert log.count("alert: all slots are taken service=test max_connections=3") == 1


def test_a_rule_overrides_the_limit_per_address(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    rest = """[[services.test.access]]
        rules = [{ network = "127.0.0.2", action = "allow", max_per_ip = 3 }]"""
    text = service(GREET, port, rest).replace("max_per_ip = 1000", "max_per_ip = 1")
    with daemons.Daemon(tmp_path, text):
        clients = [daemons.connect(port, source="127.0.0.2") for _ in range(4)]
        assert [daemons.line(client) for client in clients] == [b"here\n"] * 3 + [b""]
        for client in clients:
            client.close()


def test_a_rate_refuses_for_a_while_and_recovers(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = service('program = ["/bin/echo", "in"]', port).replace("max_per_ip = 1000", 'rate = "3/s"')
    with daemons.Daemon(tmp_path, text):
        answers = [daemons.talk(port) for _ in range(5)]
        assert answers[:3] == [b"in\n"] * 3
        assert b"" in answers[3:]
        daemons.until(lambda: daemons.talk(port) == b"in\n", "the rate to recover")


def test_the_log_tells_of_each_connection_once(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = service('program = ["/bin/sh", "-c", "exit 3"]', port)
    with daemons.Daemon(tmp_path, text) as daemon:
        daemons.talk(port)
        daemon.await_log(
            r"^accept service=test peer=127\.0\.0\.1:\d+ local=127\.0\.0\.1:\d+ pid=\d+ slots=1/40$"
        )
        daemon.await_log(r"^end service=test peer=127\.0\.0\.1:\d+ pid=\d+ status=3 seconds=0\.\d$")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_programs_and_listeners(tmp_path: pathlib.Path, number: int) -> None:
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(HOLD, port)) as daemon, daemons.connect(port) as client:
        assert daemons.line(client) == b"here\n"
        assert daemon.stop(number) == 0
        assert daemons.read(client) == b""
        with pytest.raises(ConnectionRefusedError):
            daemons.connect(port)
        daemon.await_notice("STOPPING=1")


def test_a_stop_ends_programs_of_workers_that_were_killed(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(HOLD, port)) as daemon, contextlib.ExitStack() as clients:
        held = []
        for count in (1, 2, 3):
            held.append(clients.enter_context(daemons.connect(port)))
            assert daemons.line(held[-1]) == b"here\n"
            daemon.await_log("^accept ", count)  # then it is recorded
            os.kill(daemon.worker("test"), signal.SIGKILL)
            daemon.await_log("^ready service=test ", count + 1)
        assert daemon.stop() == 0
        assert [daemons.read(client) for client in held] == [b""] * 3


def test_a_second_signal_does_not_wait_for_programs(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    stubborn = r"""program = ["/bin/sh", "-c", "trap '' TERM; echo $$; exec cat"]
        stderr = "socket"  # the test reads the daemon's to its end"""
    with daemons.Daemon(tmp_path, service(stubborn, port)) as daemon, daemons.connect(port) as client:
        pid = int(daemons.line(client))
        daemon.process.send_signal(signal.SIGTERM)
        daemon.await_log("^stopping signal=SIGTERM$")
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 5  # the first signal alone would have waited for 10 s
        client.sendall(b"still there\n")
        assert daemons.line(client) == b"still there\n"
        os.kill(pid, signal.SIGKILL)


def echoes(ports: list[int]) -> str:
    """A service for each port that says its number."""
    return "".join(
        f"""
        [services.s{index}]
        program = ["/bin/echo", "{index}"]
        listeners = [{{ address = "127.0.0.1", port = {port} }}]"""
        for index, port in enumerate(ports)
    )


def test_several_services_are_ready_together(tmp_path: pathlib.Path) -> None:
    ports = [daemons.free_port() for _ in range(3)]
    text = echoes(ports)
    with daemons.Daemon(tmp_path, text) as daemon:
        assert [daemons.talk(port) for port in ports] == [b"0\n", b"1\n", b"2\n"]
        assert "STATUS=3 services" in daemon.notified


def test_only_the_named_services_run(tmp_path: pathlib.Path) -> None:
    ports = [daemons.free_port() for _ in range(2)]
    text = echoes(ports)
    with daemons.Daemon(tmp_path, text, arguments=["--only", "s1"]):
        assert daemons.talk(ports[1]) == b"1\n"
        with pytest.raises(ConnectionRefusedError):
            daemons.connect(ports[0])


def test_a_client_that_resets_is_no_trouble(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = service('program = ["/bin/echo", "in"]\nstderr = { file = "/dev/null" }', port)
    with daemons.Daemon(tmp_path, text) as daemon:
        for _ in range(50):
            with daemons.connect(port) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        assert daemons.talk(port) == b"in\n"
        daemons.until(lambda: _held(daemon) == 0, "every slot to be free")


def _held(daemon: daemons.Daemon) -> int:
    counts = [sum(line.startswith(verb) for line in daemon.log) for verb in ("accept ", "end ")]
    return counts[0] - counts[1]
