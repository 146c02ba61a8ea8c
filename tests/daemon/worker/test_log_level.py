"""The log level of a service, and that of the daemon for those that have none."""

import pathlib

from support.running import daemons, reloads

TRUE = 'program = ["/bin/true"]'


def test_a_service_logs_from_its_own_level_on_and_a_reload_changes_it(tmp_path: pathlib.Path) -> None:
    port, other = daemons.free_port(), daemons.free_port()

    def text(level: str) -> str:
        return reloads.service(port, f"{TRUE}\n{level}") + reloads.service(other, TRUE, name="other")

    def logged() -> set[str]:
        """The events of the service that are logged, once the other one has been served too."""
        before = len(daemon.log)
        assert daemons.talk(port) == b""
        daemons.until(lambda: daemon.uses()["connections"] == 0, "its end")
        count = sum(line.startswith("end service=other ") for line in daemon.log)
        assert daemons.talk(other) == b""
        daemon.await_log("^end service=other ", count + 1)
        return {line.split()[0] for line in daemon.log[before:] if " service=test " in f"{line} "}

    with reloads.Daemon(tmp_path, text('log_level = "notice"')) as daemon:
        daemon.await_log("^ready service=", 2)  # which the daemon itself logs
        assert logged() == set()
        pid = daemon.uses()["pid"]
        assert daemon.change(text("")) == ["test"]
        assert logged() == {"accept", "end"}
        assert daemon.change(text('log_level = "warning"')) == ["test"]
        assert logged() == set()
        assert daemon.change(text('log_level = "info"'), '[daemon]\nwatch = false\nlog_level = "warning"\n')
        assert daemons.talk(port) == b""
        daemon.await_log("^end service=test ", 2)
        assert daemon.uses()["pid"] == pid


def test_refusals_and_troubles_have_their_levels(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    settings = reloads.HOLD + '\nlog_level = "warning"'
    limits = "max_connections = 4\nmax_per_ip = 1\nwarn_at = 1"
    with reloads.Daemon(tmp_path, reloads.service(port, settings, limits=limits)) as daemon:
        with reloads.held(port):
            assert daemons.talk(port) == b""
            daemons.until(lambda: daemon.uses()["refused"]["per_ip"] == 1, "the refusal")
        (line,) = daemon.await_log("^(warning|accept|end|refuse)")
        assert line.startswith("warning: slots run out service=test ")
        assert daemon.await_log("^ready service=test ")  # which the daemon itself logs
