"""Which slots may sign for a key: pure decisions over what slots know of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from key_samples import sample_key

from manahsm.config.model import ConnectionPool, Priority
from manahsm.config.slots import SlotConfig
from manahsm.config.vendors import Vendor, profile_of
from manahsm.errors import HSMUnavailable
from manahsm.hsm.client import HostProcess
from manahsm.hsm.outcomes import Action, BreakerEffect, Outcome, outcome_named
from manahsm.hsm.settings import HostSettings
from manahsm.signing.hsm_worker import refusal
from manahsm.signing.router import routes_of
from manahsm.signing.slot import Slot, SlotPhase
from supervisors import Request
from supervisors.testing import ManualClock

KEY = sample_key(1, slots=("a", "b", "c"))


def slot_called(name: str, priority: Priority = Priority.PRIMARY) -> Slot:
    config = SlotConfig(
        name=name,
        profile=profile_of(Vendor.SOFTHSM),
        library_path=Path("/nowhere.so"),
        slot_id=None,
        token_label=name,
        pin=None,
        priority=priority,
        environment={},
        connection_pool=ConnectionPool(size=2, processes=1),
    )
    return Slot(config, queue_size=8, clock=ManualClock())


def bring_up(slot: Slot) -> Slot:
    """Attach a host that was never started: whether it runs is not asked here."""
    slot.pool.attach(HostProcess(HostSettings(name=slot.name, library_path="/nowhere.so")))
    return slot


def test_slots_that_are_up_come_before_those_that_connect_and_primaries_before_backups() -> None:
    connecting = slot_called("a")
    backup = bring_up(slot_called("b", Priority.BACKUP))
    primary = bring_up(slot_called("c"))

    assert routes_of(KEY, [connecting, backup, primary]) == (primary, backup, connecting)


def test_a_slot_that_was_seen_is_asked_only_for_what_it_holds() -> None:
    holder, other = bring_up(slot_called("a")), bring_up(slot_called("b"))
    holder.holds(frozenset({KEY.public_key}))
    other.holds(frozenset())

    assert routes_of(KEY, [other, holder]) == (holder,)


def test_a_slot_that_was_not_seen_is_asked_for_what_the_registry_says() -> None:
    known, unknown = slot_called("a"), slot_called("elsewhere")

    assert routes_of(KEY, [unknown, known]) == (known,)


def test_a_key_that_no_slot_holds_is_refused() -> None:
    with pytest.raises(HSMUnavailable, match=f"no configured slot holds the key {KEY.key_id}"):
        routes_of(evolve(KEY, slots=()), [bring_up(slot_called("a"))])


def test_slots_that_are_down_or_latched_are_no_routes_and_say_why() -> None:
    down, latched = slot_called("a"), slot_called("b")
    down.start_failed("no token labelled 'a'")
    latched.latch("wrong PIN")

    with pytest.raises(HSMUnavailable, match="slot a is down: no token labelled 'a'; it is tried again by itself"):
        routes_of(KEY, [down])
    with pytest.raises(HSMUnavailable, match="slot b is latched: wrong PIN; correct the cause"):
        routes_of(KEY, [latched])
    assert routes_of(KEY, [down, latched, slot_called("c")])[0].name == "c"


@given(
    st.lists(
        st.tuples(st.sampled_from(Priority), st.sampled_from(["connecting", "up", "down", "latched"]), st.booleans()),
        max_size=5,
    )
)
def test_a_route_holds_the_key_and_can_sign(slots: list[tuple[Priority, str, bool]]) -> None:
    built = []
    for number, (priority, phase, holds) in enumerate(slots):
        slot = slot_called(f"s{number}", priority)
        slot.holds(frozenset({KEY.public_key}) if holds else frozenset())
        if phase == "up":
            bring_up(slot)
        elif phase == "down":
            slot.start_failed("it failed")
        elif phase == "latched":
            slot.latch("latched")
        assert slot.phase == phase
        built.append(slot)
    usable = [
        slot for slot, (_, phase, holds) in zip(built, slots, strict=True) if holds and phase in ("connecting", "up")
    ]

    if not usable:
        with pytest.raises(HSMUnavailable):
            routes_of(KEY, built)
        return
    routes = routes_of(KEY, built)
    assert sorted(route.name for route in routes) == sorted(slot.name for slot in usable)
    ranks = [(slot.phase is not SlotPhase.UP, slot.config.priority is not Priority.PRIMARY) for slot in routes]
    assert ranks == sorted(ranks)


def test_a_slot_that_goes_down_refuses_what_is_queued_at_once() -> None:
    slot = slot_called("a")
    requests = [Request("digest", clock=slot.clock) for _ in range(3)]
    for request in requests:
        slot.mailbox.send_nowait(request)
    slot.start_failed("no such token")

    assert [_error_of(request) for request in requests] == [HSMUnavailable] * 3
    assert len(slot.mailbox) == 0


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


def _error_of(request: Request) -> type[BaseException]:
    with pytest.raises(HSMUnavailable) as refused:
        request.reply.result()
    return refused.type


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (Action.TELL_CALLER, "policy_denied"),
        (Action.NEXT_ROUTE, "hsm_unavailable"),
        (Action.LATCH, "hsm_unavailable"),
        (Action.FAIL_OVER, "hsm_unavailable"),
        *((action, None) for action in Action if action not in {"tell_caller", "next_route", "latch", "fail_over"}),
    ],
)
def test_what_a_failed_call_tells_the_caller(action: Action, code: str | None) -> None:
    error: Any = refusal(Outcome(name="CKR_X", action=action, breaker=BreakerEffect.NONE), "a")

    assert getattr(error, "code", None) == code
    assert refusal(outcome_named("HOST_CRASHED", "sign"), "a") is None
