"""Writes metrics in Prometheus's text format and as OpenMetrics, with prometheus_client."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import prometheus_client.exposition
import prometheus_client.openmetrics.exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tcpdconf.daemon.http import metrics
from tcpdconf.daemon.http.metrics import Family, Histogram

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def text(answer: Mapping[str, Any]) -> bytes:
    """Return the metrics of an answer to `status` in the text format, version 0.0.4."""
    return prometheus_client.exposition.generate_latest(_Collector(answer))


def openmetrics(answer: Mapping[str, Any]) -> bytes:
    """Return the metrics of an answer to `status` as OpenMetrics, version 1.0.0."""
    made: bytes = prometheus_client.openmetrics.exposition.generate_latest(_Collector(answer))  # type: ignore[no-untyped-call]
    return made


class _Collector(Collector):
    """Passes the metrics of one answer to prometheus_client, in the order of their first samples."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self._answer = answer

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with all its samples."""
        found: dict[Family, Metric] = {}
        for family, labels, value in metrics.samples(self._answer):
            metric = found.get(family)
            if metric is None:
                name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
                metric = found[family] = Metric(name, family.text, family.kind)
            if isinstance(value, Histogram):
                _add_histogram(metric, labels, value)
            else:
                metric.add_sample(family.name, labels, value)
        return iter(found.values())


def _add_histogram(metric: Metric, labels: dict[str, str], value: Histogram) -> None:
    for bound, count in value.buckets:
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, count)
    metric.add_sample(f"{metric.name}_count", labels, value.buckets[-1][1])
    metric.add_sample(f"{metric.name}_sum", labels, value.total)
