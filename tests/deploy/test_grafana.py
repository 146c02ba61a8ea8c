"""deploy/grafana: the dashboard's queries, answered by a real Prometheus that has scraped a real daemon.

Grafana itself is in no package of Debian. So its form is judged by what Grafana's importer needs.
"""

import collections
import itertools
import json
import pathlib
import re
import signal
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from support import peers
from support.dns import dnsservers
from support.running import daemons, httpclients, prometheus

from tcpdconf.daemon.http import metrics

TOP: Final = pathlib.Path(__file__).parents[2]
DASHBOARD: Final[dict[str, Any]] = json.loads((TOP / "deploy/grafana/tcpdconf.json").read_text())
PANELS: Final = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES: Final = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
# what Grafana puts in place of a variable, one value or several of them
CHOSEN: Final = {"job": "tcpdconf", "instance": ".*", "service": "(mail|proxied)", "__rate_interval": "10s"}


def queries() -> Iterator[tuple[str, str]]:
    """The title of each panel with each of its queries, and those of annotations."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for each in DASHBOARD["annotations"]["list"]:
        yield each["name"], each["expr"]


def substituted(text: str) -> str:
    """A query with values for its variables."""
    return re.sub(r"\$(\w+)", lambda found: CHOSEN[found[1]], text)


def test_it_can_be_imported() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD  # the importing Grafana gives one
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)
    for panel in PANELS:
        assert panel["type"] in {"stat", "timeseries"}
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"] == SOURCE
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        assert all(target["datasource"] == SOURCE for target in panel["targets"])


def test_its_panels_do_not_overlap() -> None:
    cells = collections.Counter(
        cell
        for at in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
    )

    assert max(cells.values()) == 1
    assert {x for x, _ in cells} == set(range(24))


def test_its_variables_are_those_that_it_uses() -> None:
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))

    assert used == set(VARIABLES)
    assert VARIABLES["datasource"]["type"] == "datasource"


def test_its_queries_name_metrics_that_exist() -> None:
    """A query with `or vector(0)` returns data even without its metric."""
    used = set(re.findall(r"\b(?:tcpdconf|process)_\w+", " ".join(query for _, query in queries())))

    assert {re.sub("_bucket$", "", name) for name in used} <= {each.name for each in metrics.FAMILIES}


SETTINGS: Final = """
    [daemon]
    watch = false
    [daemon.http]
    listen = "127.0.0.1:{http}"
    [dns]
    servers = ["{dns.address}:{dns.port}"]
    timeout = 5
    min_ttl = 0

    [services.mail]
    program = ["/bin/echo", "220 hello"]
    lookup_names = true
    listeners = [{{ address = "127.0.0.1", port = {mail} }}]
    dns_lists = [{{ zone = "list.example" }}]
    penalties = {{ refused = "1s", min = "1s" }}

    [services.proxied]
    program = ["/bin/sh", "-c", "echo 220 hello; read line"]
    listeners = [{{ address = "127.0.0.1", port = {proxied}, haproxy = {{ trusted = ["127.0.0.1"] }} }}]
    limits = {{ max_connections = 1 }}
    """


class Clients:
    """Come and go, each from another address, and some wait for a slot."""

    def __init__(self, mail: int, proxied: int) -> None:
        self._mail = mail
        self._proxied = proxied
        self._hosts = (f"127.0.{net}.{host}" for net in range(1, 255) for host in range(1, 255))

    def come(self) -> None:
        """Be served, and let one wait, if both are accepted before the first one has its slot."""
        assert daemons.talk(self._mail, source=next(self._hosts)) == b"220 hello\n"
        header = b"PROXY TCP4 192.0.2.7 192.0.2.25 40000 25\r\n"
        with daemons.connect(self._proxied) as first, daemons.connect(self._proxied) as second:
            first.sendall(header)
            assert daemons.line(first) == b"220 hello\n"
            second.sendall(header)
            first.sendall(b"QUIT\n")
            assert daemons.line(second) == b"220 hello\n"
            second.sendall(b"QUIT\n")


@pytest.mark.peer
@pytest.mark.slow
def test_every_query_returns_data(tmp_path: pathlib.Path) -> None:
    """And so do the queries of its variables."""
    peers.need("prometheus", "rbldnsd")
    http, mail, proxied = (daemons.free_port() for _ in range(3))
    with dnsservers.Rbldnsd({"list.example": ("ip4set", "127.0.0.2\n")}) as dns:
        text = SETTINGS.format(http=http, dns=dns.address, mail=mail, proxied=proxied)
        alerts = (prometheus.SHIPPED / "alerts.yml").read_text()
        with (
            daemons.Daemon(tmp_path, text) as daemon,
            prometheus.Prometheus(tmp_path, http, alerts) as asked,
        ):
            daemons.until(lambda: httpclients.get(http, "/healthz").status == 200, "the first snapshot")
            clients = Clients(mail, proxied)
            daemons.until(lambda: asked.query("tcpdconf_reloads_total"), "the first scrape")
            daemon.process.send_signal(signal.SIGHUP)
            missing = dict(queries())
            end = time.monotonic() + daemons.SECONDS
            while missing:
                assert time.monotonic() < end, f"no data: {missing}"
                clients.come()
                missing = {
                    title: query for title, query in missing.items() if not asked.query(substituted(query))
                }
            for name, known in {
                "job": "tcpdconf",
                "instance": f"127.0.0.1:{http}",
                "service": "mail",
            }.items():
                assert known in variable_values(asked, VARIABLES[name]["query"]["query"])


def variable_values(asked: prometheus.Prometheus, query: str) -> list[str]:
    """Return Grafana's values of label_values(METRIC, LABEL)."""
    series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()  # type: ignore[union-attr]
    found: list[str] = asked.ask(f"label/{label}/values", **{"match[]": substituted(series)})
    return found
