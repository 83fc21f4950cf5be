"""How often, how well and how fast something went, over the last so many seconds, in bounded memory.

The one thing to know: durations are kept as counts in classes, each 5 % wider than the one before, so a percentile is
right to 5 % whatever the load, and an operation costs a dictionary update. Time is kept in slices: short ones for the
last minutes, longer ones for the last hour, the longest for the rest. Their number bounds the memory, at any load.

Pure: times come from the caller, in seconds of one clock.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Iterator

from attrs import Factory, define, frozen

__all__ = ["Summary", "Window", "windows_within"]

_FINEST = 2.0  # seconds
_LEVELS = ((_FINEST, 300.0), (30.0, 3600.0))  # seconds a slice, seconds for which it is kept; then it is merged
_LAST_LEVEL = 120  # slices for all the rest
_GROWTH = 1.05
_LOG_GROWTH = math.log(_GROWTH)
_SHORTEST = 1e-6  # seconds; shorter times are all the same here
_USUAL = (60.0, 300.0, 3600.0)


def windows_within(retention: float) -> tuple[float, ...]:
    """The windows to report on, in seconds: a minute, five minutes, an hour, and all that is kept (pure)."""
    return (*(length for length in _USUAL if length < retention), retention)


@frozen(kw_only=True)
class Summary:
    """What happened within one window. Times in seconds.

    Attributes:
        window: its length.
        operations: how many ended.
        failures: how many of them failed.
        per_second: operations a second.
        error_rate: share that failed, 0 to 1; 0 where there were none.
        mean: mean duration of those that were timed, or ``None`` where none was.
        p50, p95, p99: durations that half, 95 % and 99 % of them did not exceed, right to 5 %; ``None`` likewise.
    """

    window: float
    operations: int
    failures: int
    per_second: float
    error_rate: float
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


@define
class _Slice:
    """What ended up to ``ends``; nothing that ends after ``limit`` is merged into it."""

    limit: float
    ends: float
    operations: int = 0
    failures: int = 0
    seconds: float = 0.0
    classes: Counter[int] = Factory(Counter)

    def add(self, other: _Slice) -> None:
        self.ends = max(self.ends, other.ends)
        self.operations += other.operations
        self.failures += other.failures
        self.seconds += other.seconds
        self.classes.update(other.classes)


@define
class _Level:
    """Slices of one length, oldest first."""

    length: float
    kept_for: float
    slices: deque[_Slice] = Factory(deque)

    def at(self, when: float) -> _Slice:
        """The slice for what ended at ``when``, which is in none but the newest, or a new one."""
        if not self.slices or self.slices[-1].limit < when:
            self.slices.append(_Slice(limit=math.ceil(when / self.length) * self.length, ends=when))
        return self.slices[-1]


class Window:
    """Operations of one component, back to ``retention`` seconds.

    Args:
        retention: how far back, more than 0.
        now: when it begins: rates over a window count only the time since then.
    """

    def __init__(self, retention: float, now: float) -> None:
        self._began = now
        shorter = [_Level(length, kept_for) for length, kept_for in _LEVELS if kept_for < retention]
        self._levels = (*shorter, _Level(max(_FINEST, retention / _LAST_LEVEL), retention))
        self._finest = self._levels[0].slices

    def record(self, now: float, *, failed: bool, duration: float | None = None) -> None:
        """Count one operation that has ended.

        Args:
            now: when; never less than before.
            failed: whether it failed.
            duration: seconds that it took, or ``None`` where nobody knows.
        """
        finest = self._finest
        if not finest or finest[-1].limit < now:
            self._forget(now)
            self._levels[0].at(now)
        last = finest[-1]
        last.ends = now
        last.operations += 1
        last.failures += failed
        if duration is not None:
            last.seconds += duration
            last.classes[_class_of(duration)] += 1

    def summary(self, now: float, window: float) -> Summary:
        """Look back ``window`` seconds; a slice that reaches into the window counts as a whole."""
        seen = _Slice(now, now)
        for part in self._since(now, window):
            seen.add(part)
        timed = seen.classes.total()
        return Summary(
            window=window,
            operations=seen.operations,
            failures=seen.failures,
            per_second=seen.operations / self._length(now, window),
            error_rate=seen.failures / seen.operations if seen.operations else 0.0,
            mean=seen.seconds / timed if timed else None,
            p50=_percentile(seen.classes, 0.5),
            p95=_percentile(seen.classes, 0.95),
            p99=_percentile(seen.classes, 0.99),
        )

    def rates(self, now: float, window: float) -> tuple[float, float]:
        """Operations a second, and the share that failed: :meth:`summary` without its percentiles."""
        operations = failures = 0
        for part in self._since(now, window):
            operations += part.operations
            failures += part.failures
        return operations / self._length(now, window), failures / operations if operations else 0.0

    @property
    def slices(self) -> int:
        """How many slices are kept: what the memory depends on."""
        return sum(len(level.slices) for level in self._levels)

    def _length(self, now: float, window: float) -> float:
        """Seconds of the window in which anything could be counted; a moment after the start is no rate yet."""
        return min(window, max(now - self._began, _FINEST))

    def _since(self, now: float, window: float) -> Iterator[_Slice]:
        self._forget(now)
        return (part for level in self._levels for part in level.slices if part.ends > now - window)

    def _forget(self, now: float) -> None:
        """Merge slices that are too old for their level into those of the next; the last level drops them."""
        for level, longer in itertools.zip_longest(self._levels, self._levels[1:]):
            while level.slices and level.slices[0].ends <= now - level.kept_for:
                old = level.slices.popleft()
                if longer is not None:
                    longer.at(old.ends).add(old)


def _class_of(duration: float) -> int:
    return math.ceil(math.log(duration / _SHORTEST) / _LOG_GROWTH) if duration > _SHORTEST else 0


def _percentile(classes: Counter[int], share: float) -> float | None:
    """The upper bound of the class that the share falls into, by the nearest-rank method."""
    rank = math.ceil(share * classes.total())
    for number in sorted(classes):
        rank -= classes[number]
        if rank <= 0:
            upper: float = _SHORTEST * _GROWTH**number
            return upper
    return None
