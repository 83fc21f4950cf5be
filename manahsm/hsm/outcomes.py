"""What a PKCS#11 return code means for a signer: the table, and nothing but the table.

The one thing to know: the same code can mean "try another session" or "stop at once, or the token locks". Every failure
below this package is turned into an :class:`Outcome` here, and everybody above acts on the outcome, never on a code.
Rows follow PKCS#11 v3.1 section 3.6 and what modules were seen to do; names that do not begin with ``CKR_`` are our
own, for what no return code says (a deadline, a dead host process, a signature by the wrong key).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from attrs import evolve, frozen

from manahsm.hsm.return_codes import CKR, name_of

__all__ = ["OWN_OUTCOMES", "Action", "BreakerEffect", "Outcome", "outcome_named", "outcome_of"]


class Action(StrEnum):
    """What to do about a failure."""

    NOTHING = "nothing"
    """No failure for the one who asked (a login that was there already)."""
    RETRY_ELSEWHERE = "retry_elsewhere"
    """Try the request once more, on another session."""
    DISCARD = "discard"
    """Throw the session away and do not repeat the request on this slot."""
    FIND_KEY_AGAIN = "find_key_again"
    """The handle is dead: look the key up anew on another session; not found means check login, then token."""
    LOGIN_AGAIN = "login_again"
    """The login is gone: log in once, one caller at a time; a new generation begins."""
    SHRINK = "shrink"
    """The token allows no more sessions: make the pool smaller and wait."""
    BACK_OFF = "back_off"
    """Something is exhausted: wait before asking this slot again."""
    RESPAWN = "respawn"
    """The library's state is lost: end the host process and start another."""
    FAIL_OVER = "fail_over"
    """The token is gone: drop everything, look for it by label and serial, use another slot meanwhile."""
    NEXT_ROUTE = "next_route"
    """This slot can not serve this key, but is well otherwise; another route may."""
    LATCH = "latch"
    """Take the slot out of use until an operator acts. Never try again by ourselves."""
    TELL_CALLER = "tell_caller"
    """The request itself is at fault: repeating it would fail alike."""


class BreakerEffect(StrEnum):
    """What a failure counts as for the slot's circuit breaker."""

    NONE = "none"
    """Says nothing about the slot's health."""
    SOFT = "soft"
    """Counts when it repeats."""
    FAILURE = "failure"
    """Counts as a failed call."""
    OPEN_NOW = "open_now"
    """Opens the breaker whatever the rates."""
    LATCH = "latch"
    """Opens it until an operator acts."""


@frozen(kw_only=True)
class Outcome:
    """One classified failure.

    Attributes:
        name: ``CKR_...``, or a name of :data:`OWN_OUTCOMES`.
        rv: the return code, or ``None`` where none was returned.
        function: the PKCS#11 function it came from (``C_Sign``), or what was going on (``spawn``).
        action: what to do.
        repeated: what to do instead when it happens again soon on the same slot.
        breaker: what it counts as.
        discard_session: the session it happened on must not be used again.
        unknown: the operation may have happened all the same: signing may be repeated, key generation may not.
    """

    name: str
    rv: int | None = None
    function: str = ""
    action: Action
    repeated: Action | None = None
    breaker: BreakerEffect
    discard_session: bool = False
    unknown: bool = False


def _row(
    action: Action,
    breaker: BreakerEffect,
    *,
    discard: bool = False,
    repeated: Action | None = None,
    unknown: bool = False,
) -> Outcome:
    return Outcome(name="", action=action, breaker=breaker, discard_session=discard, repeated=repeated, unknown=unknown)


_CALLERS_ERROR = _row(Action.TELL_CALLER, BreakerEffect.NONE)
_UNKNOWN_CODE = _row(Action.RETRY_ELSEWHERE, BreakerEffect.FAILURE, discard=True)
_TOKEN_GONE = _row(Action.FAIL_OVER, BreakerEffect.OPEN_NOW, discard=True)
_DOUBTFUL_LOGIN = _row(Action.LATCH, BreakerEffect.LATCH, discard=True)

_TABLE: tuple[tuple[str, Outcome], ...] = (
    (
        "OPERATION_ACTIVE OPERATION_NOT_INITIALIZED OPERATION_CANCEL_FAILED BUFFER_TOO_SMALL FUNCTION_CANCELED CANCEL",
        _row(Action.RETRY_ELSEWHERE, BreakerEffect.NONE, discard=True),
    ),
    (
        "SESSION_HANDLE_INVALID SESSION_CLOSED",
        _row(Action.RETRY_ELSEWHERE, BreakerEffect.SOFT, discard=True, repeated=Action.LOGIN_AGAIN),
    ),
    (
        "OBJECT_HANDLE_INVALID KEY_HANDLE_INVALID KEY_CHANGED KEY_NEEDED",
        _row(Action.FIND_KEY_AGAIN, BreakerEffect.SOFT, discard=True),
    ),
    ("USER_NOT_LOGGED_IN", _row(Action.LOGIN_AGAIN, BreakerEffect.SOFT, discard=True)),
    ("OK USER_ALREADY_LOGGED_IN", _row(Action.NOTHING, BreakerEffect.NONE)),
    ("SESSION_COUNT", _row(Action.SHRINK, BreakerEffect.SOFT)),
    ("HOST_MEMORY DEVICE_MEMORY TOKEN_RESOURCE_EXCEEDED", _row(Action.BACK_OFF, BreakerEffect.FAILURE, discard=True)),
    (
        "FUNCTION_FAILED DEVICE_ERROR",
        _row(Action.RETRY_ELSEWHERE, BreakerEffect.FAILURE, discard=True, repeated=Action.RESPAWN),
    ),
    ("GENERAL_ERROR", _row(Action.DISCARD, BreakerEffect.FAILURE, discard=True, repeated=Action.RESPAWN)),
    ("DEVICE_REMOVED TOKEN_NOT_PRESENT TOKEN_NOT_RECOGNIZED SLOT_ID_INVALID", _TOKEN_GONE),
    (
        (
            "CRYPTOKI_NOT_INITIALIZED CRYPTOKI_ALREADY_INITIALIZED CANT_LOCK NEED_TO_CREATE_THREADS "
            "LIBRARY_LOAD_FAILED FIPS_SELF_TEST_FAILED MUTEX_BAD MUTEX_NOT_LOCKED"
        ),
        _row(Action.RESPAWN, BreakerEffect.FAILURE, discard=True),
    ),
    (
        (
            "PIN_INCORRECT PIN_INVALID PIN_LEN_RANGE PIN_EXPIRED PIN_LOCKED PIN_TOO_WEAK USER_PIN_NOT_INITIALIZED "
            "USER_ANOTHER_ALREADY_LOGGED_IN USER_TOO_MANY_TYPES USER_TYPE_INVALID NEW_PIN_MODE NEXT_OTP"
        ),
        _row(Action.LATCH, BreakerEffect.LATCH, discard=True),
    ),
    (
        (
            "ARGUMENTS_BAD DATA_INVALID DATA_LEN_RANGE MECHANISM_INVALID MECHANISM_PARAM_INVALID KEY_TYPE_INCONSISTENT "
            "KEY_SIZE_RANGE KEY_FUNCTION_NOT_PERMITTED KEY_EXHAUSTED TEMPLATE_INCOMPLETE TEMPLATE_INCONSISTENT "
            "ATTRIBUTE_READ_ONLY ATTRIBUTE_SENSITIVE ATTRIBUTE_TYPE_INVALID ATTRIBUTE_VALUE_INVALID ACTION_PROHIBITED "
            "DOMAIN_PARAMS_INVALID CURVE_NOT_SUPPORTED PUBLIC_KEY_INVALID FUNCTION_NOT_SUPPORTED FUNCTION_REJECTED "
            "SESSION_READ_ONLY SESSION_READ_ONLY_EXISTS TOKEN_WRITE_PROTECTED KEY_UNEXTRACTABLE"
        ),
        _CALLERS_ERROR,
    ),
)

_BY_CODE: Mapping[int, Outcome] = MappingProxyType(
    {CKR[f"CKR_{name}"]: row for names, row in _TABLE for name in names.split()}
)

# What no return code says.
_OWN_TABLE: tuple[tuple[str, Outcome], ...] = (
    # The host process.
    ("DEADLINE_PASSED", _row(Action.RESPAWN, BreakerEffect.FAILURE, discard=True, unknown=True)),
    ("HOST_CRASHED", _row(Action.RETRY_ELSEWHERE, BreakerEffect.FAILURE, discard=True, unknown=True)),
    ("HOST_STOPPED", _row(Action.RETRY_ELSEWHERE, BreakerEffect.NONE, discard=True, unknown=True)),
    ("HOST_NOT_RUNNING", _row(Action.RETRY_ELSEWHERE, BreakerEffect.NONE, discard=True)),
    ("HOST_BUSY", _row(Action.BACK_OFF, BreakerEffect.NONE)),
    ("HOST_SESSION_LIMIT", _row(Action.SHRINK, BreakerEffect.NONE)),
    ("REQUEST_TOO_LARGE", _CALLERS_ERROR),
    ("STALE_GENERATION", _row(Action.RETRY_ELSEWHERE, BreakerEffect.NONE, discard=True)),
    ("SESSION_DISCARDED", _row(Action.RETRY_ELSEWHERE, BreakerEffect.NONE, discard=True)),
    ("HOST_ERROR", _row(Action.DISCARD, BreakerEffect.FAILURE, discard=True, repeated=Action.RESPAWN)),
    # Starting one.
    ("LIBRARY_NOT_FOUND", _row(Action.FAIL_OVER, BreakerEffect.OPEN_NOW)),
    ("LIBRARY_UNUSABLE", _row(Action.FAIL_OVER, BreakerEffect.OPEN_NOW)),
    ("TOKEN_NOT_FOUND", _row(Action.FAIL_OVER, BreakerEffect.OPEN_NOW)),
    ("TOKEN_AMBIGUOUS", _row(Action.LATCH, BreakerEffect.LATCH)),
    ("TOKEN_UNSUITABLE", _row(Action.LATCH, BreakerEffect.LATCH)),
    ("START_TIMEOUT", _row(Action.RESPAWN, BreakerEffect.FAILURE)),
    ("SPAWN_FAILED", _row(Action.BACK_OFF, BreakerEffect.FAILURE)),
    # Logging in: nothing was tried, so nothing was used up.
    ("PIN_MISSING", _row(Action.LATCH, BreakerEffect.LATCH)),
    ("PIN_FINAL_TRY", _row(Action.LATCH, BreakerEffect.LATCH)),
    ("LOGIN_DISTURBED", _row(Action.RESPAWN, BreakerEffect.FAILURE)),
    # Keys and signatures.
    ("KEY_NOT_FOUND", _row(Action.NEXT_ROUTE, BreakerEffect.NONE)),
    ("KEY_EXISTS", _CALLERS_ERROR),
    ("KEY_UNPROVEN", _CALLERS_ERROR),
    ("DIGEST_LENGTH", _CALLERS_ERROR),
    # CKR_DEVICE_ERROR of a device that is asked for too much: a new host would only ask it for more.
    ("DEVICE_THROTTLED", _row(Action.RETRY_ELSEWHERE, BreakerEffect.FAILURE, discard=True, repeated=Action.BACK_OFF)),
    ("SIGNATURE_LENGTH", _row(Action.RETRY_ELSEWHERE, BreakerEffect.FAILURE, discard=True, repeated=Action.RESPAWN)),
    ("SIGNATURE_MISMATCH", _row(Action.LATCH, BreakerEffect.LATCH, discard=True)),
)

OWN_OUTCOMES: Mapping[str, Outcome] = MappingProxyType({name: evolve(row, name=name) for name, row in _OWN_TABLE})
"""Outcomes that are not return codes, by name."""

_SIGNING = frozenset({"C_SignInit", "C_Sign"})


def outcome_of(rv: int, function: str) -> Outcome:
    """Classify a return code.

    Args:
        rv: what the function returned (PKCS#11 v3.1, 3.6); vendor-defined and unknown codes are welcome.
        function: its name, e.g. ``C_Sign``. Some change what a code means. Any failure of C_SignInit or C_Sign costs
            the session, because the operation may still be open there. Out of C_Login it latches, as
            an unknown code does, because it may have used up a try. CKR_GENERAL_ERROR out of C_GetTokenInfo is how
            SoftHSM says that the token has been taken away.
    """
    # Known codes that a signer never expects are as much the vendor's invention here as unknown ones.
    row = _BY_CODE.get(rv, _UNKNOWN_CODE)
    if function == "C_Login" and (row is _UNKNOWN_CODE or row.action is Action.TELL_CALLER):
        row = _DOUBTFUL_LOGIN
    if function == "C_GetTokenInfo" and row.action is Action.DISCARD:
        row = _TOKEN_GONE
    if function in _SIGNING and row.action is Action.NOTHING and rv != CKR["CKR_OK"]:
        row = _UNKNOWN_CODE
    discard = row.discard_session or (function in _SIGNING and rv != CKR["CKR_OK"])
    return evolve(row, name=name_of(rv), rv=rv, function=function, discard_session=discard)


def outcome_named(name: str, function: str) -> Outcome:
    """One of :data:`OWN_OUTCOMES`, with where it happened.

    Raises:
        KeyError: no such outcome.
    """
    return evolve(OWN_OUTCOMES[name], function=function)
