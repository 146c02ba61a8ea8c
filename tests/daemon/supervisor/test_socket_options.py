"""The options of listening sockets, in connections: keep-alive, the time for acknowledgements, TCP, marks.

The clients that vanish are in a network of their own, whose link goes down. Times are short: a few seconds.
"""

import contextlib
import errno
import fcntl
import functools
import os
import pathlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

import pytest
from support import networks, peers
from support.running import daemons, reloads

from tcpdconf.config.model import tables
from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.daemon.supervisor import listeners, socket_options

pytestmark = pytest.mark.slow

PORT: Final = 2525  # in a namespace every port is free
HERE, THERE = "192.0.2.1", "192.0.2.2"
SHORT: Final = "keepalive = { time = 1, interval = 1, count = 2 }"
QUICK: Final = 10.0  # seconds; the kernel alone would take a quarter of an hour, or hours
FAST_OPEN: Final = pathlib.Path("/proc/sys/net/ipv4/tcp_fastopen")
TOLD: Final = (
    "import socket, sys\n"
    "s = socket.socket(fileno=0)\n"
    "for level, option in (1, 9), (6, 4), (6, 5), (6, 6), (6, 18), (6, 1), (1, 36):\n"
    "    print(s.getsockopt(level, option), end=' ', flush=True)\n"
    "print(flush=True)\n"
    "sys.stdin.readline()\n"
)


@pytest.fixture
def network() -> Iterator[None]:
    with networks.new():
        yield


@pytest.fixture
def client_network(network: None) -> Iterator[int]:
    """The pid of a process in another network, which is linked with this one: HERE and THERE."""
    del network
    with networks.linked(HERE, THERE) as pid:
        yield pid


def service(settings: str, address: str = "*", port: int = PORT) -> str:
    return f"""
        [services.test]
        {settings}
        listeners = [{{ address = "{address}", port = {port} }}]
    """


def shell(script: str, settings: str = SHORT) -> str:
    return service(f"""program = ["/bin/sh", "-c", "{script}"]\n{settings}""")


def telling(folder: pathlib.Path, settings: str, port: int = PORT) -> str:
    """A service that tells its clients the options of their connections."""
    (folder / "told.py").write_text(TOLD)
    program = f'program = ["{sys.executable}", "-I", "{folder / "told.py"}"]'
    return service(f"{program}\n{settings}", "127.0.0.1", port)


def told(port: int = PORT) -> list[int]:
    """SO_KEEPALIVE, TCP_KEEPIDLE, _KEEPINTVL and _KEEPCNT, TCP_USER_TIMEOUT, TCP_NODELAY and SO_MARK."""
    with daemons.connect(port) as client:
        return list(map(int, daemons.line(client).split()))


def inode(port: int = PORT) -> str:
    """The inode of the socket that listens; another socket would have another one."""
    found = subprocess.run(["ss", "-Htlne", f"sport = :{port}"], capture_output=True, text=True, check=True)
    return next(word for word in found.stdout.split() if word.startswith("ino:"))


def vanished(pid: int, last: bytes = b"") -> socket.socket:
    """A client whose program is there and whose link is down, with the last that it has sent."""
    with networks.of(pid):
        client = daemons.connect(PORT, HERE)
    assert daemons.line(client) == b"here\n"
    client.sendall(last)
    daemons.until(lambda: not unsent(client), "the acknowledgement")
    with networks.of(pid):
        networks.ip("link set there down")
    return client


def unsent(client: socket.socket) -> int:
    """Bytes that were not acknowledged (SIOCOUTQ, tcp(7))."""
    return int(struct.unpack("i", fcntl.ioctl(client, 0x5411, bytes(4)))[0])


@pytest.mark.peer
def test_an_idle_client_whose_link_goes_down_gives_its_slot_back(
    client_network: int, tmp_path: pathlib.Path
) -> None:
    with daemons.Daemon(tmp_path, shell("echo here; read line")) as daemon:
        client = vanished(client_network)
        began = time.monotonic()
        daemon.await_log("^end service=test")
        assert time.monotonic() - began < QUICK
        client.close()


@pytest.mark.peer
@pytest.mark.parametrize("settings", [SHORT, "keepalive = false\nuser_timeout = 3"])
def test_a_client_that_acknowledges_nothing_gives_its_slot_back(
    client_network: int, tmp_path: pathlib.Path, settings: str
) -> None:
    """Keep-alive does not run while data is not acknowledged."""
    script = "echo here; read line; sleep 1; echo data; read line"
    with daemons.Daemon(tmp_path, shell(script, settings)) as daemon:
        client = vanished(client_network, b"go\n")
        began = time.monotonic()
        daemon.await_log("^end service=test")
        assert time.monotonic() - began < QUICK
        client.close()


@pytest.mark.peer
@pytest.mark.parametrize(
    ("script", "settings"),
    [
        ("echo here; read line; sleep 1; echo data; read line", SHORT + "\nuser_timeout = 0"),
        pytest.param("echo here; read line; read line", "keepalive = false"),
        pytest.param("echo here; read line; read line", 'keepalive = "kernel"'),
    ],
)
def test_without_these_settings_it_keeps_the_slot(
    client_network: int, tmp_path: pathlib.Path, script: str, settings: str
) -> None:
    with daemons.Daemon(tmp_path, shell(script, settings)) as daemon:
        client = vanished(client_network, b"go\n")
        time.sleep(6)
        assert not [line for line in daemon.log if line.startswith("end ")]
        client.close()


@pytest.mark.peer
@pytest.mark.usefixtures("network")
def test_a_client_that_reads_nothing_is_ended_by_user_timeout(tmp_path: pathlib.Path) -> None:
    with (
        daemons.Daemon(tmp_path, shell("exec yes", "keepalive = false\nuser_timeout = 2")) as daemon,
        daemons.connect(PORT),
    ):
        began = time.monotonic()
        daemon.await_log("^end service=test")
        assert 1 < time.monotonic() - began < QUICK


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("", [1, 300, 30, 4, 420_000, 0, 0]),
        ("keepalive = { time = '10min' }", [1, 600, 30, 4, 720_000, 0, 0]),
        ("user_timeout = '1500ms'\ntcp = { nodelay = true }", [1, 300, 30, 4, 1500, 1, 0]),
        ("user_timeout = 0", [1, 300, 30, 4, 0, 0, 0]),
        ("keepalive = false", [0, None, None, None, 0, 0, 0]),
        ("keepalive = 'kernel'", [1, None, None, None, 0, 0, 0]),
    ],
)
def test_connections_inherit_the_options(
    tmp_path: pathlib.Path, settings: str, expected: list[int | None]
) -> None:
    port = daemons.free_port()
    kernel = [0, *kernels_own(), 0, 0, 0]
    with daemons.Daemon(tmp_path, telling(tmp_path, settings, port)):
        assert told(port) == [kernel[place] if each is None else each for place, each in enumerate(expected)]


def kernels_own() -> list[int]:
    names = ("time", "intvl", "probes")
    return [int(pathlib.Path(f"/proc/sys/net/ipv4/tcp_keepalive_{name}").read_text()) for name in names]


@pytest.mark.peer
@pytest.mark.usefixtures("network")
def test_a_reload_sets_them_on_the_socket_that_is_open(tmp_path: pathlib.Path) -> None:
    own = kernels_own()
    everything = f"{SHORT}\nuser_timeout = 9\ntcp = {{ nodelay = true, mark = 4294967295, fastopen = 5 }}"
    steps = [
        ("", [1, 300, 30, 4, 420_000, 0, 0]),
        (everything, [1, 1, 1, 2, 9000, 1, -1]),
        ("keepalive = 'kernel'", [1, *own, 0, 0, 0]),
        ("keepalive = false\ntcp = { mark = 7 }", [0, *own, 0, 0, 7]),
    ]
    with reloads.Daemon(tmp_path, telling(tmp_path, "")) as daemon, daemons.connect(PORT) as early:
        before = inode()
        for settings, expected in steps:
            daemon.change(telling(tmp_path, settings))
            assert told() == expected
            assert inode() == before
        assert daemons.line(early).split()[1] == b"300"


@pytest.mark.peer
def test_a_reload_moves_the_socket_to_another_interface(client_network: int, tmp_path: pathlib.Path) -> None:
    def served() -> tuple[bool, bool]:
        """Return whether clients of the loopback and of the link are served."""
        found = []
        for pid, address in (None, "127.0.0.1"), (client_network, HERE):
            with contextlib.ExitStack() as stack:
                if pid is not None:
                    stack.enter_context(networks.of(pid))
                try:
                    stack.enter_context(daemons.connect(PORT, address))
                    found.append(True)
                except ConnectionRefusedError:
                    found.append(False)
        return found[0], found[1]

    def text(settings: str) -> str:
        return service('program = ["/bin/cat"]\n' + settings)

    with reloads.Daemon(tmp_path, text("tcp = { interface = 'lo' }")) as daemon:
        before = inode()
        assert served() == (True, False)
        daemon.change(text("tcp = { interface = 'here' }"))
        assert served() == (False, True)
        refused = daemon.refusal(text("tcp = { interface = 'nowhere' }"))
        assert refused == ["there is no interface nowhere"]
        assert served() == (False, True)
        daemon.change(text(""))
        assert (served(), inode()) == ((True, True), before)


@pytest.mark.peer
@pytest.mark.usefixtures("network")
def test_data_in_a_syn_arrives(tmp_path: pathlib.Path) -> None:
    FAST_OPEN.write_text("3\n")
    with daemons.Daemon(tmp_path, service('program = ["/bin/cat"]\ntcp = { fastopen = 256 }')) as daemon:
        assert not [line for line in daemon.log if "fastopen" in line]
        assert opened_fast() == 0
        for _ in range(2):  # the first client is given the cookie
            with socket.socket() as client:
                client.sendto(b"early\n", socket.MSG_FASTOPEN, ("127.0.0.1", PORT))
                client.settimeout(daemons.SECONDS)
                assert daemons.line(client) == b"early\n"
        assert opened_fast() == 1


def opened_fast() -> int:
    """Return the number of connections that began with data in this network (TCPFastOpenPassive)."""
    lines = pathlib.Path("/proc/thread-self/net/netstat").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
    return int(dict(zip(names, values, strict=True))["TCPFastOpenPassive"])


@pytest.mark.peer
@pytest.mark.usefixtures("network")
def test_the_log_warns_of_a_kernel_without_fast_open(tmp_path: pathlib.Path) -> None:
    FAST_OPEN.write_text("1\n")
    with daemons.Daemon(tmp_path, service('program = ["/bin/cat"]\ntcp = { fastopen = 256 }')) as daemon:
        daemon.await_log("tcp.fastopen: has no effect, because net.ipv4.tcp_fastopen is 1$")
        daemon.await_log(r"hint: sysctl -w net\.ipv4\.tcp_fastopen=3")


@pytest.mark.peer
@pytest.mark.usefixtures("network")
def test_without_the_capability_the_problem_names_the_drop_in(tmp_path: pathlib.Path) -> None:
    """As with the shipped unit: an interface can be chosen, and not be changed; a mark cannot be set."""
    peers.need("setpriv")
    networks.ip("link add other type veth")

    def text(tcp: str) -> str:
        return service(f'program = ["/bin/cat"]\ntcp = {{ {tcp} }}')

    bound = ["setpriv", "--bounding-set=-net_raw,-net_admin"]
    with reloads.Daemon(tmp_path, text("interface = 'lo'"), before=bound) as daemon:
        assert daemon.change(text("interface = 'lo', nodelay = true")) == ["test"]
        for key, settings in ("interface", "interface = 'other'"), ("mark", "interface = 'lo', mark = 1"):
            assert daemon.refusal(text(settings)) == ["needs CAP_NET_RAW"]
            daemon.await_log(rf"services\.test\.tcp\.{key}: needs CAP_NET_RAW$")
        daemon.await_log(r"hint: a drop-in for the unit gives it: share/tcpdconf/systemd/net-raw\.conf")
        assert daemon.refusal(text("")) == ["needs CAP_NET_RAW"]
        daemon.await_log("or stop the daemon and start it, which binds a new socket")
        assert daemons.talk(PORT, say=b"x") == b"x"


def test_a_commit_that_fails_sets_the_options_back(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [tables.Listener(address="127.0.0.1", port=daemons.free_port()) for _ in range(2)]
    activated = listeners.Activated({})
    with contextlib.ExitStack() as stack:
        first = listeners.Opening({}, activated)
        for each in both:
            stack.enter_context(first.sockets(each, ServiceSettings())[0])
        before = [socket_options.read(sock) for (sock,) in first.wanted.values()]
        second = listeners.Opening(first.wanted, activated)
        for each in both:
            second.sockets(each, ServiceSettings(user_timeout=5, tcp=tables.Tcp(nodelay=True)))
        _, (last,) = first.wanted.values()
        monkeypatch.setattr(listeners, "_listen", functools.partial(refuse, last))
        with pytest.raises(listeners.CannotBindError, match="Address already in use"):
            second.commit()
        assert [socket_options.read(sock) for (sock,) in first.wanted.values()] == before


def refuse(which: socket.socket, sock: socket.socket, _: tables.Listener) -> None:
    if sock is which:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


@pytest.mark.peer
@pytest.mark.usefixtures("network")
def test_what_a_socket_unit_says_counts_where_the_service_says_nothing() -> None:
    with socket.socket() as lent, socket.socket() as own:
        for each in lent, own:
            socket_options.apply(each, socket_options.Options(mark=5, nodelay=1, interface="lo"))
        socket_options.apply(lent, socket_options.of(ServiceSettings(), lent=True))
        socket_options.apply(own, socket_options.of(ServiceSettings(), lent=False))
        found = [socket_options.read(each) for each in (lent, own)]

    assert [(each.mark, each.nodelay, each.interface) for each in found] == [(5, 1, "lo"), (0, 0, "")]
    assert {each.idle for each in found} == {300}
