"""Exactly one outcome: thousands of digests from many callers, with and without hosts that die under them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from services import config_for, digest_of, eventually, host_pids, recovered_address
from softhsm import SoftHSMToken

import manahsm

# Alone: they take all processors, and their hosts must answer within a call timeout. Unmeasured: the tracer would take
# half of the time, for lines that other tests reach.
pytestmark = [pytest.mark.anyio, pytest.mark.alone, pytest.mark.usefixtures("unmeasured")]

CALLERS = 64


class _Storm:
    """Callers that sign the digests 0 to ``count``, each its share, and what came of every single one."""

    def __init__(self, service: manahsm.Service, key: manahsm.KeyInfo, count: int) -> None:
        self.service = service
        self.key = key
        self.count = count
        self.signatures: dict[int, manahsm.Signature] = {}
        self.errors: dict[int, manahsm.ManaHSMError] = {}
        self.seconds = 0.0

    async def run(self, *bystanders: Any) -> None:
        begin = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for bystander in bystanders:
                tasks.start_soon(bystander, self)
            for caller in range(CALLERS):
                tasks.start_soon(self._call, range(caller, self.count, CALLERS))
        self.seconds = time.monotonic() - begin

    async def _call(self, numbers: range) -> None:
        for number in numbers:
            assert number not in self.signatures
            try:
                self.signatures[number] = await self.service.sign_hash(digest_of(number), self.key.key_id)
            except manahsm.ManaHSMError as error:
                self.errors[number] = error

    async def reaches(self, count: int) -> None:
        await eventually(lambda: len(self.signatures) >= count)

    def wrong(self) -> list[int]:
        return [
            number
            for number, signature in self.signatures.items()
            if signature.digest != digest_of(number)
            or recovered_address(signature, digest_of(number)) != self.key.address
        ]

    def report(self, what: str, backend: str) -> None:
        # For pytest -s.
        print(f"\n{what}, {backend}: {self.count} digests in {self.seconds:.1f} s, {self.count / self.seconds:.0f}/s")  # noqa: T201


@pytest.fixture
def storm_config(softhsm_token: SoftHSMToken, tmp_path: Path) -> dict[str, Any]:
    return config_for(
        softhsm_token,
        tmp_path,
        connection_pool={"size": 8, "max_overflow": 0, "processes": 2, "call_timeout": 2000},
        audit={"fsync": "never"},
    )


async def test_a_storm_of_digests_loses_none(storm_config: dict[str, Any], anyio_backend: str) -> None:
    async with manahsm.open_service(storm_config) as service:
        key = await service.generate_key("storm", "transaction_signer", "hsm")
        storm = _Storm(service, key, 20_000)
        await storm.run()
        status = (await service.status()).slots[0]

    storm.report("storm", anyio_backend)
    assert (status.pool.open, len(status.hosts), status.pool.discarded) == (8, 2, {})
    assert storm.errors == {}
    assert sorted(storm.signatures) == list(range(storm.count))
    assert storm.wrong() == []


async def test_a_storm_survives_a_killed_and_a_stopped_host(storm_config: dict[str, Any], anyio_backend: str) -> None:
    async def kill_one(storm: _Storm) -> None:
        await storm.reaches(500)
        os.kill(min(host_pids()), signal.SIGKILL)

    async def stop_one(storm: _Storm) -> None:
        await storm.reaches(2000)
        slot = service._slots[0]
        await slot.wait_until(lambda: len(slot.pool.hosts) == 2)
        os.kill(slot.pool.hosts[0].info.pid, signal.SIGSTOP)

    async with manahsm.open_service(storm_config) as service:
        key = await service.generate_key("storm", "transaction_signer", "hsm")
        storm = _Storm(service, key, 4000)
        await storm.run(kill_one, stop_one)
        status = (await service.status()).slots[0]

    storm.report("storm with a killed and a stopped host", anyio_backend)
    assert sum(status.pool.discarded.values()) >= 8  # the sessions of both hosts
    assert storm.errors == {}
    assert sorted(storm.signatures) == list(range(storm.count))
    assert storm.wrong() == []
    assert host_pids() == set()
