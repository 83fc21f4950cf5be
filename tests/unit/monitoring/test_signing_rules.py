"""What is wrong with signing, keys, the audit log and the configuration: decisions over what was counted."""

from __future__ import annotations

from collections import Counter

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from manahsm.config.tables import Thresholds
from manahsm.errors import ConfigProblem
from manahsm.monitoring import causes
from manahsm.monitoring.causes import Cause, HealthStatus
from manahsm.monitoring.health_rules import judge_audit, judge_configuration, judge_keys, judge_signing
from manahsm.monitoring.traffic import NOT_OURS, SLICES, Load, LoadWindow, Traffic, TrafficCounts

THRESHOLDS = Thresholds()
CALM = TrafficCounts(signed=1000, by_outcome={})


def found(traffic: TrafficCounts = CALM, **loads: Load) -> list[Cause]:
    return [finding.cause for finding in judge_signing(traffic, loads, THRESHOLDS)]


def failing(count: int, of: int = 1000) -> TrafficCounts:
    return evolve(CALM, signed=of - count, failed=count, by_outcome={"hsm_unavailable": count})


@pytest.mark.parametrize(
    ("traffic", "cause"),
    [
        (evolve(CALM, mean=0.999), None),
        (evolve(CALM, mean=1.0), causes.RESPONSE_ELEVATED),
        (evolve(CALM, mean=4.999), causes.RESPONSE_ELEVATED),
        (evolve(CALM, mean=5.0), causes.RESPONSE_HIGH),
        (failing(49), None),
        (failing(50), causes.ERRORS_HIGH),
        (failing(199), causes.ERRORS_HIGH),
        (failing(200), causes.ERRORS_CRITICAL),
        (failing(9, of=9), None),
        (failing(10, of=10), causes.ERRORS_CRITICAL),
    ],
)
def test_traffic_turns_bad_at_the_originals_thresholds(traffic: TrafficCounts, cause: Cause | None) -> None:
    assert found(traffic) == ([] if cause is None else [cause])


@pytest.mark.parametrize(
    ("load", "cause"),
    [
        (Load(queue=49.9), None),
        (Load(queue=50), causes.QUEUE_FILLING),
        (Load(queue=100), causes.QUEUE_FULL),
        (Load(use=0.79), None),
        (Load(use=0.80), causes.POOL_PRESSURE),
        (Load(use=0.95), causes.POOL_EXHAUSTED),
    ],
)
def test_load_turns_bad_at_the_originals_thresholds(load: Load, cause: Cause | None) -> None:
    assert found(main=load, spare=Load()) == ([] if cause is None else [cause])


def test_messages_are_those_of_the_original() -> None:
    messages = {
        causes.RESPONSE_ELEVATED: "Elevated response time",
        causes.RESPONSE_HIGH: "High response time",
        causes.ERRORS_HIGH: "High error rate",
        causes.ERRORS_CRITICAL: "Critical error rate",
        causes.QUEUE_FILLING: "Queue filling up",
        causes.QUEUE_FULL: "Queue critically full",
        causes.POOL_PRESSURE: "Connection pool under pressure",
        causes.POOL_EXHAUSTED: "Connection pool exhausted",
        causes.CHECK_FAILED: "Component unhealthy",
    }

    assert {cause: cause.message for cause in messages} == messages


def test_several_troubles_are_told_together_the_worst_first_with_numbers() -> None:
    busy = Load(queue=120.4, use=0.9)
    findings = judge_signing(evolve(failing(60), mean=2.0, slowest=3.0), {"main": busy}, THRESHOLDS)

    assert [str(finding) for finding in findings] == [
        "Queue critically full: 120 wait for main",
        "High error rate: 60 of 1000: 60 hsm_unavailable",
        "Elevated response time: 2.000 s; mean of 1000, slowest 3.000 s",
        "Connection pool under pressure: 90% of main",
    ]


@given(
    st.lists(
        st.tuples(
            st.floats(0, 300),
            st.sampled_from(["signed", "hsm_unavailable", "deadline_exceeded", "audit_unavailable", *sorted(NOT_OURS)]),
            st.floats(0, 10),
        ),
        max_size=60,
    ),
    st.floats(0, 100),
)
def test_a_window_counts_what_a_list_would(ends: list[tuple[float, str, float]], later: float) -> None:
    """Over a list of everything, cut at the edge of a slice, as the window moves by slices."""
    window = Traffic(60.0)
    ends.sort(key=lambda end: end[0])
    for at, outcome, duration in ends:
        window.note(outcome, duration, at)
    now = (ends[-1][0] if ends else 0.0) + later
    width = 60.0 / SLICES
    kept = [end for end in ends if end[0] // width > now // width - SLICES and end[1] not in NOT_OURS]
    timed = [duration for _, outcome, duration in kept if outcome in {"signed", "deadline_exceeded"}]

    counts = window.counts(now)

    outcomes = Counter(outcome for _, outcome, _ in kept)
    assert counts.signed == outcomes.pop("signed", 0)
    assert counts.by_outcome == outcomes
    assert counts.failed == outcomes.total()
    assert counts.mean == pytest.approx(sum(timed) / len(timed) if timed else 0.0)
    assert counts.slowest == max(timed, default=0.0)


def test_memory_is_bounded_by_the_window_and_not_by_what_is_signed() -> None:
    window = Traffic(60.0)
    for number in range(20_000):
        window.note("signed", 0.001, number / 10)

    assert len(window._slices) <= SLICES
    assert window.counts(2000.0).signed == pytest.approx(600, abs=30)


def test_a_burst_is_averaged_away_and_a_full_queue_is_not() -> None:
    burst, full = LoadWindow(), LoadWindow()
    for number in range(2 * SLICES):
        burst.note(Load(queue=200 if number == 2 * SLICES - 1 else 0))
        full.note(Load(queue=200))

    assert burst.mean.queue == 200 / SLICES
    assert full.mean.queue == 200
    assert LoadWindow().mean == Load()


def test_an_audit_log_in_trouble_is_fatal_only_where_it_is_required() -> None:
    assert judge_audit(None, required=True) == ()
    assert [f.cause.status for f in judge_audit("disk full", required=True)] == [HealthStatus.UNHEALTHY]
    assert [f.cause.status for f in judge_audit("disk full", required=False)] == [HealthStatus.DEGRADED]


def test_keys_are_well_when_nothing_is_missing() -> None:
    assert judge_keys(registry_trouble=None, missing_files=[], locked=0, unknown_canary=None) == ()


def test_each_trouble_with_keys_is_named() -> None:
    findings = judge_keys(
        registry_trouble="disk full", missing_files=list("abcdefg"), locked=7, unknown_canary="no key is called 'c'"
    )

    assert [str(finding) for finding in findings] == [
        "Key registry can not be written: disk full",
        "Keystore files missing: a, b, c, d, e and 2 more",
        "Software keys can not be unlocked: 7 of them, and no keystore.passphrase_file",
        "Canary key not registered: no key is called 'c'",
    ]


def test_secret_files_that_can_not_be_read_are_named_by_their_options() -> None:
    (finding,) = judge_configuration([ConfigProblem("hsm.pin_file", "is empty"), ConfigProblem("hsm.slots[1]", "x")])

    assert (finding.cause.status, finding.detail) == (HealthStatus.DEGRADED, "hsm.pin_file: is empty; hsm.slots[1]: x")
    assert judge_configuration([]) == ()
