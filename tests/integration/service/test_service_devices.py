"""Tokens that misbehave: what each kind of failure of the vendor's library means for a request and for the slot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from p11fault import FaultModule
from p11fault_rules import Crash, Directive, Hang, Logout, NoECDSA, Return, Rule, Spoil, Spoiled, TokenFlags
from services import A_PRIVATE_KEY, config_for, digest_of, eventually, host_pids, recovered_address

import manahsm
from manahsm.signing.slot import SlotPhase

pytestmark = pytest.mark.anyio

CKF_USER_PIN_FINAL_TRY = 0x20000


def config_of(p11fault: FaultModule, directory: Path, **pool: int) -> dict[str, Any]:
    return config_for(
        p11fault.token,
        directory,
        **p11fault.config_changes(),
        connection_pool={"size": 2, "processes": 1, **pool},
        circuit_breaker={"open_for": 1, "max_open_for": 1, "probes": 1},
    )


@asynccontextmanager
async def service_of(
    p11fault: FaultModule, directory: Path, **pool: int
) -> AsyncIterator[tuple[manahsm.Service, manahsm.KeyInfo]]:
    """A service on the fault module, with the key ``hot``."""
    async with manahsm.open_service(config_of(p11fault, directory, **pool)) as service:
        yield service, await service.generate_key("hot", "transaction_signer")


async def assert_signs(service: manahsm.Service, key: manahsm.KeyInfo) -> None:
    """It does as soon as its slot is asked again, whatever was before."""
    await eventually(lambda: service._slots[0].admits)
    with anyio.fail_after(20):
        signature = await service.sign_hash(digest_of(2), key.key_id)
    assert recovered_address(signature, digest_of(2)) == key.address


@pytest.mark.parametrize(
    "rule",
    [
        Return("C_Sign", "CKR_DEVICE_ERROR"),
        Return("C_Sign", "CKR_GENERAL_ERROR"),
        Return("C_SignInit", "CKR_OBJECT_HANDLE_INVALID"),
        Return("C_SignInit", "CKR_SESSION_HANDLE_INVALID"),
        Return("C_Sign", 0x80000042),  # the vendor's own
        Spoil(Spoiled.TRUNCATE),
        Crash("C_Sign"),
        Return("C_SignInit", "CKR_CRYPTOKI_NOT_INITIALIZED"),
    ],
    ids=str,
)
async def test_a_failure_of_the_device_is_tried_elsewhere_then_refused_and_gets_over(
    p11fault: FaultModule, tmp_path: Path, rule: Rule
) -> None:
    async with service_of(p11fault, tmp_path) as (service, key):
        p11fault.set(rule)
        with pytest.raises(manahsm.HSMUnavailable, match=r"could not sign|is connecting"):
            await service.sign_hash(digest_of(1), key.key_id)
        p11fault.clear()
        await assert_signs(service, key)


async def test_a_token_that_logs_us_out_is_logged_into_again_by_the_same_host(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    async with service_of(p11fault, tmp_path) as (service, key):
        hosts = host_pids()
        p11fault.set(Logout("C_SignInit"))
        with pytest.raises(manahsm.HSMUnavailable):
            await service.sign_hash(digest_of(1), key.key_id)
        p11fault.clear()
        await assert_signs(service, key)
        assert host_pids() == hosts


async def test_a_pin_that_is_refused_later_latches_the_slot(p11fault: FaultModule, tmp_path: Path) -> None:
    async with service_of(p11fault, tmp_path) as (service, key):
        slot = service._slots[0]
        p11fault.set(Logout("C_SignInit"), Return("C_Login", "CKR_PIN_INCORRECT"))  # CKR_PIN_INCORRECT
        with pytest.raises(manahsm.HSMUnavailable):
            await service.sign_hash(digest_of(1), key.key_id)
        await slot.wait_until(lambda: slot.phase is SlotPhase.LATCHED)
        p11fault.clear()
        with pytest.raises(manahsm.HSMUnavailable, match=r"latched: .*PIN.*restart the service"):
            await service.sign_hash(digest_of(1), key.key_id)


@pytest.mark.parametrize("code", ["CKR_KEY_FUNCTION_NOT_PERMITTED", "CKR_DATA_LEN_RANGE", "CKR_MECHANISM_INVALID"])
async def test_a_key_that_the_token_will_not_use_is_told_the_caller_at_once(
    p11fault: FaultModule, tmp_path: Path, code: str
) -> None:
    async with service_of(p11fault, tmp_path) as (service, key):
        p11fault.set(Return("C_SignInit", code))
        with pytest.raises(manahsm.PolicyDenied, match="refuses this key or operation"):
            await service.sign_hash(digest_of(1), key.key_id)
        p11fault.clear()
        await assert_signs(service, key)


@pytest.mark.parametrize("code", ["CKR_DEVICE_REMOVED", "CKR_TOKEN_NOT_PRESENT"])
async def test_a_token_that_is_pulled_out_is_refused_at_once_and_looked_for_again(
    p11fault: FaultModule, tmp_path: Path, code: str
) -> None:
    async with service_of(p11fault, tmp_path) as (service, key):
        hosts = host_pids()
        p11fault.set(Return("C_Sign", code))
        with pytest.raises(manahsm.HSMUnavailable, match="has lost its token"):
            await service.sign_hash(digest_of(1), key.key_id)
        p11fault.clear()
        await eventually(lambda: host_pids() and not host_pids() & hosts)
        await assert_signs(service, key)


async def test_a_garbled_signature_is_withheld_and_latches_the_slot(p11fault: FaultModule, tmp_path: Path) -> None:
    async with service_of(p11fault, tmp_path) as (service, key):
        p11fault.set(Spoil(Spoiled.CORRUPT))
        with pytest.raises(manahsm.SignatureMismatch):
            await service.sign_hash(digest_of(1), key.key_id)
        p11fault.clear()
        with pytest.raises(manahsm.HSMUnavailable, match=r"latched: .*wrong signature"):
            await service.sign_hash(digest_of(2), key.key_id)


async def test_a_call_that_hangs_costs_the_host_and_not_the_service(p11fault: FaultModule, tmp_path: Path) -> None:
    async with service_of(p11fault, tmp_path, call_timeout=1500) as (service, key):
        hosts = host_pids()
        p11fault.set(Hang("C_Sign"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(assert_signs, service, key)
            await eventually(lambda: not host_pids() & hosts)
            p11fault.clear()


async def test_a_generation_that_hangs_is_not_repeated_and_its_key_has_no_role(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    async with service_of(p11fault, tmp_path, call_timeout=1500) as (service, key):
        p11fault.set(Hang("C_GenerateKeyPair"))
        with pytest.raises(manahsm.HSMUnavailable, match="whether it was is unknown"):
            await service.generate_key("second", "transaction_signer")
        p11fault.clear()
        await assert_signs(service, key)
        assert [known.label for known in await service.list_keys(role="transaction_signer")] == ["hot"]


async def test_an_import_that_fails_half_way_leaves_nothing(p11fault: FaultModule, tmp_path: Path) -> None:
    async with service_of(p11fault, tmp_path) as (service, _):
        p11fault.set(Return("C_CreateObject", "CKR_DEVICE_ERROR", every=2))
        with pytest.raises(manahsm.HSMUnavailable, match="no key was made"):
            await service.import_key(A_PRIVATE_KEY, "mine", "transaction_signer", keep_software_twin=True)
        p11fault.clear()
        assert [known.label for known in await service.list_keys()] == ["hot"]
        assert list((tmp_path / "state" / "keystore").glob("*.json")) == []
        imported = await service.import_key(A_PRIVATE_KEY, "mine", "transaction_signer", keep_software_twin=True)
        await assert_signs(service, imported)


async def test_a_token_whose_keys_can_not_be_listed_is_down_until_they_can(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    async with service_of(p11fault, tmp_path) as (_, key):
        pass
    p11fault.set(Return("C_FindObjectsInit", "CKR_DEVICE_ERROR"))
    async with manahsm.open_service(config_of(p11fault, tmp_path)) as service:
        slot = service._slots[0]
        assert (slot.phase, "keys could not be listed" in (slot.reason or "")) == (SlotPhase.DOWN, True)
        with pytest.raises(manahsm.HSMUnavailable, match="is down"):
            await service.sign_hash(digest_of(1), key.key_id)
        p11fault.clear()
        await slot.wait_until(lambda: slot.phase is SlotPhase.UP)
        await assert_signs(service, key)


@pytest.mark.parametrize(
    "directive",
    [Return("C_Login", "CKR_PIN_LOCKED"), TokenFlags(set=CKF_USER_PIN_FINAL_TRY), NoECDSA()],
    ids=str,
)
async def test_a_token_that_must_not_be_tried_again_is_latched_from_the_start(
    p11fault: FaultModule, tmp_path: Path, directive: Directive
) -> None:
    p11fault.set(directive)
    async with manahsm.open_service(config_of(p11fault, tmp_path)) as service:
        assert service._slots[0].phase is SlotPhase.LATCHED
        with pytest.raises(manahsm.HSMUnavailable, match="latched"):
            await service.generate_key("hot", "transaction_signer")
        assert host_pids() == set()
