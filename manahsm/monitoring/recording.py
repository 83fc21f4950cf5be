"""Counts what happens: the listener between the events of a service and its counters.

The one thing to know: it is called from the path of each signature, so it counts and returns. What the tables do not
name becomes ``other``: a value that came from elsewhere never becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from manahsm.events import Happening
from manahsm.monitoring.exposition import Durations, Exposition, Series
from manahsm.monitoring.metrics import NOWHERE, OTHER, REASONS, SIGN_OUTCOMES, Failure, Part
from manahsm.monitoring.performance import Performance
from manahsm.requests import Backend, Operation
from manahsm.signing.observed import SessionEnded, SignEnded, StandInBegan
from supervisors import (
    BreakerStateChanged,
    ChildExited,
    ChildStartFailed,
    Crashed,
    Escalated,
    RestartScheduled,
    Wedged,
)

__all__ = ["Recorder", "part_of"]

_OUTCOMES = frozenset(SIGN_OUTCOMES)
_REASONS = frozenset(REASONS)
_ROOT, _SLOTS, _WATCH, _INTERFACES = "manahsm", "slots", "watch", "interfaces"
_SOFTWARE_HOSTS = "software hosts"
_NO_SLOT = ""

_Ending = tuple[Backend | None, str | None, Operation, str, bool]


def part_of(slots: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Part and slot for each supervisor of :mod:`manahsm.tree`, by its name (pure)."""
    parts: dict[str, tuple[str, str]] = {
        _ROOT: (Part.SERVICE.value, _NO_SLOT),
        _WATCH: (Part.SERVICE.value, _NO_SLOT),
        _INTERFACES: (Part.INTERFACE.value, _NO_SLOT),
        _SOFTWARE_HOSTS: (Part.HOST.value, _NO_SLOT),
    }
    for slot in slots:
        parts[f"slot {slot}"] = (Part.SLOT.value, slot)
        parts[f"hosts of {slot}"] = (Part.HOST.value, slot)
        parts[f"workers of {slot}"] = (Part.WORKER.value, slot)
    return parts


@frozen
class _Alike:
    """What is counted for requests that end alike.

    Attributes:
        counters: each takes one more.
        durations: takes how long it took.
    """

    counters: tuple[Series, ...]
    durations: Durations


class Recorder:
    """A listener for :class:`manahsm.events.EventHub`.

    Args:
        exposition: whose counters to use.
        performance: told of the signing path.
        slots: names of the configured slots.
    """

    def __init__(self, exposition: Exposition, performance: Performance, slots: Iterable[str]) -> None:
        self._exposition = exposition
        self._performance = performance
        self._parts = part_of(slots)
        self._alike: dict[_Ending, _Alike] = {}

    def __call__(self, event: Happening) -> None:
        """Count one event."""
        match event:
            case SignEnded():
                self._sign_ended(event)
                self._performance.record(event)
            case SessionEnded(slot=slot, reason=str(reason)):
                self._count("mana_hsm_sessions_discarded_total", slot, reason if reason in _REASONS else OTHER)
                self._performance.record(event)
            case StandInBegan():
                self._count("mana_hsm_fallback_outages_total")
            case BreakerStateChanged():
                self._count("mana_hsm_breaker_changes_total", event.breaker.removeprefix("slot "), event.state)
            case RestartScheduled():
                self._count("mana_hsm_restarts_total", *self._part(event.supervisor, event.child))
            case ChildExited(exit=Crashed()):
                self._failed(event, Failure.CRASHED)
            case ChildExited(exit=Wedged()):
                self._failed(event, Failure.WEDGED)
            case ChildStartFailed():
                self._failed(event, Failure.START_FAILED)
            case Escalated():
                self._count("mana_hsm_escalations_total", *self._part(event.supervisor, event.child))
            case _:
                pass

    @property
    def remembered(self) -> int:
        """In how many ways requests have ended: what the memory depends on."""
        return len(self._alike)

    def _sign_ended(self, event: SignEnded) -> None:
        ending = (event.backend, event.slot, event.operation, event.outcome, event.diverted)
        alike = self._alike.get(ending)
        if alike is None:
            alike = self._find(event)
            if event.outcome in _OUTCOMES:  # so that no more are kept than there are series
                self._alike[ending] = alike
        for counter in alike.counters:
            counter.number += 1
        alike.durations.observe(event.duration)

    def _find(self, event: SignEnded) -> _Alike:
        series = self._exposition.series
        where = (event.backend.value if event.backend else NOWHERE, event.slot or _NO_SLOT)
        outcome = event.outcome if event.outcome in _OUTCOMES else OTHER
        counters = [series("mana_hsm_signatures_total", *where, event.operation.value, outcome)]
        if event.diverted:
            if event.backend is Backend.SOFTWARE:
                counters.append(series("mana_hsm_fallback_operations_total"))
            elif event.slot is not None:
                counters.append(series("mana_hsm_backup_operations_total", event.slot))
        return _Alike(tuple(counters), self._exposition.durations("mana_hsm_sign_duration_seconds", *where))

    def _failed(self, event: ChildExited | ChildStartFailed, how: Failure) -> None:
        self._count("mana_hsm_failures_total", *self._part(event.supervisor, event.child), how.value)

    def _part(self, supervisor: str, child: str) -> tuple[str, str]:
        # The children of "slots" are the slots' own trees.
        return self._parts[child if supervisor == _SLOTS else supervisor]

    def _count(self, name: str, *values: str) -> None:
        self._exposition.count(name, *values)
