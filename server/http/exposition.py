"""The metrics in the Prometheus format that the client asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from server.node.measures import BOUNDS_SECONDS, Durations
from server.node.metrics import MetricKind, Reading

_BOUNDS = (*(str(bound) for bound in BOUNDS_SECONDS), "+Inf")


class Exposition:
    """Formats metrics for Prometheus. Its private registry leaves other metrics of the process out."""

    def __init__(self, readings: Callable[[], Sequence[Reading]]) -> None:
        """Take the function that returns the present metrics."""
        self._readings = readings
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def written(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type for an `Accept` header. A malformed header gets plain text."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the library fails on a version that is not a number
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    def collect(self) -> Iterable[Metric]:
        """Return the present values; prometheus_client calls this."""
        return map(_family, self._readings())


def _family(reading: Reading) -> Metric:
    metric = reading.metric
    if metric.kind is MetricKind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels, value in reading.values:
            if isinstance(value, Durations):
                histogram.add_metric(labels, [*_buckets(value)], value.sum_seconds)
        return histogram
    family: CounterMetricFamily | GaugeMetricFamily
    if metric.kind is MetricKind.COUNTER:
        family = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    else:
        family = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in reading.values:
        if not isinstance(value, Durations):
            family.add_metric(labels, value)
    return family


def _buckets(durations: Durations) -> Iterator[tuple[str, float]]:
    return zip(_BOUNDS, map(float, accumulate(durations.counts)), strict=True)
