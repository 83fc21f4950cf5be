"""The pool of sessions under pressure: it grows, refuses, shrinks, and never leaks."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest
from hsm_hosts import running
from services import config_for, digest_of, eventually
from softhsm import SoftHSMToken

import manahsm
from manahsm.hsm.client import HostProcess
from manahsm.signing.pool import NoRoom, OpenFailed, SessionPool
from supervisors.testing import ManualClock

pytestmark = pytest.mark.anyio


async def sign_many(service: manahsm.Service, key: str, count: int) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(service.sign_hash, digest_of(number), key)


async def test_sessions_are_added_while_callers_wait_and_closed_when_they_were_idle(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    clock = ManualClock()
    config = config_for(
        softhsm_token,
        tmp_path,
        connection_pool={"size": 2, "max_overflow": 3, "processes": 2, "idle_timeout": 15_000},
    )
    async with manahsm.open_service(config, clock=clock) as service:
        key = (await service.generate_key("hot", "transaction_signer")).key_id
        pool = service._slots[0].pool
        while pool.stats().overflow < 3:
            await sign_many(service, key, 32)
        grown = pool.stats()
        clock.advance(14.9)
        await sign_many(service, key, 1)
        assert pool.stats().overflow >= 2  # one of them may have been at work
        await eventually(lambda: clock.advance(1.0) or pool.stats().overflow == 0)
        shrunk = pool.stats()

    assert (grown.open, grown.opened) == (5, 5)
    assert (shrunk.open, shrunk.closed, shrunk.discarded) == (2, 3, {})


async def test_a_request_that_finds_no_session_in_time_is_told_so_and_the_others_are_signed(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    clock = ManualClock()
    config = config_for(
        softhsm_token,
        tmp_path,
        connection_pool={"size": 1, "max_overflow": 0, "processes": 1, "timeout": 5000, "call_timeout": 60_000},
    )
    async with manahsm.open_service(config, clock=clock) as service:
        key = (await service.generate_key("hot", "transaction_signer")).key_id
        await service.filled()
        slot = service._slots[0]
        pid = slot.pool.hosts[0].info.pid
        signed: list[manahsm.Signature] = []

        async def first() -> None:
            signed.append(await service.sign_hash(digest_of(1), key))

        async with anyio.create_task_group() as tasks:
            os.kill(pid, signal.SIGSTOP)
            tasks.start_soon(first)
            await eventually(lambda: slot.mailbox.held == 1)
            tasks.start_soon(refused, service, key)
            await eventually(lambda: slot.mailbox.held == 2)  # the second waits behind the first
            clock.advance(5.0)
            await eventually(lambda: slot.mailbox.held == 1)
            os.kill(pid, signal.SIGCONT)

    assert len(signed) == 1


async def refused(service: manahsm.Service, key: str) -> None:
    with pytest.raises(manahsm.Overloaded, match=r"within 5 s .connection_pool\.timeout.*max_overflow"):
        await service.sign_hash(digest_of(2), key)


async def test_an_overflow_session_is_refused_where_there_is_no_room(softhsm_token: SoftHSMToken) -> None:
    pool = SessionPool(size=1, processes=1, max_overflow=1)
    with pytest.raises(NoRoom):
        await pool.acquire(overflow=True)
    async with running(softhsm_token.host_settings()) as host:
        pool.attach(host)
        session = await pool.acquire(overflow=True)
        with pytest.raises(NoRoom):
            await pool.acquire(overflow=True)
        await pool.release(session)
        await pool.release(await pool.acquire(overflow=True))


async def test_leases_leave_nothing_behind_whatever_happens_to_them(softhsm_token: SoftHSMToken) -> None:
    """Acquired, released, cancelled, abandoned to a dying host, in any order: the numbers come back to nothing."""
    dice = random.Random(20260)  # noqa: S311 - which path is taken is no secret
    pool = SessionPool(size=4, processes=2, max_overflow=2)

    async def one_lease(*, overflow: bool, patience: float) -> None:
        with anyio.move_on_after(patience):
            try:
                session = await pool.acquire(overflow=overflow)
            except (NoRoom, OpenFailed):
                return
            try:
                await anyio.lowlevel.checkpoint()
            finally:
                with anyio.CancelScope(shield=True):
                    await pool.release(session, None if session.usable else "HOST_GONE")

    async def some_leases(host: HostProcess) -> None:
        pool.attach(host)
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(lease_often)

    async def lease_often() -> None:
        for _ in range(50):
            await one_lease(overflow=dice.random() < 0.4, patience=dice.choice([0.0, 0.001, 5.0]))

    hosts: list[Any] = []
    async with running(softhsm_token.host_settings()) as first, running(softhsm_token.host_settings()) as second:
        hosts += [first, second]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(some_leases, first)
            tasks.start_soon(some_leases, second)
        stats = pool.stats()
        assert (stats.open, stats.overflow) == (0, 0)
        assert stats.opened == stats.closed + sum(stats.discarded.values())
        assert stats.opened > 0
        full = [await pool.acquire() for _ in range(4)]  # all the room is there
        for session in full:
            await pool.release(session)
        for host in hosts:
            pool.detach(host)
    assert pool.hosts == ()
