"""The HTTP process of a real daemon: what it answers, what it holds, and how it begins and ends."""

import contextlib
import functools
import json
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import peers
from support.running import daemons, httpclients, reloads

from tcpdconf.daemon.control import client as control_client
from tcpdconf.daemon.http import server

ECHO = 'program = ["/bin/echo", "in"]'


def http(port: int | pathlib.Path, more: str = "") -> str:
    """[daemon.http] on a port or a Unix socket."""
    listen = f"127.0.0.1:{port}" if isinstance(port, int) else f"unix:{port}"
    return f'[daemon.http]\nlisten = "{listen}"\n{more}\n'


def pid(daemon: daemons.Daemon, count: int = 1) -> int:
    """The pid of the HTTP process that was started so many times."""
    return int(daemon.await_log("^http ready ", count)[-1].rpartition("pid=")[2])


def serves(port: int, path: str) -> bool:
    """Return whether a path is answered, which needs a first snapshot."""
    return httpclients.get(port, path).status == 200


@pytest.fixture
def port() -> int:
    return daemons.free_port()


@pytest.fixture
def served(tmp_path: pathlib.Path, port: int) -> Iterator[reloads.Daemon]:
    """A daemon with a service, and HTTP on the port."""
    text = http(port) + reloads.service(daemons.free_port(), ECHO)
    with reloads.Daemon(tmp_path, text) as daemon:
        pid(daemon)
        yield daemon


def test_metrics_of_a_connection(tmp_path: pathlib.Path, port: int) -> None:
    where = daemons.free_port()
    with reloads.Daemon(tmp_path, http(port) + reloads.service(where, ECHO)):
        assert daemons.talk(where) == b"in\n"
        daemons.until(
            lambda: httpclients.value(port, 'tcpdconf_accepted_total{service="test"}') == 1, "the counter"
        )


@pytest.mark.usefixtures("served")
def test_each_path_has_its_type_and_no_page_may_be_kept_or_framed(port: int) -> None:
    kinds = {
        "/": "text/html; charset=utf-8",
        "/metrics": "text/plain; version=0.0.4; charset=utf-8",
        "/healthz": "text/plain; charset=utf-8",
        "/readyz": "text/plain; charset=utf-8",
        "/status.json": "application/json",
    }
    for path, kind in kinds.items():
        daemons.until(functools.partial(serves, port, path), path)
        answer = httpclients.get(port, f"{path}?query")
        assert answer.headers["content-type"] == kind
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        head = httpclients.get(port, path, method="HEAD")
        assert (head.status, head.text) == (200, "")
        assert int(head.headers["content-length"]) > 0
    assert httpclients.get(port, "/nothing").status == 404
    assert httpclients.get(port, "/healthz", method="POST").headers["allow"] == "GET, HEAD"


@pytest.mark.usefixtures("served")
def test_openmetrics_for_those_who_ask(port: int) -> None:
    daemons.until(lambda: httpclients.get(port, "/healthz").status == 200, "the first snapshot")
    answer = httpclients.get(port, "/metrics", Accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1")

    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.text.endswith("# EOF\n")


def test_the_status_is_that_of_the_control_socket(served: reloads.Daemon, port: int) -> None:
    daemons.until(lambda: httpclients.get(port, "/readyz").text == "ready\n", "every service")
    told = json.loads(httpclients.get(port, "/status.json").text)

    assert told.pop("stopping") is False
    known = served.ask("status")
    for each in (told, known, *told["services"].values(), *known["services"].values()):
        del each["process"]  # it grows
    assert told == known


def test_it_holds_its_listener_its_log_and_the_snapshot_and_nothing_else(served: reloads.Daemon) -> None:
    folder = pathlib.Path(f"/proc/{pid(served)}")
    held = {int(each.name): os.readlink(each) for each in (folder / "fd").iterdir()}
    rest = sorted(re.sub(r":\[\d+\]| \(deleted\)", "", held[fd]) for fd in held.keys() - {0, 1, 2})

    assert held[0] == held[1] == "/dev/null"
    assert held[2].startswith("pipe:")
    assert rest == ["/memfd:tcpdconf-status", "anon_inode:[eventpoll]", "socket"]
    flags = {
        fd: int(re.search(r"flags:\s+(\d+)", (folder / f"fdinfo/{fd}").read_text())[1], 8)  # type: ignore[index]
        for fd, what in held.items()
        if "memfd" in what
    }
    assert [flag & os.O_ACCMODE for flag in flags.values()] == [os.O_RDONLY]
    maps = [line for line in (folder / "maps").read_text().splitlines() if "tcpdconf-status" in line]
    assert maps == []


def test_it_can_neither_write_the_snapshot_nor_start_a_process(served: reloads.Daemon) -> None:
    folder = pathlib.Path(f"/proc/{pid(served)}")
    status = (folder / "status").read_text()
    snapshot = next(each for each in (folder / "fd").iterdir() if "memfd" in os.readlink(each))

    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^CapPrm:\t0+$", status, re.MULTILINE)
    assert re.search(r"^Max processes +0 +0 ", (folder / "limits").read_text(), re.MULTILINE)
    if os.geteuid() == 0:  # even the owner cannot
        with open(snapshot, "r+b", buffering=0) as file, pytest.raises(PermissionError):
            file.write(b"x")


def test_it_has_a_user_of_its_own(tmp_path: pathlib.Path, port: int) -> None:
    peers.need_root()
    text = http(port, "user = 54321") + reloads.service(daemons.free_port(), ECHO)
    with reloads.Daemon(tmp_path, text) as daemon:
        status = pathlib.Path(f"/proc/{pid(daemon)}/status").read_text()

        assert re.search(r"^Uid:\t54321\t54321\t54321\t54321$", status, re.MULTILINE)
        assert re.search(r"^Groups:\t54321 $", status, re.MULTILINE)


def test_it_is_started_again_when_it_dies(served: reloads.Daemon, port: int) -> None:
    os.kill(pid(served), signal.SIGKILL)
    pid(served, 2)

    assert httpclients.get(port, "/healthz").text == "ok\n"
    served.await_log("^error: http ended with signal 9 ")


def test_it_ends_with_a_supervisor_that_is_killed(served: reloads.Daemon) -> None:
    mine = pid(served)
    served.process.kill()
    daemons.until(lambda: not pathlib.Path(f"/proc/{mine}").exists(), "its end")


@pytest.mark.slow
def test_a_snapshot_that_is_not_renewed_shows_that_the_supervisor_hangs(
    tmp_path: pathlib.Path, port: int
) -> None:
    with reloads.Daemon(tmp_path, http(port) + reloads.service(daemons.free_port(), ECHO)) as daemon:
        daemons.until(lambda: httpclients.get(port, "/healthz").status == 200, "the first snapshot")
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            daemons.until(lambda: httpclients.get(port, "/healthz").status == 503, "its age")
            assert "the supervisor has not written its status" in httpclients.get(port, "/healthz").text
            assert httpclients.get(port).headers["refresh"] == "10"  # for a browser without JavaScript
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        daemons.until(lambda: httpclients.get(port, "/healthz").status == 200, "the next snapshot")


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9435", "127.0.0.1.evil.example", "::1", "a b"]
)
def test_a_request_for_another_host_is_refused(port: int, host: str) -> None:
    answer = httpclients.sent(port, f"GET /status.json HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 421 ")
    assert b"{" not in answer


def test_names_of_the_host(tmp_path: pathlib.Path, port: int) -> None:
    text = http(port, 'hosts = ["Mail.example.org"]') + reloads.service(daemons.free_port(), ECHO)
    with reloads.Daemon(tmp_path, text) as daemon:
        pid(daemon)
        names = ["localhost", "127.0.0.1:9435", "[::1]:9435", "MAIL.example.org.:80", os.uname().nodename]
        for name in names:
            answer = httpclients.sent(port, f"GET /x HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 404 "), name


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + 9000 * b"x" + b"\r\n\r\n", 431),
        (b"GET /" + 100_000 * b"x", 431),
    ],
)
def test_odd_requests(port: int, request_: bytes, status: int) -> None:
    daemons.until(lambda: httpclients.get(port, "/healthz").status == 200, "the first snapshot")

    assert httpclients.sent(port, request_).startswith(b"HTTP/1.1 %d " % status)


def test_only_allowed_networks_are_answered(tmp_path: pathlib.Path, port: int) -> None:
    text = http(port, 'allow = ["127.0.0.8/29"]') + reloads.service(daemons.free_port(), ECHO)
    with reloads.Daemon(tmp_path, text) as daemon:
        pid(daemon)

        assert httpclients.get(port, "/nothing", source="127.0.0.9").status == 404
        assert httpclients.sent(port, b"GET / HTTP/1.0\r\n\r\n", source="127.0.0.16") == b""
        daemon.await_log("^http refused peer=127.0.0.16$")


def test_stalled_clients_cost_neither_metrics_nor_services_anything(
    tmp_path: pathlib.Path, port: int
) -> None:
    where = daemons.free_port()
    text = http(port) + reloads.service(where, ECHO, limits="max_connections = 4")
    with reloads.Daemon(tmp_path, text) as daemon, contextlib.ExitStack() as stalled:
        mine = pid(daemon)
        daemons.until(lambda: httpclients.get(port, "/healthz").status == 200, "the first snapshot")
        for number in range(500):
            client = stalled.enter_context(httpclients.connected(port))
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.send(b"GET /metrics HTTP/1.1\r\n"[: number % 20])

        answer = httpclients.get(port, "/metrics")
        assert (answer.status, "tcpdconf_accepted_total" in answer.text) == (200, True)
        assert all(daemons.talk(where) == b"in\n" for _ in range(50))
        held = len(list(pathlib.Path(f"/proc/{mine}/fd").iterdir()))
        assert held <= server.CLIENTS + 10
        daemons.until(
            lambda: httpclients.value(port, 'tcpdconf_accepted_total{service="test"}') == 50, "the counter"
        )


@pytest.mark.usefixtures("served")
def test_a_client_that_reads_nothing_keeps_no_place(port: int) -> None:
    with contextlib.ExitStack() as deaf:
        for _ in range(2 * server.CLIENTS):
            client = deaf.enter_context(httpclients.connected(port))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        daemons.until(lambda: httpclients.get(port, "/healthz").status == 200, "an answer")


def refuses(port: int) -> bool:
    """Return whether nobody listens; a process that is being replaced does until it has ended."""
    try:
        daemons.connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_reload_adds_changes_and_removes_it(tmp_path: pathlib.Path, port: int) -> None:
    service = reloads.service(daemons.free_port(), ECHO)
    other = daemons.free_port()
    with reloads.Daemon(tmp_path, service) as daemon:
        assert daemon.change(http(port) + service) == []
        first = pid(daemon)
        assert httpclients.get(port, "/nothing").status == 404
        daemon.change(http(port) + service)  # nothing has changed
        assert pid(daemon) == first

        daemon.change(http(port, 'hosts = ["a.example"]') + service)
        second = pid(daemon, 2)
        assert second != first
        assert httpclients.get(port, "/nothing", Host="a.example").status == 404

        daemon.change(http(other) + service)
        pid(daemon, 3)
        assert httpclients.get(other, "/nothing").status == 404
        daemons.until(lambda: refuses(port), "the end of the first port")

        daemon.change(service)
        daemons.until(lambda: refuses(other), "the end of the second port")
        daemons.until(lambda: not pathlib.Path(f"/proc/{second}").exists(), "the end of the second")
        assert "http ended" not in "\n".join(daemon.log)


def test_a_port_that_others_have_rejects_the_reload(tmp_path: pathlib.Path, port: int) -> None:
    service = reloads.service(daemons.free_port(), ECHO)
    with socket.create_server(("127.0.0.1", port)), reloads.Daemon(tmp_path, service) as daemon:
        assert daemon.refusal(http(port) + service) == [
            f"cannot bind 127.0.0.1:{port}: Address already in use"
        ]
        assert daemon.change(service) == []


def test_a_port_moves_between_a_service_and_http(tmp_path: pathlib.Path, port: int) -> None:
    other = daemons.free_port()
    with reloads.Daemon(tmp_path, http(port) + reloads.service(other, ECHO)) as daemon:
        pid(daemon)
        daemon.change(http(other) + reloads.service(port, ECHO))
        pid(daemon, 2)

        assert daemons.talk(port) == b"in\n"
        assert httpclients.get(other, "/nothing").status == 404


def test_a_rejected_reload_is_told_and_changes_no_readiness(tmp_path: pathlib.Path, port: int) -> None:
    service = reloads.service(daemons.free_port(), ECHO)
    with reloads.Daemon(tmp_path, http(port) + service) as daemon:
        daemons.until(lambda: httpclients.get(port, "/readyz").text == "ready\n", "every service")
        daemon.refusal(http(port) + service + "nonsense = 1\n")
        daemons.until(lambda: "rejected" in httpclients.get(port, "/readyz").text, "the reload")

        assert httpclients.get(port, "/readyz").status == 200
        assert "The last reload was rejected" in httpclients.get(port).text
        assert "nonsense" in httpclients.get(port).text


def test_a_daemon_that_stops_is_not_ready(tmp_path: pathlib.Path, port: int) -> None:
    where = daemons.free_port()
    with reloads.Daemon(tmp_path, http(port) + reloads.service(where)) as daemon:
        daemons.until(lambda: httpclients.get(port, "/readyz").status == 200, "every service")
        with reloads.held(where) as client:
            control_client.ask(daemon.runtime, {"command": "stop", "drain": 60}, daemons.SECONDS)
            daemons.until(lambda: httpclients.get(port, "/readyz").status == 503, "the stop")
            assert "the daemon is stopping" in httpclients.get(port, "/readyz").text
            assert httpclients.get(port, "/healthz").status == 200
            client.sendall(b"bye\n")
        assert daemon.process.wait(daemons.SECONDS) == 0


def test_a_unix_socket_has_mode_and_group(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "http.sock"
    group = os.getegid() if os.geteuid() else 54321
    service = reloads.service(daemons.free_port(), ECHO)
    with reloads.Daemon(tmp_path, http(path, f"group = {group}") + service) as daemon:
        pid(daemon)
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, group)
        assert httpclients.get(path, "/nothing", Host="any.example").status == 404

        daemon.change(http(path, f'group = {group}\nmode = "666"\naddresses = false') + service)
        pid(daemon, 2)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        inode = path.stat().st_ino

        daemon.change(http(path, f'group = {group}\nmode = "666"') + service)
        pid(daemon, 3)
        assert path.stat().st_ino == inode
        assert httpclients.get(path, "/nothing").status == 404
        assert [each.name for each in tmp_path.glob(".http*")] == []
    assert not path.exists()


def test_a_place_that_cannot_be_used_rejects_the_reload(tmp_path: pathlib.Path) -> None:
    service = reloads.service(daemons.free_port(), ECHO)
    with reloads.Daemon(tmp_path, service) as daemon:
        path = tmp_path / "missing/http.sock"
        assert daemon.refusal(http(path) + service) == [f"cannot make {path}: No such file or directory"]


def test_addresses_are_left_out(tmp_path: pathlib.Path, port: int) -> None:
    where = daemons.free_port()
    service = reloads.service(where)
    with reloads.Daemon(tmp_path, http(port) + service) as daemon, reloads.held(where, source="127.7.7.7"):
        daemons.until(lambda: "127.7.7.7" in httpclients.get(port, "/status.json").text, "the client")
        assert "127.7.7.7" in httpclients.get(port).text
        assert "127.7.7.7" not in httpclients.get(port, "/metrics").text

        daemon.change(http(port, "addresses = false") + service)
        pid(daemon, 2)
        daemons.until(lambda: "127.7.7.7" not in httpclients.get(port, "/status.json").text, "the snapshot")
        assert "127.7.7.7" not in httpclients.get(port).text


def details(port: int) -> list[str]:
    """The differences that the last reload has made, as HTTP tells them once it does."""
    answer = httpclients.get(port, "/status.json")
    last = json.loads(answer.text)["last_reload"] if answer.status == 200 else None
    found: list[str] = [] if last is None else last["details"]
    return found


def test_a_reload_is_told_without_what_others_must_not_see(tmp_path: pathlib.Path, port: int) -> None:
    """Nobody but root reads conf.d; a port on loopback answers every user."""
    where = daemons.free_port()
    before = reloads.service(where, ECHO, limits="max_per_ip = 4")
    rule = '{ network = "192.0.2.7", action = "allow", environment = { KEY = "hush" } }'
    after = reloads.service(where, ECHO, limits="max_per_ip = 8")
    after += f"[[services.test.access]]\nrules = [{rule}]\n"
    after += '[services.test.environment]\nKEY = "hush -> hush removed"\n'
    with reloads.Daemon(tmp_path, http(port) + before) as daemon:
        daemon.change(http(port) + after)
        assert any("hush" in line for line in daemon.ask("status")["last_reload"]["details"])
        daemons.until(lambda: "test: limits.max_per_ip 4 -> 8" in details(port), "the differences")
        assert "test: environment.KEY changed" in details(port)
        for path in ("/", "/status.json"):
            assert "hush" not in httpclients.get(port, path).text

        daemon.change(http(port, "addresses = false") + before)
        pid(daemon, 2)
        daemons.until(lambda: "test: limits.max_per_ip changed" in details(port), "the differences")
        assert "192.0.2.7" not in httpclients.get(port, "/status.json").text


def test_the_newest_bans_are_told(tmp_path: pathlib.Path, port: int) -> None:
    service = reloads.service(daemons.free_port(), ECHO)
    request = {"command": "ban", "networks": ["192.0.2.7"], "for": 3600, "reason": "scans"}
    with reloads.Daemon(tmp_path, http(port) + service) as daemon:
        assert control_client.ask(daemon.runtime, request, daemons.SECONDS)["ok"]
        known = control_client.ask(daemon.runtime, {"command": "bans"}, daemons.SECONDS)["bans"]
        assert daemon.ask("status")["banned"] == known
        daemons.until(lambda: "192.0.2.7" in httpclients.get(port).text, "the page")

        daemon.change(http(port, "addresses = false") + service)
        pid(daemon, 2)
        daemons.until(lambda: "1 ban." in httpclients.get(port).text, "the snapshot")
        assert "192.0.2.7" not in httpclients.get(port).text


@pytest.mark.parametrize("unix", [False, True])
def test_a_daemon_that_takes_over_answers_alone(tmp_path: pathlib.Path, port: int, unix: bool) -> None:
    """The first daemon still has a client."""
    where, folder = daemons.free_port(), tmp_path / "second"
    end = tmp_path / "http.sock" if unix else port
    text = http(end) + reloads.service(where)
    folder.mkdir()
    (folder / "run").symlink_to(tmp_path / "run")
    with reloads.Daemon(tmp_path, text) as first, reloads.held(where) as client:
        mine = pid(first)
        with reloads.Daemon(folder, text, arguments=["--take-over"]) as second:
            first.await_log("^stopping drain=300s")
            pid(second)
            daemons.until(lambda: not pathlib.Path(f"/proc/{mine}").exists(), "the end of the first process")
            daemons.until(lambda: httpclients.get(end, "/readyz").status == 200, "the second daemon")
            answers = {json.loads(httpclients.get(end, "/status.json").text)["pid"] for _ in range(20)}
            assert answers == {second.process.pid}
            assert reloads.lives(client)
            assert first.process.wait(daemons.SECONDS) == 0
            assert httpclients.get(end, "/healthz").status == 200


def test_a_path_that_holds_a_directory_is_told(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "http.sock"
    path.mkdir()
    with reloads.Daemon(tmp_path, http(path) + reloads.service(daemons.free_port(), ECHO)) as daemon:
        daemon.await_log(f"^error: cannot serve HTTP at {path}: ")
        daemon.ask("status")
    assert path.is_dir()


def test_a_socket_in_a_directory_of_others_is_not_made_through_a_link(tmp_path: pathlib.Path) -> None:
    """As root: the link was made by somebody else."""
    peers.need_root()
    with daemons.public_folder() as folder:
        theirs = folder / "theirs"
        theirs.mkdir()
        (theirs / "link").symlink_to("/etc")
        os.chown(theirs, 54321, 54321)
        os.chown(theirs / "link", 54321, 54321, follow_symlinks=False)
        service = reloads.service(daemons.free_port(), ECHO)
        with reloads.Daemon(tmp_path, service) as daemon:
            (text,) = daemon.refusal(http(theirs / "link/http.sock") + service)
            assert text.startswith(f"cannot make {theirs}/link/http.sock: ")
    assert not pathlib.Path("/etc/http.sock").exists()


def test_promtool_accepts_what_a_daemon_says(tmp_path: pathlib.Path, port: int) -> None:
    peers.need("promtool")
    where = daemons.free_port()
    service = reloads.service(where, f'{ECHO}\nlookup_names = true\npenalties = {{ refused = "1s" }}')
    with reloads.Daemon(tmp_path, http(port) + service):
        assert daemons.talk(where) == b"in\n"
        daemons.until(
            lambda: httpclients.value(port, 'tcpdconf_accepted_total{service="test"}') == 1, "the counter"
        )
        text = httpclients.get(port, "/metrics").text
        assert 'tcpdconf_start_duration_seconds_count{service="test"} 1.0' in text
        assert 'process_resident_memory_bytes{process="worker",service="test"}' in text
        run = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_supervisor_does_not_load_the_library_for_metrics() -> None:
    code = "import sys, tcpdconf.daemon.run; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
