"""What the signing path has done lately: response times, errors and load over a sliding window.

The one thing to know: only what the service answers for is an error. A request that was malformed, refused by policy,
over the rate limit or given up by its caller says nothing about the signer, and is not counted at all: a flood of
such requests must not hide that every good one fails. Memory is bounded by slices of time, however much is signed.
Pure: times are arguments, in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from attrs import Factory, define, frozen

from manahsm.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    InvalidTransaction,
    KeyExists,
    KeyNotFound,
    PolicyDenied,
    RateLimited,
    RoleDenied,
    ServiceStopping,
)
from manahsm.signing.observed import CANCELLED, SIGNED

__all__ = ["NOT_OURS", "Load", "LoadWindow", "Traffic", "TrafficCounts"]

SLICES = 20
NOT_OURS = frozenset(
    {CANCELLED}
    | {
        error.code
        for error in (
            ConfigError,
            InvalidRequest,
            InvalidTransaction,
            KeyExists,
            KeyNotFound,
            PolicyDenied,
            RateLimited,
            RoleDenied,
            ServiceStopping,
        )
    }
)
"""Outcomes that say nothing about the signer."""
_TIMED = frozenset({SIGNED, DeadlineExceeded.code})
"""Outcomes that took their time: what fails at once would make the mean look good."""


@frozen(kw_only=True)
class TrafficCounts:
    """Requests of a window.

    Attributes:
        signed: those that were signed.
        failed: those that the service could not sign.
        by_outcome: the same failures by their ``code``.
        mean: mean seconds of those that were signed or met their deadline; 0 where there is none.
        slowest: the longest of them.
    """

    signed: int = 0
    failed: int = 0
    by_outcome: Mapping[str, int]
    mean: float = 0.0
    slowest: float = 0.0

    @property
    def total(self) -> int:
        """All that count."""
        return self.signed + self.failed

    @property
    def error_rate(self) -> float:
        """Share of failures; 0 where nothing was asked."""
        return self.failed / self.total if self.total else 0.0


@define
class _Slice:
    number: int
    signed: int = 0
    timed: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: dict[str, int] = Factory(dict)


class Traffic:
    """Counts how requests end.

    Args:
        window: how far back they count, seconds. The window moves in steps of a twentieth of it.
    """

    def __init__(self, window: float) -> None:
        self._width = window / SLICES
        self._slices: deque[_Slice] = deque()

    def note(self, outcome: str, duration: float, now: float) -> None:
        """Note that a request has ended.

        Args:
            outcome: ``signed`` or an error's ``code``, as in :class:`~manahsm.signing.observed.SignEnded`.
            duration: how long it took.
            now: time.
        """
        if outcome in NOT_OURS:
            return
        number = math.floor(now / self._width)
        if not self._slices or self._slices[-1].number != number:
            self._forget(number)
            self._slices.append(_Slice(number))
        at = self._slices[-1]
        if outcome == SIGNED:
            at.signed += 1
        else:
            at.failures[outcome] = at.failures.get(outcome, 0) + 1
        if outcome in _TIMED:
            at.timed += 1
            at.seconds += duration
            at.slowest = max(at.slowest, duration)

    def counts(self, now: float) -> TrafficCounts:
        """What the window holds."""
        self._forget(math.floor(now / self._width))
        by_outcome: dict[str, int] = {}
        for part in self._slices:
            for outcome, count in part.failures.items():
                by_outcome[outcome] = by_outcome.get(outcome, 0) + count
        timed = sum(part.timed for part in self._slices)
        return TrafficCounts(
            signed=sum(part.signed for part in self._slices),
            failed=sum(by_outcome.values()),
            by_outcome=by_outcome,
            mean=sum(part.seconds for part in self._slices) / timed if timed else 0.0,
            slowest=max((part.slowest for part in self._slices), default=0.0),
        )

    def _forget(self, number: int) -> None:
        while self._slices and self._slices[0].number <= number - SLICES:
            self._slices.popleft()


@frozen(kw_only=True)
class Load:
    """How much is asked of a slot or of the software worker.

    Attributes:
        queue: requests that wait.
        use: share of the sessions that sign, 0 to 1.
    """

    queue: float = 0.0
    use: float = 0.0


class LoadWindow:
    """Samples of a load and their mean: a burst is no trouble, a queue that stays full is."""

    def __init__(self) -> None:
        self._samples: deque[Load] = deque(maxlen=SLICES)

    def note(self, load: Load) -> None:
        """Add a sample."""
        self._samples.append(load)

    @property
    def mean(self) -> Load:
        """Over all samples; nothing where there is none."""
        count = len(self._samples)
        if not count:
            return Load()
        return Load(
            queue=sum(sample.queue for sample in self._samples) / count,
            use=sum(sample.use for sample in self._samples) / count,
        )
