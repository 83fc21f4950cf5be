"""How a component has been: its checks of the last while, and where they point. Pure: times are arguments."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime

from manahsm.monitoring.causes import HealthStatus
from manahsm.monitoring.values import Sample, Trend

__all__ = ["MOST_SAMPLES", "History", "trend_of"]

MOST_SAMPLES = 1000
"""Samples kept for a component, whatever the retention; the original's number."""

_LOOKED_AT = 10  # samples that make a trend
_FEWEST = 4
_SCORE_STEP = 0.15  # one degraded check of five is no trend
_TIME_RATIO = 2.0
_TIME_STEP = 0.02  # seconds; shorter differences are noise


class History:
    """The checks of one component.

    Args:
        retention: seconds for which they are kept.
    """

    def __init__(self, retention: float) -> None:
        self._retention = retention
        self._samples: deque[tuple[float, Sample]] = deque(maxlen=MOST_SAMPLES)
        self.since: datetime | None = None
        """When the present status began; ``None`` before the first check."""

    def add(self, sample: Sample, now: float) -> None:
        """Add the latest check; ``now`` is its time on the clock."""
        if not self._samples or self._samples[-1][1].status is not sample.status:
            self.since = sample.checked_at
        self._samples.append((now, sample))
        while self._samples[0][0] < now - self._retention:
            self._samples.popleft()

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All that are kept, oldest first."""
        return tuple(sample for _, sample in self._samples)


def trend_of(samples: Sequence[Sample]) -> Trend:
    """Where the last checks point: the newer half of the last ten against the older half.

    The status decides; where it has not changed, how long the checks took does, for what gets slow before it breaks.
    Fewer than four checks make no trend.
    """
    looked_at = samples[-_LOOKED_AT:]
    if len(looked_at) < _FEWEST:
        return Trend.STEADY
    middle = len(looked_at) // 2
    older, newer = looked_at[:middle], looked_at[middle:]
    change = _mean([sample.status.score for sample in newer]) - _mean([sample.status.score for sample in older])
    if abs(change) > _SCORE_STEP:
        return Trend.IMPROVING if change > 0 else Trend.WORSENING
    if any(sample.status is not HealthStatus.HEALTHY for sample in looked_at):
        return Trend.STEADY  # what fails fast is not getting better
    before, after = _mean([sample.duration for sample in older]), _mean([sample.duration for sample in newer])
    fast, slow = sorted((before, after))
    if slow <= fast * _TIME_RATIO or slow - fast <= _TIME_STEP:
        return Trend.STEADY
    return Trend.WORSENING if after > before else Trend.IMPROVING


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
