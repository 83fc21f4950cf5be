"""Signing goes on while a token does not: backup slots, software twins, and who never gets one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from services import A_PRIVATE_KEY, audit_records, config_for, digest_of, eventually, recovered_address
from softhsm import SoftHSMToken

import manahsm
from manahsm.signing.slot import SlotPhase

pytestmark = pytest.mark.anyio

# With more, one may still be starting while the others are stopped.
ONE_HOST = {"size": 4, "processes": 1}


def two_slots(directory: Path, **changes: Any) -> tuple[dict[str, Any], SoftHSMToken, SoftHSMToken]:
    """Two tokens, each in a directory of its own, as a primary and a backup slot."""
    tokens = [SoftHSMToken.create(directory / name, label=name) for name in ("main", "spare")]
    entries = []
    for token, priority in zip(tokens, ("primary", "backup"), strict=True):
        pin = token.directory / "pin"
        pin.touch(mode=0o600)
        pin.write_text(token.pin)
        entries.append(
            {
                "token_label": token.label,
                "priority": priority,
                "pin_file": str(pin),
                "environment": dict(token.environment),
            }
        )
    config = config_for(tokens[0], directory, slots=entries, connection_pool={"size": 2, "processes": 1}, **changes)
    for option in ("token_label", "pin_file", "environment"):
        del config["hsm"][option]
    return config, tokens[0], tokens[1]


def pids(service: manahsm.Service, slot: int = 0) -> list[int]:
    return [host.info.pid for host in service._slots[slot].ready_hosts.values() if host.info is not None]


def signal_hosts(service: manahsm.Service, number: int, slot: int = 0) -> None:
    for pid in pids(service, slot):
        os.kill(pid, number)


@contextmanager
def frozen_hosts(service: manahsm.Service, slot: int = 0) -> Iterator[None]:
    stopped = pids(service, slot)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


async def import_key(service: manahsm.Service, *, twin: bool = False, role: str = "transaction_signer") -> str:
    key = await service.import_key(A_PRIVATE_KEY, "hot", role, keep_software_twin=twin)
    return key.key_id


async def sign(service: manahsm.Service, key: str, number: int = 1, **options: Any) -> manahsm.Signature:
    signature = await service.sign_hash(digest_of(number), key, **options)
    assert recovered_address(signature, digest_of(number)) == (await service.get_key(key)).address
    return signature


def routes(directory: Path) -> list[tuple[Any, Any, Any]]:
    """Backend, slot and diverted of each signature, from the audit log."""
    signed = [record for record in audit_records(directory) if record["event"] == "sign"]
    return [(record.get("backend"), record.get("slot"), record.get("diverted", False)) for record in signed]


# ---- a second slot ----


async def test_a_primary_slot_signs_while_it_can(tmp_path: Path) -> None:
    config, _, _ = two_slots(tmp_path)
    async with manahsm.open_service(config) as service:
        key = await import_key(service)
        for number in range(5):
            await sign(service, key, number)

    assert routes(tmp_path) == [("hsm", "main", False)] * 5


async def test_killed_hosts_cost_no_request_where_a_backup_holds_the_key(tmp_path: Path) -> None:
    config, _, _ = two_slots(tmp_path)
    async with manahsm.open_service(config) as service:
        key = await import_key(service)
        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(sign, service, key, number)
                if number == 30:
                    signal_hosts(service, signal.SIGKILL)
                await anyio.lowlevel.checkpoint()
        stats = (await service.status()).routes

    assert stats.primary + stats.backup == 60
    assert stats.stand_in == 0


async def test_a_token_that_hangs_is_left_for_the_backup_and_taken_up_again(tmp_path: Path) -> None:
    config, _, _ = two_slots(
        tmp_path,
        fallback={"fallback_timeout": 200},
        circuit_breaker={"open_for": 50, "max_open_for": 50, "probes": 1},
    )
    async with manahsm.open_service(config) as service:
        key = await import_key(service)
        with frozen_hosts(service):
            await sign(service, key, 1)
            assert (await service.status()).slots[0].breaker.state.value == "open"
            await sign(service, key, 2)
        await eventually(lambda: service._slots[0].admits)
        while not service._slots[0].well:
            await sign(service, key, 3)
        await sign(service, key, 4)

    taken = routes(tmp_path)
    assert taken[:2] == [("hsm", "spare", True)] * 2
    assert taken[-1] == ("hsm", "main", False)


async def test_a_token_that_is_pulled_out_and_comes_back_needs_no_restart(tmp_path: Path) -> None:
    config, main, _ = two_slots(tmp_path, circuit_breaker={"open_for": 50, "max_open_for": 50})
    async with manahsm.open_service(config) as service:
        key = await import_key(service)
        main.hide()
        for number in range(20):
            await sign(service, key, number)
        main.show()
        slot = service._slots[0]
        await eventually(lambda: slot.phase is SlotPhase.UP)
        while not slot.well:
            await sign(service, key)
        before = (await service.status()).routes.primary
        await sign(service, key)
        assert (await service.status()).routes.primary == before + 1

    assert all(backend == "hsm" for backend, _, _ in routes(tmp_path))


async def test_a_pin_that_is_wrong_on_one_slot_costs_no_request(tmp_path: Path) -> None:
    config, main, _ = two_slots(tmp_path)
    async with manahsm.open_service(config) as service:
        key = await import_key(service)
    (main.directory / "pin").write_text("00000\n")
    async with manahsm.open_service(config) as service:
        await sign(service, key)
        assert [slot.phase for slot in (await service.status()).slots] == [SlotPhase.LATCHED, SlotPhase.UP]

        (main.directory / "pin").write_text(main.pin)
        await service.unlatch("main")
        await eventually(lambda: service._slots[0].phase is SlotPhase.UP)
        await sign(service, key)

    assert routes(tmp_path) == [("hsm", "spare", True), ("hsm", "main", False)]
    assert "final" not in main.flags()


# ---- a software twin ----


async def test_a_twin_stands_in_for_a_dead_host_and_the_token_takes_over_again(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    config = config_for(softhsm_token, tmp_path, connection_pool={"size": 1, "processes": 1})
    async with manahsm.open_service(config) as service:
        key = await import_key(service, twin=True)
        await sign(service, key)
        signal_hosts(service, signal.SIGKILL)
        await sign(service, key)
        slot = service._slots[0]
        await slot.wait_until(lambda: slot.phase is SlotPhase.UP)
        await sign(service, key)

    assert routes(tmp_path) == [
        ("hsm", softhsm_token.label, False),
        ("software", None, True),
        ("hsm", softhsm_token.label, False),
    ]


async def test_a_twin_stands_in_for_a_token_that_hangs_after_the_fallback_timeout(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    config = config_for(softhsm_token, tmp_path, connection_pool=ONE_HOST, fallback={"fallback_timeout": 100})
    async with manahsm.open_service(config) as service:
        key = await import_key(service, twin=True)
        with frozen_hosts(service):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(sign, service, key, number)
            assert (await service.status()).routes.stand_in == 20


async def test_a_request_in_a_hurry_is_diverted_before_its_deadline(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    config = config_for(softhsm_token, tmp_path, connection_pool=ONE_HOST, fallback={"fallback_timeout": 3_600_000})
    async with manahsm.open_service(config) as service:
        key = await import_key(service, twin=True)
        with frozen_hosts(service):
            assert (await sign(service, key, timeout=1.0)).backend == "software"


async def test_the_budget_of_an_outage_ends_and_the_token_is_needed_again(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    config = config_for(
        softhsm_token,
        tmp_path,
        circuit_breaker={"open_for": 50, "max_open_for": 50},
        monitoring={"health_check_interval": 100},
    )
    async with manahsm.open_service(config) as service:
        key = await import_key(service, twin=True)
        softhsm_token.hide()
        backends = [(await sign(service, key, number)).backend for number in range(100)]
        with pytest.raises(manahsm.FallbackExhausted, match="max_fallback_operations"):
            await sign(service, key)
        softhsm_token.show()
        slot = service._slots[0]
        await eventually(lambda: slot.phase is SlotPhase.UP and slot.admits)
        while not slot.well:
            await sign(service, key)
        since = service._clock.now()
        await eventually(lambda: slot.wellness.for_a_while_after(since, service._clock.now()))
        softhsm_token.hide()
        assert (await sign(service, key)).backend == "software"
        softhsm_token.show()

    assert backends == ["software"] * 100


async def test_a_validator_is_never_signed_for_in_software(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = config_for(softhsm_token, tmp_path)
    async with manahsm.open_service(config) as service:
        key = await import_key(service, twin=True)
    # Its role was not bound to tokens when its twin was made; now it is.
    config["hsm"]["security_policy"] = {"require_hsm_for_roles": ["transaction_signer"]}
    async with manahsm.open_service(config) as service:
        softhsm_token.hide()
        with pytest.raises(manahsm.HSMUnavailable, match="never stands in for the role transaction_signer"):
            await sign(service, key)
        softhsm_token.show()

    assert {backend for backend, _, _ in routes(tmp_path)} <= {None}


async def test_without_a_twin_the_caller_is_told_at_once_and_the_token_comes_back(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    config = config_for(softhsm_token, tmp_path, circuit_breaker={"open_for": 50, "max_open_for": 50})
    async with manahsm.open_service(config) as service:
        key = await import_key(service)
        softhsm_token.hide()
        for _ in range(3):
            with pytest.raises(manahsm.HSMUnavailable, match="no software twin"):
                await sign(service, key)
        softhsm_token.show()
        slot = service._slots[0]
        await eventually(lambda: slot.phase is SlotPhase.UP and slot.admits)
        await sign(service, key)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"fallback": {"enabled": False}}, r"fallback\.enabled is false"),
        ({"security_policy": {"allow_software_fallback": False}}, "allow_software_fallback is false"),
        ({"fallback": {"max_fallback_operations": 0}}, "used up its 0 software signatures"),
    ],
)
async def test_a_twin_stands_in_only_where_all_options_say_so(
    softhsm_token: SoftHSMToken, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    config = config_for(softhsm_token, tmp_path, **changes)
    async with manahsm.open_service(config) as service:
        key = await import_key(service, twin=True)
        softhsm_token.hide()
        with pytest.raises(manahsm.ManaHSMError, match=why):
            await sign(service, key)
        softhsm_token.show()


# ---- operators ----


async def test_a_twin_that_is_not_automatic_waits_for_an_operators_word(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    config = config_for(softhsm_token, tmp_path, fallback={"auto_fallback_on_error": False})
    async with manahsm.open_service(config) as service:
        key = await import_key(service, twin=True)
        softhsm_token.hide()
        with pytest.raises(manahsm.HSMUnavailable, match=r"Service\.allow_fallback"):
            await sign(service, key)
        await service.allow_fallback()
        assert (await sign(service, key)).backend == "software"
        await service.withdraw_fallback()
        with pytest.raises(manahsm.HSMUnavailable):
            await sign(service, key)
        softhsm_token.show()

    acts = [record for record in audit_records(tmp_path) if record["event"] == "operator_action"]
    assert [record["summary"]["act"] for record in acts] == ["allow_fallback", "withdraw_fallback"]


async def test_a_breaker_that_an_operator_has_opened_stays_so_until_it_is_reset(tmp_path: Path) -> None:
    config, _, _ = two_slots(tmp_path)
    async with manahsm.open_service(config) as service:
        key = await import_key(service)
        await service.force_open("main", "maintenance")
        await sign(service, key)
        await service.reset_breaker("main")
        await sign(service, key)

    acts = [record for record in audit_records(tmp_path) if record["event"] == "operator_action"]
    assert [(record["slot"], record["summary"]["act"]) for record in acts] == [
        ("main", "force_open"),
        ("main", "reset_breaker"),
    ]
    assert routes(tmp_path) == [("hsm", "spare", True), ("hsm", "main", False)]


async def test_an_operator_is_told_what_can_not_be_done(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        label = softhsm_token.label
        with pytest.raises(manahsm.InvalidRequest, match=f"no slot is called 'x'; there are: {label}"):
            await service.force_open("x")
        with pytest.raises(manahsm.InvalidRequest, match="not latched"):
            await service.unlatch(label)
        service._slots[0].latch("smoke")
        for act in (service.force_open, service.force_closed, service.reset_breaker):
            with pytest.raises(manahsm.InvalidRequest, match=r"is latched .smoke.: correct the cause, then unlatch"):
                await act(label)


async def test_a_pin_file_that_is_still_unusable_keeps_the_slot_latched(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with manahsm.open_service(config_for(softhsm_token, tmp_path)) as service:
        service._slots[0].latch("wrong PIN")
        (softhsm_token.directory / "pin").chmod(0o644)
        with pytest.raises(manahsm.ConfigError, match="pin_file"):
            await service.unlatch(softhsm_token.label)

        assert service._slots[0].phase is SlotPhase.LATCHED
