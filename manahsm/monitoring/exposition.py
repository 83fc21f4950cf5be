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

    Counting happens for every signature, a scrape every few seconds: so numbers are kept in plain dictionaries, and
    those that have changed are handed to aioprometheus when its text is asked for.

    Args:
        names: what the configuration adds to the label values.
    """

    def __init__(self, names: Names) -> None:
        self._registry = Registry()
        self._collectors: dict[str, Collector] = {}
        self._labels: dict[str, dict[Values, dict[str, str]]] = {}
        self._numbers: dict[str, dict[Values, float]] = {}
        self._changed: set[tuple[str, Values]] = set()
        self._observed: dict[str, dict[Values, Buckets]] = {}
        for metric in CATALOGUE.values():
            self._add(metric, metric.series(names))
        self._add_build_info()

    # ---- counting ----

    def count(self, name: str, *values: str) -> None:
        """Add one to a counter.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        try:
            self._numbers[name][values] += 1
        except KeyError:
            raise _unknown(name, values) from None
        self._changed.add((name, values))

    def observe(self, name: str, amount: float, *values: str) -> None:
        """Add an observation to a histogram.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        try:
            buckets = self._observed[name][values]
        except KeyError:
            raise _unknown(name, values) from None
        buckets.observe(amount)

    def set(self, name: str, amount: float, *values: str) -> None:
        """Set a gauge, or a counter that others keep.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        numbers = self._numbers[name]
        if values not in numbers:
            raise _unknown(name, values)
        numbers[values] = amount
        self._changed.add((name, values))

    # ---- reading ----

    def value(self, name: str, *values: str) -> float:
        """Return a counter or gauge.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        try:
            return float(self._numbers[name][values])
        except KeyError:
            raise _unknown(name, values) from None

    def values(self, name: str) -> Iterator[tuple[Values, float]]:
        """Yield every series of a counter or gauge: its label values and its number."""
        for values, number in self._numbers[name].items():
            yield values, float(number)

    def text(self) -> str:
        """Return everything in the text format 0.0.4, metric by metric in the order of the catalogue."""
        for name, values in self._changed:
            self._collectors[name].set_value(self._labels[name][values], self._numbers[name][values])
        self._changed.clear()
        formatter = TextFormatter()
        blocks = (formatter.marshall_collector(self._collectors[name]) for name in CATALOGUE)
        return "\n".join(blocks) + "\n"

    # ---- inside ----

    def _add(self, metric: Metric, series: tuple[Values, ...]) -> None:
        self._collectors[metric.name] = collector = _collector(metric, self._registry)
        self._labels[metric.name] = known = {
            values: dict(zip(metric.labels, map(escaped, values), strict=True)) for values in series
        }
        if metric.kind is Kind.HISTOGRAM:
            self._observed[metric.name] = observed = {values: Buckets(*DURATION_BUCKETS) for values in series}
            for values, labels in known.items():
                collector.set_value(labels, observed[values])
            return
        self._numbers[metric.name] = dict.fromkeys(series, 0)
        for labels in known.values():
            collector.set_value(labels, 0)

    def _add_build_info(self) -> None:
        values = (version("manahsm"), platform.python_version())
        labels: Mapping[str, str] = dict(zip(CATALOGUE[_BUILD_INFO].labels, map(escaped, values), strict=True))
        self._labels[_BUILD_INFO][values] = dict(labels)
        self._numbers[_BUILD_INFO][values] = 1
        self._changed.add((_BUILD_INFO, values))


def _unknown(name: str, values: Values) -> UnknownSeries:
    return UnknownSeries(f"{name} has no series {values!r}")


def _collector(metric: Metric, registry: Registry) -> Collector:
    match metric.kind:
        case Kind.COUNTER:
            return Counter(metric.name, metric.help, registry=registry)
        case Kind.GAUGE:
            return Gauge(metric.name, metric.help, registry=registry)
        case Kind.HISTOGRAM:
            return Histogram(metric.name, metric.help, registry=registry, buckets=DURATION_BUCKETS)
