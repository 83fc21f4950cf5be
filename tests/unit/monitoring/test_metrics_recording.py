"""Each event counts where it should, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from manahsm.events import EventHub, Happening
from manahsm.monitoring.exposition import Exposition
from manahsm.monitoring.metrics import CATALOGUE, Kind, Names
from manahsm.monitoring.performance import Performance
from manahsm.monitoring.recording import Recorder
from manahsm.monitoring.stats import stats_of
from manahsm.requests import Backend, Operation
from manahsm.signing.observed import SessionEnded, SignEnded, StandInBegan
from supervisors import (
    BreakerStateChanged,
    ChildExited,
    ChildStarted,
    ChildStartFailed,
    Crashed,
    Escalated,
    RestartScheduled,
    Returned,
    Wedged,
)
from supervisors.testing import ManualClock

SLOTS = ("main", "spare")


def ended(
    outcome: str = "signed",
    backend: Backend | None = Backend.HSM,
    slot: str | None = "main",
    *,
    diverted: bool = False,
    operation: Operation = Operation.HASH,
) -> SignEnded:
    return SignEnded(operation=operation, backend=backend, slot=slot, outcome=outcome, diverted=diverted, duration=0.25)


def exited(supervisor: str, exit_: Crashed | Returned | Wedged) -> ChildExited:
    return ChildExited(supervisor=supervisor, child="c", incarnation=0, exit=exit_, ran_for=1.0, at=0.0)


def restart(supervisor: str, child: str = "c") -> RestartScheduled:
    return RestartScheduled(supervisor=supervisor, child=child, children=(child,), delay=0.0, at=0.0)


class Scene:
    def __init__(self) -> None:
        self.exposition = Exposition(Names.of_slots(SLOTS))
        performance = Performance(SLOTS, retention=60.0, clock=ManualClock(), enabled=True)
        self.recorder = Recorder(self.exposition, performance, SLOTS)
        self.hub = EventHub(self.recorder)

    def counts(self, *events: Happening) -> dict[tuple[str, ...], float]:
        """Every counter that is not zero after these events."""
        for event in events:
            self.hub(event)
        return {
            (metric.name.removeprefix("mana_hsm_").removesuffix("_total"), *values): value
            for metric in CATALOGUE.values()
            if metric.kind is Kind.COUNTER
            for values, value in self.exposition.values(metric.name)
            if value
        }


@pytest.mark.parametrize(
    ("event", "counts"),
    [
        (ended(), {("signatures", "hsm", "main", "hash", "signed"): 1}),
        (
            ended(slot="spare", diverted=True),
            {("signatures", "hsm", "spare", "hash", "signed"): 1, ("backup_operations", "spare"): 1},
        ),
        (
            ended(backend=Backend.SOFTWARE, slot=None, diverted=True, operation=Operation.MESSAGE),
            {("signatures", "software", "", "message", "signed"): 1, ("fallback_operations",): 1},
        ),
        (ended(backend=Backend.SOFTWARE, slot=None), {("signatures", "software", "", "hash", "signed"): 1}),
        (ended("hsm_unavailable", None, None), {("signatures", "none", "", "hash", "hsm_unavailable"): 1}),
        (ended("audit_unavailable"), {("signatures", "hsm", "main", "hash", "audit_unavailable"): 1}),
        (ended("a caller's own words", None, None), {("signatures", "none", "", "hash", "other"): 1}),
        (SessionEnded(slot="main", reason=None), {}),
        (SessionEnded(slot="main", reason="HOST_GONE"), {("sessions_discarded", "main", "HOST_GONE"): 1}),
        (
            SessionEnded(slot="spare", reason="CKR_DEVICE_ERROR"),
            {("sessions_discarded", "spare", "CKR_DEVICE_ERROR"): 1},
        ),
        (SessionEnded(slot="main", reason="CKR_VENDOR_0x80000001"), {("sessions_discarded", "main", "other"): 1}),
        (StandInBegan(slots=("main",)), {("fallback_outages",): 1}),
        (
            BreakerStateChanged(breaker="slot main", previous="closed", state="open", reason="r", at=0.0),
            {("breaker_changes", "main", "open"): 1},
        ),
        (restart("hosts of main"), {("restarts", "host", "main"): 1}),
        (restart("workers of spare"), {("restarts", "worker", "spare"): 1}),
        (restart("slot main", "pool"), {("restarts", "slot", "main"): 1}),
        (restart("slots", "slot spare"), {("restarts", "slot", "spare"): 1}),
        (restart("manahsm", "software"), {("restarts", "service", ""): 1}),
        (restart("watch", "alerts"), {("restarts", "service", ""): 1}),
        (restart("interfaces", "metrics"), {("restarts", "interface", ""): 1}),
        (exited("hosts of main", Crashed(RuntimeError("x"))), {("failures", "host", "main", "crashed"): 1}),
        (exited("workers of main", Wedged("x")), {("failures", "worker", "main", "wedged"): 1}),
        (exited("manahsm", Returned(None)), {}),
        (
            ChildStartFailed(supervisor="manahsm", child="c", incarnation=0, reason="r", at=0.0),
            {("failures", "service", "", "start_failed"): 1},
        ),
        (
            Escalated(supervisor="workers of main", child="c", error=RuntimeError("x"), at=0.0),
            {("escalations", "worker", "main"): 1},
        ),
        (ChildStarted(supervisor="hosts of main", child="c", incarnation=0, at=0.0), {}),
    ],
)
def test_an_event_counts_once(event: Happening, counts: Mapping[tuple[str, ...], float]) -> None:
    assert Scene().counts(event) == counts


def test_a_failed_request_is_timed_too() -> None:
    scene = Scene()
    scene.hub(ended("deadline_exceeded", None, None))

    labels = '{backend="none",slot=""}'
    assert f"mana_hsm_sign_duration_seconds_count{labels} 1.0" in scene.exposition.text()
    assert f"mana_hsm_sign_duration_seconds_sum{labels} 0.25" in scene.exposition.text()


def test_what_callers_make_up_is_not_remembered() -> None:
    """Else each new word would take memory for ever."""
    scene = Scene()
    scene.counts(*(ended(f"word {number}", None, None) for number in range(100)), ended(), ended())

    assert scene.counts() == {
        ("signatures", "none", "", "hash", "other"): 100,
        ("signatures", "hsm", "main", "hash", "signed"): 2,
    }
    assert scene.recorder.remembered == 1


def test_an_event_of_an_unknown_part_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    assert Scene().counts(restart("a tree of somebody else"), ended()) == {
        ("signatures", "hsm", "main", "hash", "signed"): 1
    }
    assert "listener failed" in caplog.text


def test_counts_since_the_start_are_put_together() -> None:
    scene = Scene()
    scene.counts(
        ended(),
        ended(operation=Operation.MESSAGE),
        ended(slot="spare", diverted=True),
        ended(backend=Backend.SOFTWARE, slot=None, diverted=True),
        ended("hsm_unavailable", None, None),
        ended("rate_limited", None, None),
        ended("cancelled", None, None),
        SessionEnded(slot="main", reason="CKR_DEVICE_ERROR"),
        restart("hosts of main"),
    )
    start = datetime(2025, 1, 1, tzinfo=UTC)
    stats = stats_of(scene.exposition, started_at=start, now=start + timedelta(seconds=90))

    assert (stats.operations, stats.signed, stats.failed, stats.refused, stats.cancelled) == (7, 4, 1, 1, 1)
    assert stats.uptime == 90.0
    assert stats.by_operation == {"hash": 3, "message": 1}
    assert stats.by_backend == {"hsm": 3, "software": 1}
    assert stats.by_slot == {"main": 2, "spare": 1}
    assert stats.by_outcome == {"signed": 4, "hsm_unavailable": 1, "rate_limited": 1, "cancelled": 1}
    assert (stats.fallback_operations, stats.backup_operations) == (1, 1)
    assert stats.sessions_discarded == {"main": 1, "spare": 0}
    assert stats.restarts["host"] == 1
