"""The audit log of a running service: what a start records, checkpoints by one of its keys, and rotation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from services import audit_records, digest_of, eventually, software_config

import manahsm
from manahsm.audit.verify import verify

pytestmark = pytest.mark.anyio


def configurations(directory: Path) -> list[dict[str, Any]]:
    return [record["summary"] for record in audit_records(directory) if record["event"] == "configuration"]


async def test_each_start_records_the_configuration_in_force_and_what_changed(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path)):
        pass
    async with manahsm.open_service(software_config(tmp_path, security_policy={"max_signing_rate": 5})):
        pass
    first, second = configurations(tmp_path)
    assert second["previous"] == first["sha256"] != second["sha256"]
    assert second["changed"] == {"hsm.security_policy.max_signing_rate": [0.0, 5.0]}
    assert [record["event"] for record in audit_records(tmp_path)][:2] == ["start", "configuration"]


async def test_the_checkpoint_key_signs_the_log_and_any_signature_of_it_is_vouched_for(tmp_path: Path) -> None:
    limits = {"checkpoint_key": "notary", "checkpoint_interval": 1000, "max_segment_size": 4096}
    audit = tmp_path / "state" / "audit"
    async with manahsm.open_service(software_config(tmp_path, audit=limits)) as service:
        notary = await service.generate_key("notary", "node_identity", "software")
        await service.generate_key("hot", "transaction_signer", "software")
        for number in range(1, 31):
            await service.sign_hash(digest_of(number), "hot")
        covered = len(audit_records(tmp_path))
        ours = frozenset({notary.address})
        await eventually(lambda: verify(audit, addresses=ours).covered >= covered)
    report = verify(audit, addresses=ours)
    assert (report.failure, report.signers) == (None, (notary.address,))
    assert len(list(audit.glob("*.jsonl"))) > 1
