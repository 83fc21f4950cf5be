"""Tokens that misbehave: what each kind of failure of the vendor's library means for a request and for the slot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hsm_hosts import Shim
from services import A_PRIVATE_KEY, config_for, digest_of, eventually, host_pids, recovered_address

import manahsm
from manahsm.signing.slot import SlotPhase

pytestmark = pytest.mark.anyio


def config_of(shim: Shim, directory: Path, **pool: int) -> dict[str, Any]:
    settings = shim.settings()
    return config_for(
        shim.token,
        directory,
        library_path=settings.library_path,
        environment=dict(settings.environment),
        connection_pool={"size": 2, "processes": 1, **pool},
    )


@asynccontextmanager
async def service_of(
    shim: Shim, directory: Path, **pool: int
) -> AsyncIterator[tuple[manahsm.Service, manahsm.KeyInfo]]:
    """A service on the shim, with the key ``hot``."""
    async with manahsm.open_service(config_of(shim, directory, **pool)) as service:
        yield service, await service.generate_key("hot", "transaction_signer")


async def assert_signs(service: manahsm.Service, key: manahsm.KeyInfo) -> None:
    """It does now, whatever was before."""
    with anyio.fail_after(20):
        signature = await service.sign_hash(digest_of(2), key.key_id)
    assert recovered_address(signature, digest_of(2)) == key.address


@pytest.mark.parametrize(
    "directive",
    [
        "C_Sign return 0x30",  # CKR_DEVICE_ERROR
        "C_Sign return 0x5",  # CKR_GENERAL_ERROR
        "C_SignInit return 0x82",  # CKR_OBJECT_HANDLE_INVALID
        "C_SignInit return 0xb3",  # CKR_SESSION_HANDLE_INVALID
        "C_Sign return 0x80000042",  # the vendor's own
        "C_Sign short",
        "C_Sign abort",
        "C_SignInit return 0x190",  # CKR_CRYPTOKI_NOT_INITIALIZED
    ],
)
async def test_a_failure_of_the_device_is_tried_elsewhere_then_refused_and_gets_over(
    shim: Shim, tmp_path: Path, directive: str
) -> None:
    async with service_of(shim, tmp_path) as (service, key):
        shim.misbehave(directive)
        with pytest.raises(manahsm.HSMUnavailable, match="every one of 3 holders failed"):
            await service.sign_hash(digest_of(1), key.key_id)
        shim.misbehave()
        await assert_signs(service, key)


async def test_a_token_that_logs_us_out_is_logged_into_again_by_the_same_host(shim: Shim, tmp_path: Path) -> None:
    async with service_of(shim, tmp_path) as (service, key):
        hosts = host_pids()
        shim.misbehave("C_SignInit logout")
        with pytest.raises(manahsm.HSMUnavailable):
            await service.sign_hash(digest_of(1), key.key_id)
        shim.misbehave()
        await assert_signs(service, key)
        assert host_pids() == hosts


async def test_a_pin_that_is_refused_later_latches_the_slot(shim: Shim, tmp_path: Path) -> None:
    async with service_of(shim, tmp_path) as (service, key):
        slot = service._slots[0]
        shim.misbehave("C_SignInit logout", "C_Login return 0xa0")  # CKR_PIN_INCORRECT
        with pytest.raises(manahsm.HSMUnavailable):
            await service.sign_hash(digest_of(1), key.key_id)
        await slot.wait_until(lambda: slot.phase is SlotPhase.LATCHED)
        shim.misbehave()
        with pytest.raises(manahsm.HSMUnavailable, match=r"latched: .*PIN.*restart the service"):
            await service.sign_hash(digest_of(1), key.key_id)


@pytest.mark.parametrize("code", ["0x68", "0x21", "0x70"])  # FUNCTION_NOT_PERMITTED, DATA_LEN_RANGE, MECHANISM_INVALID
async def test_a_key_that_the_token_will_not_use_is_told_the_caller_at_once(
    shim: Shim, tmp_path: Path, code: str
) -> None:
    async with service_of(shim, tmp_path) as (service, key):
        shim.misbehave(f"C_SignInit return {code}")
        with pytest.raises(manahsm.PolicyDenied, match="refuses this key or operation"):
            await service.sign_hash(digest_of(1), key.key_id)
        shim.misbehave()
        await assert_signs(service, key)


@pytest.mark.parametrize("code", ["0x32", "0xe0"])  # CKR_DEVICE_REMOVED, CKR_TOKEN_NOT_PRESENT
async def test_a_token_that_is_pulled_out_is_refused_at_once_and_looked_for_again(
    shim: Shim, tmp_path: Path, code: str
) -> None:
    async with service_of(shim, tmp_path) as (service, key):
        hosts = host_pids()
        shim.misbehave(f"C_Sign return {code}")
        with pytest.raises(manahsm.HSMUnavailable, match="out of use"):
            await service.sign_hash(digest_of(1), key.key_id)
        shim.misbehave()
        await eventually(lambda: host_pids() and not host_pids() & hosts)
        await assert_signs(service, key)


async def test_a_garbled_signature_is_withheld_and_latches_the_slot(shim: Shim, tmp_path: Path) -> None:
    async with service_of(shim, tmp_path) as (service, key):
        shim.misbehave("C_Sign garble")
        with pytest.raises(manahsm.SignatureMismatch):
            await service.sign_hash(digest_of(1), key.key_id)
        shim.misbehave()
        with pytest.raises(manahsm.HSMUnavailable, match="latched: its token returned a wrong signature"):
            await service.sign_hash(digest_of(2), key.key_id)


async def test_a_call_that_hangs_costs_the_host_and_not_the_service(shim: Shim, tmp_path: Path) -> None:
    async with service_of(shim, tmp_path, call_timeout=300) as (service, key):
        hosts = host_pids()
        shim.misbehave("C_Sign hang")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(assert_signs, service, key)
            await eventually(lambda: not host_pids() & hosts)
            shim.misbehave()


async def test_a_generation_that_hangs_is_not_repeated_and_its_key_has_no_role(shim: Shim, tmp_path: Path) -> None:
    async with service_of(shim, tmp_path, call_timeout=300) as (service, key):
        shim.misbehave("C_GenerateKeyPair hang")
        with pytest.raises(manahsm.HSMUnavailable, match="whether it was is unknown"):
            await service.generate_key("second", "transaction_signer")
        shim.misbehave()
        await assert_signs(service, key)
        assert [known.label for known in await service.list_keys(role="transaction_signer")] == ["hot"]


async def test_an_import_that_fails_half_way_leaves_nothing(shim: Shim, tmp_path: Path) -> None:
    async with service_of(shim, tmp_path) as (service, _):
        shim.misbehave("C_CreateObject second 0x30")
        with pytest.raises(manahsm.HSMUnavailable, match="no key was made"):
            await service.import_key(A_PRIVATE_KEY, "mine", "transaction_signer", keep_software_twin=True)
        shim.misbehave()
        assert [known.label for known in await service.list_keys()] == ["hot"]
        assert list((tmp_path / "state" / "keystore").glob("*.json")) == []
        imported = await service.import_key(A_PRIVATE_KEY, "mine", "transaction_signer", keep_software_twin=True)
        await assert_signs(service, imported)


async def test_a_token_whose_keys_can_not_be_listed_is_down_until_they_can(shim: Shim, tmp_path: Path) -> None:
    async with service_of(shim, tmp_path) as (_, key):
        pass
    shim.misbehave("C_FindObjectsInit return 0x30")
    async with manahsm.open_service(config_of(shim, tmp_path)) as service:
        slot = service._slots[0]
        assert (slot.phase, "keys could not be listed" in (slot.reason or "")) == (SlotPhase.DOWN, True)
        with pytest.raises(manahsm.HSMUnavailable, match="is down"):
            await service.sign_hash(digest_of(1), key.key_id)
        shim.misbehave()
        await slot.wait_until(lambda: slot.phase is SlotPhase.UP)
        await assert_signs(service, key)


@pytest.mark.parametrize("directive", ["C_Login return 0xa4", "token flags 0x20000", "token noecdsa"])
async def test_a_token_that_must_not_be_tried_again_is_latched_from_the_start(
    shim: Shim, tmp_path: Path, directive: str
) -> None:
    shim.misbehave(directive)  # CKR_PIN_LOCKED, CKF_USER_PIN_FINAL_TRY
    async with manahsm.open_service(config_of(shim, tmp_path)) as service:
        assert service._slots[0].phase is SlotPhase.LATCHED
        with pytest.raises(manahsm.HSMUnavailable, match="latched"):
            await service.generate_key("hot", "transaction_signer")
        assert host_pids() == set()
