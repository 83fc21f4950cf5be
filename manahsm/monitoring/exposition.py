"""The collectors behind the catalogue, and the text that Prometheus reads.

The one thing to know: every series exists from the start, at zero, and no other can be made: a value that is not in
the catalogue's closed sets is refused here. That bounds the number of series, and lets a query rate a counter from its
first increment. aioprometheus escapes nothing, so label values are escaped once, when their series is made.
"""

from __future__ import annotations

import itertools
import platform
from bisect import bisect_left
from collections.abc import Iterator
from importlib.metadata import version

from aioprometheus.collectors import Collector, Counter, Gauge, Histogram, Registry
from aioprometheus.formats.text import TextFormatter
from aioprometheus.histogram import Histogram as Buckets

from manahsm.monitoring.metrics import CATALOGUE, DURATION_BUCKETS, Kind, Metric, Names, Values

__all__ = ["CONTENT_TYPE", "Durations", "Exposition", "Series", "UnknownSeries", "escaped"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUILD_INFO = "mana_hsm_build_info"


class UnknownSeries(ValueError):  # noqa: N818 - says what it is
    """The catalogue has no series with these label values: a fault of ours."""


def escaped(value: str) -> str:
    """A label value as the text format 0.0.4 has it (pure)."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Series:
    """One counter or gauge. Whoever counts for every signature keeps it, and adds to ``number``.

    Attributes:
        number: what it shows at the next scrape.
    """

    __slots__ = ("_collector", "_labels", "_shown", "number")

    def __init__(self, collector: Collector, labels: dict[str, str]) -> None:
        self.number: float = 0
        self._shown: float | None = None
        self._collector = collector
        self._labels = labels

    def show(self) -> None:
        """Hand the number to aioprometheus, if it is another than before."""
        if self.number != self._shown:
            self._collector.set_value(self._labels, self.number)
            self._shown = self.number


class Durations:
    """One histogram of :data:`DURATION_BUCKETS`. An observation counts in one bucket; they are added up at a scrape."""

    __slots__ = ("_buckets", "_counts", "_seconds")

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._counts = [0] * len(buckets.buckets)
        self._seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Add an observation."""
        self._counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
        self._seconds += seconds

    def show(self) -> None:
        """Hand the counts to aioprometheus."""
        up_to = dict(zip(self._buckets.buckets, itertools.accumulate(self._counts), strict=True))
        self._buckets.buckets.update(up_to)
        self._buckets.observations = sum(self._counts)
        self._buckets.sum = self._seconds


class Exposition:
    """All metrics of one service. Use it from the event loop's thread alone.

    Counting happens for every signature, a scrape every few seconds: so numbers are kept here, and handed to
    aioprometheus when its text is asked for.

    Args:
        names: what the configuration adds to the label values.
    """

    def __init__(self, names: Names) -> None:
        self._registry = Registry()
        self._collectors: dict[str, Collector] = {}
        self._series: dict[str, dict[Values, Series]] = {}
        self._durations: dict[str, dict[Values, Durations]] = {}
        for metric in CATALOGUE.values():
            self._add(metric, metric.series(names))
        self._add_build_info()

    # ---- counting ----

    def series(self, name: str, *values: str) -> Series:
        """Find a counter or gauge, to add to it.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        try:
            return self._series[name][values]
        except KeyError:
            raise _unknown(name, values) from None

    def durations(self, name: str, *values: str) -> Durations:
        """Find a histogram, to add to it.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        try:
            return self._durations[name][values]
        except KeyError:
            raise _unknown(name, values) from None

    def count(self, name: str, *values: str) -> None:
        """Add one to a counter.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        self.series(name, *values).number += 1

    def observe(self, name: str, amount: float, *values: str) -> None:
        """Add an observation to a histogram.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        self.durations(name, *values).observe(amount)

    def set(self, name: str, amount: float, *values: str) -> None:
        """Set a gauge, or a counter that others keep.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        self.series(name, *values).number = amount

    # ---- reading ----

    def value(self, name: str, *values: str) -> float:
        """Return a counter or gauge.

        Raises:
            UnknownSeries: the catalogue has no such series.
        """
        return float(self.series(name, *values).number)

    def values(self, name: str) -> Iterator[tuple[Values, float]]:
        """Yield every series of a counter or gauge: its label values and its number."""
        for values, series in self._series[name].items():
            yield values, float(series.number)

    def text(self) -> str:
        """Return everything in the text format 0.0.4, metric by metric in the order of the catalogue."""
        for series in self._series.values():
            for number in series.values():
                number.show()
        for histogram in self._durations.values():
            for durations in histogram.values():
                durations.show()
        formatter = TextFormatter()
        blocks = (formatter.marshall_collector(self._collectors[name]) for name in CATALOGUE)
        return "\n".join(blocks) + "\n"

    # ---- inside ----

    def _add(self, metric: Metric, series: tuple[Values, ...]) -> None:
        self._collectors[metric.name] = collector = _collector(metric, self._registry)
        known = {values: dict(zip(metric.labels, map(escaped, values), strict=True)) for values in series}
        if metric.kind is Kind.HISTOGRAM:
            self._durations[metric.name] = durations = {}
            for values, labels in known.items():
                buckets = Buckets(*DURATION_BUCKETS)
                collector.set_value(labels, buckets)
                durations[values] = Durations(buckets)
            return
        self._series[metric.name] = {values: Series(collector, labels) for values, labels in known.items()}
        for one in self._series[metric.name].values():
            one.show()

    def _add_build_info(self) -> None:
        values = (version("manahsm"), platform.python_version())
        labels = dict(zip(CATALOGUE[_BUILD_INFO].labels, map(escaped, values), strict=True))
        self._series[_BUILD_INFO][values] = series = Series(self._collectors[_BUILD_INFO], labels)
        series.number = 1


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
