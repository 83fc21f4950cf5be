"""Signatures of a token that are checked beside the loop: lost by nobody, and released when they were checked only."""

from __future__ import annotations

import array
import fcntl
import math
import os
import signal
import termios
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
from manahsm.hsm.client import HostProcess
from manahsm.signing import checks
from manahsm.signing.conveyor import Conveyor
from manahsm.signing.jobs import HSMJob
from manahsm.software.client import SoftwareHost
from supervisors import Request
from supervisors.testing import ManualClock, settle

pytestmark = pytest.mark.anyio

FOUR_SESSIONS = {"size": 4, "max_overflow": 0, "processes": 1}
SIGNED, READY = 64, 190  # bytes that these answers have at least


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
    async def ready(cls, service: manahsm.Service) -> Site:
        site = cls(service, await service.generate_key("hot", "transaction_signer"))
        await service.filled()
        site.checker.want()
        await eventually(lambda: site.checker.has_room)
        return site

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

    async def sign_until_checked(self, tasks: anyio.abc.TaskGroup, count: int) -> None:
        """Have so many signed by the token, and stop them at their check."""
        self.signal_checker(signal.SIGSTOP)
        self.sign(tasks, count)
        await eventually(lambda: self.checker.under_way == count)

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


def bytes_in(pipe: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


async def test_several_that_arrive_together_are_checked_beside_the_loop(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_with_four_sessions(softhsm_token, tmp_path)) as service:
        site = await Site.ready(service)
        site.signal_checker(signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            await site.sign_together(tasks, 4)
            await eventually(lambda: site.checker.under_way == 4)
            site.signal_checker(signal.SIGCONT)
    assert site.signed == 4


async def test_a_few_are_checked_in_the_loop(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_with_four_sessions(softhsm_token, tmp_path)) as service:
        site = await Site.ready(service)
        site.signal_checker(signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            await site.sign_together(tasks, 2)
        site.signal_checker(signal.SIGCONT)
    assert site.signed == 2


@pytest.mark.usefixtures("each_beside")
async def test_nothing_is_released_before_it_was_checked(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_with_four_sessions(softhsm_token, tmp_path)) as service:
        site = await Site.ready(service)
        async with anyio.create_task_group() as tasks:
            await site.sign_until_checked(tasks, 4)
            assert (site.answers, site.slot.mailbox.held) == ([], 4)
            site.signal_checker(signal.SIGCONT)
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
    async with manahsm.open_service(config_with_four_sessions(softhsm_token, tmp_path)) as service:
        site = await Site.ready(service)
        async with anyio.create_task_group() as tasks:
            await site.sign_until_checked(tasks, 4)
            site.signal_checker(signal.SIGKILL)
        assert site.slot.mailbox.stats().returned == 0  # nothing was signed twice
    assert site.signed == 4


@pytest.mark.usefixtures("each_beside")
async def test_a_host_that_ends_while_its_signatures_are_checked_costs_none_of_them(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_with_four_sessions(softhsm_token, tmp_path)) as service:
        site = await Site.ready(service)
        async with anyio.create_task_group() as tasks:
            await site.sign_until_checked(tasks, 4)
            host = site.host
            site.signal_host(signal.SIGKILL)
            await site.slot.wait_until(lambda: host not in site.slot.pool.hosts)
            site.signal_checker(signal.SIGCONT)
        assert site.slot.breaker.stats().outstanding == 0
        assert site.slot.mailbox.stats().returned == 0  # nothing was signed twice
    assert site.signed == 4


@pytest.mark.usefixtures("each_beside")
@pytest.mark.parametrize("how", [Spoiled.CORRUPT, Spoiled.OTHER_KEY, Spoiled.ZERO])
async def test_a_wrong_signature_is_withheld_and_latches_the_slot(
    p11fault: FaultModule, tmp_path: Path, how: Spoiled
) -> None:
    config = config_with_four_sessions(p11fault.token, tmp_path, **p11fault.config_changes())
    async with manahsm.open_service(config) as service:
        site = await Site.ready(service)
        p11fault.set(Spoil(how, count=1))
        async with anyio.create_task_group() as tasks:
            await site.sign_until_checked(tasks, 4)
            site.signal_checker(signal.SIGCONT)
        with pytest.raises(manahsm.HSMUnavailable, match=r"latched: .*wrong signature"):
            await service.sign_hash(digest_of(5), site.key.key_id)
        assert site.slot.breaker.stats().outstanding == 0
    assert [type(answer) for answer in site.answers].count(manahsm.SignatureMismatch) == 1


@pytest.mark.usefixtures("each_beside")
async def test_a_bug_in_what_reads_a_verdict_crashes_a_worker_and_costs_no_request(
    softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, crashes = checks._read, 0

    def crash_once(result: bytes | None) -> Any:
        nonlocal crashes
        crashes += 1
        if crashes == 1:
            raise ZeroDivisionError("a bug of ours")
        return read(result)

    async with manahsm.open_service(config_with_four_sessions(softhsm_token, tmp_path)) as service:
        site = await Site.ready(service)
        monkeypatch.setattr(checks, "_read", crash_once)
        async with anyio.create_task_group() as tasks:
            site.sign(tasks, 4)
        assert site.slot.breaker.stats().outstanding == 0
        assert site.slot.mailbox.stats().returned == 1
    assert site.signed == 4


@pytest.mark.usefixtures("each_beside")
async def test_a_worker_that_ends_meanwhile_leaves_no_permit_behind_and_its_request_to_another(
    softhsm_token: SoftHSMToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_session = config_for(softhsm_token, tmp_path, connection_pool={"size": 1, "max_overflow": 0, "processes": 1})
    async with manahsm.open_service(one_session) as service:
        site = await Site.ready(service)
        async with anyio.create_task_group() as tasks:
            await site.sign_until_checked(tasks, 2)

            def crash_at_first(_: bytes | None) -> None:
                monkeypatch.undo()
                raise ZeroDivisionError("a bug of ours")

            monkeypatch.setattr(checks, "_read", crash_at_first)
            site.signal_checker(signal.SIGCONT)
        assert site.slot.breaker.stats().outstanding == 0
        assert site.slot.mailbox.stats().returned == 2
    assert site.signed == 2


@pytest.mark.usefixtures("each_beside")
async def test_a_session_that_breaks_is_given_up_when_what_it_signed_before_was_checked(
    p11fault: FaultModule, tmp_path: Path
) -> None:
    pool = {"size": 1, "max_overflow": 0, "processes": 1}
    config = config_for(p11fault.token, tmp_path, connection_pool=pool, **p11fault.config_changes())
    async with manahsm.open_service(config) as service:
        site = await Site.ready(service)
        broken = Return("C_Sign", "CKR_DEVICE_ERROR", after=1, count=1)
        p11fault.set(broken)
        async with anyio.create_task_group() as tasks:
            site.signal_checker(signal.SIGSTOP)
            site.sign(tasks, 2)
            await eventually(lambda: p11fault.fired(broken) and site.slot.breaker.stats().outstanding == 1)
            await settle()
            site.signal_checker(signal.SIGCONT)
        assert site.slot.mailbox.stats().returned == 0
    assert site.signed == 2


@pytest.mark.usefixtures("each_beside")
async def test_a_session_is_not_idle_while_its_signature_is_checked(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    pool = {"size": 1, "max_overflow": 1, "processes": 1}
    async with manahsm.open_service(config_for(softhsm_token, tmp_path, connection_pool=pool)) as service:
        site = await Site.ready(service)
        session = await site.slot.pool.acquire(overflow=True)
        conveyor = Conveyor(site.slot, session, "a worker")
        conveyor.start()
        async with anyio.create_task_group() as tasks:
            await site.sign_until_checked(tasks, 2)
            assert conveyor.idle_since == math.inf
            site.signal_checker(signal.SIGCONT)
        assert conveyor.idle_since <= site.slot.clock.now()
        conveyor.close()
        await site.slot.pool.release(session)
    assert site.signed == 2


async def test_what_is_queued_behind_a_probe_waits_until_that_was_checked(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    config = config_for(
        softhsm_token,
        tmp_path,
        connection_pool={"size": 1, "max_overflow": 0, "processes": 1},
        circuit_breaker={"probes": 1, "open_for": 1000},
    )
    clock = ManualClock()
    async with manahsm.open_service(config, clock=clock) as service:
        site = await Site.ready(service)
        site.slot.breaker.trip("a test")
        clock.advance(1.1)
        requests = [Request(HSMJob(site.key.public_key, digest_of(number))) for number in (1, 2)]
        for request in requests:
            site.slot.mailbox.send_nowait(request)
        with anyio.fail_after(20):
            for request in requests:
                await request.wait()
