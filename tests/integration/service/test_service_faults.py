"""What the service does when the token, a host, a worker or a caller fails it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus
from hsm_hosts import open_descriptors
from services import (
    A_PRIVATE_KEY,
    config_for,
    digest_of,
    eventually,
    host_pids,
    recovered_address,
    software_config,
)
from softhsm import SoftHSMToken

import manahsm
from manahsm.ethereum.signatures import complete as real_complete
from manahsm.signing import checks, software_worker
from manahsm.signing.slot import SlotPhase
from supervisors.testing import ManualClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def one_session(softhsm_token: SoftHSMToken, tmp_path: Path) -> dict[str, Any]:
    return config_for(softhsm_token, tmp_path, connection_pool={"size": 1, "processes": 1})


def freeze_hosts() -> None:
    for pid in host_pids():
        os.kill(pid, signal.SIGSTOP)


def thaw_hosts() -> None:
    for pid in host_pids():
        os.kill(pid, signal.SIGCONT)


# ---- tokens ----


async def test_a_wrong_pin_is_tried_once_and_latches_the_slot(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = config_for(softhsm_token, tmp_path)
    async with manahsm.open_service(config) as service:
        key = await service.generate_key("hot", "transaction_signer")
    (softhsm_token.directory / "pin").write_text("00000\n")

    async with manahsm.open_service(config) as service:
        slot = (await service.status()).slots[0]
        with pytest.raises(manahsm.HSMUnavailable, match=r"latched: .*PIN.*restart the service"):
            await service.sign_hash(digest_of(1), key.key_id)
        with pytest.raises(manahsm.HSMUnavailable, match="latched"):
            await service.generate_key("other", "transaction_signer")
        soft = await service.generate_key("soft", "node_identity", "software")
        assert (await service.sign_hash(digest_of(1), soft.key_id)).backend == "software"
        assert host_pids() == set()

    assert slot.phase is SlotPhase.LATCHED
    assert "00000" not in repr(slot)
    # SoftHSM shows "count low" after the first wrong try; the token counted exactly one.
    assert "user PIN count low" in softhsm_token.flags()
    assert "final" not in softhsm_token.flags()


async def test_a_token_that_appears_late_is_taken_into_service(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = config_for(softhsm_token, tmp_path)
    async with manahsm.open_service(config) as service:
        key = await service.generate_key("hot", "transaction_signer")
    softhsm_token.hide()
    (softhsm_token.directory / "tokens").mkdir()

    async with manahsm.open_service(config) as service:
        slot = service._slots[0]
        assert slot.phase is SlotPhase.DOWN
        with pytest.raises(manahsm.HSMUnavailable, match=r"no token labelled 'manahsm-test'.*tried again by itself"):
            await service.sign_hash(digest_of(1), key.key_id)
        (softhsm_token.directory / "tokens").rmdir()
        softhsm_token.show()
        await slot.wait_until(lambda: slot.phase is SlotPhase.UP)
        signature = await service.sign_hash(digest_of(1), key.key_id)

    assert recovered_address(signature, digest_of(1)) == key.address


async def test_a_key_whose_slot_is_no_longer_configured_is_refused(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        key = await service.generate_key("hot", "transaction_signer")
    async with manahsm.open_service(software_config(tmp_path)) as service:
        with pytest.raises(manahsm.HSMUnavailable, match="no configured slot holds the key"):
            await service.sign_hash(digest_of(1), key.key_id)


# ---- hosts ----


async def test_a_request_outlives_the_host_that_was_signing_it(one_session: dict[str, Any]) -> None:
    signatures: list[manahsm.Signature] = []
    async with manahsm.open_service(one_session) as service:
        key = await service.generate_key("hot", "transaction_signer")
        freeze_hosts()
        (victim,) = host_pids()

        async def sign() -> None:
            signatures.append(await service.sign_hash(digest_of(1), key.key_id))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sign)
            await eventually(lambda: service._slots[0].mailbox.held == 1)
            os.kill(victim, signal.SIGKILL)

        assert host_pids() not in (set(), {victim})
    assert recovered_address(signatures[0], digest_of(1)) == key.address


async def test_an_idle_host_that_is_killed_is_replaced(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        key = await service.generate_key("hot", "transaction_signer")
        slot = service._slots[0]
        await eventually(lambda: slot.pool.stats().open == 4)
        before = host_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        await slot.wait_until(lambda: not slot.pool.hosts)
        await eventually(lambda: len(slot.pool.hosts) == 2 and slot.pool.stats().open == 4)
        after = host_pids()
        signature = await service.sign_hash(digest_of(1), key.key_id)

    assert len(after) == 2
    assert not before & after
    assert recovered_address(signature, digest_of(1)) == key.address


async def test_a_host_that_hangs_is_killed_and_the_request_signed_by_another(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    pool = {"size": 1, "processes": 1, "call_timeout": 1500}
    async with manahsm.open_service(config_for(softhsm_token, tmp_path, connection_pool=pool)) as service:
        key = await service.generate_key("hot", "transaction_signer")
        (hung,) = host_pids()
        freeze_hosts()
        signature = await service.sign_hash(digest_of(1), key.key_id)
        assert hung not in host_pids()

    assert recovered_address(signature, digest_of(1)) == key.address


async def test_a_library_that_can_not_be_loaded_leaves_the_service_degraded(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(b"this is no library")
    async with manahsm.open_service(config_for(softhsm_token, tmp_path, library_path=str(broken))) as service:
        slot = (await service.status()).slots[0]

    assert slot.phase is SlotPhase.DOWN
    assert "libbroken.so" in (slot.reason or "")


# ---- workers ----


async def test_a_worker_that_crashes_hands_its_request_to_another(
    softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = 0

    def crash_once(*arguments: Any) -> Any:
        nonlocal crashes
        if not crashes:
            crashes += 1
            raise ZeroDivisionError("a bug of ours")
        return real_complete(*arguments)

    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        key = await service.generate_key("hot", "transaction_signer")
        monkeypatch.setattr(checks, "complete", crash_once)
        signature = await service.sign_hash(digest_of(1), key.key_id)

    assert crashes == 1
    assert recovered_address(signature, digest_of(1)) == key.address


async def test_a_request_that_crashes_every_worker_is_refused_and_the_next_is_signed(
    softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash_on_poison(raw: bytes, digest: bytes, public_key: bytes) -> Any:
        if digest == digest_of(666):
            raise ZeroDivisionError("a bug of ours")
        return real_complete(raw, digest, public_key)

    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        key = await service.generate_key("hot", "transaction_signer")
        monkeypatch.setattr(checks, "complete", crash_on_poison)
        with pytest.raises(manahsm.HSMUnavailable, match="every one of 3 holders failed"):
            await service.sign_hash(digest_of(666), key.key_id)
        signature = await service.sign_hash(digest_of(1), key.key_id)
        status = (await service.status()).slots[0]

    assert recovered_address(signature, digest_of(1)) == key.address
    assert status.queue.poisoned == 1


async def test_a_wrong_signature_is_withheld_and_latches_the_slot(
    one_session: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def garbled(raw: bytes, digest: bytes, public_key: bytes) -> Any:
        return real_complete(raw[:31] + bytes([raw[31] ^ 1]) + raw[32:], digest, public_key)

    async with manahsm.open_service(one_session) as service:
        key = await service.generate_key("hot", "transaction_signer")
        monkeypatch.setattr(checks, "complete", garbled)
        with pytest.raises(manahsm.SignatureMismatch):
            await service.sign_hash(digest_of(1), key.key_id)
        with pytest.raises(manahsm.HSMUnavailable, match=r"latched: .*wrong signature"):
            await service.sign_hash(digest_of(2), key.key_id)


async def test_the_software_worker_crashes_and_its_request_is_signed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = 0
    real_sign = software_worker.sign

    def crash_once(*arguments: Any) -> Any:
        nonlocal crashes
        if not crashes:
            crashes += 1
            raise ZeroDivisionError("a bug of ours")
        return real_sign(*arguments)

    monkeypatch.setattr(software_worker, "sign", crash_once)
    async with manahsm.open_service(software_config(tmp_path)) as service:
        signature = await service.sign_hash(digest_of(1), A_PRIVATE_KEY)

    assert crashes == 1
    assert signature.backend == "software"


async def test_a_registry_that_can_not_be_written_for_a_while_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    config = software_config(tmp_path)

    def disk_full(_uses: object) -> None:
        raise manahsm.RegistryError("the disk is full")

    async with manahsm.open_service(config, clock=clock) as service:
        key = await service.generate_key("soft", "node_identity", "software")
        await service.sign_hash(digest_of(1), "soft")
        with monkeypatch.context() as fault:
            fault.setattr(service._registry._store, "write_uses", disk_full)
            await clock.run_for(60)
        signature = await service.sign_hash(digest_of(2), "soft")
    async with manahsm.open_service(config) as service:
        counted = await service.get_key(key.key_id)

    assert recovered_address(signature, digest_of(2)) == key.address
    assert counted.use_count == 2


# ---- callers and limits ----


async def test_a_deadline_ends_a_request_that_nobody_answers(one_session: dict[str, Any]) -> None:
    async with manahsm.open_service(one_session) as service:
        key = await service.generate_key("hot", "transaction_signer")
        freeze_hosts()
        with pytest.raises(manahsm.DeadlineExceeded, match="nothing was released"):
            await service.sign_hash(digest_of(1), key.key_id, timeout=0.05)
        thaw_hosts()  # or the end would wait for them: tested below


async def test_a_key_that_loses_its_role_while_its_request_waits_signs_nothing(one_session: dict[str, Any]) -> None:
    outcomes: list[manahsm.Outcome] = []
    async with manahsm.open_service(one_session) as service:
        key = await service.generate_key("hot", "transaction_signer")
        freeze_hosts()

        async def sign() -> None:
            outcomes.append(await service.answer(manahsm.SignRequest.hash(digest_of(1), key.key_id)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sign)
            await eventually(lambda: service._slots[0].mailbox.held == 1)
            await service.assign_role(key.key_id, None)
            thaw_hosts()

    assert [outcome.error.code if outcome.error else "signed" for outcome in outcomes] == ["role_denied"]


async def test_a_full_queue_refuses_and_what_was_in_it_is_signed(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = config_for(softhsm_token, tmp_path, connection_pool={"size": 1, "processes": 1}, service={"queue_size": 3})
    outcomes: list[manahsm.Outcome] = []
    async with manahsm.open_service(config) as service:
        key = await service.generate_key("hot", "transaction_signer")
        freeze_hosts()

        async def sign(number: int) -> None:
            outcomes.append(await service.answer(manahsm.SignRequest.hash(digest_of(number), key.key_id)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sign, 0)
            await eventually(lambda: service._slots[0].mailbox.held == 1)
            for number in range(1, 7):
                tasks.start_soon(sign, number)
            await eventually(lambda: len(outcomes) == 2)
            thaw_hosts()

    codes = [outcome.error.code if outcome.error else "signed" for outcome in outcomes]
    assert codes == ["overloaded"] * 2 + ["signed"] * 5  # three were queued, and one waited in the host


async def test_a_spent_signing_rate_says_when_to_come_back(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path, security_policy={"max_signing_rate": 2})) as service:
        for number in range(2):
            await service.sign_hash(digest_of(number), A_PRIVATE_KEY)
        with pytest.raises(manahsm.RateLimited) as refused:
            await service.sign_hash(digest_of(3), A_PRIVATE_KEY)

    assert 0 < refused.value.retry_after <= 0.5


async def test_a_cancelled_caller_leaves_the_others_in_peace(one_session: dict[str, Any]) -> None:
    async with manahsm.open_service(one_session) as service:
        key = await service.generate_key("hot", "transaction_signer")
        mailbox = service._slots[0].mailbox
        freeze_hosts()
        signatures: list[manahsm.Signature] = []

        async def sign(number: int) -> None:
            signatures.append(await service.sign_hash(digest_of(number), key.key_id))

        async def be_cancelled(number: int, *, task_status: TaskStatus[anyio.CancelScope]) -> None:
            with anyio.CancelScope() as scope:
                task_status.started(scope)
                await sign(number)

        async with anyio.create_task_group() as tasks:
            held = await tasks.start(be_cancelled, 0)
            await eventually(lambda: mailbox.held == 1)
            queued = await tasks.start(be_cancelled, 1)
            tasks.start_soon(sign, 2)
            await eventually(lambda: (len(mailbox), mailbox.held) == (1, 2))  # the second waits in the host
            held.cancel()
            queued.cancel()
            await eventually(lambda: (len(mailbox), mailbox.held) == (1, 0))
            thaw_hosts()

    assert [signature.digest for signature in signatures] == [digest_of(2)]


# ---- the end ----


async def test_what_is_queued_when_the_service_closes_ends_exactly_once(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    config = config_for(
        softhsm_token, tmp_path, connection_pool={"size": 1, "processes": 1}, service={"shutdown_grace": 100}
    )
    outcomes: list[manahsm.Outcome] = []

    async def sign(service: manahsm.Service, key_id: str) -> None:
        outcomes.append(await service.answer(manahsm.SignRequest.hash(digest_of(1), key_id)))

    async with anyio.create_task_group() as tasks, manahsm.open_service(config) as service:
        key = await service.generate_key("hot", "transaction_signer")
        freeze_hosts()
        for _ in range(5):
            tasks.start_soon(sign, service, key.key_id)
        await eventually(lambda: len(service._slots[0].mailbox) + service._slots[0].mailbox.held == 5)
    with pytest.raises(manahsm.ServiceStopping):
        await service.sign_hash(digest_of(1), key.key_id)
    with pytest.raises(manahsm.ServiceStopping):
        await service.generate_key("late", "transaction_signer")

    assert [outcome.error.code if outcome.error else None for outcome in outcomes] == ["service_stopping"] * 5
    assert host_pids() == set()


async def test_what_can_be_signed_within_the_grace_is_signed(one_session: dict[str, Any]) -> None:
    outcomes: list[manahsm.Outcome] = []

    async def sign(service: manahsm.Service, number: int, key_id: str) -> None:
        outcomes.append(await service.answer(manahsm.SignRequest.hash(digest_of(number), key_id)))

    async with anyio.create_task_group() as tasks, manahsm.open_service(one_session) as service:
        key = await service.generate_key("hot", "transaction_signer")
        for number in range(100):
            tasks.start_soon(sign, service, number, key.key_id)
        await eventually(lambda: len(service._slots[0].mailbox) > 50)

    assert [outcome.error for outcome in outcomes] == [None] * 100


async def test_a_service_leaves_no_process_and_no_descriptor(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = config_for(softhsm_token, tmp_path)
    async with manahsm.open_service(config) as service:  # what is opened once a process is open now
        await service.generate_key("hot", "transaction_signer")
    before = open_descriptors()
    async with manahsm.open_service(config) as service:
        await service.sign_hash(digest_of(1), "hot")
        assert len(host_pids()) >= 1
    await eventually(lambda: open_descriptors() <= before)

    assert host_pids() == set()


async def test_an_error_in_the_block_comes_out_as_itself(one_session: dict[str, Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        async with manahsm.open_service(one_session):
            raise ZeroDivisionError
    assert host_pids() == set()


async def test_a_cancelled_service_cleans_up(one_session: dict[str, Any]) -> None:
    with anyio.CancelScope() as scope:
        async with manahsm.open_service(one_session) as service:
            await service.generate_key("hot", "transaction_signer")
            scope.cancel()
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert host_pids() == set()


async def test_a_start_that_is_cancelled_leaves_no_process(one_session: dict[str, Any]) -> None:
    async with anyio.create_task_group() as tasks:

        async def cancel_when_a_host_is_there() -> None:
            await eventually(host_pids)
            tasks.cancel_scope.cancel()

        tasks.start_soon(cancel_when_a_host_is_there)
        async with manahsm.open_service(one_session):
            await anyio.sleep_forever()

    assert host_pids() == set()


async def test_two_services_can_not_share_a_state_directory(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path)):
        with pytest.raises(manahsm.AuditUnavailable, match="another manahsm process"):
            async with manahsm.open_service(software_config(tmp_path)):
                pytest.fail("it opened")
