"""How a component has been, and where it is going."""

from __future__ import annotations

from datetime import timedelta

import pytest
from alert_samples import A_MOMENT
from hypothesis import given
from hypothesis import strategies as st

from manahsm.monitoring.causes import HealthStatus
from manahsm.monitoring.history import MOST_SAMPLES, History, trend_of
from manahsm.monitoring.values import Sample, Trend

OF_LETTER = {"h": HealthStatus.HEALTHY, "d": HealthStatus.DEGRADED, "u": HealthStatus.UNHEALTHY}


def samples(letters: str, durations: list[float] | None = None) -> list[Sample]:
    return [
        Sample(checked_at=A_MOMENT, status=OF_LETTER[letter], duration=durations[at] if durations else 0.01)
        for at, letter in enumerate(letters)
    ]


@pytest.mark.parametrize(
    ("letters", "trend"),
    [
        ("", Trend.STEADY),
        ("huu", Trend.STEADY),
        ("hhuu", Trend.WORSENING),
        ("uuhh", Trend.IMPROVING),
        ("uuuuuuhhhhhhhhhh", Trend.STEADY),
        ("hdhdhdhdhd", Trend.STEADY),
        ("dddduuuu", Trend.WORSENING),
    ],
)
def test_the_status_of_the_last_checks_makes_the_trend(letters: str, trend: Trend) -> None:
    assert trend_of(samples(letters)) is trend


@pytest.mark.parametrize(
    ("durations", "trend"),
    [
        ([0.01, 0.01, 0.2, 0.2], Trend.WORSENING),
        ([0.2, 0.2, 0.01, 0.01], Trend.IMPROVING),
        ([0.10, 0.10, 0.15, 0.15], Trend.STEADY),
        ([0.001, 0.001, 0.009, 0.009], Trend.STEADY),
    ],
)
def test_what_gets_slow_gets_worse_before_it_breaks(durations: list[float], trend: Trend) -> None:
    assert trend_of(samples("hhhh", durations)) is trend


def test_what_fails_faster_is_not_getting_better() -> None:
    assert trend_of(samples("uuuu", [5.0, 5.0, 0.01, 0.01])) is Trend.STEADY


@given(st.text("hdu", min_size=4, max_size=30))
def test_backwards_the_trend_is_the_opposite(letters: str) -> None:
    opposite = {Trend.STEADY: Trend.STEADY, Trend.IMPROVING: Trend.WORSENING, Trend.WORSENING: Trend.IMPROVING}
    last = letters[-10:]
    even = last if len(last) % 2 == 0 else last[1:]  # an odd middle belongs to the newer half
    if len(even) >= 4:
        assert trend_of(samples(even[::-1])) is opposite[trend_of(samples(even))]


def test_since_is_when_the_present_status_began() -> None:
    history = History(3600.0)
    for number, letter in enumerate("hhuuu"):
        moment = A_MOMENT + timedelta(seconds=number)
        history.add(Sample(checked_at=moment, status=OF_LETTER[letter], duration=0.0), float(number))

    assert history.since == A_MOMENT + timedelta(seconds=2)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.floats(1, 500))
def test_what_is_older_than_the_retention_is_forgotten_and_the_last_check_never(
    steps: list[float], retention: float
) -> None:
    history, now, times = History(retention), 0.0, []
    for step in steps:
        now += step
        times.append(now)
        history.add(Sample(checked_at=A_MOMENT, status=HealthStatus.HEALTHY, duration=now), now)

    assert [sample.duration for sample in history.samples] == [time for time in times if time >= now - retention]


def test_a_history_is_bounded_whatever_the_retention() -> None:
    history = History(1e9)
    for number in range(MOST_SAMPLES + 10):
        history.add(Sample(checked_at=A_MOMENT, status=HealthStatus.HEALTHY, duration=0.0), float(number))

    assert len(history.samples) == MOST_SAMPLES
