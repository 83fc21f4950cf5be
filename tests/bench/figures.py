"""What a measure comes to: a value, how far it scattered, and whether it reaches the issue's target. Pure.

The one thing to know: a ratio is taken turn by turn, each turn of ours by the other's turn of the same round, and the
value is the median of these ratios. A machine that was busy for a while was busy for both.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

__all__ = [
    "Figure",
    "Spread",
    "Target",
    "against",
    "at_least",
    "at_most",
    "each_rate",
    "percentile",
    "processor_times",
    "ratios",
    "slope",
]


@frozen
class Spread:
    """The middle of some values, and how far they scatter: quartiles, and the outermost."""

    median: float
    low: float
    high: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of one value or more."""
        known = sorted(values)
        return cls(percentile(known, 50), percentile(known, 25), percentile(known, 75), known[0], known[-1])


@frozen
class Target:
    """What a value has to be."""

    bound: float
    is_floor: bool

    def is_reached(self, value: float) -> bool:
        """Whether a value is what it has to be; the bound itself is."""
        return value >= self.bound if self.is_floor else value <= self.bound


def at_least(bound: float) -> Target:
    """The value has to be this or more."""
    return Target(bound, is_floor=True)


def at_most(bound: float) -> Target:
    """The value has to be this or less."""
    return Target(bound, is_floor=False)


@frozen(kw_only=True)
class Figure:
    """One row.

    Attributes:
        measure: the name of the measure, as ``--only`` takes it.
        name: what was measured, unique within the measure.
        unit: ``x`` for ratios, ``/s``, ``ms``, ``us``, ``s``, ``MB`` or ``%``.
        spread: of the turns; its median is the value unless ``value`` says otherwise.
        target: what the issue asks for; ``None`` where the row is there for information.
    """

    measure: str
    name: str
    unit: str
    spread: Spread
    target: Target | None = None
    pooled: float | None = None
    """The value, where it is not the median of the turns: a percentile of everything that was measured."""

    @property
    def value(self) -> float:
        """The one number."""
        return self.spread.median if self.pooled is None else self.pooled

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; ``None`` where there is none."""
        return None if self.target is None else self.target.is_reached(self.value)


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """Each of our turns by the turn of the others in the same round."""
    return [one / other for one, other in zip(ours, others, strict=True)]


def against(
    measure: str, rates: Mapping[str, Sequence[float]], ours: str, other: str, target: Target | None = None
) -> Figure:
    """How one contestant did by another in the same rounds."""
    return Figure(
        measure=measure,
        name=f"{ours} / {other}",
        unit="x",
        spread=Spread.of(ratios(rates[ours], rates[other])),
        target=target,
    )


def each_rate(measure: str, rates: Mapping[str, Sequence[float]]) -> list[Figure]:
    """What each contestant did in a second."""
    return [Figure(measure=measure, name=name, unit="/s", spread=Spread.of(values)) for name, values in rates.items()]


def processor_times(
    measure: str, processor: Mapping[str, Sequence[float]], names: Iterable[str], *, of: str = "its process"
) -> list[Figure]:
    """What these took of a processor for one, in this process or in others; hardly depends on what else is going on."""
    return [
        Figure(
            measure=measure,
            name=f"{name}: processor time of {of}",
            unit="us",
            spread=Spread.of(seconds * 1e6 for seconds in processor[name]),
        )
        for name in names
    ]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which so many percent lie, between two neighbours in proportion."""
    known = sorted(values)
    place = (len(known) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(known) - 1)
    return known[below] + (known[above] - known[below]) * (place - below)


def slope(places: Sequence[float], values: Sequence[float]) -> float:
    """How much the values grow by one unit of the places, by least squares; 0 where there is no telling."""
    if len(set(places)) < 2:
        return 0.0
    return statistics.linear_regression(places, values).slope
