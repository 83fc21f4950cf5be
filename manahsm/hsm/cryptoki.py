"""The PKCS#11 calls whose return code or flags matter to us, straight through ctypes. Host process only.

The one thing to know: python-pkcs11 calls ``C_Initialize(NULL)``, which promises single-threaded use (two threads then
crash SoftHSM), logs everybody out when a session that logged in closes, and raises exceptions without return codes.
So locking, login and signing go through here, on the same library that python-pkcs11 uses for everything else. Signing
here also makes two C calls instead of three. ctypes releases the GIL around each.

Structures and numbers: PKCS#11 v3.1, header pkcs11t.h; on Unix they have natural alignment and CK_ULONG is ``long``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_ubyte, c_ulong, c_void_p
from typing import Any

from manahsm.hsm.protocol import Failure
from manahsm.hsm.return_codes import CKR, name_of

__all__ = ["TOKEN_FLAGS", "Cryptoki", "Signer", "TokenCallFailed"]

TOKEN_FLAGS = {
    0x00000001: "RNG",
    0x00000002: "WRITE_PROTECTED",
    0x00000004: "LOGIN_REQUIRED",
    0x00000008: "USER_PIN_INITIALIZED",
    0x00000100: "PROTECTED_AUTHENTICATION_PATH",
    0x00000400: "TOKEN_INITIALIZED",
    0x00010000: "USER_PIN_COUNT_LOW",
    0x00020000: "USER_PIN_FINAL_TRY",
    0x00040000: "USER_PIN_LOCKED",
    0x00080000: "USER_PIN_TO_BE_CHANGED",
    0x01000000: "ERROR_STATE",
}

_OK = CKR["CKR_OK"]
_OS_LOCKING_OK = 0x2
_USER = 1
_LOGGED_IN_STATES = frozenset({1, 3})  # CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS
_UNAVAILABLE = (c_ulong(-1).value, 0)  # CK_UNAVAILABLE_INFORMATION, CK_EFFECTIVELY_INFINITE
_MECHANISM_ECDSA = 0x1041
_SIGNATURE_SIZE = 64
_BUFFER_SIZE = 256  # roomy, so that a signature of the wrong length is seen as such

# Positions in CK_FUNCTION_LIST, after its version.
_POSITIONS = {
    "C_Initialize": 0,
    "C_Finalize": 1,
    "C_GetTokenInfo": 6,
    "C_GetMechanismList": 7,
    "C_GetSessionInfo": 15,
    "C_Login": 18,
    "C_Logout": 19,
    "C_SignInit": 42,
    "C_Sign": 43,
}


class TokenCallFailed(Exception):  # noqa: N818 - it becomes a Failure frame, not an error of the host's
    """A call failed inside the host; ``failure`` is what goes over the pipe."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.name)

    @classmethod
    def code(cls, rv: int, function: str, detail: str = "") -> TokenCallFailed:
        """The function returned ``rv``."""
        return cls(Failure(name_of(rv), rv, function, detail))

    @classmethod
    def named(cls, name: str, function: str, detail: str = "") -> TokenCallFailed:
        """Something that no return code says: a name of ``OWN_OUTCOMES``."""
        return cls(Failure(name, None, function, detail))


class _Version(Structure):
    _fields_ = (("major", c_ubyte), ("minor", c_ubyte))


class _FunctionList(Structure):
    _fields_ = (("version", _Version), ("functions", c_void_p * 68))


class _InitializeArgs(Structure):
    _fields_ = (
        ("create_mutex", c_void_p),
        ("destroy_mutex", c_void_p),
        ("lock_mutex", c_void_p),
        ("unlock_mutex", c_void_p),
        ("flags", c_ulong),
        ("reserved", c_void_p),
    )


class _Mechanism(Structure):
    _fields_ = (("mechanism", c_ulong), ("parameter", c_void_p), ("parameter_size", c_ulong))


class _SessionInfo(Structure):
    _fields_ = (("slot_id", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("device_error", c_ulong))


class TokenInfoStructure(Structure):
    """CK_TOKEN_INFO."""

    _fields_ = (
        ("label", c_char * 32),
        ("manufacturer", c_char * 32),
        ("model", c_char * 16),
        ("serial", c_char * 16),
        ("flags", c_ulong),
        ("max_session_count", c_ulong),
        ("session_count", c_ulong),
        ("max_rw_session_count", c_ulong),
        ("rw_session_count", c_ulong),
        ("max_pin_length", c_ulong),
        ("min_pin_length", c_ulong),
        ("total_public_memory", c_ulong),
        ("free_public_memory", c_ulong),
        ("total_private_memory", c_ulong),
        ("free_private_memory", c_ulong),
        ("hardware", _Version),
        ("firmware", _Version),
        ("utc_time", c_char * 16),
    )

    def text(self, name: str) -> str:
        """A text field without its blank padding."""
        return bytes(getattr(self, name)).decode("utf-8", "replace").rstrip("\0 ")

    @property
    def names(self) -> tuple[str, str]:
        """The token's label and serial number."""
        return self.text("label"), self.text("serial")

    @property
    def flag_names(self) -> list[str]:
        """The CKF_* that are set, of those that matter here."""
        return [name for bit, name in TOKEN_FLAGS.items() if self.flags & bit]

    @property
    def max_sessions(self) -> int | None:
        """Sessions that one application may open, or ``None`` where the token does not say."""
        count = int(self.max_session_count)
        return None if count in _UNAVAILABLE else count


class Cryptoki:
    """One loaded PKCS#11 library. Methods raise :class:`TokenCallFailed` with the exact return code."""

    def __init__(self, path: str) -> None:
        """Load the library at a real path.

        Raises:
            TokenCallFailed: LIBRARY_UNUSABLE: the linker refuses it, or it is no PKCS#11 library.
        """
        try:
            self._library = ctypes.CDLL(path)
            get_function_list = self._library.C_GetFunctionList
        except (OSError, AttributeError) as error:
            raise TokenCallFailed.named(
                "LIBRARY_UNUSABLE", "dlopen", f"{path} can not be used as a PKCS#11 library: {error}"
            ) from None
        functions = POINTER(_FunctionList)()
        get_function_list.restype = c_ulong
        _check(get_function_list(byref(functions)), "C_GetFunctionList")
        self._functions = functions
        self._initialize = self._function("C_Initialize", c_void_p)
        self._finalize = self._function("C_Finalize", c_void_p)
        self._get_token_info = self._function("C_GetTokenInfo", c_ulong, c_void_p)
        self._get_mechanism_list = self._function("C_GetMechanismList", c_ulong, c_void_p, c_void_p)
        self._get_session_info = self._function("C_GetSessionInfo", c_ulong, c_void_p)
        self._login = self._function("C_Login", c_ulong, c_ulong, c_char_p, c_ulong)
        self._logout = self._function("C_Logout", c_ulong)
        self._sign_init = self._function("C_SignInit", c_ulong, c_void_p, c_ulong)
        self._sign = self._function("C_Sign", c_ulong, c_char_p, c_ulong, c_void_p, c_void_p)

    def _function(self, name: str, *arguments: Any) -> Callable[..., int]:
        address = self._functions.contents.functions[_POSITIONS[name]]
        return ctypes.CFUNCTYPE(c_ulong, *arguments)(address or 0)

    def initialize(self) -> bool:
        """Call C_Initialize with CKF_OS_LOCKING_OK; returns whether the library accepted to be used by threads.

        A library that answers CKR_CANT_LOCK is initialised without: then one thread only may call it.
        """
        arguments = _InitializeArgs(flags=_OS_LOCKING_OK)
        rv = self._initialize(byref(arguments))
        if rv == CKR["CKR_CANT_LOCK"]:
            _check(self._initialize(None), "C_Initialize")
            return False
        _check(rv, "C_Initialize")
        return True

    def finalize(self) -> None:
        """Call C_Finalize. No other call may be running: SoftHSM segfaults otherwise."""
        _check(self._finalize(None), "C_Finalize")

    def token_info(self, slot_id: int) -> TokenInfoStructure:
        """Ask the token who it is and how it is."""
        info = TokenInfoStructure()
        _check(self._get_token_info(slot_id, byref(info)), "C_GetTokenInfo")
        return info

    def mechanisms(self, slot_id: int) -> frozenset[int]:
        """Numbers of the mechanisms that the token offers."""
        count = c_ulong(0)
        _check(self._get_mechanism_list(slot_id, None, byref(count)), "C_GetMechanismList")
        numbers = (c_ulong * count.value)()
        _check(self._get_mechanism_list(slot_id, numbers, byref(count)), "C_GetMechanismList")
        return frozenset(numbers[: count.value])

    def is_logged_in(self, session: int) -> bool:
        """Whether a session has user rights."""
        info = _SessionInfo()
        _check(self._get_session_info(session, byref(info)), "C_GetSessionInfo")
        return info.state in _LOGGED_IN_STATES

    def login(self, session: int, pin: str) -> None:
        """Log the whole process in. An existing login is fine."""
        secret = pin.encode()
        rv = self._login(session, _USER, secret, len(secret))
        if rv != CKR["CKR_USER_ALREADY_LOGGED_IN"]:
            _check(rv, "C_Login")

    def logout(self, session: int) -> None:
        """Log the whole process out."""
        _check(self._logout(session), "C_Logout")

    def signer(self, session: int) -> Signer:
        """Prepare to sign on a session."""
        return Signer(self._sign_init, self._sign, session)


class Signer:
    """Signs on one session, from one thread, with buffers that are made once."""

    def __init__(self, sign_init: Callable[..., int], sign: Callable[..., int], session: int) -> None:
        self._sign_init = sign_init
        self._sign = sign
        self._session = session
        # CKM_ECDSA over a digest gives r || s (PKCS#11 v3.1, 6.3.12).
        self._mechanism = _Mechanism(_MECHANISM_ECDSA, None, 0)
        self._mechanism_pointer = byref(self._mechanism)
        self._buffer = ctypes.create_string_buffer(_BUFFER_SIZE)
        self._size = c_ulong()
        self._size_pointer = byref(self._size)

    def sign(self, key: int, digest: bytes) -> bytes:
        """Sign 32 bytes with a private key handle; returns 64 bytes ``r || s``.

        Raises:
            TokenCallFailed: the return code; after C_Sign failed the session must not be used again.
        """
        rv = self._sign_init(self._session, self._mechanism_pointer, key)
        if rv != _OK:
            raise TokenCallFailed.code(rv, "C_SignInit")
        size = self._size
        size.value = _BUFFER_SIZE
        rv = self._sign(self._session, digest, len(digest), self._buffer, self._size_pointer)
        if rv != _OK:
            raise TokenCallFailed.code(rv, "C_Sign")
        if size.value != _SIGNATURE_SIZE:
            detail = f"a signature of {size.value} bytes; CKM_ECDSA with secp256k1 gives 64"
            raise TokenCallFailed.named("SIGNATURE_LENGTH", "C_Sign", detail)
        return self._buffer.raw[:_SIGNATURE_SIZE]


def _check(rv: int, function: str) -> None:
    if rv != _OK:
        raise TokenCallFailed.code(rv, function)
