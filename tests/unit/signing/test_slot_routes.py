"""Which slots may sign for a key, and for how long each is waited for: decisions over what slots know of themselves."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from key_samples import sample_key
from slot_samples import bring_up, slot_called

from manahsm.config.model import Priority
from manahsm.errors import HSMUnavailable
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.outcomes import OWN_OUTCOMES, Action, BreakerEffect, Outcome, outcome_named, outcome_of
from manahsm.hsm.return_codes import CKR
from manahsm.signing.decisions import escalated, may_try_again, never_tried, refusal, speaks_against_slot
from manahsm.signing.router import Patience, routes_of
from manahsm.signing.slot import SlotPhase
from manahsm.signing.vitals import Repeats
from supervisors import Request

KEY = sample_key(1, slots=("a", "b", "c"))


def test_primary_slots_are_asked_before_backups_and_only_those_that_admit() -> None:
    connecting = slot_called("a")
    backup = bring_up(slot_called("b", Priority.BACKUP))
    primary = bring_up(slot_called("c"))
    forced = bring_up(slot_called("a"))
    forced.breaker.force_open()

    routes = routes_of(KEY, [connecting, backup, primary, forced])

    assert routes.holding == (connecting, primary, forced, backup)
    assert routes.ready == (primary, backup)


def test_a_slot_that_was_seen_is_asked_only_for_what_it_holds() -> None:
    holder, other = bring_up(slot_called("a")), bring_up(slot_called("b"))
    holder.holds(frozenset({KEY.public_key}))
    other.holds(frozenset())

    assert routes_of(KEY, [other, holder]).holding == (holder,)


def test_a_slot_that_was_not_seen_is_asked_for_what_the_registry_says() -> None:
    known, unknown = slot_called("a"), slot_called("elsewhere")

    assert routes_of(KEY, [unknown, known]).holding == (known,)


def test_a_key_that_no_slot_holds_has_no_route() -> None:
    assert routes_of(evolve(KEY, slots=()), [bring_up(slot_called("a"))]).holding == ()


def test_a_slot_that_can_not_sign_says_why_and_what_to_do() -> None:
    down, latched, forced, tripped = (slot_called("a") for _ in range(4))
    down.start_failed("no token labelled 'a'")
    latched.latch("wrong PIN")
    bring_up(forced).breaker.force_open("drill")
    bring_up(tripped).breaker.trip("it smokes")

    assert "slot a is down: no token labelled 'a'; it is tried again by itself" in str(down.unavailable())
    assert "slot a is latched: wrong PIN; correct the cause, then unlatch" in str(latched.unavailable())
    assert "slot a is closed by an operator: drill; reset its breaker" in str(forced.unavailable())
    assert "slot a is left alone for a while: it smokes; try again in 5.0 s" in str(tripped.unavailable())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Priority),
            st.sampled_from(["connecting", "up", "down", "latched", "tripped", "forced"]),
            st.booleans(),
        ),
        max_size=5,
    )
)
def test_a_route_holds_the_key_and_can_sign(slots: list[tuple[Priority, str, bool]]) -> None:
    built = []
    for number, (priority, state, holds) in enumerate(slots):
        slot = slot_called(f"s{number}", priority)
        slot.holds(frozenset({KEY.public_key}) if holds else frozenset())
        if state in ("up", "tripped", "forced"):
            bring_up(slot)
        if state == "down":
            slot.start_failed("it failed")
        elif state == "latched":
            slot.latch("latched")
        elif state == "tripped":
            slot.breaker.trip("tripped")
        elif state == "forced":
            slot.breaker.force_open()
        built.append(slot)
    routes = routes_of(KEY, built)

    assert set(routes.holding) == {slot for slot, (_, _, holds) in zip(built, slots, strict=True) if holds}
    usable = {slot for slot, (_, state, holds) in zip(built, slots, strict=True) if holds and state == "up"}
    assert set(routes.ready) == usable
    ranks = [slot.config.priority is not Priority.PRIMARY for slot in routes.ready]
    assert ranks == sorted(ranks)


# ---- patience ----


@given(
    began=st.floats(0, 1e6),
    life=st.floats(0.001, 3600),
    budget=st.floats(0.001, 3600),
    tokens=st.integers(1, 6),
    more=st.booleans(),
)
def test_turns_follow_each_other_within_the_budget_and_the_deadline(
    *, began: float, life: float, budget: float, tokens: int, more: bool
) -> None:
    patience = Patience(began, began + life, budget, tokens, more)
    turns = [patience.until(turn) for turn in range(tokens)]

    assert turns == sorted(turns)
    assert all(began <= until <= patience.deadline for until in turns)
    if more:
        assert turns[-1] < patience.deadline or life * 0.2 < 1e-6 * began
        assert turns[-1] <= began + budget + 1e-6
    else:
        assert turns[-1] == patience.deadline


def test_the_last_slot_has_all_the_time_that_is_left_where_nothing_can_follow() -> None:
    assert Patience(100.0, 130.0, 5.0, 2, more=False).until(1) == 130.0
    assert Patience(100.0, 130.0, 5.0, 2, more=False).until(0) == 102.5
    assert Patience(100.0, 130.0, 5.0, 2, more=True).until(1) == 105.0


def test_a_request_in_a_hurry_keeps_time_for_its_twin() -> None:
    assert Patience(100.0, 101.0, 5.0, 1, more=True).until(0) == pytest.approx(100.8)


# ---- what is queued ----


def error_of(request: Request) -> type[BaseException]:
    with pytest.raises(HSMUnavailable) as refused:
        request.reply.result()
    return refused.type


def test_a_slot_that_goes_down_refuses_what_is_queued_at_once() -> None:
    slot = slot_called("a")
    requests = [Request("digest", clock=slot.clock) for _ in range(3)]
    for request in requests:
        slot.mailbox.send_nowait(request)
    slot.start_failed("no such token")

    assert [error_of(request) for request in requests] == [HSMUnavailable] * 3
    assert len(slot.mailbox) == 0


def test_a_slot_whose_breaker_opens_refuses_what_is_queued_at_once() -> None:
    slot = bring_up(slot_called("a"))
    request = Request("digest", clock=slot.clock)
    slot.mailbox.send_nowait(request)
    slot.breaker.trip("it smokes")

    assert error_of(request) is HSMUnavailable


def test_what_is_queued_when_the_last_host_dies_may_go_elsewhere_or_come_back() -> None:
    slot = slot_called("a")
    host = bring_up(slot).pool.hosts[0]
    slot.ready_hosts["host-0"] = host
    request, later = Request("digest", clock=slot.clock), Request("digest", clock=slot.clock)
    slot.mailbox.send_nowait(request)
    slot.host_gone("host-0")
    slot.mailbox.send_nowait(later)
    slot.changes.notify()

    assert error_of(request) is HSMUnavailable
    assert slot.may_be_waited_for
    assert not later.reply.done


def test_a_slot_with_a_host_keeps_its_queue_when_another_host_fails() -> None:
    slot = bring_up(slot_called("a"))
    request = Request("digest", clock=slot.clock)
    slot.mailbox.send_nowait(request)
    slot.start_failed("the second host did not start")

    assert slot.phase is SlotPhase.UP
    assert not request.reply.done


def test_the_first_reason_of_a_latch_is_kept() -> None:
    slot = slot_called("a")
    slot.latch("wrong PIN")
    slot.latch("something else")
    slot.start_failed("and another")

    assert (slot.phase, slot.reason) == (SlotPhase.LATCHED, "wrong PIN")


def test_an_unlatched_slot_is_on_probation() -> None:
    slot = bring_up(slot_called("a"))
    slot.latch("wrong PIN")
    slot.unlatch(None)

    assert (slot.phase, slot.admits, slot.well) == (SlotPhase.UP, True, False)


# ---- a silent token ----


def test_a_token_that_was_silent_all_the_while_opens_the_breaker() -> None:
    slot = bring_up(slot_called("a"))
    slot.pulse.begin("call")
    slot.clock.advance(3.0)  # type: ignore[attr-defined]
    slot.no_answer(waited=3.0, patience=2.0)

    assert not slot.admits


def test_a_token_that_answers_others_is_busy_and_not_silent() -> None:
    slot = bring_up(slot_called("a"))
    slot.pulse.begin("call")
    slot.clock.advance(2.5)  # type: ignore[attr-defined]
    slot.pulse.answered()
    slot.clock.advance(0.5)  # type: ignore[attr-defined]
    slot.no_answer(waited=3.0, patience=2.0)

    assert slot.admits


def test_a_caller_in_a_great_hurry_opens_no_breaker() -> None:
    slot = bring_up(slot_called("a"))
    slot.pulse.begin("call")
    slot.clock.advance(3.0)  # type: ignore[attr-defined]
    slot.no_answer(waited=0.005, patience=2.0)

    assert slot.admits


# ---- what a failure means ----


@pytest.mark.parametrize("effect", BreakerEffect)
@pytest.mark.parametrize("often", [False, True])
def test_what_counts_when_it_repeats_counts_then_and_only_then(effect: BreakerEffect, *, often: bool) -> None:
    outcome = Outcome(name="X", action=Action.RETRY_ELSEWHERE, repeated=Action.RESPAWN, breaker=effect)
    found = escalated(outcome, often=often)

    assert found.action is (Action.RESPAWN if often else Action.RETRY_ELSEWHERE)
    if effect is BreakerEffect.SOFT:
        assert found.breaker is (BreakerEffect.FAILURE if often else BreakerEffect.NONE)
    else:
        assert found.breaker is effect


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("CKR_OPERATION_ACTIVE", 2),
        ("CKR_DEVICE_ERROR", 2),
        ("CKR_SESSION_HANDLE_INVALID", 6),
        ("CKR_OBJECT_HANDLE_INVALID", 6),
        ("CKR_USER_NOT_LOGGED_IN", 6),
        ("CKR_GENERAL_ERROR", 1),
        ("CKR_DEVICE_REMOVED", 1),
        ("CKR_PIN_INCORRECT", 1),
        ("CKR_KEY_FUNCTION_NOT_PERMITTED", 1),
        ("CKR_DEVICE_MEMORY", 1),
    ],
)
def test_a_request_is_tried_as_often_as_the_table_says(name: str, most: int) -> None:
    outcome = outcome_of(CKR[name], "C_Sign")

    assert [may_try_again(outcome, tries) for tries in range(1, 8)] == [tries < most for tries in range(1, 8)]


def test_a_second_lost_session_of_one_request_asks_for_a_new_login() -> None:
    outcome = outcome_of(CKR["CKR_SESSION_CLOSED"], "C_Sign")

    assert escalated(outcome, often=False, tries=0).action is Action.RETRY_ELSEWHERE
    assert escalated(outcome, often=False, tries=1).action is Action.LOGIN_AGAIN


def test_three_failures_of_one_sort_on_one_host_in_ten_seconds_are_often() -> None:
    repeats = Repeats()

    assert [repeats.note("host", "X", now) for now in (0.0, 6.0, 9.9, 16.1)] == [False, False, True, False]
    assert not repeats.note("other", "X", 10.0)
    repeats.forget("host")
    assert not repeats.note("host", "X", 16.2)


@pytest.mark.parametrize("name", sorted(OWN_OUTCOMES))
def test_every_outcome_has_words_for_the_caller(name: str) -> None:
    failure = HSMFailure(outcome_named(name, "sign"), "detail")
    error = refusal(failure, "a")

    assert error.code in {"hsm_unavailable", "policy_denied", "signature_mismatch"}
    assert (error.code == "policy_denied") == (not speaks_against_slot(failure.outcome))
    if not never_tried(failure.outcome):
        assert str(error)
