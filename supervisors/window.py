"""Outcomes of the last so many seconds, counted in a bounded number of slices.

Pure: times come from the caller. A window of seconds rather than of calls, so that last hour's failures do
not count against a service that is called once a minute, and so that its length means the same at any load.
"""

from __future__ import annotations

from collections import deque

from attrs import define, frozen

__all__ = ["Counts", "SlidingWindow"]

_SLICES = 10


@frozen
class Counts:
    """Finished calls within a window: ``failures`` and ``slow`` may overlap, both are part of ``calls``."""

    calls: int = 0
    failures: int = 0
    slow: int = 0

    @property
    def failure_rate(self) -> float:
        """Share of failed calls, 0 to 1; 0 where there were no calls."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """Share of slow calls, 0 to 1; 0 where there were no calls."""
        return self.slow / self.calls if self.calls else 0.0


@define
class _Slice:
    number: int
    calls: int = 0
    failures: int = 0
    slow: int = 0


class SlidingWindow:
    """Counts over the last ``seconds``, exact to a tenth of it: slices are forgotten as a whole."""

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError("a window must be longer than nothing")
        self._slice_length = seconds / _SLICES
        self._slices: deque[_Slice] = deque()
        self._calls = self._failures = self._slow = 0

    def record(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count one finished call at time ``now`` (seconds)."""
        self._forget(now)
        number = int(now // self._slice_length)
        if not self._slices or self._slices[-1].number < number:
            self._slices.append(_Slice(number))
        last = self._slices[-1]
        last.calls += 1
        last.failures += failed
        last.slow += slow
        self._calls += 1
        self._failures += failed
        self._slow += slow

    def counts(self, now: float) -> Counts:
        """Return what is in the window at time ``now`` (seconds)."""
        self._forget(now)
        return Counts(self._calls, self._failures, self._slow)

    @property
    def spotless(self) -> bool:
        """Whether nothing that was slow or failed is remembered; what is forgotten by and by counts until then."""
        return not (self._failures or self._slow)

    def clear(self) -> None:
        """Forget everything."""
        self._slices.clear()
        self._calls = self._failures = self._slow = 0

    def _forget(self, now: float) -> None:
        oldest = int(now // self._slice_length) - _SLICES
        while self._slices and self._slices[0].number <= oldest:
            gone = self._slices.popleft()
            self._calls -= gone.calls
            self._failures -= gone.failures
            self._slow -= gone.slow
