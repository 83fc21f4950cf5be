"""When software may stand in for tokens: policy first, then an operator's word, then the budget of the outage."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from key_samples import sample_key
from slot_samples import bring_up, slot_called

from manahsm.config.model import Fallback, SecurityPolicy
from manahsm.errors import FallbackExhausted, HSMUnavailable
from manahsm.requests import Role
from manahsm.signing.slot import Slot
from manahsm.signing.stand_in import StandIn
from supervisors.testing import ManualClock

KEY = sample_key(1, role=Role.TRANSACTION_SIGNER, slots=("a",), software_twin=True)


class Scene:
    """One slot on a clock of its own, and what may stand in for it."""

    def __init__(self, **options: Any) -> None:
        policy = SecurityPolicy(**options.pop("policy", {}))
        self.clock = ManualClock()
        self.slot = bring_up(slot_called("a", clock=self.clock))
        self.stand_in = StandIn(policy, Fallback(**options), self.clock)

    def refusal(self, key: Any = KEY) -> Exception | None:
        return self.stand_in.refusal(key, [self.slot])

    def sign(self) -> bool:
        if self.refusal() is not None:
            return False
        self.stand_in.spend([self.slot])
        return True


@pytest.mark.parametrize(
    ("key", "options", "why"),
    [
        (evolve(KEY, software_twin=False), {}, "no software twin"),
        (evolve(KEY, role=Role.VALIDATOR), {}, "never stands in for the role validator"),
        (evolve(KEY, role=None), {}, "no role"),
        (KEY, {"policy": {"allow_software_fallback": False}}, "allow_software_fallback is false"),
        (KEY, {"enabled": False}, "fallback.enabled is false"),
        (KEY, {"auto_fallback_on_error": False}, r"Service\.allow_fallback"),
    ],
)
def test_what_keeps_software_from_standing_in_is_said(key: Any, options: dict[str, Any], why: str) -> None:
    refused = Scene(**options).refusal(key)

    assert isinstance(refused, HSMUnavailable)
    with pytest.raises(HSMUnavailable, match=why):
        raise refused


def test_the_signature_after_the_last_of_an_outage_is_refused() -> None:
    scene = Scene(max_fallback_operations=100)

    assert [scene.sign() for _ in range(100)] == [True] * 100
    assert isinstance(scene.refusal(), FallbackExhausted)


def test_the_count_starts_anew_when_the_slot_was_well_for_a_check_interval() -> None:
    scene = Scene(max_fallback_operations=1)
    scene.sign()
    scene.clock.advance(29.9)
    assert isinstance(scene.refusal(), FallbackExhausted)
    scene.clock.advance(0.1)

    assert scene.refusal() is None


def test_a_calm_time_between_two_outages_counts_although_it_is_over() -> None:
    scene = Scene(max_fallback_operations=1)
    scene.sign()
    scene.clock.advance(40.0)
    scene.slot.breaker.trip("a second outage")
    scene.clock.advance(1.0)

    assert scene.refusal() is None


def test_a_slot_that_comes_and_goes_is_one_outage() -> None:
    scene = Scene(max_fallback_operations=1)
    scene.sign()
    for _ in range(10):
        scene.slot.breaker.trip("again")
        scene.clock.advance(5.0)
        scene.slot.breaker.reset()
        scene.clock.advance(20.0)

    assert isinstance(scene.refusal(), FallbackExhausted)


def test_outages_of_other_slots_have_their_own_budget() -> None:
    scene = Scene(max_fallback_operations=1)
    scene.sign()
    other: Slot = bring_up(slot_called("b", clock=scene.clock))

    assert scene.stand_in.refusal(KEY, [other]) is None


def test_an_operators_permission_lasts_until_the_outage_is_over() -> None:
    scene = Scene(auto_fallback_on_error=False)
    scene.slot.breaker.trip("down")
    scene.stand_in.allow()
    scene.clock.advance(3600.0)
    assert scene.sign()
    scene.slot.breaker.reset()
    scene.clock.advance(30.0)

    assert not scene.sign()


def test_an_operators_permission_can_be_withdrawn() -> None:
    scene = Scene(auto_fallback_on_error=False)
    scene.slot.breaker.trip("down")
    scene.stand_in.allow()
    scene.stand_in.withdraw()

    assert not scene.sign()


@given(
    most=st.integers(0, 5),
    steps=st.lists(st.tuples(st.sampled_from(["sign", "trip", "well", "wait"]), st.floats(0, 60)), max_size=40),
)
def test_no_outage_ever_uses_more_than_its_budget(most: int, steps: list[tuple[str, float]]) -> None:
    scene = Scene(max_fallback_operations=most)
    used, calm = 0, 0.0
    for act, seconds in steps:
        match act:
            case "sign":
                signed = scene.sign()
                used += signed
                calm = 0.0 if signed else calm
                assert used <= most
            case "trip":
                scene.slot.breaker.trip("x")
                calm = 0.0
            case "well":
                scene.slot.breaker.reset()
            case _:
                scene.clock.advance(seconds)
                calm = calm + seconds if scene.slot.well else 0.0
                if calm >= 29.999:
                    used = 0
