"""The token bucket of ``security_policy.max_signing_rate``, with time moved by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manahsm.errors import RateLimited
from manahsm.signing.limits import RateLimit
from supervisors.testing import ManualClock


def spend_all(limit: RateLimit) -> int:
    """How many there are right now."""
    spent = 0
    try:
        while spent < 10_000:
            limit.spend()
            spent += 1
    except RateLimited:
        return spent
    return spent


def test_a_rate_of_0_admits_all() -> None:
    assert spend_all(RateLimit(0.0, ManualClock())) == 10_000


def test_a_burst_is_one_second_of_the_rate_however_long_the_calm() -> None:
    clock = ManualClock()
    limit = RateLimit(5.0, clock)
    assert spend_all(limit) == 5
    clock.advance(3600)
    assert spend_all(limit) == 5


def test_a_rate_below_1_still_admits_one_at_a_time() -> None:
    clock = ManualClock()
    limit = RateLimit(0.5, clock)
    assert spend_all(limit) == 1
    clock.advance(1.9)
    assert spend_all(limit) == 0
    clock.advance(0.2)
    assert spend_all(limit) == 1


@given(rate=st.floats(0.01, 1000), calm=st.floats(0, 10))
def test_one_who_waits_as_long_as_told_is_admitted(rate: float, calm: float) -> None:
    clock = ManualClock()
    limit = RateLimit(rate, clock)
    spend_all(limit)
    clock.advance(calm)
    spend_all(limit)
    with pytest.raises(RateLimited) as refused:
        limit.spend()
    assert 0 < refused.value.retry_after <= 1 / rate + 1e-9
    clock.advance(refused.value.retry_after + 1e-6)
    limit.spend()


@given(rate=st.integers(1, 50), steps=st.lists(st.floats(0, 0.3), max_size=60))
def test_no_more_than_the_rate_and_one_burst_over_any_time(rate: int, steps: list[float]) -> None:
    clock = ManualClock()
    limit = RateLimit(float(rate), clock)
    admitted = spend_all(limit)
    for step in steps:
        clock.advance(step)
        admitted += spend_all(limit)
    assert admitted <= rate + rate * sum(steps) + 1e-6
