"""A real Prometheus on a free port: what it has scraped, and which alerts fire."""

import contextlib
import http.client
import json
import math
import pathlib
import re
import subprocess
import urllib.parse
from types import TracebackType
from typing import Any, Final, Self

from support import peers
from support.running import daemons

SHIPPED: Final = pathlib.Path(__file__).parents[3] / "deploy/prometheus"


class Prometheus:
    """Runs with the shipped prometheus.yml, but scrapes a port each second, and evaluates its rules as often.

    `rules` stand in place of the shipped ones.
    """

    def __init__(self, folder: pathlib.Path, scraped: int, rules: str) -> None:
        peers.need("prometheus")
        self._folder = folder / "prometheus"
        self._folder.mkdir()
        text = (SHIPPED / "prometheus.yml").read_text().replace("127.0.0.1:9435", f"127.0.0.1:{scraped}")
        text, found = re.subn(r"(?m)^(  (?:scrape|evaluation)_interval): 15s$", r"\1: 1s", text)
        assert found == 2
        (self._folder / "prometheus.yml").write_text(text)
        (self._folder / "alerts.yml").write_text(rules)
        self._port = daemons.free_port()
        self._log = self._folder / "log"

    def __enter__(self) -> Self:
        command = [
            "prometheus",
            f"--config.file={self._folder}/prometheus.yml",
            f"--storage.tsdb.path={self._folder}/data",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            daemons.until(self._ready, f"Prometheus, which says:\n{self._log.read_text()}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(daemons.SECONDS)
        finally:
            self._process.kill()
            self._process.wait()

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        with contextlib.suppress(ConnectionError):
            return self._get("/-/ready")[0] == 200
        return False

    def _get(self, path: str) -> tuple[int, bytes]:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=daemons.SECONDS)
        try:
            client.request("GET", path)
            answer = client.getresponse()
            return answer.status, answer.read()
        finally:
            client.close()

    def ask(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 (JSON)
        """Return the data of an answer of the HTTP API, version 1."""
        status, body = self._get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(body)
        assert (status, answer["status"]) == (200, "success"), answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each sample that is a number now."""
        found = [
            (each["metric"], float(each["value"][1]))
            for each in self.ask("query", query=expression)["result"]
        ]
        return [(labels, value) for labels, value in found if not math.isnan(value)]

    def value(self, expression: str) -> float | None:
        """Return the value of an expression with one sample, or None if it has none."""
        samples = self.query(expression)
        assert len(samples) < 2, samples
        return samples[0][1] if samples else None

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {
            each["labels"]["alertname"] for each in self.ask("alerts")["alerts"] if each["state"] == "firing"
        }
