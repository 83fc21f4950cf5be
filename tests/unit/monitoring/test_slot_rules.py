"""What is wrong with a slot, and whether others do its work: decisions over what was seen."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from manahsm.config.tables import Thresholds
from manahsm.monitoring import causes
from manahsm.monitoring.causes import Cause, HealthStatus, Severity, worst
from manahsm.monitoring.health_rules import SlotKeys, made_up_for, overall
from manahsm.monitoring.slot_rules import Answer, Canary, Probe, Signed, SlotView, judge_slot
from manahsm.signing.slot import SlotPhase
from supervisors import BreakerState

THRESHOLDS = Thresholds()
WELL = SlotView(
    phase=SlotPhase.UP,
    reason=None,
    breaker=BreakerState.CLOSED,
    lost=False,
    hosts=2,
    hosts_wanted=2,
    sessions=4,
    sessions_wanted=4,
    broken=0,
    probe=Probe(answer=Answer.ANSWERED),
    canary=Canary(signed=Signed.RIGHT),
)

UNASKED, SKIPPED = Probe(answer=Answer.NOT_ASKED), Canary(signed=Signed.SKIPPED)

probes = st.builds(
    Probe,
    answer=st.sampled_from(Answer),
    detail=st.just("said"),
    silent=st.integers(0, 2),
    flags=st.frozensets(
        st.sampled_from(["RNG", "USER_PIN_COUNT_LOW", "USER_PIN_FINAL_TRY", "USER_PIN_LOCKED"]), max_size=4
    ),
    duration=st.floats(0, 10),
)
views = st.builds(
    SlotView,
    phase=st.sampled_from(SlotPhase),
    reason=st.none() | st.just("because"),
    breaker=st.sampled_from(BreakerState),
    lost=st.booleans(),
    hosts=st.integers(0, 3),
    hosts_wanted=st.integers(1, 3),
    sessions=st.integers(0, 8),
    sessions_wanted=st.integers(0, 8),
    broken=st.integers(0, 50),
    probe=probes,
    canary=st.builds(Canary, signed=st.sampled_from(Signed), detail=st.just("it"), duration=st.floats(0, 10)),
)


def found(**changes: object) -> list[Cause]:
    return [finding.cause for finding in judge_slot(evolve(WELL, **changes), THRESHOLDS)]


def test_a_slot_that_is_well_has_no_finding() -> None:
    assert found() == []
    assert found(canary=SKIPPED, probe=UNASKED) == []


def test_a_token_that_was_lost_is_back_when_it_has_answered_or_signed() -> None:
    assert found(lost=True, canary=SKIPPED) == []
    assert found(lost=True, probe=UNASKED) == []


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"phase": SlotPhase.LATCHED, "breaker": BreakerState.LATCHED}, causes.LATCHED),
        ({"canary": Canary(signed=Signed.WRONG)}, causes.WRONG_SIGNATURE),
        ({"phase": SlotPhase.DOWN}, causes.CONNECTIVITY_LOST),
        ({"probe": Probe(answer=Answer.FAILED)}, causes.CONNECTIVITY_LOST),
        ({"probe": Probe(answer=Answer.SILENT)}, causes.CONNECTIVITY_LOST),
        ({"lost": True, "probe": UNASKED, "canary": SKIPPED}, causes.CONNECTIVITY_LOST),
        ({"lost": True, "probe": UNASKED, "canary": SKIPPED, "phase": SlotPhase.CONNECTING}, causes.CONNECTIVITY_LOST),
        ({"canary": Canary(signed=Signed.FAILED)}, causes.DOES_NOT_SIGN),
        ({"canary": Canary(signed=Signed.SILENT)}, causes.DOES_NOT_SIGN),
        ({"breaker": BreakerState.OPEN}, causes.BREAKER_OPEN),
        ({"breaker": BreakerState.FORCED_OPEN}, causes.FORCED_OPEN),
        ({"breaker": BreakerState.FORCED_CLOSED}, causes.FORCED_CLOSED),
        ({"breaker": BreakerState.HALF_OPEN}, causes.ON_PROBATION),
        ({"phase": SlotPhase.CONNECTING, "hosts": 0, "sessions": 0}, causes.CONNECTING),
        ({"hosts": 1}, causes.HOSTS_MISSING),
        ({"probe": Probe(answer=Answer.ANSWERED, silent=1)}, causes.HOSTS_MISSING),
        ({"sessions": 3}, causes.SESSIONS_MISSING),
        ({"broken": THRESHOLDS.broken_sessions}, causes.SESSIONS_BREAK),
        ({"canary": Canary(signed=Signed.UNUSABLE)}, causes.CANARY_UNUSABLE),
        ({"canary": Canary(signed=Signed.RIGHT, duration=1.0)}, causes.RESPONSE_ELEVATED),
        ({"probe": Probe(answer=Answer.ANSWERED, duration=5.0)}, causes.RESPONSE_HIGH),
    ],
)
def test_each_trouble_alone_is_found_by_its_name(changes: dict[str, object], cause: Cause) -> None:
    assert found(**changes) == [cause]


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        ({"USER_PIN_COUNT_LOW"}, causes.WRONG_PIN_TRIED),
        ({"USER_PIN_COUNT_LOW", "USER_PIN_FINAL_TRY"}, causes.LAST_PIN_TRY),
        ({"USER_PIN_FINAL_TRY", "USER_PIN_LOCKED"}, causes.PIN_LOCKED),
    ],
)
def test_of_what_the_token_says_about_its_pin_the_worst_is_told(flags: set[str], cause: Cause) -> None:
    assert found(probe=Probe(answer=Answer.ANSWERED, flags=frozenset(flags))) == [cause]


@given(views)
def test_one_outage_is_one_finding(view: SlotView) -> None:
    """What makes a slot unhealthy stands alone, so that nobody is paged twice for it; slow answers apart."""
    findings = judge_slot(view, THRESHOLDS)
    bad = [f.cause for f in findings if f.cause.status is HealthStatus.UNHEALTHY and f.cause != causes.RESPONSE_HIGH]

    assert len(bad) <= 1
    assert not bad or len(findings) == 1
    assert len({finding.cause.name for finding in findings}) == len(findings)


@given(views)
def test_a_slot_that_can_not_be_asked_to_sign_is_never_called_well(view: SlotView) -> None:
    signs = view.phase is SlotPhase.UP and view.breaker in {BreakerState.CLOSED, BreakerState.FORCED_CLOSED}

    assert signs or judge_slot(view, THRESHOLDS)


@given(views)
def test_a_wrong_signature_is_always_unhealthy(view: SlotView) -> None:
    (finding,) = judge_slot(evolve(view, canary=Canary(signed=Signed.WRONG, detail="CKR_OK")), THRESHOLDS)

    assert finding.cause in {causes.WRONG_SIGNATURE, causes.LATCHED}
    assert finding.cause.severity is Severity.CRITICAL


# ---- the whole ----

statuses = st.sampled_from(HealthStatus)
slot_keys = st.builds(SlotKeys, st.booleans(), st.frozensets(st.sampled_from("abcde"), max_size=5))


def test_a_backup_that_is_down_while_the_primary_signs_degrades_the_service() -> None:
    slots = {"main": SlotKeys(True, frozenset("ab")), "spare": SlotKeys(False, frozenset("ab"))}

    assert made_up_for(slots) == {"spare"}
    assert overall({"spare": HealthStatus.UNHEALTHY, "main": HealthStatus.HEALTHY}, {"spare"}) is HealthStatus.DEGRADED


def test_a_token_with_a_key_of_its_own_that_is_gone_makes_the_service_unhealthy() -> None:
    slots = {"main": SlotKeys(True, frozenset("ab")), "other": SlotKeys(False, frozenset("bc"))}

    assert made_up_for(slots) == frozenset()


def test_the_only_token_is_made_up_for_by_nobody_whatever_it_holds() -> None:
    assert made_up_for({"main": SlotKeys(False, frozenset())}) == frozenset()


@given(st.dictionaries(st.sampled_from("uvwxyz"), slot_keys))
def test_who_is_made_up_for_does_not_sign_and_none_of_its_keys_is_out_of_reach(slots: dict[str, SlotKeys]) -> None:
    helped = made_up_for(slots)

    for name in helped:
        assert not slots[name].signs
        assert any(slot.signs for slot in slots.values())
        for key in slots[name].keys:
            assert any(other.signs and key in other.keys for other in slots.values())


@given(st.dictionaries(st.sampled_from("uvwxyz"), statuses), st.sets(st.sampled_from("uvwxyz")))
def test_the_whole_is_as_bad_as_its_worst_part_that_matters(parts: dict[str, HealthStatus], helped: set[str]) -> None:
    whole = overall(parts, helped)

    assert (whole is HealthStatus.UNHEALTHY) == any(
        status is HealthStatus.UNHEALTHY for name, status in parts.items() if name not in helped
    )
    assert (whole is HealthStatus.HEALTHY) == all(status is HealthStatus.HEALTHY for status in parts.values())
    assert whole.score >= worst(parts.values()).score
