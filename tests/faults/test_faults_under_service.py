"""Faults of a token as a caller of the service sees them: not at all where something stands in, clearly elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from p11fault import FaultModule, p11fault
from p11fault_rules import Crash, Directive, Gone, Replugged, Return, Sessions, SlotOffset, Spoil, Spoiled
from services import A_PRIVATE_KEY, config_for, digest_of, eventually, host_pids, recovered_address
from softhsm import SoftHSMToken, softhsm_token

import manahsm
from manahsm.hsm.outcomes import _BY_CODE, Action, BreakerEffect, outcome_of
from manahsm.hsm.return_codes import name_of
from manahsm.signing.slot import Slot, SlotPhase
from supervisors.testing import ManualClock

__all__ = ["p11fault", "softhsm_token"]

pytestmark = pytest.mark.anyio

# One code for each row of the outcome table; test_return_codes_injected.py has all of them.
_ROWS = {
    (outcome.action, outcome.repeated, outcome.breaker): code
    for code in (*_BY_CODE, 0x80000001)
    for outcome in (outcome_of(code, "C_Sign"),)
}
LATCHING = [code for (_, _, breaker), code in _ROWS.items() if breaker is BreakerEffect.LATCH]
CALLERS_FAULT = [code for (action, _, _), code in _ROWS.items() if action is Action.TELL_CALLER]
PASSING = [code for code in _ROWS.values() if code and code not in LATCHING + CALLERS_FAULT]


def config_over(fault: FaultModule, directory: Path, **changes: Any) -> dict[str, Any]:
    quick = {"open_for": 1, "max_open_for": 1, "probes": 1}
    return config_for(
        fault.token,
        directory,
        **fault.config_changes(),
        **{"circuit_breaker": quick, "fallback": {"max_fallback_operations": 1_000_000}, **changes},
    )


async def imported(service: manahsm.Service, *, twin: bool = True) -> manahsm.KeyInfo:
    return await service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer", keep_software_twin=twin)


async def sign(service: manahsm.Service, key: manahsm.KeyInfo, number: int = 1) -> manahsm.Signature:
    signature = await service.sign_hash(digest_of(number), key.key_id)
    assert recovered_address(signature, digest_of(number)) == key.address
    return signature


async def signs_in_its_token(service: manahsm.Service, key: manahsm.KeyInfo) -> None:
    """Wait until the token signs again, as callers would: by asking."""
    with anyio.fail_after(20):
        while (await sign(service, key)).backend != "hsm":
            await service._slots[0].wait_until(lambda: service._slots[0].phase is SlotPhase.UP)


# ---- single faults ----


async def test_no_single_return_code_costs_a_request_where_a_twin_stands_in(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        key = await imported(service)
        for code in PASSING:
            rule = Return("C_Sign", code, count=1)
            p11fault.set(rule)
            with anyio.fail_after(20):
                while not p11fault.fired(rule):
                    await sign(service, key)
        await signs_in_its_token(service, key)

    assert p11fault.reused_after_failure == 0


async def test_what_could_lock_a_token_latches_and_an_operator_brings_it_back(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        key = await imported(service)
        (slot,) = service._slots
        for code in LATCHING:
            p11fault.set(Return("C_Sign", code, count=1))
            while slot.phase is not SlotPhase.LATCHED:
                await sign(service, key)
            assert (await sign(service, key)).backend == "software"
            await service.unlatch(slot.name)
            await slot.wait_until(lambda: slot.phase is SlotPhase.UP)
        await signs_in_its_token(service, key)


async def test_what_the_token_forbids_is_not_done_in_software_instead(p11fault: FaultModule, tmp_path: Path) -> None:
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        key = await imported(service)
        for code in CALLERS_FAULT:
            p11fault.set(Return("C_Sign", code, count=1))
            with pytest.raises(manahsm.PolicyDenied, match=name_of(code)):
                await sign(service, key)
        assert (await service.status()).routes.stand_in == 0


@pytest.mark.parametrize("spoiled", [Spoiled.CORRUPT, Spoiled.ZERO, Spoiled.OTHER_KEY])
async def test_a_wrong_signature_is_never_released_and_latches_the_slot(
    p11fault: FaultModule, tmp_path: Path, spoiled: Spoiled
) -> None:
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        key = await imported(service)
        p11fault.set(Spoil(spoiled))
        signature = await sign(service, key)

        assert signature.backend == "software"
        assert service._slots[0].phase is SlotPhase.LATCHED


async def test_without_a_twin_a_wrong_signature_is_said_to_be_one(p11fault: FaultModule, tmp_path: Path) -> None:
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        key = await imported(service, twin=False)
        p11fault.set(Spoil(Spoiled.OTHER_KEY))
        with pytest.raises(manahsm.SignatureMismatch):
            await sign(service, key)


async def test_a_high_s_is_made_low_and_a_short_signature_is_made_again(p11fault: FaultModule, tmp_path: Path) -> None:
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        key = await imported(service, twin=False)
        p11fault.set(Spoil(Spoiled.HIGH_S))
        assert (await sign(service, key)).backend == "hsm"
        p11fault.set(Spoil(Spoiled.TRUNCATE, count=1))
        assert (await sign(service, key)).backend == "hsm"


async def test_a_crash_of_the_library_costs_no_request(p11fault: FaultModule, tmp_path: Path) -> None:
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        key = await imported(service)
        p11fault.set(Crash("C_Sign", count=1))
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(sign, service, key, number)


async def test_a_backup_signs_when_the_primary_token_signs_wrongly(p11fault: FaultModule, tmp_path: Path) -> None:
    spare = SoftHSMToken.create(p11fault.token.directory, label="spare", pin=p11fault.token.pin)
    slots = [{"token_label": p11fault.token.label}, {"token_label": spare.label, "priority": "backup"}]
    config = config_over(p11fault, tmp_path, slots=slots)
    del config["hsm"]["token_label"]
    # The backup goes to the library itself: different libraries may serve different slots.
    slots[1]["library_path"] = str(spare.library)
    async with manahsm.open_service(config) as service:
        key = await imported(service, twin=False)
        p11fault.set(Spoil(Spoiled.OTHER_KEY))
        await sign(service, key)
        phases = [slot.phase for slot in (await service.status()).slots]
        routes = (await service.status()).routes

    assert phases == [SlotPhase.LATCHED, SlotPhase.UP]
    assert (routes.primary, routes.backup, routes.stand_in) == (0, 1, 0)


# ---- tokens that come and go ----


async def test_a_token_that_comes_back_in_another_slot_is_found_by_label_and_serial(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        key = await imported(service)
        before, hosts = (await service.status()).slots[0].hosts[0].slot_id, host_pids()
        p11fault.set(Gone())
        assert (await sign(service, key)).backend == "software"
        await eventually(lambda: not hosts & host_pids())
        p11fault.set(SlotOffset(1000))
        await signs_in_its_token(service, key)
        after = (await service.status()).slots[0].hosts[0].slot_id

    assert after == before + 1000


async def test_sessions_that_the_device_has_closed_cost_no_request(p11fault: FaultModule, tmp_path: Path) -> None:
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        key = await imported(service, twin=False)
        await service.filled()
        p11fault.set(Replugged(1))
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(sign, service, key, number)


# ---- sessions ----


async def test_a_token_with_few_sessions_is_asked_for_no_more_than_it_gives(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    clock = ManualClock()
    pool = {"size": 8, "max_overflow": 0, "processes": 2}
    p11fault.set(Sessions(3))  # in each host: its anchor and two more
    async with manahsm.open_service(config_over(p11fault, tmp_path, connection_pool=pool), clock=clock) as service:
        key = await imported(service, twin=False)
        slot: Slot = service._slots[0]
        await eventually(lambda: clock.advance(0.02) or slot.pool.open == 4)
        await eventually(lambda: _all_refused(slot, each_has=2))
        asked = p11fault.calls("C_OpenSession")
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(sign, service, key, number)
        assert p11fault.calls("C_OpenSession") == asked  # nobody spins

        p11fault.clear()
        await eventually(lambda: clock.advance(1.0) or slot.pool.open == 8)


def _all_refused(slot: Slot, *, each_has: int) -> bool:
    """Whether each host was refused another session, and none is being opened."""
    return all(room.limit == room.open == each_has for room in slot.pool._rooms.values())


async def test_a_token_that_opens_no_session_is_down_and_says_why(p11fault: FaultModule, tmp_path: Path) -> None:
    p11fault.set(Sessions(1))
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        (slot,) = service._slots
        await slot.wait_until(lambda: slot.phase is SlotPhase.DOWN)
        assert "no session can be opened: CKR_SESSION_COUNT" in str(slot.unavailable())
        p11fault.clear()
        await slot.wait_until(lambda: slot.phase is SlotPhase.UP)


# ---- logins ----


async def test_a_wrong_pin_is_tried_once_for_each_operators_word(p11fault: FaultModule, tmp_path: Path) -> None:
    rule: Directive = Return("C_Login", "CKR_PIN_INCORRECT")
    p11fault.set(rule)
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        (slot,) = service._slots
        assert slot.phase is SlotPhase.LATCHED
        assert p11fault.calls("C_Login") == 1
        await service.unlatch(slot.name)
        await slot.wait_until(lambda: slot.phase is SlotPhase.LATCHED)
        assert p11fault.calls("C_Login") == 2
        p11fault.clear()
        await service.unlatch(slot.name)
        await slot.wait_until(lambda: slot.phase is SlotPhase.UP)


async def test_a_login_that_the_token_has_dropped_is_renewed_and_costs_no_request(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_over(p11fault, tmp_path)) as service:
        key = await imported(service, twin=False)
        p11fault.set(Return("C_Sign", "CKR_USER_NOT_LOGGED_IN", count=1))
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(sign, service, key, number)
