"""Nothing unaudited leaves, refusals are recorded too, and no secret is in any of it."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from services import (
    A_PRIVATE_KEY,
    A_TRANSACTION,
    PASSPHRASE,
    audit_records,
    config_for,
    digest_of,
    eventually,
    fill_the_disk_under,
    host_pids,
    software_config,
    write_config_file,
)
from softhsm import SoftHSMToken

import manahsm

pytestmark = pytest.mark.anyio


def signings(directory: Path) -> list[dict[str, Any]]:
    return [record for record in audit_records(directory) if record["event"] == "sign"]


async def test_a_released_signature_has_its_record(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        key = await service.generate_key("hot", "transaction_signer")
        signed = await service.sign_transaction(A_TRANSACTION, "hot", 31337, caller="alice", request_id="r-1")

    (record,) = signings(tmp_path)
    assert record["duration"] > 0
    assert {
        name: record[name] for name in record if name not in {"seq", "time", "prev", "hash", "duration", "digest"}
    } == {
        "event": "sign",
        "request_id": "r-1",
        "caller": "alice",
        "operation": "transaction",
        "key_id": key.key_id,
        "address": key.address,
        "role": "transaction_signer",
        "chain_id": 31337,
        "summary": record["summary"],
        "decision": "allowed",
        "backend": "hsm",
        "slot": softhsm_token.label,
        "outcome": "signed",
        "tx_hash": "0x" + signed.hash.hex(),
    }
    assert record["summary"]["to"] == A_TRANSACTION["to"].lower()


async def test_refusals_and_failures_have_their_records(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = config_for(softhsm_token, tmp_path, connection_pool={"size": 1, "processes": 1})
    async with manahsm.open_service(config) as service:
        await service.generate_key("hot", "transaction_signer")
        await service.import_key(A_PRIVATE_KEY, "v", "validator")
        await service.assign_role("hot", None)
        attempts = [
            service.sign_hash(digest_of(1), "hot", request_id="no role"),
            service.sign_hash(digest_of(1), "nobody", request_id="no key"),
            service.sign_hash(digest_of(1), A_PRIVATE_KEY, request_id="in software"),
            service.sign_transaction(A_TRANSACTION, "v", 1, request_id="wrong chain"),
        ]
        for attempt in attempts:
            with pytest.raises(manahsm.ManaHSMError):
                await attempt
        for pid in host_pids():
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(manahsm.DeadlineExceeded):
            await service.sign_hash(digest_of(1), "v", timeout=0.05, request_id="late")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: service.sign_hash(digest_of(1), "v", request_id="cancelled"))
                await eventually(lambda: service._slots[0].mailbox.held == 1)
                scope.cancel()
        for pid in host_pids():
            os.kill(pid, signal.SIGCONT)  # or the end would wait for them

    found = {
        record["request_id"]: (record["decision"], record["outcome"], record["reason"]) for record in signings(tmp_path)
    }
    assert {name: what[:2] for name, what in found.items()} == {
        "no role": ("refused", "refused"),
        "no key": ("refused", "refused"),
        "in software": ("refused", "refused"),
        "wrong chain": ("refused", "refused"),
        "late": ("allowed", "failed"),
        "cancelled": ("allowed", "failed"),
    }
    assert [found[name][2].split(":")[0] for name in ("no role", "no key", "wrong chain", "late")] == [
        "role_denied",
        "key_not_found",
        "invalid_transaction",
        "deadline_exceeded",
    ]


async def test_every_change_to_keys_has_its_record(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path)) as service:
        made = await service.generate_key("a", "node_identity", "software")
        await service.import_key(A_PRIVATE_KEY, "b", "node_identity", "software")
        await service.assign_role("b", "transaction_signer")
        new = await service.rotate_key("a")
        await service.delete_key("b")
        with pytest.raises(manahsm.PolicyDenied):
            await service.generate_key("v", "validator", "software")

    records = [(record["event"], record["outcome"]) for record in audit_records(tmp_path)]
    assert records == [
        ("start", "done"),
        ("configuration", "done"),
        ("generate_key", "done"),
        ("import_key", "done"),
        ("assign_role", "done"),
        ("rotate_key", "done"),
        ("delete_key", "done"),
        ("generate_key", "failed"),
        ("stop", "done"),
    ]
    rotated = audit_records(tmp_path)[5]
    assert (rotated["key_id"], made.key_id != new.key_id) == (new.key_id, True)


async def test_what_can_not_be_recorded_is_not_released_and_recovers_by_itself(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path, audit={"fsync": "never"})) as service:
        log = service._journal._log
        assert log is not None
        fill_the_disk_under(log)
        with pytest.raises(manahsm.AuditUnavailable, match="No space left on device"):
            await service.sign_hash(digest_of(1), A_PRIVATE_KEY, request_id="lost")
        await service.sign_hash(digest_of(2), A_PRIVATE_KEY, request_id="after")

    assert [record["request_id"] for record in signings(tmp_path) if record["outcome"] == "signed"] == ["after"]
    assert "log_reopened" in [record["event"] for record in audit_records(tmp_path)]


async def test_records_may_be_lost_only_where_the_policy_says_so(tmp_path: Path) -> None:
    lax = software_config(tmp_path, audit={"fsync": "never"}, security_policy={"audit_all_operations": False})
    async with manahsm.open_service(lax) as service:
        log = service._journal._log
        assert log is not None
        fill_the_disk_under(log)
        signature = await service.sign_hash(digest_of(1), A_PRIVATE_KEY)

    assert signature.digest == digest_of(1)


async def test_without_an_audit_log_nothing_is_written(tmp_path: Path) -> None:
    unaudited = software_config(tmp_path, audit={"enabled": False}, security_policy={"audit_all_operations": False})
    async with manahsm.open_service(unaudited) as service:
        await service.sign_hash(digest_of(1), A_PRIVATE_KEY)

    assert not (tmp_path / "state" / "audit").exists()


def test_a_full_disk_stops_signatures_and_nothing_else(tmp_path: Path) -> None:
    config = software_config(tmp_path, audit={"fsync": "never"})
    path = write_config_file(tmp_path / "config.json", config)
    setup = (
        "import anyio, json, sys, manahsm\n"
        "async def main():\n"
        "    async with manahsm.open_service(json.load(open(sys.argv[1]))) as service:\n"
        "        await service.generate_key('soft', 'node_identity', 'software')\n"
        "        await service.batch_sign_transactions([json.loads(sys.argv[2])] * 300, 'soft', 31337)\n"
        "anyio.run(main)\n"
    )
    subprocess.run(  # noqa: S603 - a literal
        [sys.executable, "-c", setup, str(path), json.dumps(dict(A_TRANSACTION))], check=True, capture_output=True
    )
    (segment,) = (tmp_path / "state" / "audit").glob("*.jsonl")
    limit = segment.stat().st_size + 4096  # the largest file that anything may write: room for a few more records

    line = b'{"id":%d,"key":"soft","hash":"0x' + b"11" * 32 + b'"}\n'
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "manahsm.run", "--config", str(path), "--stdio"],
        input=b"".join(line % number for number in range(50)),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        timeout=30,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    released = [answer for answer in answers if "signature" in answer]
    recorded = [record for record in signings(tmp_path)[300:] if record["outcome"] == "signed"]

    assert done.returncode == 0, done.stderr.decode()
    assert len(answers) == 50
    assert 0 < len(released) == len(recorded) < 50
    assert {answer["error"]["code"] for answer in answers if "error" in answer} == {"audit_unavailable"}


async def test_no_secret_is_in_the_state_directory_the_logs_or_any_repr(
    softhsm_token: SoftHSMToken, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        hot = await service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer", keep_software_twin=True)
        results = [
            await service.sign_hash(digest_of(1), "hot"),
            await service.sign_transaction(A_TRANSACTION, A_PRIVATE_KEY, 31337),
            await service.sign_message("hello", "hot"),
        ]
        for key in (A_PRIVATE_KEY.hex(), "0x" + A_PRIVATE_KEY.hex()):
            request = manahsm.SignRequest.hash(digest_of(1), key)
            shown.append(str((await service.answer(request)).error))
        shown += [repr(service), repr(service.config), repr(hot), repr(await service.status())]
        shown += [repr(slot.config) for slot in service._slots]

    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert "host ready" in caplog.text
    texts = [*shown, caplog.text, *(path.read_bytes().decode("latin-1") for path in files)]
    secrets = [softhsm_token.pin, PASSPHRASE, A_PRIVATE_KEY.hex(), A_PRIVATE_KEY.decode("latin-1")]
    secrets += [f"{result.r:064x}" for result in results]
    assert [secret for secret in secrets if any(secret in text for text in texts)] == []
    assert len(files) >= 3  # the registry, the audit log and the twin's keystore
