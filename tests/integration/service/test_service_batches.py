"""Batches: one result or error for each transaction, in order, whatever is in them and whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest
from eth_account import Account
from services import (
    A_PRIVATE_KEY,
    A_TRANSACTION,
    audit_records,
    children_of,
    config_for,
    eventually,
    fill_the_disk_under,
    software_config,
)
from softhsm import SoftHSMToken

import manahsm

pytestmark = pytest.mark.anyio


def numbered(count: int) -> list[dict[str, Any]]:
    return [{**A_TRANSACTION, "nonce": number} for number in range(count)]


def expected(txs: list[dict[str, Any]]) -> list[bytes]:
    return [bytes(Account.from_key(A_PRIVATE_KEY).sign_transaction(tx).raw_transaction) for tx in txs]


def signed_of(batch: list[Any]) -> list[bytes]:
    return [one.raw_transaction for one in batch if isinstance(one, manahsm.SignedTransaction)]


async def host_ready(service: manahsm.Service) -> None:
    host = service._parts.software_host
    assert host is not None
    host.want()
    await eventually(lambda: host.has_room)


def software_hosts() -> list[int]:
    return [
        pid for pid in children_of(os.getpid()) if b"manahsm.software.host" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.mark.parametrize("kind", ["soft", "raw"])
async def test_a_batch_equals_what_eth_account_signs_one_by_one(tmp_path: Path, kind: str) -> None:
    txs = numbered(100)
    async with manahsm.open_service(software_config(tmp_path)) as service:
        if kind == "soft":
            await service.import_key(A_PRIVATE_KEY, "soft", "transaction_signer", "software")
        await host_ready(service)
        batch = await service.batch_sign_transactions(txs, "soft" if kind == "soft" else A_PRIVATE_KEY)
    assert [signed.raw_transaction for signed in batch if isinstance(signed, manahsm.SignedTransaction)] == expected(
        txs
    )


async def test_a_batch_without_a_process_for_it_is_signed_in_the_loop(tmp_path: Path) -> None:
    txs = numbered(50)
    async with manahsm.open_service(software_config(tmp_path, keystore={"processes": 0})) as service:
        await service.import_key(A_PRIVATE_KEY, "soft", "transaction_signer", "software")
        assert software_hosts() == []
        batch = await service.batch_sign_transactions(txs, "soft")
    assert [signed.raw_transaction for signed in batch if isinstance(signed, manahsm.SignedTransaction)] == expected(
        txs
    )


async def test_the_first_batch_starts_the_process_that_the_next_is_signed_in(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path)) as service:
        await service.import_key(A_PRIVATE_KEY, "soft", "transaction_signer", "software")
        assert software_hosts() == []
        await service.batch_sign_transactions(numbered(20), "soft")
        await eventually(software_hosts)


async def test_an_error_of_one_stops_no_other_and_stands_in_its_place(tmp_path: Path) -> None:
    txs = numbered(40)
    for place in (0, 17, 39):
        txs[place]["gas"] = -1
    async with manahsm.open_service(software_config(tmp_path)) as service:
        await service.import_key(A_PRIVATE_KEY, "soft", "transaction_signer", "software")
        batch = await service.batch_sign_transactions(txs, "soft")
    wrong = [place for place, result in enumerate(batch) if isinstance(result, manahsm.InvalidTransaction)]
    nonces = [Account.recover_transaction(one.raw_transaction) for one in batch if not isinstance(one, Exception)]
    assert (wrong, len(nonces)) == ([0, 17, 39], 37)


@pytest.mark.parametrize(
    ("key", "options"),
    [("soft", {"timeout": -1}), (A_PRIVATE_KEY, {"timeout": -1}), (bytes(32), {}), ("nobody", {"timeout": -1})],
    ids=["timeout", "timeout of a raw key", "no private key", "timeout of no key"],
)
async def test_what_is_wrong_with_all_of_a_batch_is_the_error_of_each(tmp_path: Path, key: Any, options: Any) -> None:
    async with manahsm.open_service(software_config(tmp_path)) as service:
        await service.import_key(A_PRIVATE_KEY, "soft", "transaction_signer", "software")
        batch = await service.batch_sign_transactions(numbered(20), key, **options)
    assert [type(result) for result in batch] == [manahsm.InvalidRequest] * 20


async def test_each_transaction_of_a_batch_has_its_own_record(tmp_path: Path) -> None:
    txs = numbered(40)
    txs[3]["gas"] = -1
    async with manahsm.open_service(software_config(tmp_path)) as service:
        await service.import_key(A_PRIVATE_KEY, "soft", "transaction_signer", "software")
        batch = await service.batch_sign_transactions(txs, "soft", caller="payouts")
    records = [record for record in audit_records(tmp_path) if record["event"] == "sign"]
    hashes = {"0x" + one.hash.hex() for one in batch if isinstance(one, manahsm.SignedTransaction)}
    assert {record["tx_hash"] for record in records if record["outcome"] == "signed"} == hashes
    assert [record["outcome"] for record in records].count("refused") == 1
    assert {record["caller"] for record in records} == {"payouts"}
    assert len({record["request_id"] for record in records}) == 40


async def test_nothing_of_a_batch_is_released_without_its_record(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path)) as service:
        await service.import_key(A_PRIVATE_KEY, "soft", "transaction_signer", "software")
        log = service._journal._log
        assert log is not None
        fill_the_disk_under(log)
        batch = await service.batch_sign_transactions(numbered(40), "soft")
    recorded = {record["tx_hash"] for record in audit_records(tmp_path) if record.get("outcome") == "signed"}
    unrecorded = [one for one in batch if isinstance(one, manahsm.AuditUnavailable)]
    assert {"0x" + one.hash.hex() for one in batch if isinstance(one, manahsm.SignedTransaction)} == recorded
    assert 1 <= len(unrecorded) == len(batch) - len(recorded)


async def test_a_batch_that_is_cancelled_is_on_record_to_its_last_transaction(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path)) as service:
        await service.import_key(A_PRIVATE_KEY, "soft", "transaction_signer", "software")
        await host_ready(service)
        for pid in software_hosts():
            os.kill(pid, signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.batch_sign_transactions, numbered(16), "soft")
            await eventually(lambda: service._parts.software.held)
            tasks.cancel_scope.cancel()
        assert service._gate.inside == 0
    records = [record for record in audit_records(tmp_path) if record["event"] == "sign"]
    assert len(records) == 16
    assert {record["reason"] for record in records} == {"cancelled, or a fault of ours"}


async def test_a_batch_loses_none_when_the_process_that_signs_it_is_killed(tmp_path: Path) -> None:
    txs = numbered(600)
    async with manahsm.open_service(software_config(tmp_path)) as service:
        await service.import_key(A_PRIVATE_KEY, "soft", "transaction_signer", "software")
        await host_ready(service)
        batch: list[Any] = []

        async def sign() -> None:
            batch.extend(await service.batch_sign_transactions(txs, "soft"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sign)
            await eventually(lambda: service._parts.software.stats().sent > 10)
            for pid in software_hosts():
                os.kill(pid, signal.SIGKILL)
    assert signed_of(batch) == expected(txs)


async def test_a_key_that_loses_its_role_meanwhile_signs_nothing_more(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path)) as service:
        await service.import_key(A_PRIVATE_KEY, "soft", "transaction_signer", "software")
        await host_ready(service)
        for pid in software_hosts():
            os.kill(pid, signal.SIGSTOP)
        batch: list[Any] = []

        async def sign() -> None:
            batch.extend(await service.batch_sign_transactions(numbered(16), "soft"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sign)
            await eventually(lambda: service._parts.software.held)
            await service.assign_role("soft", None)
            for pid in software_hosts():
                os.kill(pid, signal.SIGCONT)
    assert {type(result) for result in batch} == {manahsm.RoleDenied}


async def test_a_batch_for_a_key_of_a_token_and_for_none_is_answered_likewise(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    txs = numbered(40)
    txs[5]["gas"] = -1
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        await service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer")
        batch = await service.batch_sign_transactions(txs, "hot")
        nothing = await service.batch_sign_transactions(txs[:3], "nobody")
    assert [place for place, one in enumerate(batch) if isinstance(one, manahsm.InvalidTransaction)] == [5]
    assert {one.backend for one in batch if isinstance(one, manahsm.SignedTransaction)} == {manahsm.Backend.HSM}
    assert [type(one) for one in nothing] == [manahsm.KeyNotFound] * 3


async def test_a_batch_while_the_service_stops_is_refused_one_by_one(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path)) as service:
        await service.import_key(A_PRIVATE_KEY, "soft", "transaction_signer", "software")
    batch = await service.batch_sign_transactions(numbered(3), "soft")
    assert [type(one) for one in batch] == [manahsm.ServiceStopping] * 3
