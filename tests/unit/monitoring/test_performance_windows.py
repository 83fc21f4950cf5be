"""Sliding windows against a plain list of everything that ever happened."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manahsm.monitoring.windows import Window, windows_within

LONGEST_SLICE = {60.0: 2.0, 300.0: 2.0, 3600.0: 30.0, 86_400.0: 720.0}
"""Seconds to which each window is exact: the slices that its oldest part is kept in."""


class Ended(NamedTuple):
    at: float
    failed: bool
    duration: float


@st.composite
def histories(draw: st.DrawFn) -> list[Ended]:
    now, history = 1000.0, []
    for _ in range(draw(st.integers(0, 40))):
        now += draw(st.floats(0, 10) | st.floats(0, 4000))
        history.append(Ended(now, draw(st.booleans()), draw(st.floats(0, 100))))
    return history


def nearest_rank(durations: list[float], share: float) -> float:
    return sorted(durations)[math.ceil(share * len(durations)) - 1]


@settings(max_examples=60, deadline=None)
@given(histories(), st.floats(0, 5000), st.sampled_from([60.0, 300.0, 3600.0, 86_400.0]))
def test_a_window_holds_what_happened_in_it_exact_to_a_slice(history: list[Ended], later: float, window: float) -> None:
    subject = Window(86_400.0, 1000.0)
    for entry in history:
        subject.record(entry.at, failed=entry.failed, duration=entry.duration)
    now = (history[-1].at if history else 1000.0) + later
    summary = subject.summary(now, window)

    surely = [entry for entry in history if entry.at > now - window]
    perhaps = [entry for entry in history if entry.at > now - window - LONGEST_SLICE[window]]
    assert len(surely) <= summary.operations <= len(perhaps)
    assert sum(entry.failed for entry in surely) <= summary.failures <= sum(entry.failed for entry in perhaps)
    assert subject.rates(now, window) == (summary.per_second, summary.error_rate)


@given(st.lists(st.floats(1e-6, 1000), min_size=1, max_size=60))
def test_a_percentile_is_right_to_five_percent(durations: list[float]) -> None:
    subject = Window(60.0, 0.0)
    for duration in durations:
        subject.record(1.0, failed=False, duration=duration)
    summary = subject.summary(1.0, 60.0)

    for share, found in ((0.5, summary.p50), (0.95, summary.p95), (0.99, summary.p99)):
        exact = nearest_rank(durations, share)
        assert found is not None
        assert exact * 0.999 <= found <= exact * 1.051
    assert summary.mean == pytest.approx(sum(durations) / len(durations))


@given(st.integers(1, 400), st.floats(0.001, 900), st.floats(1, 1e6))
def test_memory_does_not_grow_with_time_or_load(operations: int, pause: float, retention: float) -> None:
    subject = Window(retention, 0.0)
    now = 0.0
    for _ in range(operations):
        now += pause
        subject.record(now, failed=False)

    assert subject.slices <= 150 + 120 + 120 + 6


def test_what_is_older_than_the_retention_is_forgotten() -> None:
    subject = Window(7200.0, 0.0)
    subject.record(1.0, failed=True, duration=1.0)
    subject.record(4000.0, failed=False, duration=2.0)

    assert subject.summary(7300.0, 7200.0).operations == 1
    assert subject.summary(20_000.0, 7200.0).operations == 0
    assert subject.slices == 0


def test_a_window_without_anything_has_no_times() -> None:
    summary = Window(60.0, 0.0).summary(30.0, 60.0)

    assert (summary.operations, summary.per_second, summary.error_rate) == (0, 0.0, 0.0)
    assert (summary.mean, summary.p50, summary.p95, summary.p99) == (None, None, None, None)


def test_a_failure_whose_time_nobody_knows_counts_without_one() -> None:
    subject = Window(60.0, 0.0)
    subject.record(1.0, failed=True)
    subject.record(1.0, failed=False, duration=0.5)
    summary = subject.summary(1.0, 60.0)

    assert (summary.operations, summary.error_rate, summary.mean) == (2, 0.5, 0.5)


def test_the_rate_of_a_young_service_is_over_its_age() -> None:
    subject = Window(60.0, 100.0)
    for _ in range(30):
        subject.record(105.0, failed=False)

    assert subject.rates(110.0, 60.0) == (3.0, 0.0)
    assert subject.rates(164.0, 60.0)[0] == 0.5


@pytest.mark.parametrize(
    ("retention", "windows"),
    [
        (1.0, (1.0,)),
        (60.0, (60.0,)),
        (200.0, (60.0, 200.0)),
        (3600.0, (60.0, 300.0, 3600.0)),
        (86_400.0, (60.0, 300.0, 3600.0, 86_400.0)),
    ],
)
def test_no_window_is_longer_than_what_is_kept(retention: float, windows: tuple[float, ...]) -> None:
    assert windows_within(retention) == windows
