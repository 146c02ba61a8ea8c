"""A real HAProxy in front of real services: versions, families, health checks."""

import contextlib
import pathlib
from collections.abc import Iterator

import pytest
from support import peers
from support.running import daemons, haproxies

pytestmark = pytest.mark.peer

SERVICE = """
[services.{name}]
program = ["/usr/bin/env", "-0"]
[[services.{name}.listeners]]
address = "{address}"
port = {port}
haproxy = {{ trusted = ["127.0.0.1", "::1"] }}
"""
ROUTE = """
frontend {name}
    bind {front}
    default_backend {name}
backend {name}
    server one {back} {options} check inter 100ms
"""
# name: address of the front and of the service, the server's options
ROUTES = {
    "v1": ("127.0.0.1", "send-proxy"),
    "v1six": ("::1", "send-proxy"),
    "v2": ("127.0.0.1", "send-proxy-v2"),
    "v2six": ("::1", "send-proxy-v2"),
    "v2values": ("127.0.0.1", "send-proxy-v2 proxy-v2-options crc32c,unique-id"),
    "checked": ("127.0.0.1", "send-proxy check-send-proxy"),
    "checkedv2": ("127.0.0.1", "send-proxy-v2 check-send-proxy"),
    "connected": ("127.0.0.1", "send-proxy-v2 port {port}"),  # a check that sends no header
}


def where(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class HAProxy:
    """A haproxy with every route; `fronts` are the addresses to connect to, by name."""

    def __init__(self, folder: pathlib.Path, services: dict[str, int]) -> None:
        self.fronts = {name: (address, daemons.free_port(address)) for name, (address, _) in ROUTES.items()}
        self._folder = folder
        self._text = ""
        for name, (address, options) in ROUTES.items():
            back = services[name]
            unique = "    unique-id-format id-%ci\n" if "unique-id" in options else ""
            route = ROUTE.format(
                name=name,
                front=where(*self.fronts[name]),
                back=where(address, back),
                options=options.format(port=back),
            )
            self._text += route.replace("    default_backend", unique + "    default_backend")

    @contextlib.contextmanager
    def running(self) -> Iterator["HAProxy"]:
        """Run it until the caller is done, from when every check has passed."""
        with haproxies.running(self._folder, self._text) as admin:

            def checked() -> bool:
                servers = admin.servers()
                return all(servers[name, "one"]["check_status"] == "L4OK" for name in ROUTES)

            daemons.until(checked, "the health checks")
            yield self


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[daemons.Daemon, HAProxy]]:
    peers.need("haproxy")
    folder = tmp_path_factory.mktemp("haproxy")
    ports = {name: daemons.free_port(address) for name, (address, _) in ROUTES.items()}
    text = "".join(
        SERVICE.format(name=name, address=ROUTES[name][0], port=port) for name, port in ports.items()
    )
    text += '[daemon]\nlog_level = "debug"\n'
    with daemons.Daemon(folder, text) as daemon, HAProxy(folder, ports).running() as haproxy:
        yield daemon, haproxy


@pytest.mark.parametrize("name", ROUTES)
def test_the_program_sees_the_client(proxy: tuple[daemons.Daemon, HAProxy], name: str) -> None:
    _, haproxy = proxy
    address, port = haproxy.fronts[name]
    source = "::1" if ":" in address else "127.0.0.77"
    with daemons.connect(port, address, source) as client:
        own = client.getsockname()
        found = daemons.environment(daemons.read(client))

    mapped = "" if ":" in address else "::ffff:"
    assert (found["TCPREMOTEIP"], found["TCPREMOTEPORT"]) == (mapped + own[0], str(own[1]))
    assert (found["TCPLOCALIP"], found["TCPLOCALPORT"]) == (mapped + address, str(port))
    assert found["TCPREMOTEINFO"] == f"proxy via {mapped}{address}, port {port}"


def test_values_of_version_2(proxy: tuple[daemons.Daemon, HAProxy]) -> None:
    _, haproxy = proxy
    address, port = haproxy.fronts["v2values"]
    found = daemons.environment(daemons.talk(port, address, "127.0.0.78"))

    assert found["PROXY_UNIQUE_ID"] == "id-127.0.0.78"


@pytest.mark.parametrize("name", ["checked", "checkedv2"])
def test_a_check_with_a_header_is_served(proxy: tuple[daemons.Daemon, HAProxy], name: str) -> None:
    """Its version 1 names the proxy's own addresses, its version 2 is LOCAL."""
    daemon, _ = proxy

    assert daemon.await_log(rf"^accept service={name} peer=127\.0\.0\.1:\d+ (via=\S+ )?local=", 2)


def test_a_check_that_only_connects_is_no_trouble(proxy: tuple[daemons.Daemon, HAProxy]) -> None:
    """HAProxy resets such a connection before it is established: nothing of it is seen here."""
    daemon, _ = proxy

    assert not [line for line in daemon.log if line.startswith(("refuse ", "error: "))]
