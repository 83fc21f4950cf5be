"""The collectors behind the catalogue, and the text that Prometheus reads.

The one thing to know: every series exists from the start, at zero, and no other can be made: a value that is not in
the catalogue's closed sets is refused here. That bounds the number of series, and lets a query rate a counter from its
first increment. aioprometheus escapes nothing, so label values are escaped once, when their series is made.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version

from aioprometheus.collectors import Collector, Counter, Gauge, Histogram, Registry
from aioprometheus.formats.text import TextFormatter
from aioprometheus.histogram import Histogram as Buckets

from manahsm.monitoring.metrics import CATALOGUE, DURATION_BUCKETS, Kind, Metric, Names, Values

__all__ = ["CONTENT_TYPE", "Exposition", "UnknownSeries", "escaped"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUILD_INFO = "mana_hsm_build_info"


class UnknownSeries(ValueError):  # noqa: N818 - says what it is
    """The catalogue has no series with these label values: a fault of ours."""


def escaped(value: str) -> str:
    """A label value as the text format 0.0.4 has it (pure)."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Exposition:
    """All metrics of one service. Use it from the event loop's thread alone.

    Args:
        names: what the configuration adds to the label values.
    """

    def __init__(self, names: Names) -> None:
        self._registry = Registry()
        self._collectors: dict[str, Collector] = {}
        self._labels: dict[str, dict[Values, dict[str, str]]] = {}
        for metric in CATALOGUE.values():
            self._add(metric, metric.series(names))
        self._add_build_info()

    # ---- counting ----

    def count(self, name: str, *values: str) -> None:
        """Add one to a counter.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        collector = self._collectors[name]
        assert isinstance(collector, Counter)  # noqa: S101 - the table decides
        collector.inc(self._series(name, values))

    def observe(self, name: str, amount: float, *values: str) -> None:
        """Add an observation to a histogram.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        collector = self._collectors[name]
        assert isinstance(collector, Histogram)  # noqa: S101 - the table decides
        collector.observe(self._series(name, values), amount)

    def set(self, name: str, amount: float, *values: str) -> None:
        """Set a gauge, or a counter that others keep.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        self._collectors[name].set_value(self._series(name, values), amount)

    # ---- reading ----

    def value(self, name: str, *values: str) -> float:
        """Return a counter or gauge."""
        return float(self._collectors[name].get_value(self._series(name, values)))  # type: ignore[arg-type]

    def values(self, name: str) -> Iterator[tuple[Values, float]]:
        """Yield every series of a counter or gauge: its label values and its number."""
        collector = self._collectors[name]
        for values, labels in self._labels[name].items():
            yield values, float(collector.get_value(labels))  # type: ignore[arg-type]

    def text(self) -> str:
        """Return everything in the text format 0.0.4, metric by metric in the order of the catalogue."""
        formatter = TextFormatter()
        blocks = (formatter.marshall_collector(self._collectors[name]) for name in CATALOGUE)
        return "\n".join(blocks) + "\n"

    # ---- inside ----

    def _series(self, name: str, values: Values) -> dict[str, str]:
        try:
            return self._labels[name][values]
        except KeyError:
            raise UnknownSeries(f"{name} has no series {values!r}") from None

    def _add(self, metric: Metric, series: tuple[Values, ...]) -> None:
        self._collectors[metric.name] = collector = _collector(metric, self._registry)
        self._labels[metric.name] = known = {
            values: dict(zip(metric.labels, map(escaped, values), strict=True)) for values in series
        }
        for labels in known.values():
            start = Buckets(*DURATION_BUCKETS) if metric.kind is Kind.HISTOGRAM else 0
            collector.set_value(labels, start)

    def _add_build_info(self) -> None:
        values = (version("manahsm"), platform.python_version())
        labels: Mapping[str, str] = dict(zip(CATALOGUE[_BUILD_INFO].labels, map(escaped, values), strict=True))
        self._labels[_BUILD_INFO][values] = dict(labels)
        self.set(_BUILD_INFO, 1, *values)


def _collector(metric: Metric, registry: Registry) -> Collector:
    match metric.kind:
        case Kind.COUNTER:
            return Counter(metric.name, metric.help, registry=registry)
        case Kind.GAUGE:
            return Gauge(metric.name, metric.help, registry=registry)
        case Kind.HISTOGRAM:
            return Histogram(metric.name, metric.help, registry=registry, buckets=DURATION_BUCKETS)
