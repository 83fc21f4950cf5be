"""Why a host does not start, in words that say what to do; and that a wrong PIN is tried once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from hsm_hosts import Shim, running
from softhsm import SoftHSMToken

from manahsm.config.secret import Secret
from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HostCrashed, HostEnded, HostStartFailed, HSMFailure
from manahsm.hsm.outcomes import Action
from manahsm.hsm.settings import HostSettings

pytestmark = pytest.mark.anyio


async def end_of(settings: HostSettings) -> HostEnded:
    with pytest.raises(HostEnded) as caught:
        await HostProcess(settings).run(lambda _: pytest.fail("it should not have started"))
    return caught.value


async def test_a_ready_host_describes_its_token(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        info = host.info
        assert info is not None
        assert (info.token_label, info.manufacturer, info.model) == (
            softhsm_token.label,
            "SoftHSM project",
            "SoftHSM v2",
        )
        assert {"CKM_ECDSA", "CKM_EC_KEY_PAIR_GEN"} == set(info.mechanisms)
        assert {"LOGIN_REQUIRED", "TOKEN_INITIALIZED"} < set(info.flags)
        assert not info.pin_count_low
        assert info.max_sessions is None  # SoftHSM says -1
        assert info.locking
        assert await host.token_info() == info


async def test_a_token_is_found_by_serial_and_by_slot(softhsm_token: SoftHSMToken) -> None:
    async with running(softhsm_token.host_settings()) as host:
        info = host.info
        assert info is not None
    by_serial = softhsm_token.host_settings(token_label=None, serial=info.serial)
    async with running(by_serial) as host:
        assert host.info is not None
        assert host.info.slot_id == info.slot_id
    by_slot = softhsm_token.host_settings(token_label=None, slot_id=info.slot_id)
    async with running(by_slot) as host:
        assert host.info is not None
        assert host.info.serial == info.serial


async def test_a_missing_library_says_what_to_install_or_set(softhsm_token: SoftHSMToken) -> None:
    ended = await end_of(softhsm_token.host_settings(library_path="/no/such/library.so"))
    assert isinstance(ended, HostStartFailed)
    assert (ended.outcome.name, ended.outcome.action) == ("LIBRARY_NOT_FOUND", Action.FAIL_OVER)
    assert "library not found: /no/such/library.so" in str(ended)
    assert "hsm.library_path" in str(ended)


async def test_a_file_that_is_no_library_is_named(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not an object file")
    ended = await end_of(softhsm_token.host_settings(library_path=text))
    assert ended.outcome.name == "LIBRARY_UNUSABLE"
    assert str(text) in str(ended)


def loaded_libc() -> str:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split()[-1] for line in lines if "libc.so" in line or "libc-" in line)


async def test_a_library_without_pkcs11_is_named(softhsm_token: SoftHSMToken) -> None:
    ended = await end_of(softhsm_token.host_settings(library_path=loaded_libc()))
    assert ended.outcome.name == "LIBRARY_UNUSABLE"


async def test_a_missing_token_is_reported_with_those_that_are_there(softhsm_token: SoftHSMToken) -> None:
    ended = await end_of(softhsm_token.host_settings(token_label="another"))
    assert isinstance(ended, HostStartFailed)
    assert ended.outcome.name == "TOKEN_NOT_FOUND"
    assert "no token labelled 'another'" in str(ended)
    assert repr(softhsm_token.label) in str(ended)


async def test_two_tokens_of_one_name_are_not_guessed_at(
    make_softhsm_token: Callable[..., SoftHSMToken],
) -> None:
    make_softhsm_token("both", label="twin")
    token = make_softhsm_token("both", label="twin")
    ended = await end_of(token.host_settings())
    assert (ended.outcome.name, ended.outcome.action) == ("TOKEN_AMBIGUOUS", Action.LATCH)


async def test_a_wrong_pin_is_tried_once_and_latches(softhsm_token: SoftHSMToken) -> None:
    assert "count low" not in softhsm_token.flags()
    ended = await end_of(softhsm_token.host_settings(pin=Secret("00000000")))
    assert isinstance(ended, HostStartFailed)
    assert (ended.outcome.name, ended.outcome.action) == ("CKR_PIN_INCORRECT", Action.LATCH)
    assert "failed to log in: wrong PIN" in str(ended)
    assert "00000000" not in str(ended)
    # The token itself says that a wrong PIN was tried; the good one clears it.
    assert "count low" in softhsm_token.flags()
    async with running(softhsm_token.host_settings()) as host:
        assert host.info is not None
        assert not host.info.pin_count_low
    assert "count low" not in softhsm_token.flags()


async def test_one_start_makes_exactly_one_login(shim: Shim, capfd: pytest.CaptureFixture[str]) -> None:
    shim.misbehave("C_Login print")
    ended = await end_of(shim.settings(pin=Secret("00000000")))
    assert ended.outcome.action is Action.LATCH
    assert capfd.readouterr().err.count("vendor chatter from C_Login") == 1


async def test_the_final_try_is_left_to_the_operator(shim: Shim, capfd: pytest.CaptureFixture[str]) -> None:
    shim.misbehave("token flags 0x20000", "C_Login print")
    ended = await end_of(shim.settings())
    assert (ended.outcome.name, ended.outcome.action) == ("PIN_FINAL_TRY", Action.LATCH)
    assert "one more wrong PIN" in str(ended)
    assert "C_Login" not in capfd.readouterr().err


async def test_a_locked_pin_is_not_tried(shim: Shim, capfd: pytest.CaptureFixture[str]) -> None:
    shim.misbehave("token flags 0x40000", "C_Login print")
    ended = await end_of(shim.settings())
    assert (ended.outcome.name, ended.outcome.action) == ("CKR_PIN_LOCKED", Action.LATCH)
    assert "C_Login" not in capfd.readouterr().err


async def test_a_token_that_needs_a_login_and_gets_no_pin_says_where_to_set_it(
    softhsm_token: SoftHSMToken,
) -> None:
    ended = await end_of(softhsm_token.host_settings(pin=None))
    assert (ended.outcome.name, ended.outcome.action) == ("PIN_MISSING", Action.LATCH)
    assert "hsm.pin_file" in str(ended)


@pytest.mark.parametrize(
    ("code", "name", "action"),
    [
        (0x100, None, None),
        (0x30, "CKR_DEVICE_ERROR", Action.RETRY_ELSEWHERE),
        (0xA3, "CKR_PIN_EXPIRED", Action.LATCH),
        (0x102, "LOGIN_DISTURBED", Action.RESPAWN),  # while the token's flags say that there is a PIN
    ],
)
async def test_what_a_login_can_answer(shim: Shim, code: int, name: str | None, action: Action | None) -> None:
    shim.misbehave(f"C_Login after {code:#x}")
    if name is None:  # logged in already: fine
        async with running(shim.settings()) as host:
            await host.generate_key("k")
        return
    ended = await end_of(shim.settings())
    assert (ended.outcome.name, ended.outcome.action) == (name, action)


async def test_a_token_without_ecdsa_is_refused(shim: Shim) -> None:
    shim.misbehave("token noecdsa")
    ended = await end_of(shim.settings())
    assert ended.outcome.name == "TOKEN_UNSUITABLE"


async def test_a_token_without_login_needs_no_pin(shim: Shim) -> None:
    shim.misbehave("token nologin")
    async with running(shim.settings(pin=None)) as host:
        assert host.info is not None
        assert "LOGIN_REQUIRED" not in host.info.flags
        assert await host.find_keys() == []


async def test_another_token_in_the_place_of_ours_is_not_taken_for_it(shim: Shim) -> None:
    async with running(shim.settings()) as host:
        shim.misbehave("token renamed")
        with pytest.raises(HSMFailure) as caught:
            await host.token_info()
        assert caught.value.outcome.action is Action.FAIL_OVER
        shim.misbehave()


async def test_a_library_that_can_not_initialise_ends_the_start_with_its_code(shim: Shim) -> None:
    shim.misbehave("C_Initialize return 5")
    assert (await end_of(shim.settings())).outcome.name == "CKR_GENERAL_ERROR"


async def test_a_slot_that_fails_is_passed_over_and_the_token_looked_for_again(shim: Shim) -> None:
    shim.misbehave("C_GetTokenInfo return 0xe1")
    ended = await end_of(shim.settings())
    assert ended.outcome.name == "TOKEN_NOT_FOUND"
    assert "found: none" in str(ended)


async def test_a_token_that_shows_itself_at_the_second_look_is_found(shim: Shim) -> None:
    shim.misbehave("token late")
    async with running(shim.settings()) as host:
        assert host.info is not None
        assert host.info.token_label == shim.token.label


async def test_a_library_that_crashes_at_start_is_a_crash(shim: Shim) -> None:
    shim.misbehave("C_Initialize abort")
    ended = await end_of(shim.settings())
    assert isinstance(ended, HostCrashed)


async def test_an_interpreter_that_can_not_be_started_is_reported(
    softhsm_token: SoftHSMToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/python")
    ended = await end_of(softhsm_token.host_settings())
    assert isinstance(ended, HostStartFailed)
    assert ended.outcome.name == "SPAWN_FAILED"


async def test_hosts_that_start_at_the_same_instant_all_find_the_token(softhsm_token: SoftHSMToken) -> None:
    async def start_and_stop() -> None:
        async with running(softhsm_token.host_settings()):
            pass

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(start_and_stop)
