"""Return codes by name and number, and found again behind python-pkcs11's exceptions."""

from __future__ import annotations

import re

import pkcs11.exceptions
import pytest

from manahsm.hsm.return_codes import CKR, CKR_NAMES, code_of_exception, name_of

BINDING_ONLY = {"MultipleObjectsReturned", "MultipleTokensReturned", "NoSuchKey", "NoSuchToken"}
RENAMED = {
    "AnotherUserAlreadyLoggedIn": "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
    "FunctionCancelled": "CKR_FUNCTION_CANCELED",
    "TokenNotRecognised": "CKR_TOKEN_NOT_RECOGNIZED",
}
CLASSES = sorted(
    name
    for name, value in vars(pkcs11.exceptions).items()
    if isinstance(value, type) and issubclass(value, pkcs11.exceptions.PKCS11Error) and name != "PKCS11Error"
)


@pytest.mark.parametrize("class_name", sorted(set(CLASSES) - BINDING_ONLY))
def test_each_exception_of_the_binding_has_its_return_code(class_name: str) -> None:
    name = name_of(code_of_exception(class_name, ""))
    expected = RENAMED.get(class_name)
    if expected is None:
        assert re.sub("[_ ]", "", name.removeprefix("CKR")) == class_name.upper()
    else:
        assert name == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Unmapped error code 0x68", 0x68),
        ("Unmapped error code 0x140", 0x140),
        ("Unmapped error code 0x80000001", 0x80000001),
        ("Initialisation error (already initialized). Should never see this.", 0x191),
        ("Initialisation error (not initialized). Should never see this.", 0x190),
        ("Buffer was too small. Should never see this.", 0x150),
        ("Parallel not supported. Should never see this.", 0x0B4),
        ("User type invalid. Should never see this.", 0x103),
        ("OS exception while loading something", 0x5),
        ("", 0x5),
    ],
)
def test_a_bare_exception_says_its_code_in_its_text(text: str, code: int) -> None:
    assert code_of_exception("PKCS11Error", text) == code


def test_searches_of_the_binding_that_find_nothing_mean_what_is_missing() -> None:
    assert name_of(code_of_exception("NoSuchToken", "")) == "CKR_TOKEN_NOT_PRESENT"
    assert name_of(code_of_exception("NoSuchKey", "")) == "CKR_KEY_HANDLE_INVALID"


def test_names_and_numbers_are_one_to_one() -> None:
    assert len(CKR) == len(CKR_NAMES)
    assert all(CKR[name_of(code)] == code for code in CKR_NAMES)


@pytest.mark.parametrize(
    ("code", "name"), [(0x3FF, "CKR_0x3FF"), (0x80000000, "CKR_VENDOR_0x80000000"), (0x30, "CKR_DEVICE_ERROR")]
)
def test_a_code_is_named_by_number_where_the_standard_has_no_name(code: int, name: str) -> None:
    assert name_of(code) == name
