"""Health and alerts of real tokens: pulled out, put back, hanging, signing wrongly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from p11fault import FaultModule
from p11fault_rules import Hang, Return, Spoil, Spoiled, TokenFlags
from services import A_PRIVATE_KEY, config_for, digest_of, eventually
from softhsm import SoftHSMToken
from watched_services import INTERVAL, Watched, watched

import manahsm

pytestmark = pytest.mark.anyio

SLOT = "pkcs11:manahsm-test"
CKF_USER_PIN_FINAL_TRY = 0x20000


ONE_HOST = {"size": 2, "processes": 1, "max_overflow": 0}
SOON = {"open_for": 500, "max_open_for": 500}


def faulty(module: FaultModule, directory: Path, **changes: Any) -> dict[str, Any]:
    changes.setdefault("circuit_breaker", SOON)
    return config_for(module.token, directory, connection_pool=ONE_HOST, **module.config_changes(), **changes)


@asynccontextmanager
async def with_canary(config: dict[str, Any], **monitoring: Any) -> AsyncIterator[Watched]:
    """A service that signs with the key ``canary`` in each check, and has done so."""
    async with watched(config, canary_key="canary", **monitoring) as it:
        await it.service.generate_key("canary", "transaction_signer")
        report = await it.service.trigger_health_check()
        assert report.component(SLOT).details["canary"] == "signed"
        assert await it.causes() == []
        yield it


# ---- there and not there ----


async def test_a_pulled_token_is_one_critical_alert_within_an_interval_and_resolved_within_one_of_its_return(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with watched(config_for(softhsm_token, tmp_path)) as it:
        assert await it.status() == "healthy"

        softhsm_token.hide()
        await it.to_be("unhealthy")
        (alert,) = await it.alerts()
        assert (alert.severity, alert.component, alert.message) == ("critical", SLOT, "HSM connectivity lost")
        # However long it lasts, and whatever is tried meanwhile, it stays one.
        await it.within(2 * INTERVAL, partial(seen_again, it, alert.id))
        assert [one.id for one in await it.alerts(resolved=True)] == [alert.id]

        softhsm_token.show()
        await it.within(INTERVAL, partial(is_over, it, "connectivity_lost"))
        assert [(one.id, one.resolved_by) for one in await it.alerts(resolved=True)] == [(alert.id, "itself")]
        assert await it.status() != "unhealthy"


async def seen_again(it: Watched, alert_id: str) -> bool:
    return any(alert.id == alert_id and alert.count >= 3 for alert in await it.alerts())


async def test_a_token_that_is_lost_in_the_middle_of_traffic_is_one_critical_alert_too(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with watched(config_for(softhsm_token, tmp_path, connection_pool=ONE_HOST)) as it:
        key = await it.service.generate_key("hot", "transaction_signer")
        await it.service.sign_hash(digest_of(1), key.key_id)
        softhsm_token.hide()
        with pytest.raises(manahsm.HSMUnavailable):
            await it.service.sign_hash(digest_of(2), key.key_id)
        await it.to_be("unhealthy")
        await it.within(INTERVAL, partial(is_told, it, "connectivity_lost"))
        softhsm_token.show()
        await it.within(INTERVAL, partial(is_over, it, "connectivity_lost"))

        critical = [alert for alert in await it.alerts(resolved=True) if alert.severity == "critical"]
        assert [alert.cause for alert in critical] == ["connectivity_lost"]


async def is_told(it: Watched, cause: str) -> bool:
    return cause in await it.causes()


async def is_over(it: Watched, cause: str) -> bool:
    return cause not in await it.causes()


async def test_a_backup_that_is_gone_while_the_primary_signs_degrades_the_service(tmp_path: Path) -> None:
    tokens = [SoftHSMToken.create(tmp_path / name, label=name) for name in ("main", "spare")]
    config = config_for(tokens[0], tmp_path, connection_pool=ONE_HOST)
    table = config["hsm"]
    slots = []
    for token, priority in zip(tokens, ("primary", "backup"), strict=True):
        pin = token.directory / "pin"
        pin.touch(mode=0o600)
        pin.write_text(token.pin)
        environment = dict(token.environment)
        slots.append(
            {"token_label": token.label, "priority": priority, "pin_file": str(pin), "environment": environment}
        )
    config = {"hsm": {name: table[name] for name in table if name not in {"token_label", "pin_file", "environment"}}}
    config["hsm"]["slots"] = slots
    async with watched(config) as it:
        await it.service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer")
        tokens[1].hide()
        await it.to_have("connectivity_lost")
        report = await it.service.health()
        assert (report.status, report.component("pkcs11:spare").status) == ("degraded", "unhealthy")
        assert report.made_up_for == {"pkcs11:spare"}

        tokens[0].hide()
        await it.to_be("unhealthy")
        tokens[0].show()
        tokens[1].show()


async def test_software_that_stands_in_is_told_until_the_token_is_back(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    config = config_for(softhsm_token, tmp_path, connection_pool=ONE_HOST, circuit_breaker=SOON)
    async with watched(config) as it:
        await it.service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer", keep_software_twin=True)
        softhsm_token.hide()
        await it.to_be("unhealthy")
        assert (await it.service.sign_hash(digest_of(1), "hot")).backend == "software"
        stand_in = next(alert for alert in await it.alerts() if alert.cause == "stand_in")
        assert (stand_in.severity, stand_in.component, stand_in.detail) == (
            "info",
            "signing_service",
            "for manahsm-test",
        )
        softhsm_token.show()
        await it.within(INTERVAL, partial(is_over, it, "stand_in"))


# ---- hanging ----


async def test_a_token_that_hangs_is_lost_and_holds_up_neither_the_monitor_nor_other_checks(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    async with watched(faulty(p11fault, tmp_path), check_timeout=1000) as it:
        p11fault.set(Hang("C_GetTokenInfo"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.service.trigger_health_check, SLOT)
            await eventually(lambda: p11fault.hanging() == 1)
            others = [name for name in it.service._parts.watch.health.names if name != SLOT]
            for name in others:
                await it.service.trigger_health_check(name)
            assert {(await it.component(name)).status for name in others} == {"healthy"}
            it.clock.advance(1.0)
        lost = await it.component(SLOT)
        assert lost.message == "HSM connectivity lost: no answer within 1 s"
        assert await it.causes() == ["connectivity_lost"]
        p11fault.clear()
        await it.within(INTERVAL, partial(is_over, it, "connectivity_lost"))


async def test_a_canary_that_gets_no_answer_is_a_token_that_does_not_sign(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    config = faulty(p11fault, tmp_path, circuit_breaker={**SOON, "slow_call": 500})
    async with with_canary(config, check_timeout=1000) as it:
        p11fault.set(Hang("C_Sign"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.service.trigger_health_check, SLOT)
            await eventually(lambda: p11fault.hanging() == 1)
            it.clock.advance(1.0)
        health = await it.component(SLOT)
        assert health.message == "Token does not sign: no canary signature within 1.0 s"
        assert health.details["breaker"] == "open"
        p11fault.clear()


# ---- canaries ----


async def test_a_token_that_signs_wrongly_is_unhealthy_though_every_call_succeeds(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    config = faulty(p11fault, tmp_path)
    async with with_canary(config) as it:
        spoiled = Spoil(Spoiled.OTHER_KEY)
        p11fault.set(spoiled)
        await it.to_be("unhealthy")

        assert p11fault.fired(spoiled) == 1
        assert "wrong signature was withheld" in (await it.component(SLOT)).message
        (alert,) = await it.alerts()
        assert (alert.severity, alert.cause) == ("critical", "latched")
        assert (await it.service.status()).slots[0].phase == "latched"
        with pytest.raises(manahsm.HSMUnavailable, match="latched"):
            await it.service.sign_hash(digest_of(1), "canary")
        p11fault.clear()
        await it.service.unlatch("manahsm-test")
        await it.within(INTERVAL, partial(is_over, it, "latched"))
        assert "connectivity_lost" not in await it.causes()


def hang_at_once(module: FaultModule, calls: int) -> bool:
    return module.hanging() == calls


async def test_a_canary_takes_no_session_that_callers_may_need(p11fault: FaultModule, tmp_path: Path) -> None:
    config = faulty(p11fault, tmp_path)
    async with with_canary(config) as it:
        p11fault.set(Hang("C_Sign"))
        async with anyio.create_task_group() as tasks:
            for busy in (1, 2):
                tasks.start_soon(it.service.sign_hash, digest_of(busy), "canary")
                await eventually(partial(hang_at_once, p11fault, busy))
                signs = p11fault.calls("C_Sign")
                report = await it.service.trigger_health_check(SLOT)
                assert report.component(SLOT).details["canary_detail"] == "no session is idle"
                assert p11fault.calls("C_Sign") == signs
            p11fault.clear()
        assert (await it.service.trigger_health_check(SLOT)).component(SLOT).details["canary"] == "signed"


async def test_canaries_bring_a_slot_without_traffic_back_from_probation(p11fault: FaultModule, tmp_path: Path) -> None:
    config = faulty(p11fault, tmp_path)
    async with with_canary(config) as it:
        slot = it.service._slots[0]
        slot.breaker.trip("the test says so")
        assert (await it.service.trigger_health_check(SLOT)).component(SLOT).message.startswith("Circuit breaker open")
        it.clock.advance(0.5)
        report = await it.service.trigger_health_check(SLOT)

        assert report.component(SLOT).details["breaker"] == "closed"
        assert report.status == "healthy"


async def test_a_canary_key_that_the_token_refuses_is_told_and_hurts_nothing(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    config = faulty(p11fault, tmp_path)
    async with with_canary(config) as it:
        p11fault.set(Return("C_SignInit", "CKR_KEY_FUNCTION_NOT_PERMITTED"))
        report = await it.service.trigger_health_check(SLOT)

        assert report.status == "degraded"
        assert await it.causes() == ["canary_unusable"]


async def test_a_canary_key_that_nobody_knows_is_told(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with watched(config_for(softhsm_token, tmp_path, connection_pool=ONE_HOST), canary_key="tweety") as it:
        assert await it.causes() == ["canary_unknown"]
        await it.service.generate_key("tweety", "transaction_signer")
        await it.service.trigger_health_check()

        assert await it.causes() == []


# ---- what a token says of itself ----


async def test_one_wrong_pin_before_the_token_locks_is_critical(p11fault: FaultModule, tmp_path: Path) -> None:
    async with watched(faulty(p11fault, tmp_path)) as it:
        p11fault.set(TokenFlags(set=CKF_USER_PIN_FINAL_TRY))
        report = await it.service.trigger_health_check(SLOT)

        assert report.component(SLOT).message == "One wrong PIN locks the token"
        assert [alert.severity for alert in await it.alerts()] == ["critical"]


async def test_a_host_that_loses_its_library_is_ended_and_replaced_with_nobody_signing(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    async with watched(faulty(p11fault, tmp_path)) as it:
        before = {host.info.pid for host in it.service._slots[0].pool.hosts if host.info is not None}
        p11fault.set(Return("C_GetTokenInfo", "CKR_CRYPTOKI_NOT_INITIALIZED"))
        report = await it.service.trigger_health_check(SLOT)
        assert report.status == "unhealthy"
        p11fault.clear()
        await it.within(INTERVAL, partial(is_over, it, "connectivity_lost"))

        assert not before & {host.info.pid for host in it.service._slots[0].pool.hosts if host.info is not None}
