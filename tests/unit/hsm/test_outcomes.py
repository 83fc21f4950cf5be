"""The outcome table against a transcription of what each return code means for a signer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manahsm.hsm.outcomes import OWN_OUTCOMES, Action, BreakerEffect, outcome_named, outcome_of
from manahsm.hsm.return_codes import CKR, CKR_NAMES

# names without CKR_ : (action, breaker, discard the session, action when it repeats)
TRANSCRIPTION = {
    "OPERATION_ACTIVE OPERATION_NOT_INITIALIZED BUFFER_TOO_SMALL FUNCTION_CANCELED": (
        Action.RETRY_ELSEWHERE, BreakerEffect.NONE, True, None,
    ),
    "SESSION_HANDLE_INVALID SESSION_CLOSED": (
        Action.RETRY_ELSEWHERE, BreakerEffect.SOFT, True, Action.LOGIN_AGAIN,
    ),
    "OBJECT_HANDLE_INVALID KEY_HANDLE_INVALID": (Action.FIND_KEY_AGAIN, BreakerEffect.SOFT, True, None),
    "USER_NOT_LOGGED_IN": (Action.LOGIN_AGAIN, BreakerEffect.SOFT, True, None),
    "USER_ALREADY_LOGGED_IN": (Action.NOTHING, BreakerEffect.NONE, False, None),
    "SESSION_COUNT": (Action.SHRINK, BreakerEffect.SOFT, False, None),
    "HOST_MEMORY DEVICE_MEMORY": (Action.BACK_OFF, BreakerEffect.FAILURE, True, None),
    "FUNCTION_FAILED DEVICE_ERROR": (Action.RETRY_ELSEWHERE, BreakerEffect.FAILURE, True, Action.RESPAWN),
    "GENERAL_ERROR": (Action.DISCARD, BreakerEffect.FAILURE, True, Action.RESPAWN),
    "DEVICE_REMOVED TOKEN_NOT_PRESENT TOKEN_NOT_RECOGNIZED SLOT_ID_INVALID": (
        Action.FAIL_OVER, BreakerEffect.OPEN_NOW, True, None,
    ),
    "CRYPTOKI_NOT_INITIALIZED": (Action.RESPAWN, BreakerEffect.FAILURE, True, None),
    "PIN_INCORRECT PIN_INVALID PIN_LEN_RANGE PIN_EXPIRED PIN_LOCKED USER_PIN_NOT_INITIALIZED "
    "USER_ANOTHER_ALREADY_LOGGED_IN USER_TOO_MANY_TYPES": (Action.LATCH, BreakerEffect.LATCH, True, None),
    "ARGUMENTS_BAD DATA_INVALID DATA_LEN_RANGE MECHANISM_INVALID MECHANISM_PARAM_INVALID KEY_TYPE_INCONSISTENT "
    "KEY_SIZE_RANGE KEY_FUNCTION_NOT_PERMITTED TEMPLATE_INCOMPLETE TEMPLATE_INCONSISTENT ATTRIBUTE_READ_ONLY "
    "ATTRIBUTE_SENSITIVE ATTRIBUTE_TYPE_INVALID ATTRIBUTE_VALUE_INVALID DOMAIN_PARAMS_INVALID CURVE_NOT_SUPPORTED "
    "FUNCTION_NOT_SUPPORTED FUNCTION_REJECTED SESSION_READ_ONLY TOKEN_WRITE_PROTECTED": (
        Action.TELL_CALLER, BreakerEffect.NONE, False, None,
    ),
}  # fmt: skip
ROWS = [(f"CKR_{name}", expected) for names, expected in TRANSCRIPTION.items() for name in names.split()]
SIGNING = ("C_SignInit", "C_Sign")


@pytest.mark.parametrize(("name", "expected"), ROWS, ids=[name for name, _ in ROWS])
def test_a_return_code_means_what_the_table_says(
    name: str, expected: tuple[Action, BreakerEffect, bool, Action | None]
) -> None:
    outcome = outcome_of(CKR[name], "C_FindObjects")
    assert (outcome.name, outcome.rv, outcome.function) == (name, CKR[name], "C_FindObjects")
    assert (outcome.action, outcome.breaker, outcome.discard_session, outcome.repeated) == expected
    assert not outcome.unknown


@pytest.mark.parametrize("function", SIGNING)
@pytest.mark.parametrize("name", sorted(set(CKR) - {"CKR_OK", "CKR_USER_ALREADY_LOGGED_IN", "CKR_SESSION_COUNT"}))
def test_no_session_survives_a_failed_signature(name: str, function: str) -> None:
    assert outcome_of(CKR[name], function).discard_session


def test_a_callers_error_elsewhere_leaves_the_session_alone() -> None:
    assert not outcome_of(CKR["CKR_ARGUMENTS_BAD"], "C_FindObjects").discard_session


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_any_number_is_classified_and_unknown_ones_are_failures(rv: int) -> None:
    outcome = outcome_of(rv, "C_Sign")
    assert outcome.rv == rv
    if rv not in CKR_NAMES:
        assert (outcome.action, outcome.breaker) == (Action.RETRY_ELSEWHERE, BreakerEffect.FAILURE)
        assert outcome.discard_session
        assert f"{rv:X}" in outcome.name


@pytest.mark.parametrize("name", sorted(name for name in CKR if "_PIN_" in name))
def test_a_pin_that_was_refused_is_never_repeated_by_ourselves(name: str) -> None:
    outcome = outcome_of(CKR[name], "C_Login")
    assert (outcome.action, outcome.breaker) == (Action.LATCH, BreakerEffect.LATCH)


@pytest.mark.parametrize("rv", [0x80000001, 0x3FF, CKR["CKR_ARGUMENTS_BAD"], CKR["CKR_FUNCTION_REJECTED"]])
def test_a_login_that_fails_for_a_reason_we_do_not_know_may_have_used_up_a_try(rv: int) -> None:
    outcome = outcome_of(rv, "C_Login")
    assert (outcome.action, outcome.breaker) == (Action.LATCH, BreakerEffect.LATCH)


@pytest.mark.parametrize("name", ["CKR_DEVICE_ERROR", "CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID"])
def test_a_login_that_the_device_could_not_serve_may_be_repeated(name: str) -> None:
    assert outcome_of(CKR[name], "C_Login").action is not Action.LATCH


def test_a_token_that_can_not_even_say_who_it_is_is_gone() -> None:
    outcome = outcome_of(CKR["CKR_GENERAL_ERROR"], "C_GetTokenInfo")
    assert (outcome.action, outcome.breaker) == (Action.FAIL_OVER, BreakerEffect.OPEN_NOW)


def test_a_passed_deadline_is_of_unknown_outcome_and_costs_the_host() -> None:
    outcome = outcome_named("DEADLINE_PASSED", "sign")
    assert (outcome.action, outcome.breaker) == (Action.RESPAWN, BreakerEffect.FAILURE)
    assert outcome.unknown
    assert outcome.discard_session


def test_a_signature_by_another_key_latches() -> None:
    outcome = outcome_named("SIGNATURE_MISMATCH", "C_Sign")
    assert (outcome.action, outcome.breaker) == (Action.LATCH, BreakerEffect.LATCH)


@pytest.mark.parametrize("name", sorted(OWN_OUTCOMES))
def test_our_own_outcomes_have_names_that_are_no_return_codes(name: str) -> None:
    assert not name.startswith("CKR_")
    assert OWN_OUTCOMES[name].name == name
    assert OWN_OUTCOMES[name].rv is None


def test_only_what_may_have_happened_unseen_is_unknown() -> None:
    unknown = {name for name, outcome in OWN_OUTCOMES.items() if outcome.unknown}
    assert unknown == {"DEADLINE_PASSED", "HOST_CRASHED", "HOST_STOPPED"}


def test_an_outcome_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        outcome_named("NO_SUCH_OUTCOME", "")
