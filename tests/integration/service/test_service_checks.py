"""Signatures of a token that are checked beside the loop: lost by nobody, and released when they were checked only."""

from __future__ import annotations

import array
import fcntl
import itertools
import math
import os
import signal
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import anyio.abc
import pytest
from p11fault import FaultModule
from p11fault_rules import Return, Spoil, Spoiled
from services import config_for, digest_of, eventually, recovered_address
from softhsm import SoftHSMToken

import manahsm
from manahsm.ethereum.signatures import RecoverableSignature
from manahsm.hsm.calls import Call
from manahsm.hsm.client import HostProcess, HostSession
from manahsm.hsm.failures import HSMFailure
from manahsm.signing import checks
from manahsm.signing.conveyor import Conveyor
from manahsm.signing.jobs import HSMJob
from manahsm.software import client
from manahsm.software.client import SoftwareHost
from supervisors import SYSTEM_CLOCK, BreakerState, Clock, Request
from supervisors.testing import ManualClock, settle

pytestmark = pytest.mark.anyio

FOUR_SESSIONS = {"size": 4, "max_overflow": 0, "processes": 1}
ONE_SESSION = {"size": 1, "max_overflow": 0, "processes": 1}
SIGNED, READY = 64, 190  # bytes that these answers have at least


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that these tests have stopped is not killed for it."""
    monkeypatch.setattr(client, "_PATIENCE", 60.0)


@pytest.fixture
def each_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every signature is checked beside the loop, and not only several that arrive together."""
    monkeypatch.setattr(checks, "_SEVERAL", 1)


def config_with_four_sessions(token: SoftHSMToken, directory: Path, **changes: Any) -> dict[str, Any]:
    return config_for(token, directory, connection_pool=FOUR_SESSIONS, **changes)


class Site:
    """A service with a key in its token, and a process that checks what that signs."""

    def __init__(self, service: manahsm.Service, key: manahsm.KeyInfo) -> None:
        self.service = service
        self.key = key
        self.slot = service._slots[0]
        self.answers: list[manahsm.Signature | manahsm.ManaHSMError] = []

    @classmethod
    @asynccontextmanager
    async def of(cls, config: Mapping[str, Any], clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[Site]:
        async with manahsm.open_service(config, clock=clock) as service:
            site = cls(service, await service.generate_key("hot", "transaction_signer"))
            await service.filled()
            site.checker.want()
            await eventually(lambda: site.checker.has_room)
            yield site

    @property
    def host(self) -> HostProcess:
        return self.slot.pool.hosts[0]

    @property
    def checker(self) -> SoftwareHost:
        checker = self.service._parts.software_host
        assert checker is not None
        return checker

    @property
    def signed(self) -> int:
        return sum(isinstance(answer, manahsm.Signature) for answer in self.answers)

    def signal_checker(self, number: signal.Signals) -> None:
        assert self.checker.pid is not None
        os.kill(self.checker.pid, number)

    def signal_host(self, number: signal.Signals) -> None:
        assert self.host.info is not None
        os.kill(self.host.info.pid, number)

    async def _sign(self, number: int) -> None:
        try:
            signature = await self.service.sign_hash(digest_of(number), self.key.key_id)
        except manahsm.ManaHSMError as error:
            self.answers.append(error)
        else:
            assert recovered_address(signature, digest_of(number)) == self.key.address
            self.answers.append(signature)

    def sign(self, tasks: anyio.abc.TaskGroup, count: int) -> None:
        for number in range(1, count + 1):
            tasks.start_soon(self._sign, number)

    @asynccontextmanager
    async def waiting_for_check(self, count: int) -> AsyncIterator[anyio.CancelScope]:
        """Have so many signed by the token, and keep them at their check for the block; then all callers are answered.

        Yields:
            The callers' scope.
        """
        async with anyio.create_task_group() as tasks:
            self.signal_checker(signal.SIGSTOP)
            self.sign(tasks, count)
            await eventually(lambda: self.checker.under_way == count)
            yield tasks.cancel_scope
            if self.checker.pid is not None:
                self.signal_checker(signal.SIGCONT)

    async def sign_together(self, tasks: anyio.abc.TaskGroup, count: int) -> None:
        """Have so many signed by the token, and keep the loop until all answers wait to be read."""
        self.signal_host(signal.SIGSTOP)
        self.sign(tasks, count)
        await eventually(lambda: self.slot.mailbox.held == count)
        link = self.host._link
        assert link is not None
        expected = sum(SIGNED if call.name == "sign" else READY for call in link._calls)
        self.signal_host(signal.SIGCONT)
        give_up = monotonic() + 20
        while bytes_in(link._child.replies) < expected:
            assert monotonic() < give_up
            os.sched_yield()


def crash_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first verdict that is read from now on meets a bug."""
    read, crashes = checks._read, itertools.count()

    def crash_once(result: bytes | None) -> RecoverableSignature:
        if next(crashes) == 0:
            raise ZeroDivisionError("a bug of ours")
        return read(result)

    monkeypatch.setattr(checks, "_read", crash_once)


def bytes_in(pipe: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


async def test_several_that_arrive_together_are_checked_beside_the_loop(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with Site.of(config_with_four_sessions(softhsm_token, tmp_path)) as site:
        site.signal_checker(signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            await site.sign_together(tasks, 4)
            await eventually(lambda: site.checker.under_way == 4)
            site.signal_checker(signal.SIGCONT)
    assert site.signed == 4


async def test_a_few_are_checked_in_the_loop(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with Site.of(config_with_four_sessions(softhsm_token, tmp_path)) as site:
        site.signal_checker(signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            await site.sign_together(tasks, 2)
        site.signal_checker(signal.SIGCONT)
    assert site.signed == 2


@pytest.mark.usefixtures("each_beside")
async def test_nothing_is_released_before_it_was_checked(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with Site.of(config_with_four_sessions(softhsm_token, tmp_path)) as site, site.waiting_for_check(4):
        assert (site.answers, site.slot.mailbox.held) == ([], 4)
    assert site.signed == 4


@pytest.mark.usefixtures("each_beside")
async def test_without_a_process_for_it_all_is_checked_in_the_loop(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = config_with_four_sessions(softhsm_token, tmp_path, keystore={"processes": 0})
    async with manahsm.open_service(config) as service:
        site = Site(service, await service.generate_key("hot", "transaction_signer"))
        async with anyio.create_task_group() as tasks:
            site.sign(tasks, 4)
        assert service._parts.software_host is None
    assert site.signed == 4


@pytest.mark.usefixtures("each_beside")
async def test_the_process_is_started_when_it_is_wanted_for_the_first_time(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_with_four_sessions(softhsm_token, tmp_path)) as service:
        site = Site(service, await service.generate_key("hot", "transaction_signer"))
        async with anyio.create_task_group() as tasks:
            site.sign(tasks, 4)
        await eventually(lambda: site.checker.has_room)
    assert site.signed == 4


@pytest.mark.usefixtures("each_beside")
async def test_what_a_killed_process_has_not_checked_is_checked_in_the_loop(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with Site.of(config_with_four_sessions(softhsm_token, tmp_path)) as site:
        async with site.waiting_for_check(4):
            site.signal_checker(signal.SIGKILL)
        assert site.slot.mailbox.stats().returned == 0  # nothing was signed twice
    assert site.signed == 4


@pytest.mark.usefixtures("each_beside")
async def test_a_host_that_ends_while_its_signatures_are_checked_costs_none_of_them(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with Site.of(config_with_four_sessions(softhsm_token, tmp_path)) as site:
        async with site.waiting_for_check(4):
            host = site.host
            site.signal_host(signal.SIGKILL)
            await site.slot.wait_until(lambda: host not in site.slot.pool.hosts)
        assert site.slot.breaker.stats().outstanding == 0
        assert site.slot.mailbox.stats().returned == 0  # nothing was signed twice
    assert site.signed == 4


@pytest.mark.usefixtures("each_beside")
async def test_a_caller_that_leaves_while_its_signature_is_checked_costs_nobody(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with Site.of(config_with_four_sessions(softhsm_token, tmp_path)) as site:
        async with site.waiting_for_check(4) as callers:
            callers.cancel()
        site.signal_checker(signal.SIGCONT)
        await eventually(lambda: site.slot.breaker.stats().outstanding == 0)
        assert site.slot.pool_stats().discarded == {}
        async with site.waiting_for_check(4):
            pass
    assert site.signed == 4


@pytest.mark.usefixtures("each_beside")
async def test_a_service_that_closes_meanwhile_answers_everybody(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = config_with_four_sessions(softhsm_token, tmp_path, service={"shutdown_grace": 100})
    async with anyio.create_task_group() as tasks, Site.of(config) as site:
        site.signal_checker(signal.SIGSTOP)
        site.sign(tasks, 4)
        await eventually(lambda: site.checker.under_way == 4)
    assert [type(answer) for answer in site.answers] == [manahsm.ServiceStopping] * 4


@pytest.mark.usefixtures("each_beside")
async def test_how_long_a_signature_waits_for_its_check_is_not_held_against_the_token(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    breaker = {"slow_call": 1000, "minimum_calls": 4}
    config = config_with_four_sessions(softhsm_token, tmp_path, circuit_breaker=breaker)
    clock = ManualClock()
    async with Site.of(config, clock) as site:
        async with site.waiting_for_check(4):
            clock.advance(10)
            assert site.answers == []
        stats = site.slot.breaker.stats()
        assert (stats.state, stats.window.slow) == (BreakerState.CLOSED, 0)
    assert site.signed == 4


@pytest.mark.usefixtures("each_beside")
@pytest.mark.parametrize("how", [Spoiled.CORRUPT, Spoiled.OTHER_KEY, Spoiled.ZERO])
async def test_a_wrong_signature_is_withheld_and_latches_the_slot(
    p11fault: FaultModule, tmp_path: Path, how: Spoiled
) -> None:
    async with Site.of(config_with_four_sessions(p11fault.token, tmp_path, **p11fault.config_changes())) as site:
        p11fault.set(Spoil(how, count=1))
        async with site.waiting_for_check(4):
            pass
        with pytest.raises(manahsm.HSMUnavailable, match=r"latched: .*wrong signature"):
            await site.service.sign_hash(digest_of(5), site.key.key_id)
        assert site.slot.breaker.stats().outstanding == 0
    assert [type(answer) for answer in site.answers].count(manahsm.SignatureMismatch) == 1


@pytest.mark.usefixtures("each_beside")
async def test_a_bug_in_what_reads_a_verdict_crashes_a_worker_and_costs_no_request(
    softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Site.of(config_with_four_sessions(softhsm_token, tmp_path)) as site:
        async with site.waiting_for_check(4):
            crash_at_first(monkeypatch)
        assert site.slot.breaker.stats().outstanding == 0
        assert site.slot.mailbox.stats().returned == 1
    assert site.signed == 4


async def test_a_bug_in_what_reads_an_answer_leaves_no_permit_behind_and_costs_no_request(
    softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed, crashes = HostSession.signed, itertools.count()

    def crash_once(session: HostSession, call: Call) -> list[bytes | HSMFailure]:
        return [] if next(crashes) == 0 else signed(session, call)

    async with Site.of(config_with_four_sessions(softhsm_token, tmp_path)) as site:
        monkeypatch.setattr(HostSession, "signed", crash_once)
        async with anyio.create_task_group() as tasks:
            site.sign(tasks, 4)
        assert site.slot.breaker.stats().outstanding == 0
        assert site.slot.mailbox.stats().returned == 1
    assert site.signed == 4


@pytest.mark.usefixtures("each_beside")
async def test_a_worker_that_ends_meanwhile_leaves_no_permit_behind_and_its_request_to_another(
    softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Site.of(config_for(softhsm_token, tmp_path, connection_pool=ONE_SESSION)) as site:
        async with site.waiting_for_check(2):
            crash_at_first(monkeypatch)
        assert site.slot.breaker.stats().outstanding == 0
        assert site.slot.mailbox.stats().returned == 2
    assert site.signed == 2


@pytest.mark.usefixtures("each_beside")
async def test_a_session_that_breaks_is_given_up_when_what_it_signed_before_was_checked(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    config = config_for(p11fault.token, tmp_path, connection_pool=ONE_SESSION, **p11fault.config_changes())
    async with Site.of(config) as site:
        broken = Return("C_Sign", "CKR_DEVICE_ERROR", after=1, count=1)
        p11fault.set(broken)
        async with anyio.create_task_group() as tasks:
            site.signal_checker(signal.SIGSTOP)
            site.sign(tasks, 2)
            await eventually(lambda: p11fault.fired(broken) and len(site.slot.mailbox) == 1)
            await settle()
            site.signal_checker(signal.SIGCONT)
        assert site.slot.mailbox.stats().returned == 0
    assert site.signed == 2


@pytest.mark.usefixtures("each_beside")
async def test_a_session_is_not_idle_while_its_signature_is_checked(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    config = config_for(softhsm_token, tmp_path, connection_pool={**ONE_SESSION, "max_overflow": 1})
    async with Site.of(config) as site:
        session = await site.slot.pool.acquire(overflow=True)
        conveyor = Conveyor(site.slot, session, "a worker")
        conveyor.start()
        async with site.waiting_for_check(2):
            assert conveyor.idle_since == math.inf
        assert conveyor.idle_since <= site.slot.clock.now()
        conveyor.close()
        await site.slot.pool.release(session)
    assert site.signed == 2


def config_with_one_probe(token: SoftHSMToken, directory: Path) -> dict[str, Any]:
    breaker = {"probes": 1, "open_for": 1000}
    return config_for(token, directory, connection_pool=ONE_SESSION, circuit_breaker=breaker)


@pytest.mark.usefixtures("each_beside")
async def test_a_probe_closes_the_breaker_when_its_signature_was_checked(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with Site.of(config_with_one_probe(softhsm_token, tmp_path), clock) as site:
        site.slot.breaker.trip("a test")
        clock.advance(1.1)
        async with site.waiting_for_check(1):
            assert site.slot.breaker.state is BreakerState.HALF_OPEN
        assert site.slot.breaker.state is BreakerState.CLOSED
    assert site.signed == 1


async def test_what_is_queued_behind_a_probe_waits_until_that_was_checked(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with Site.of(config_with_one_probe(softhsm_token, tmp_path), clock) as site:
        site.slot.breaker.trip("a test")
        clock.advance(1.1)
        requests = [Request(HSMJob(site.key.public_key, digest_of(number))) for number in (1, 2)]
        for request in requests:
            site.slot.mailbox.send_nowait(request)
        with anyio.fail_after(20):
            for request in requests:
                await request.wait()
