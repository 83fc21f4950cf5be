"""A running service is scraped over HTTP while hosts die, tokens vanish and devices misbehave."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from exposition import lint
from metrics_client import METRICS, scrape, value_of
from p11fault import FaultModule
from p11fault_rules import Return, Spoil, Spoiled
from services import A_PRIVATE_KEY, config_for, digest_of, eventually, software_config
from softhsm import SoftHSMToken

import manahsm
from manahsm.signing.slot import SlotPhase

pytestmark = pytest.mark.anyio

QUICK = {"circuit_breaker": {"open_for": 50, "max_open_for": 50}}


def one_host(token: SoftHSMToken, directory: Path, **changes: Any) -> dict[str, Any]:
    pool = {"size": 1, "processes": 1, "max_overflow": 0}
    return config_for(token, directory, connection_pool=pool, **(METRICS | QUICK | changes))


async def import_key(service: manahsm.Service, *, twin: bool = False) -> str:
    key = await service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer", keep_software_twin=twin)
    return key.key_id


async def test_signatures_refusals_and_their_times_are_counted(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(one_host(softhsm_token, tmp_path)) as service:
        key = await import_key(service)
        for number in range(3):
            await service.sign_hash(digest_of(number), key)
        await service.sign_message("hello", A_PRIVATE_KEY)
        with pytest.raises(manahsm.KeyNotFound):
            await service.sign_hash(digest_of(1), "nobody")
        await service.trigger_health_check()
        page = await scrape(service)
        stats, performance = service.stats(), service.performance_metrics()

    samples = page.samples
    slot = softhsm_token.label
    signed = {"operation": "hash", "outcome": "signed"}
    assert page.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert lint(page.text) == ""
    assert value_of(samples, "mana_hsm_signatures_total", backend="hsm", slot=slot, **signed) == 3
    assert value_of(samples, "mana_hsm_signatures_total", backend="software", operation="message") == 1
    assert value_of(samples, "mana_hsm_signatures_total", backend="none", outcome="key_not_found") == 1
    assert value_of(samples, "mana_hsm_signatures_total") == 5
    assert value_of(samples, "mana_hsm_sign_duration_seconds_count") == 5
    assert value_of(samples, "mana_hsm_component_health", component=f"pkcs11:{slot}") == 1
    assert value_of(samples, "mana_hsm_slot_up", slot=slot) == 1
    assert value_of(samples, "mana_hsm_breaker_state", slot=slot, state="closed") == 1
    assert value_of(samples, "mana_hsm_pool_sessions_open", slot=slot) == 1
    assert value_of(samples, "mana_hsm_keys", backend="hsm", role="transaction_signer", state="active") == 1
    assert value_of(samples, "mana_hsm_audit_records_total") >= 7  # start, import, and one for each request
    assert value_of(samples, "mana_hsm_hosts_resident_memory_bytes", slot=slot) > 1e6
    assert value_of(samples, "mana_hsm_scrape_errors_total") == 0

    assert (stats.operations, stats.signed, stats.refused) == (5, 4, 1)
    assert stats.by_slot == {slot: 3}
    minute = performance.components["signing_service"][0]
    assert (minute.operations, minute.failures) == (4, 0)
    assert minute.p50 is not None
    assert minute.p99 is not None
    assert 0 < minute.p50 <= minute.p99
    assert performance.components[f"pkcs11:{slot}"][0].operations == 3


async def test_no_word_of_a_caller_becomes_a_label(tmp_path: Path) -> None:
    evil = 'x"} 1\nevil_metric{a="b'
    async with manahsm.open_service(software_config(tmp_path, **METRICS)) as service:
        names = [name for name, _ in (await scrape(service)).samples]
        await service.sign_message("hello", A_PRIVATE_KEY, request_id=evil, caller=evil)
        await service.generate_key("a label of mine", "node_identity", "software")
        with pytest.raises(manahsm.ManaHSMError):
            await service.sign_hash(digest_of(1), evil, request_id=evil, caller=evil)
        page = await scrape(service)

    assert "evil" not in page.text
    assert "a label of mine" not in page.text
    assert [name for name, _ in page.samples] == names


async def test_a_killed_host_is_counted_and_comes_back(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    slot = softhsm_token.label
    async with manahsm.open_service(one_host(softhsm_token, tmp_path)) as service:
        key = await import_key(service, twin=True)
        for host in (await service.status()).slots[0].hosts:
            os.kill(host.pid, signal.SIGKILL)
        await service.sign_hash(digest_of(1), key)
        await eventually(lambda: service._slots[0].phase is SlotPhase.UP)
        page = await scrape(service)

    samples = page.samples
    assert lint(page.text) == ""
    assert value_of(samples, "mana_hsm_restarts_total", part="host", slot=slot) >= 1
    assert value_of(samples, "mana_hsm_failures_total", part="host", slot=slot, kind="crashed") >= 1
    assert value_of(samples, "mana_hsm_fallback_operations_total") == 1
    assert value_of(samples, "mana_hsm_fallback_outages_total") == 1
    assert value_of(samples, "mana_hsm_sessions_discarded_total", slot=slot) >= 1
    assert value_of(samples, "mana_hsm_hosts", slot=slot) == 1


async def test_a_service_whose_only_token_is_pulled_is_not_ready_until_it_is_back(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    slot = softhsm_token.label
    async with manahsm.open_service(one_host(softhsm_token, tmp_path)) as service:
        key = await import_key(service)
        assert (await scrape(service, "/readyz")).status == 200

        softhsm_token.hide()
        with pytest.raises(manahsm.HSMUnavailable):
            await service.sign_hash(digest_of(1), key)
        await eventually(lambda: service._slots[0].phase is SlotPhase.DOWN)
        await service.trigger_health_check()  # the slot has just been looked at, and is left alone for a moment
        unready, health, live = [await scrape(service, path) for path in ("/readyz", "/healthz", "/livez")]
        page = await scrape(service)
        assert (unready.status, unready.json["status"]) == (503, "not_ready")
        assert slot in unready.json["reason"]
        assert (health.status, health.json["status"]) == (503, "unhealthy")
        assert live.status == 200
        assert lint(page.text) == ""
        assert value_of(page.samples, "mana_hsm_slot_up", slot=slot) == 0
        assert value_of(page.samples, "mana_hsm_component_health", component=f"pkcs11:{slot}") == 0
        assert value_of(page.samples, "mana_hsm_signatures_total", outcome="hsm_unavailable") == 1

        softhsm_token.show()
        await eventually(lambda: service._slots[0].admits and service._slots[0].phase is SlotPhase.UP)
        assert (await scrape(service, "/readyz")).status == 200


async def test_what_a_device_returns_is_the_reason_why_sessions_break(p11fault: FaultModule, tmp_path: Path) -> None:
    config = one_host(p11fault.token, tmp_path, **p11fault.config_changes())
    slot = p11fault.token.label
    async with manahsm.open_service(config) as service:
        key = await import_key(service)
        for code in ("CKR_DEVICE_ERROR", 0x80000BAD):
            p11fault.set(Return("C_Sign", code, count=1))
            await service.sign_hash(digest_of(1), key)  # on another session, after the first has broken
        p11fault.set(Spoil(Spoiled.OTHER_KEY))
        with pytest.raises(manahsm.ManaHSMError):
            await service.sign_hash(digest_of(2), key)
        await eventually(lambda: service.stats().sessions_discarded[slot] == 3)  # a caller does not wait for that
        page = await scrape(service)

    samples = page.samples
    assert lint(page.text) == ""
    for reason in ("CKR_DEVICE_ERROR", "other", "SIGNATURE_MISMATCH"):
        assert value_of(samples, "mana_hsm_sessions_discarded_total", slot=slot, reason=reason) == 1
    assert value_of(samples, "mana_hsm_retried_operations_total") == 2
    assert value_of(samples, "mana_hsm_slot_phase", slot=slot, phase="latched") == 1
    assert value_of(samples, "mana_hsm_breaker_changes_total", slot=slot, state="latched") == 1


async def test_a_slot_may_be_called_anything(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = one_host(softhsm_token, tmp_path)
    table = config["hsm"]
    table["slots"] = [{"name": 'my "best" \\ slot', "token_label": table.pop("token_label")}]
    async with manahsm.open_service(config) as service:
        page = await scrape(service)

    assert lint(page.text) == ""
    assert value_of(page.samples, "mana_hsm_slot_up", slot='my "best" \\ slot') == 1


async def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = software_config(tmp_path, monitoring={"metrics": {"port": port}})
        with pytest.raises(manahsm.ConfigError, match=f"127.0.0.1 port {port} is in use"):
            async with manahsm.open_service(config):
                pass


async def test_nothing_listens_unless_it_is_told_to(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path)) as service:
        assert service.metrics_address is None
        assert lint(service.prometheus_metrics()) == ""
