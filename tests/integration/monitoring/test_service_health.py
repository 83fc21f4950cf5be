"""Health and alerts of a service as a whole: what it depends on besides tokens, what operators do, where alerts go."""

from __future__ import annotations

from pathlib import Path

import pytest
from alert_samples import receiver
from services import (
    A_PRIVATE_KEY,
    audit_records,
    config_for,
    digest_of,
    eventually,
    fill_the_disk_under,
    software_config,
)
from softhsm import SoftHSMToken
from watched_services import watched

import manahsm
from manahsm.errors import InvalidRequest

pytestmark = pytest.mark.anyio


async def test_a_service_of_software_keys_is_healthy(tmp_path: Path) -> None:
    async with watched(software_config(tmp_path)) as it:
        report = await it.service.health()

        assert report.status == "healthy"
        assert [component.name for component in report.components] == [
            "key_manager",
            "signing_service",
            "audit",
            "config_manager",
        ]
        assert await it.alerts(resolved=True) == []


async def test_an_audit_log_that_can_not_be_written_is_critical_at_once_and_recovers(tmp_path: Path) -> None:
    async with watched(software_config(tmp_path, audit={"fsync": "never"})) as it:
        log = it.service._journal._log
        assert log is not None
        await it.service.sign_hash(digest_of(1), A_PRIVATE_KEY)
        log.directory.rename(tmp_path / "elsewhere")
        log.directory.write_text("in the way")
        fill_the_disk_under(log)
        with pytest.raises(manahsm.AuditUnavailable):
            await it.service.sign_hash(digest_of(2), A_PRIVATE_KEY)
        await it.to_have("audit_unavailable", within=0.5)
        assert await it.status() == "unhealthy"

        log.directory.unlink()
        await it.service.sign_hash(digest_of(3), A_PRIVATE_KEY)
        await it.service.trigger_health_check("audit")
        assert await it.causes() == []


async def test_requests_that_fail_are_an_error_rate_and_bad_requests_are_not(tmp_path: Path) -> None:
    thresholds = {"minimum_requests": 4}
    async with watched(software_config(tmp_path), thresholds=thresholds) as it:
        key = await it.service.generate_key("soft", "node_identity", "software")
        for number in range(4):
            await it.service.sign_hash(digest_of(number), "soft")
            with pytest.raises(manahsm.KeyNotFound):
                await it.service.sign_hash(digest_of(number), "nobody")
        assert (await it.service.trigger_health_check("signing_service")).status == "healthy"

        it.service._parts.signer._keystore.lock()
        (tmp_path / "state" / "keystore" / f"{key.key_id}.json").unlink()
        for number in range(4):
            with pytest.raises(manahsm.KeystoreError):
                await it.service.sign_hash(digest_of(number), "soft")
        report = await it.service.trigger_health_check()

        assert report.component("signing_service").message == "Critical error rate: 4 of 8: 4 keystore_error"
        assert report.component("key_manager").message == f"Keystore files missing: {key.key_id}"
        assert sorted(await it.causes()) == ["error_rate_critical", "keyfiles_missing"]


async def test_a_latched_slot_is_the_same_alert_before_and_after_a_restart(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    config = config_for(softhsm_token, tmp_path)
    async with watched(config) as it:
        assert await it.causes() == []
    (softhsm_token.directory / "pin").write_text("00000\n")

    ids = []
    for _ in range(2):
        async with watched(config) as it:
            (alert,) = await it.alerts()
            ids.append((alert.id, alert.cause, alert.reopened))

    assert ids[0] == ids[1]
    assert ids[0][1:] == ("latched", 0)


async def test_an_operator_resolves_an_alert_and_the_act_is_on_record(tmp_path: Path) -> None:
    async with watched(software_config(tmp_path), canary_key="tweety") as it:
        (alert,) = await it.alerts()
        await it.service.resolve_alert(alert.id)
        await it.service.trigger_health_check()
        assert await it.causes() == []
        with pytest.raises(InvalidRequest, match="no open alert"):
            await it.service.resolve_alert(alert.id)

    acts = [record for record in audit_records(tmp_path) if record["event"] == "operator_action"]
    assert [(act["summary"]["act"], act["reason"]) for act in acts] == [
        ("resolve_alert", "key_manager: Canary key not registered")
    ]


async def test_a_changed_configuration_is_told_once(tmp_path: Path) -> None:
    async with watched(software_config(tmp_path)) as it:
        assert await it.causes() == []
    async with watched(software_config(tmp_path, service={"queue_size": 77})) as it:
        assert await it.causes() == ["configuration_changed"]
    async with watched(software_config(tmp_path, service={"queue_size": 77})) as it:
        assert len(await it.alerts(resolved=True)) == 1


async def test_a_webhook_that_never_answers_delays_no_signature(tmp_path: Path) -> None:
    with receiver() as web:
        web.silent.set()
        config = software_config(tmp_path)
        async with watched(config, canary_key="tweety", alerts={"webhook_url": web.url}) as it:
            assert await it.causes() == ["canary_unknown"]
            for number in range(50):
                await it.service.sign_hash(digest_of(number), A_PRIVATE_KEY)
            assert web.bodies == []
            web.silent.clear()
            web.wake.set()
            await eventually(lambda: web.bodies)

    assert web.bodies[0]["alert"]["cause"] == "canary_unknown"
