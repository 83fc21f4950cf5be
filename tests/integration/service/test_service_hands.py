"""What waits behind a digest in a host: it goes ahead of nobody, costs nobody, and is as safe there as in the queue."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest
from p11fault import FaultModule
from p11fault_rules import Delay, Hang, Return
from services import audit_records, config_for, digest_of, eventually, recovered_address
from softhsm import SoftHSMToken

import manahsm
from manahsm.hsm import link
from manahsm.hsm.client import HostSession
from manahsm.signing.conveyor import Conveyor
from manahsm.signing.decisions import MOST_AT_ONCE, share_of
from manahsm.signing.jobs import HSMJob
from supervisors import Request
from supervisors.testing import ManualClock

pytestmark = pytest.mark.anyio

ONE_SESSION = {"size": 1, "max_overflow": 0, "processes": 1}


async def sign_at_once(service: manahsm.Service, count: int, signed: list[manahsm.Signature]) -> None:
    async def sign(number: int) -> None:
        signed.append(await service.sign_hash(digest_of(number), "hot"))

    async with anyio.create_task_group() as tasks:
        for number in range(1, count + 1):
            tasks.start_soon(sign, number)


def pid_of(service: manahsm.Service) -> int:
    info = service._slots[0].pool.hosts[0].info
    assert info is not None
    return info.pid


async def test_the_next_digest_waits_in_the_host_while_one_is_signed(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    signed: list[manahsm.Signature] = []
    async with manahsm.open_service(config_for(softhsm_token, tmp_path, connection_pool=ONE_SESSION)) as service:
        key = await service.generate_key("hot", "transaction_signer")
        await service.filled()
        mailbox = service._slots[0].mailbox
        os.kill(pid_of(service), signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sign_at_once, service, 4, signed)
            await eventually(lambda: mailbox.held + len(mailbox) == 4)
            held = mailbox.held
            os.kill(pid_of(service), signal.SIGCONT)
    assert held >= 2
    assert {recovered_address(one, one.digest) for one in signed} == {key.address}


async def test_a_digest_waits_behind_no_other_while_a_session_is_free(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    pool = {"size": 2, "max_overflow": 0, "processes": 2}
    async with manahsm.open_service(config_for(softhsm_token, tmp_path, connection_pool=pool)) as service:
        await service.generate_key("hot", "transaction_signer")
        await service.filled()
        slot = service._slots[0]
        await eventually(lambda: slot.mailbox.waiting_receivers == 2)
        stopped = pid_of(service)
        os.kill(stopped, signal.SIGSTOP)
        signed: list[manahsm.Signature] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sign_at_once, service, 1, signed)
            await eventually(lambda: slot.mailbox.held or signed)
            with anyio.fail_after(10):  # the other session takes all that come, one after the other
                for number in range(20):
                    await service.sign_hash(digest_of(number + 9), "hot")
            os.kill(stopped, signal.SIGCONT)


async def test_what_was_behind_a_failed_call_is_signed_by_another_session_and_counts_for_nothing(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    config = config_for(p11fault.token, tmp_path, **{**p11fault.config_changes(), "connection_pool": ONE_SESSION})
    signed: list[manahsm.Signature] = []
    async with manahsm.open_service(config) as service:
        await service.generate_key("hot", "transaction_signer")
        await service.filled()
        p11fault.set(Return("C_Sign", "CKR_DEVICE_ERROR", count=1), Delay("C_Sign", 20))
        await sign_at_once(service, 12, signed)
        slot = service._slots[0]
        window, discarded = slot.breaker.stats().window, slot.pool_stats().discarded
    assert (len(signed), window.failures) == (12, 1)
    assert discarded == {"CKR_DEVICE_ERROR": 1}
    assert p11fault.reused_after_failure == 0


async def test_each_call_has_the_timeout_of_the_device_for_itself(p11fault: FaultModule, tmp_path: Path) -> None:
    pool = {**ONE_SESSION, "call_timeout": 2000}
    config = config_for(p11fault.token, tmp_path, **{**p11fault.config_changes(), "connection_pool": pool})
    signed: list[manahsm.Signature] = []
    async with manahsm.open_service(config) as service:
        await service.generate_key("hot", "transaction_signer")
        await service.filled()
        host = pid_of(service)
        p11fault.set(Delay("C_Sign", 400))
        await sign_at_once(service, 6, signed)
        assert pid_of(service) == host
    assert len(signed) == 6


async def test_a_token_that_hangs_is_given_up_as_soon_with_digests_behind(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    clock = ManualClock()
    pool = {**ONE_SESSION, "call_timeout": 2000, "timeout": 60_000}
    config = config_for(
        softhsm_token, tmp_path, connection_pool=pool, fallback={"fallback_timeout": 60_000}, circuit_breaker={}
    )
    async with manahsm.open_service(config, clock=clock) as service:
        await service.generate_key("hot", "transaction_signer")
        await service.filled()
        slot, signed = service._slots[0], list[manahsm.Signature]()
        host = pid_of(service)
        os.kill(host, signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sign_at_once, service, 2, signed)
            await eventually(lambda: slot.mailbox.held == 2)
            clock.advance(1.9)
            assert slot.ready_hosts
            clock.advance(0.2)
            await eventually(lambda: not Path(f"/proc/{host}").exists())
            await eventually(lambda: clock.advance(0.2) or len(signed) == 2)


async def test_a_call_that_hangs_when_its_turn_has_come_is_given_up_as_soon_as_one_that_waited_for_nobody(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    clock = ManualClock()
    changes = {
        **p11fault.config_changes(),
        "connection_pool": {**ONE_SESSION, "call_timeout": 2000, "timeout": 60_000},
        "fallback": {"fallback_timeout": 60_000},
    }
    async with manahsm.open_service(config_for(p11fault.token, tmp_path, **changes), clock=clock) as service:
        await service.generate_key("hot", "transaction_signer")
        await service.filled()
        slot, signed = service._slots[0], list[manahsm.Signature]()
        host = pid_of(service)
        p11fault.set(Hang("C_Sign", after=1))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sign_at_once, service, 2, signed)
            await eventually(lambda: signed)
            clock.advance(1.9)
            assert slot.ready_hosts
            clock.advance(0.2)
            await eventually(lambda: not Path(f"/proc/{host}").exists())
            p11fault.clear()
            await eventually(lambda: clock.advance(0.2) or len(signed) == 2)


async def test_what_ends_while_a_call_is_out_leaves_no_call_and_no_permit_behind(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    pool = {"size": 1, "max_overflow": 1, "processes": 1}
    async with manahsm.open_service(config_for(softhsm_token, tmp_path, connection_pool=pool)) as service:
        key = await service.generate_key("hot", "transaction_signer")
        await service.filled()
        slot = service._slots[0]
        session = await slot.pool.acquire(overflow=True)
        conveyor = Conveyor(slot, session, "a worker")
        conveyor.start()
        os.kill(pid_of(service), signal.SIGSTOP)
        requests = [Request(HSMJob(key.public_key, digest_of(number))) for number in (1, 2)]
        for request in requests:
            slot.mailbox.send_nowait(request)
        assert (slot.breaker.stats().outstanding, slot.pulse.busy) == (2, 2)
        conveyor.close()
        assert (slot.breaker.stats().outstanding, slot.pulse.busy) == (1, 1)
        assert slot.mailbox.give_back("a worker") == 1
        os.kill(pid_of(service), signal.SIGCONT)
        with anyio.fail_after(20):
            for request in requests:
                await request.wait()
        await slot.pool.release(session)


async def test_a_probe_is_one_call(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    breaker = {"probes": 1, "open_for": 1000}
    config = config_for(softhsm_token, tmp_path, connection_pool=ONE_SESSION, circuit_breaker=breaker)
    clock = ManualClock()
    async with manahsm.open_service(config, clock=clock) as service:
        await service.generate_key("hot", "transaction_signer")
        await service.filled()
        slot = service._slots[0]
        slot.breaker.trip("a test")
        clock.advance(1.1)
        os.kill(pid_of(service), signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.sign_hash, digest_of(1), "hot")
            await eventually(lambda: slot.breaker.stats().outstanding)
            with pytest.raises(manahsm.HSMUnavailable):
                await service.sign_hash(digest_of(2), "hot")
            os.kill(pid_of(service), signal.SIGCONT)
    records = [record for record in audit_records(tmp_path) if record["event"] == "sign"]
    assert sorted(record["outcome"] for record in records) == ["failed", "signed"]


async def test_a_caller_that_leaves_while_its_digest_waits_in_the_host_costs_nobody(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path, connection_pool=ONE_SESSION)) as service:
        await service.generate_key("hot", "transaction_signer")
        await service.filled()
        mailbox, signed = service._slots[0].mailbox, list[manahsm.Signature]()
        os.kill(pid_of(service), signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sign_at_once, service, 1, signed)
            await eventually(lambda: mailbox.held == 1)
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(service.sign_hash, digest_of(5), "hot")
                await eventually(lambda: mailbox.held == 2)
                leaving.cancel_scope.cancel()
            os.kill(pid_of(service), signal.SIGCONT)
        await service.sign_hash(digest_of(6), "hot")
        assert (mailbox.held, len(signed)) == (0, 1)


async def test_a_bug_in_the_moment_of_sending_crashes_the_worker_and_not_the_caller(
    softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed: list[str] = []
    real = HostSession.begin_each

    def crash_once(session: HostSession, *arguments: Any, **options: Any) -> Any:
        if not crashed:
            crashed.append("once")
            raise ZeroDivisionError("a bug of ours")
        return real(session, *arguments, **options)

    async with manahsm.open_service(config_for(softhsm_token, tmp_path, connection_pool=ONE_SESSION)) as service:
        key = await service.generate_key("hot", "transaction_signer")
        await service.filled()
        monkeypatch.setattr(HostSession, "begin_each", crash_once)
        signature = await service.sign_hash(digest_of(1), "hot")
        status = await service.status()
    assert (recovered_address(signature, digest_of(1)), crashed) == (key.address, ["once"])
    assert status.slots[0].queue.returned == 1


async def test_a_slow_recovery_keeps_its_session_from_taking_what_another_could_sign(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    pool = {"size": 2, "max_overflow": 0, "processes": 1}
    clock = ManualClock()
    config = config_for(p11fault.token, tmp_path, **{**p11fault.config_changes(), "connection_pool": pool})
    async with manahsm.open_service(config, clock=clock) as service:
        await service.generate_key("hot", "transaction_signer")
        await service.filled()
        slot = service._slots[0]
        # It is to rest for a while, on a clock that stands.
        p11fault.set(Return("C_Sign", "CKR_DEVICE_MEMORY", count=1))
        with pytest.raises(manahsm.HSMUnavailable):
            await service.sign_hash(digest_of(1), "hot")
        signed = [await service.sign_hash(digest_of(number), "hot") for number in range(2, 8)]
        assert (len(signed), slot.mailbox.waiting_receivers) == (6, 1)


async def test_a_session_that_is_sound_takes_nothing_either_while_its_slot_recovers(
    softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = {"size": 2, "max_overflow": 0, "processes": 1}
    clock = ManualClock()
    async with manahsm.open_service(config_for(softhsm_token, tmp_path, connection_pool=pool), clock=clock) as service:
        await service.generate_key("hot", "transaction_signer")
        await service.filled()
        slot = service._slots[0]
        with monkeypatch.context() as patch:
            patch.setattr(link, "_MAX_BACKLOG", 0)  # HOST_BUSY: it is to rest for a while, on a clock that stands
            with pytest.raises(manahsm.HSMUnavailable):
                await service.sign_hash(digest_of(1), "hot")
        for number in range(2, 8):
            await service.sign_hash(digest_of(number), "hot")
        assert (slot.mailbox.waiting_receivers, slot.pool.open) == (1, 2)
        clock.advance(0.2)
        await eventually(lambda: slot.mailbox.waiting_receivers == 2)


@pytest.mark.parametrize(
    ("queued", "sessions", "share"), [(0, 8, 0), (15, 8, 0), (16, 8, 1), (48, 8, 3), (1000, 1, MOST_AT_ONCE), (5, 0, 2)]
)
def test_a_session_takes_its_share_of_a_queue_and_never_many(queued: int, sessions: int, share: int) -> None:
    assert share_of(queued, sessions) == share
