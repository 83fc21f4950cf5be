"""Names of the PKCS#11 return codes (PKCS#11 v3.1, section 3.6 and the header pkcs11t.h). Values only.

python-pkcs11 raises exceptions that carry no return code, so :func:`code_of_exception` finds it again: by the class
of the exception, or for a bare ``PKCS11Error`` by its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["CKR", "CKR_NAMES", "CKR_VENDOR_DEFINED", "code_of_exception", "name_of"]

CKR_VENDOR_DEFINED = 0x80000000

CKR: Mapping[str, int] = MappingProxyType(
    {
        "CKR_OK": 0x000,
        "CKR_CANCEL": 0x001,
        "CKR_HOST_MEMORY": 0x002,
        "CKR_SLOT_ID_INVALID": 0x003,
        "CKR_GENERAL_ERROR": 0x005,
        "CKR_FUNCTION_FAILED": 0x006,
        "CKR_ARGUMENTS_BAD": 0x007,
        "CKR_NO_EVENT": 0x008,
        "CKR_NEED_TO_CREATE_THREADS": 0x009,
        "CKR_CANT_LOCK": 0x00A,
        "CKR_ATTRIBUTE_READ_ONLY": 0x010,
        "CKR_ATTRIBUTE_SENSITIVE": 0x011,
        "CKR_ATTRIBUTE_TYPE_INVALID": 0x012,
        "CKR_ATTRIBUTE_VALUE_INVALID": 0x013,
        "CKR_ACTION_PROHIBITED": 0x01B,
        "CKR_DATA_INVALID": 0x020,
        "CKR_DATA_LEN_RANGE": 0x021,
        "CKR_DEVICE_ERROR": 0x030,
        "CKR_DEVICE_MEMORY": 0x031,
        "CKR_DEVICE_REMOVED": 0x032,
        "CKR_ENCRYPTED_DATA_INVALID": 0x040,
        "CKR_ENCRYPTED_DATA_LEN_RANGE": 0x041,
        "CKR_AEAD_DECRYPT_FAILED": 0x042,
        "CKR_FUNCTION_CANCELED": 0x050,
        "CKR_FUNCTION_NOT_PARALLEL": 0x051,
        "CKR_FUNCTION_NOT_SUPPORTED": 0x054,
        "CKR_KEY_HANDLE_INVALID": 0x060,
        "CKR_KEY_SIZE_RANGE": 0x062,
        "CKR_KEY_TYPE_INCONSISTENT": 0x063,
        "CKR_KEY_NOT_NEEDED": 0x064,
        "CKR_KEY_CHANGED": 0x065,
        "CKR_KEY_NEEDED": 0x066,
        "CKR_KEY_INDIGESTIBLE": 0x067,
        "CKR_KEY_FUNCTION_NOT_PERMITTED": 0x068,
        "CKR_KEY_NOT_WRAPPABLE": 0x069,
        "CKR_KEY_UNEXTRACTABLE": 0x06A,
        "CKR_MECHANISM_INVALID": 0x070,
        "CKR_MECHANISM_PARAM_INVALID": 0x071,
        "CKR_OBJECT_HANDLE_INVALID": 0x082,
        "CKR_OPERATION_ACTIVE": 0x090,
        "CKR_OPERATION_NOT_INITIALIZED": 0x091,
        "CKR_PIN_INCORRECT": 0x0A0,
        "CKR_PIN_INVALID": 0x0A1,
        "CKR_PIN_LEN_RANGE": 0x0A2,
        "CKR_PIN_EXPIRED": 0x0A3,
        "CKR_PIN_LOCKED": 0x0A4,
        "CKR_SESSION_CLOSED": 0x0B0,
        "CKR_SESSION_COUNT": 0x0B1,
        "CKR_SESSION_HANDLE_INVALID": 0x0B3,
        "CKR_SESSION_PARALLEL_NOT_SUPPORTED": 0x0B4,
        "CKR_SESSION_READ_ONLY": 0x0B5,
        "CKR_SESSION_EXISTS": 0x0B6,
        "CKR_SESSION_READ_ONLY_EXISTS": 0x0B7,
        "CKR_SESSION_READ_WRITE_SO_EXISTS": 0x0B8,
        "CKR_SIGNATURE_INVALID": 0x0C0,
        "CKR_SIGNATURE_LEN_RANGE": 0x0C1,
        "CKR_TEMPLATE_INCOMPLETE": 0x0D0,
        "CKR_TEMPLATE_INCONSISTENT": 0x0D1,
        "CKR_TOKEN_NOT_PRESENT": 0x0E0,
        "CKR_TOKEN_NOT_RECOGNIZED": 0x0E1,
        "CKR_TOKEN_WRITE_PROTECTED": 0x0E2,
        "CKR_UNWRAPPING_KEY_HANDLE_INVALID": 0x0F0,
        "CKR_UNWRAPPING_KEY_SIZE_RANGE": 0x0F1,
        "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT": 0x0F2,
        "CKR_USER_ALREADY_LOGGED_IN": 0x100,
        "CKR_USER_NOT_LOGGED_IN": 0x101,
        "CKR_USER_PIN_NOT_INITIALIZED": 0x102,
        "CKR_USER_TYPE_INVALID": 0x103,
        "CKR_USER_ANOTHER_ALREADY_LOGGED_IN": 0x104,
        "CKR_USER_TOO_MANY_TYPES": 0x105,
        "CKR_WRAPPED_KEY_INVALID": 0x110,
        "CKR_WRAPPED_KEY_LEN_RANGE": 0x112,
        "CKR_WRAPPING_KEY_HANDLE_INVALID": 0x113,
        "CKR_WRAPPING_KEY_SIZE_RANGE": 0x114,
        "CKR_WRAPPING_KEY_TYPE_INCONSISTENT": 0x115,
        "CKR_RANDOM_SEED_NOT_SUPPORTED": 0x120,
        "CKR_RANDOM_NO_RNG": 0x121,
        "CKR_DOMAIN_PARAMS_INVALID": 0x130,
        "CKR_CURVE_NOT_SUPPORTED": 0x140,
        "CKR_BUFFER_TOO_SMALL": 0x150,
        "CKR_SAVED_STATE_INVALID": 0x160,
        "CKR_INFORMATION_SENSITIVE": 0x170,
        "CKR_STATE_UNSAVEABLE": 0x180,
        "CKR_CRYPTOKI_NOT_INITIALIZED": 0x190,
        "CKR_CRYPTOKI_ALREADY_INITIALIZED": 0x191,
        "CKR_MUTEX_BAD": 0x1A0,
        "CKR_MUTEX_NOT_LOCKED": 0x1A1,
        "CKR_NEW_PIN_MODE": 0x1B0,
        "CKR_NEXT_OTP": 0x1B1,
        "CKR_EXCEEDED_MAX_ITERATIONS": 0x1B5,
        "CKR_FIPS_SELF_TEST_FAILED": 0x1B6,
        "CKR_LIBRARY_LOAD_FAILED": 0x1B7,
        "CKR_PIN_TOO_WEAK": 0x1B8,
        "CKR_PUBLIC_KEY_INVALID": 0x1B9,
        "CKR_FUNCTION_REJECTED": 0x200,
        "CKR_TOKEN_RESOURCE_EXCEEDED": 0x201,
        "CKR_OPERATION_CANCEL_FAILED": 0x202,
        "CKR_KEY_EXHAUSTED": 0x203,
    }
)

CKR_NAMES: Mapping[int, str] = MappingProxyType({code: name for name, code in CKR.items()})

# Classes of python-pkcs11 whose names are not those of the standard, word for word.
_RENAMED_EXCEPTIONS = {
    "AnotherUserAlreadyLoggedIn": "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
    "FunctionCancelled": "CKR_FUNCTION_CANCELED",
    "TokenNotRecognised": "CKR_TOKEN_NOT_RECOGNIZED",
    # Raised by the binding itself when a search finds nothing or too much.
    "MultipleObjectsReturned": "CKR_GENERAL_ERROR",
    "MultipleTokensReturned": "CKR_GENERAL_ERROR",
    "NoSuchKey": "CKR_KEY_HANDLE_INVALID",
    "NoSuchToken": "CKR_TOKEN_NOT_PRESENT",
}

# What a bare PKCS11Error says for the codes that have no class of their own.
_EXCEPTION_TEXTS = {
    "already initialized": "CKR_CRYPTOKI_ALREADY_INITIALIZED",
    "not initialized": "CKR_CRYPTOKI_NOT_INITIALIZED",
    "Buffer was too small": "CKR_BUFFER_TOO_SMALL",
    "Parallel not supported": "CKR_SESSION_PARALLEL_NOT_SUPPORTED",
    "User type invalid": "CKR_USER_TYPE_INVALID",
}
_UNMAPPED = re.compile(r"Unmapped error code (0x[0-9a-f]+)", re.IGNORECASE)
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=ID)(?=[A-Z])|(?<=SO)(?=[A-Z])|(?<=RNG)(?=[A-Z])")


def name_of(code: int) -> str:
    """Name a return code; vendor and unknown ones are named by number: ``CKR_VENDOR_0x80000001``, ``CKR_0x3FF``."""
    known = CKR_NAMES.get(code)
    if known is not None:
        return known
    return f"CKR_VENDOR_0x{code:08X}" if code >= CKR_VENDOR_DEFINED else f"CKR_0x{code:X}"


def code_of_exception(class_name: str, text: str) -> int:
    """Find the return code behind a python-pkcs11 exception.

    Args:
        class_name: name of the exception's class, e.g. ``DeviceError``.
        text: ``str()`` of the exception; only a bare ``PKCS11Error`` says something in it.

    Returns:
        The code; ``CKR_GENERAL_ERROR`` for an exception that names none.
    """
    name = _RENAMED_EXCEPTIONS.get(class_name) or "CKR_" + _WORDS.sub("_", class_name).upper()
    code = CKR.get(name)
    if code is not None:
        return code
    unmapped = _UNMAPPED.search(text)
    if unmapped is not None:
        return int(unmapped.group(1), 16)
    for phrase, named in _EXCEPTION_TEXTS.items():
        if phrase in text:
            return CKR[named]
    return CKR["CKR_GENERAL_ERROR"]
