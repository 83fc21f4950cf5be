"""Where a PIN and key material must not be seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hsm_hosts import running
from softhsm import SoftHSMToken

from manahsm.config.secret import Secret

pytestmark = pytest.mark.anyio


def held_by(pid: int) -> set[str]:
    return {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def maps_of(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


async def test_the_pin_is_in_neither_arguments_nor_environment_of_a_host(
    softhsm_token: SoftHSMToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HSM_PIN", softhsm_token.pin)
    monkeypatch.setenv("HSM_PIN_FILE", "/some/where")
    async with running(softhsm_token.host_settings()) as host:
        assert host.info is not None
        process = Path(f"/proc/{host.info.pid}")
        assert softhsm_token.pin.encode() not in (process / "cmdline").read_bytes()
        environment = (process / "environ").read_bytes()
        assert b"HSM_PIN" not in environment
        assert softhsm_token.pin.encode() not in environment


async def test_a_host_leaves_no_core_and_can_not_be_traced(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        assert host.info is not None
        process = Path(f"/proc/{host.info.pid}")
        limits = (process / "limits").read_text()
        (core,) = [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")]
        assert core == ["0", "0"]
        # A process that is not dumpable belongs to root as far as /proc is concerned, whoever runs it.
        assert (process / "mem").stat().st_uid == 0


async def test_a_host_holds_its_pipes_its_library_and_nothing_else_of_ours(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    secret = tmp_path / "ours"
    secret.touch()
    with secret.open() as ours:
        os.set_inheritable(ours.fileno(), True)
        async with running(softhsm_token.host_settings()) as host:
            assert host.info is not None
            held = held_by(host.info.pid)
            assert str(secret) not in held


async def test_a_pin_that_is_fetched_is_fetched_anew_for_each_start(softhsm_token: SoftHSMToken) -> None:
    fetched = []

    def fetch() -> Secret:
        fetched.append(1)
        return Secret(softhsm_token.pin)

    settings = softhsm_token.host_settings(pin=fetch)
    for _ in range(2):
        async with running(settings):
            pass
    assert len(fetched) == 2


async def test_a_host_does_without_the_event_loops(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        assert host.info is not None
        await host.open_session()
        maps = maps_of(host.info.pid)
        assert "libsofthsm2" in maps
        assert "coincurve" not in maps  # loaded only where a key has to prove itself
    assert "libsofthsm2" not in maps_of(os.getpid())
