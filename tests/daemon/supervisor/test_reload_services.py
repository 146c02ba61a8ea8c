"""Services that come, go, drain and come again; their logs and loggers; what is told of it."""

import os
import pathlib
import signal
import socket

from support.dns import dnsservers, lookedup
from support.running import daemons, processes, reloads


def both(one: int, two: int, settings: str = "") -> str:
    second = reloads.service(two, f"{reloads.HOLD}{settings}", name="two")
    return reloads.service(one, reloads.HOLD, name="one") + second


def refused(port: int) -> bool:
    try:
        daemons.connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_removed_service_drains_and_may_come_again_meanwhile(tmp_path: pathlib.Path) -> None:
    ports = daemons.free_port(), daemons.free_port()
    own = f"{reloads.ALONE}drain_timeout = 60\n"
    with reloads.Daemon(tmp_path, both(*ports)) as daemon, reloads.held(ports[1]) as client:
        first = daemon.uses("two")["pid"]
        assert daemon.change(reloads.service(ports[0], reloads.HOLD, name="one"), own) == ["two"]
        assert refused(ports[1])
        assert list(daemon.ask("status")["services"]) == ["one"]
        assert daemon.change(both(*ports), own) == ["two"]
        with reloads.held(ports[1]) as second:
            assert daemon.uses("two")["connections"] == 1
            assert reloads.lives(client)
            daemons.until(lambda: processes.over(first), "the end of the first worker")
            assert reloads.lives(second)


def test_what_has_not_ended_when_a_service_has_drained_is_told_to(tmp_path: pathlib.Path) -> None:
    ports = daemons.free_port(), daemons.free_port()
    program = (
        """program = ["/bin/sh", "-c", "trap 'echo told; exit' TERM; echo; while :; do sleep 0.01; done"]"""
    )
    own = f"{reloads.ALONE}drain_timeout = 0.3\n"
    one = reloads.service(ports[0], reloads.HOLD, name="one")
    with reloads.Daemon(tmp_path, one + reloads.service(ports[1], program, name="two")) as daemon:
        with reloads.held(ports[1]) as client:
            worker = daemon.uses("two")["pid"]
            assert daemon.change(one, own) == ["two"]
            assert daemons.read(client) == b"told\n"
        daemons.until(lambda: processes.over(worker), "the end of its worker")


def test_who_is_being_looked_up_when_a_service_is_removed_is_served(tmp_path: pathlib.Path) -> None:
    ports = daemons.free_port(), daemons.free_port()
    with dnsservers.Server() as server:
        lookedup.healthy(server, "list.example")
        server.says("9.0.0.127.list.example", "A")  # nothing
        one = reloads.service(ports[0], reloads.HOLD, name="one")
        two = f"""
            {reloads.service(ports[1], 'program = ["/bin/echo", "served"]', name="two")}
            [[services.two.dns_lists]]
            zone = "list.example"
            action = "block"
            [dns]
            servers = ["127.0.0.1:{server.address.port}"]
            timeout = 3
            attempts = 1
        """
        with reloads.Daemon(tmp_path, one + two) as daemon:
            assert daemons.talk(ports[1]) == b"served\n"
            with daemons.connect(ports[1], source="127.0.0.9") as client:
                daemons.until(
                    lambda: any(each.name == "9.0.0.127.list.example" for each in server.asked),
                    "the question",
                )
                assert daemon.change(one) == ["two"]
                assert daemons.read(client) == b"served\n"


def test_a_service_that_is_disabled_and_enabled(tmp_path: pathlib.Path) -> None:
    ports = daemons.free_port(), daemons.free_port()
    with reloads.Daemon(tmp_path, both(*ports)) as daemon:
        assert daemon.change(both(*ports, "\nenabled = false")) == ["two"]
        assert refused(ports[1])
        assert daemon.change(both(*ports)) == ["two"]
        with reloads.held(ports[1]) as client:
            assert reloads.lives(client)


def test_a_stop_during_a_reload(tmp_path: pathlib.Path) -> None:
    port, other = daemons.free_port(), daemons.free_port()
    slow = tmp_path / "slow"
    slow.write_text(f": > {tmp_path}/begun; sleep 2\n")
    more = reloads.service(
        other, f'{reloads.HOLD}\nenvironment_files = [{{ path = "{slow}", shell = true }}]', name="more"
    )
    with reloads.Daemon(tmp_path, reloads.service(port)) as daemon:
        daemon.write(reloads.service(port) + more)
        daemon.process.send_signal(signal.SIGHUP)
        daemons.until((tmp_path / "begun").exists, "the reload")
        assert daemon.stop() == 0


def test_a_log_file_is_opened_again_after_logrotate(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    log = tmp_path / "log"
    settings = f'program = ["/bin/sh", "-c", "echo word >&2"]\nstderr = {{ file = "{log}" }}'
    with reloads.Daemon(tmp_path, reloads.service(port, settings)) as daemon:
        pid = daemon.uses()["pid"]
        daemons.talk(port)
        assert daemon.reload() == []
        log.rename(tmp_path / "log.1")
        daemons.talk(port)
        assert daemon.reload() == ["test"]
        daemons.talk(port)
        assert (log.read_text(), (tmp_path / "log.1").read_text()) == ("word\n", "word\nword\n")
        assert daemon.uses()["pid"] == pid


def test_another_logger(tmp_path: pathlib.Path) -> None:
    """Open connections continue to write to the old logger, which ends with the last of them."""
    port = daemons.free_port()
    script = "echo $$ > {0}/{1}.pid; exec cat >> {0}/{1}"
    program = 'program = ["/bin/sh", "-c", "echo; read line; echo word >&2; echo $line"]'

    def text(name: str) -> str:
        logger = f'["/bin/sh", "-c", "{script.format(tmp_path, name)}"]'
        return reloads.service(port, f"{program}\nstderr = {{ logger = {logger} }}")

    with reloads.Daemon(tmp_path, text("old")) as daemon, reloads.held(port) as first:
        pid = daemon.uses()["pid"]
        daemons.until((tmp_path / "old").exists, "the logger")  # its pid has been written then
        old = int((tmp_path / "old.pid").read_text())
        assert daemon.change(text("new")) == ["test"]
        with reloads.held(port) as second:
            assert reloads.lives(second)
        new = tmp_path / "new"
        daemons.until(lambda: new.exists() and new.read_text() == "word\n", "the new log")
        assert not processes.over(old)
        assert reloads.lives(first)
        daemons.until(lambda: processes.over(old), "the end of the old logger")
        assert (tmp_path / "old").read_text() == "word\n"
        assert daemon.uses()["pid"] == pid


def test_the_level_of_the_log(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    program = 'program = ["/bin/echo", "in"]'
    with reloads.Daemon(tmp_path, reloads.service(port, program)) as daemon:
        daemons.talk(port)
        daemon.await_log("^accept ")
        daemon.change(reloads.service(port, program), f'{reloads.ALONE}log_level = "warning"\n')
        daemons.talk(port)
        daemon.change(reloads.service(port, program), f'{reloads.ALONE}log_level = "info"\n')
        daemons.talk(port)
        daemon.await_log("^accept ", 2)
        assert daemon.uses()["accepted"] == 3
        assert len([line for line in daemon.log if line.startswith("accept ")]) == 2


def test_sockets_of_the_service_manager_come_back(tmp_path: pathlib.Path) -> None:
    """It has them still: a listener that was removed could not be bound again."""
    with socket.create_server(("127.0.0.1", 0)) as passed:
        port, own = passed.getsockname()[1], daemons.free_port()
        activate = 'exec 3<&"$0"; export LISTEN_FDS=1; LISTEN_PID=$$ exec "$@"'
        os.set_inheritable(passed.fileno(), True)
        before = ["/bin/bash", "-c", activate, str(passed.fileno())]
        with reloads.Daemon(tmp_path, both(own, port), before=before, pass_fds=[passed.fileno()]) as daemon:
            for _ in range(2):
                assert daemon.change(reloads.service(own, reloads.HOLD, name="one")) == ["two"]
                assert daemon.change(both(own, port)) == ["two"]
                with reloads.held(port) as client:
                    assert reloads.lives(client)
