"""Why a host does not start, in words that say what to do; and that a wrong PIN is tried once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from hsm_hosts import running
from p11fault import FaultModule
from p11fault_rules import Crash, HiddenUntilFinalize, NoECDSA, Return, TokenFlags, TokenLabel, Unnamed
from softhsm import SoftHSMToken

from manahsm.config.secret import Secret
from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HostCrashed, HostEnded, HostStartFailed, HSMFailure
from manahsm.hsm.info import HostInfo
from manahsm.hsm.outcomes import Action
from manahsm.hsm.settings import HostSettings

pytestmark = pytest.mark.anyio

CKF_LOGIN_REQUIRED = 0x4
CKF_USER_PIN_FINAL_TRY = 0x20000
CKF_USER_PIN_LOCKED = 0x40000


async def end_of(settings: HostSettings) -> HostEnded:
    with pytest.raises(HostEnded) as caught:
        await HostProcess(settings).run(lambda _: pytest.fail("it should not have started"))
    return caught.value


async def described(settings: HostSettings) -> HostInfo:
    """What a host that has started says of its token."""
    async with running(settings) as host:
        assert host.info is not None
        return host.info


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


async def test_one_start_makes_exactly_one_login(p11fault: FaultModule) -> None:
    ended = await end_of(p11fault.settings(pin=Secret("00000000")))
    assert ended.outcome.action is Action.LATCH
    assert p11fault.calls("C_Login") == 1


async def test_the_final_try_is_left_to_the_operator(p11fault: FaultModule) -> None:
    p11fault.set(TokenFlags(set=CKF_USER_PIN_FINAL_TRY))
    ended = await end_of(p11fault.settings())
    assert (ended.outcome.name, ended.outcome.action) == ("PIN_FINAL_TRY", Action.LATCH)
    assert "one more wrong PIN" in str(ended)
    assert p11fault.calls("C_Login") == 0


async def test_a_locked_pin_is_not_tried(p11fault: FaultModule) -> None:
    p11fault.set(TokenFlags(set=CKF_USER_PIN_LOCKED))
    ended = await end_of(p11fault.settings())
    assert (ended.outcome.name, ended.outcome.action) == ("CKR_PIN_LOCKED", Action.LATCH)
    assert p11fault.calls("C_Login") == 0


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
async def test_what_a_login_can_answer(
    p11fault: FaultModule, code: int, name: str | None, action: Action | None
) -> None:
    p11fault.set(Return("C_Login", code, when_after=True))
    if name is None:  # logged in already: fine
        async with running(p11fault.settings()) as host:
            await host.generate_key("k")
        return
    ended = await end_of(p11fault.settings())
    assert (ended.outcome.name, ended.outcome.action) == (name, action)


async def test_a_token_without_ecdsa_is_refused(p11fault: FaultModule) -> None:
    p11fault.set(NoECDSA())
    ended = await end_of(p11fault.settings())
    assert ended.outcome.name == "TOKEN_UNSUITABLE"


async def test_a_token_without_login_needs_no_pin(p11fault: FaultModule) -> None:
    p11fault.set(TokenFlags(clear=CKF_LOGIN_REQUIRED))
    async with running(p11fault.settings(pin=None)) as host:
        assert host.info is not None
        assert "LOGIN_REQUIRED" not in host.info.flags
        assert await host.find_keys() == []


async def test_another_token_in_the_place_of_ours_is_not_taken_for_it(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        p11fault.set(TokenLabel("another"))
        with pytest.raises(HSMFailure) as caught:
            await host.token_info()
        assert caught.value.outcome.action is Action.FAIL_OVER
        p11fault.clear()


async def test_a_token_that_forgets_its_name_for_a_moment_is_no_other(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        p11fault.set(Unnamed(count=2))
        assert await host.token_info() == host.info


async def test_a_token_without_a_name_for_a_moment_is_found_and_known_by_its_name(p11fault: FaultModule) -> None:
    slot_id = (await described(p11fault.settings())).slot_id
    p11fault.set(Unnamed(count=1))
    info = await described(p11fault.settings(token_label=None, slot_id=slot_id))
    assert info.token_label == p11fault.token.label
    assert info.serial


async def test_a_token_that_never_has_a_name_can_be_used_by_its_slot(p11fault: FaultModule) -> None:
    slot_id = (await described(p11fault.settings())).slot_id
    p11fault.set(Unnamed())
    info = await described(p11fault.settings(token_label=None, slot_id=slot_id))
    assert (info.token_label, info.serial) == ("", "")


async def test_a_library_that_can_not_initialise_ends_the_start_with_its_code(p11fault: FaultModule) -> None:
    p11fault.set(Return("C_Initialize", "CKR_GENERAL_ERROR"))
    assert (await end_of(p11fault.settings())).outcome.name == "CKR_GENERAL_ERROR"


async def test_a_slot_that_fails_is_passed_over_and_the_token_looked_for_again(p11fault: FaultModule) -> None:
    p11fault.set(Return("C_GetTokenInfo", "CKR_TOKEN_NOT_RECOGNIZED"))
    ended = await end_of(p11fault.settings())
    assert ended.outcome.name == "TOKEN_NOT_FOUND"
    assert "found: none" in str(ended)


async def test_a_token_that_shows_itself_at_the_second_look_is_found(p11fault: FaultModule) -> None:
    p11fault.set(HiddenUntilFinalize())
    async with running(p11fault.settings()) as host:
        assert host.info is not None
        assert host.info.token_label == p11fault.token.label


async def test_a_library_that_crashes_at_start_is_a_crash(p11fault: FaultModule) -> None:
    p11fault.set(Crash("C_Initialize"))
    ended = await end_of(p11fault.settings())
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
