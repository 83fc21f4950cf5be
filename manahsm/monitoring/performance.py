"""How the signing service and each slot have been doing: operations, failures and response times over several windows.

The one thing to know: what the rules refused (a key without that role, a malformed transaction, a spent rate) and what
its caller cancelled is neither a success nor a failure of ours. It counts as an operation nowhere here; the counters of
:mod:`manahsm.monitoring.metrics` have it.

A slot's failures are the sessions that broke in a call: a session whose call failed is never used again, so there is
exactly one of them for each failed call. Its response times are those of requests that it signed, waiting included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from attrs import frozen

from manahsm.monitoring.components import SIGNING_SERVICE, measured_components, slot_component
from manahsm.monitoring.traffic import NOT_OURS
from manahsm.monitoring.windows import Summary, Window, windows_within
from manahsm.signing.observed import HOST_GONE, SIGNED, Observed, SessionEnded, SignEnded
from supervisors import Clock

__all__ = ["LAST_MINUTE", "Performance", "PerformanceMetrics", "is_failure"]

LAST_MINUTE = 60.0


def is_failure(outcome: str) -> bool:
    """Whether a request that ended like this could have been signed and was not (pure)."""
    return outcome != SIGNED and outcome not in NOT_OURS


@frozen(kw_only=True)
class PerformanceMetrics:
    """Performance at one moment.

    Attributes:
        enabled: ``monitoring.performance_monitoring``; without it there are no components here.
        retention: seconds that are kept, ``monitoring.metrics_retention``.
        components: for ``signing_service`` and each ``pkcs11:SLOT``, one summary a window, shortest first.
    """

    enabled: bool
    retention: float
    components: Mapping[str, tuple[Summary, ...]]


class Performance:
    """Listens to what the signing path reports.

    Args:
        slots: names of the configured slots.
        retention: seconds to keep.
        clock: its time.
        enabled: whether to keep anything.
    """

    def __init__(self, slots: Iterable[str], *, retention: float, clock: Clock, enabled: bool = True) -> None:
        self._clock = clock
        self._retention = retention
        names = tuple(slots) if enabled else ()
        components = measured_components(names) if enabled else ()
        self._windows = {component: Window(retention, clock.now()) for component in components}
        self._service = self._windows.get(SIGNING_SERVICE)
        self._of_slot = {slot: self._windows[slot_component(slot)] for slot in names}

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return bool(self._windows)

    def record(self, event: Observed) -> None:
        """Count what is an operation."""
        if self._service is None:
            return
        match event:
            case SignEnded():
                failed = event.outcome != SIGNED
                if failed and not is_failure(event.outcome):
                    return
                now = self._clock.now()
                self._service.record(now, failed=failed, duration=event.duration)
                if event.slot is not None and not failed:
                    self._of_slot[event.slot].record(now, failed=False, duration=event.duration)
            case SessionEnded(slot=slot, reason=str(reason)) if reason != HOST_GONE:  # it was idle, or unused yet
                self._of_slot[slot].record(self._clock.now(), failed=True)
            case _:
                pass

    def report(self) -> PerformanceMetrics:
        """Summarise every window of every component."""
        now, lengths = self._clock.now(), windows_within(self._retention)
        return PerformanceMetrics(
            enabled=self.enabled,
            retention=self._retention,
            components=MappingProxyType(
                {
                    component: tuple(window.summary(now, length) for length in lengths)
                    for component, window in self._windows.items()
                }
            ),
        )

    def last_minute(self) -> dict[str, tuple[float, float]]:
        """Operations a second and error rate of each component over the last minute, or over all that is kept."""
        now, length = self._clock.now(), min(LAST_MINUTE, self._retention)
        return {component: window.rates(now, length) for component, window in self._windows.items()}
