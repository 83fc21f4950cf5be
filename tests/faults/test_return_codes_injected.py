"""Every return code of the outcome table, from every function of a signing life: what the signer is told to do.

The one thing to know: the cases are read from the table itself, so a row that is added is tested too. One host lives
through all the codes of a function, because only sessions are spoiled by them; codes that end a start have a host each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio
import pytest
from hsm_hosts import running
from p11fault import FaultModule
from p11fault_rules import Return
from softhsm import SoftHSMToken

from manahsm.hsm.client import HostProcess, HostSession
from manahsm.hsm.failures import HostEnded, HostStartFailed, HSMFailure
from manahsm.hsm.info import TokenKey
from manahsm.hsm.outcomes import _TABLE, Outcome, outcome_named, outcome_of
from manahsm.hsm.return_codes import CKR, name_of

pytestmark = pytest.mark.anyio

CODES: Mapping[str, int] = {
    **{f"CKR_{name}": CKR[f"CKR_{name}"] for names, _ in _TABLE for name in names.split() if name != "OK"},
    **{name_of(code): code for code in (0x80000001, 0x3FF)},  # a vendor's, and one that nobody knows
}
DIGEST = bytes(range(32))
DONE = "no failure"


def expected_of(function: str, **exceptions: Outcome | str) -> dict[str, Outcome | str]:
    """What the table says of each code out of a function."""
    return {name: outcome_of(code, function) for name, code in CODES.items()} | exceptions


async def outcomes_of(
    fault: FaultModule, function: str, call: Callable[[], Awaitable[object]]
) -> dict[str, Outcome | str]:
    """What came of the call for each code that the function returned; each code was met at least once."""
    found: dict[str, Outcome | str] = {}
    for name, code in CODES.items():
        rule = Return(function, code)
        fault.set(rule)
        try:
            await call()
            found[name] = DONE
        except HSMFailure as failure:
            found[name] = failure.outcome
        assert fault.fired(rule) > 0, f"{function} was not called"
    fault.clear()
    return found


async def sign(session: HostSession, key: TokenKey) -> bytes:
    (result,) = await session.sign([(key.public_key, DIGEST)])
    if isinstance(result, HSMFailure):
        raise result
    return result


# python-pkcs11 takes these for "this object has no such attribute", and a key without description is not found.
NO_SUCH_ATTRIBUTE = ("CKR_ATTRIBUTE_TYPE_INVALID", "CKR_ATTRIBUTE_SENSITIVE", "CKR_FUNCTION_FAILED")
NOT_FOUND = dict.fromkeys(NO_SUCH_ATTRIBUTE, outcome_named("KEY_NOT_FOUND", "C_FindObjects"))


@pytest.mark.parametrize(
    ("function", "reported", "exceptions"),
    [
        ("C_SignInit", "C_SignInit", {}),
        ("C_Sign", "C_Sign", {}),
        ("C_FindObjectsInit", "C_FindObjects", {}),
        ("C_FindObjects", "C_FindObjects", {}),
        ("C_GetAttributeValue", "C_FindObjects", NOT_FOUND),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_each_code_of_a_signature_has_its_outcome_and_its_session_is_used_again_only_where_that_says_so(
    p11fault: FaultModule, function: str, reported: str, exceptions: Mapping[str, Outcome]
) -> None:
    async with running(p11fault.settings()) as host:
        key = await host.generate_key("k")
        usable: list[bool] = []

        async def sign_and_look_at_the_session() -> None:
            session = await host.open_session()
            try:
                await sign(session, key)
            finally:
                p11fault.clear()
                usable.append(session.usable)
                if not session.usable:
                    await assert_refuses(p11fault, session, key)
                await session.close()

        expected = expected_of(reported, **exceptions)
        assert await outcomes_of(p11fault, function, sign_and_look_at_the_session) == expected
        assert usable == [not outcome.discard_session for outcome in expected.values() if isinstance(outcome, Outcome)]
        assert p11fault.reused_after_failure == 0
        # Whatever happened on those sessions, the next one signs.
        await sign(await host.open_session(), key)


async def assert_refuses(fault: FaultModule, session: HostSession, key: TokenKey) -> None:
    """It says no, and the host itself would: nothing of it reaches the module."""
    before = fault.calls("C_SignInit", "C_Sign", "C_FindObjectsInit")
    for believed_discarded in (True, False):
        session._discarded = believed_discarded
        with pytest.raises(HSMFailure) as refused:
            await sign(session, key)
        assert refused.value.outcome.name == "SESSION_DISCARDED"
    assert fault.calls("C_SignInit", "C_Sign", "C_FindObjectsInit") == before


async def test_each_code_of_opening_a_session_has_its_outcome(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        sessions = p11fault.open_sessions()
        assert await outcomes_of(p11fault, "C_OpenSession", host.open_session) == expected_of("C_OpenSession")
        assert p11fault.open_sessions() == sessions
        await host.open_session()


async def test_each_code_of_a_token_that_is_asked_how_it_is_has_its_outcome(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        assert await outcomes_of(p11fault, "C_GetTokenInfo", host.token_info) == expected_of("C_GetTokenInfo")
        await host.token_info()


async def test_each_code_of_logging_in_again_has_its_outcome(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        found = await outcomes_of(p11fault, "C_Login", lambda: host.log_in_again(host.generation))
        assert found == expected_of(
            "C_Login",
            CKR_USER_ALREADY_LOGGED_IN=DONE,
            # The token's flags say that there is one.
            CKR_USER_PIN_NOT_INITIALIZED=outcome_named("LOGIN_DISTURBED", "C_Login"),
        )
        # Once for each, and once for the start.
        assert p11fault.calls("C_Login") == len(CODES) + 1


async def test_each_code_of_making_a_key_has_its_outcome_and_no_key_is_made(p11fault: FaultModule) -> None:
    async with running(p11fault.settings()) as host:
        for function, make in (
            ("C_GenerateKeyPair", lambda: host.generate_key("k")),
            ("C_CreateObject", lambda: host.import_key(bytes(31) + b"\x07", "k")),
        ):
            assert await outcomes_of(p11fault, function, make) == expected_of(function)
        assert await host.find_keys() == []
        await host.generate_key("k")


# ---- Starting: a host for each code, all at once ----

ENDING_A_START = ("CKR_DEVICE_ERROR", "CKR_DEVICE_REMOVED", "CKR_CANT_LOCK", "CKR_PIN_LOCKED", "CKR_ARGUMENTS_BAD")


async def end_of_start(fault: FaultModule, into: dict[int, HostEnded], code: int) -> None:
    try:
        await HostProcess(fault.settings()).run(lambda _: pytest.fail("it should not have started"))
    except HostEnded as error:
        into[code] = error


@pytest.mark.parametrize("function", ["C_Initialize", "C_GetSlotList", "C_Login"])
async def test_a_start_that_fails_says_what_to_do(softhsm_token: SoftHSMToken, tmp_path: Path, function: str) -> None:
    codes = [CKR[name] for name in ENDING_A_START]
    modules = {code: FaultModule.over(softhsm_token, tmp_path / f"{code:x}.control") for code in codes}
    ended: dict[int, HostEnded] = {}
    async with anyio.create_task_group() as tasks:
        for code, module in modules.items():
            module.set(Return(function, code))
            tasks.start_soon(end_of_start, module, ended, code)
    assert {type(error) for error in ended.values()} == {HostStartFailed}
    assert {code: error.outcome for code, error in ended.items()} == {
        code: outcome_of(code, function) for code in codes
    }
    for code, module in modules.items():
        assert (module.calls(function) > 0, module.open_sessions()) == (True, 0), f"{code:#x}"
        module.close()
