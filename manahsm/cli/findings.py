"""What `doctor` and `init` find out: one :class:`Finding` for each thing that was looked at, and what to do about it.

The one thing to know: everything here is pure; looking is in :mod:`manahsm.cli.examine` and
:mod:`manahsm.cli.token_visit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from attrs import frozen

from manahsm.cli.probe import Library, ProbeFailed, Token
from manahsm.config.slots import SlotConfig
from manahsm.config.tables import ConnectionPool

__all__ = [
    "Finding",
    "Verdict",
    "choose",
    "describe_problem",
    "library_failed",
    "library_found",
    "login_is_safe",
    "mechanisms_found",
    "pin_state",
    "sessions_allowed_by",
    "worst_of",
]


class Verdict(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    NOTE = "note"
    """Nothing is wrong; something could not be looked at, or is good to know."""
    WARN = "warn"
    """It works, and somebody should look."""
    FAIL = "fail"
    """It does not work."""


_ORDER = tuple(Verdict)


@frozen
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what it was, e.g. ``login``.
        verdict: how it is.
        text: what was found; holds no secret.
        remedy: what to do about it, empty where nothing is to be done.
        slot: the slot that it is about, or ``None``.
    """

    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""
    slot: str | None = None


def worst_of(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict (pure)."""
    return max((finding.verdict for finding in findings), key=_ORDER.index, default=Verdict.OK)


def describe_problem(path: str, message: str, slot: str | None = None) -> Finding:
    """A problem of the configuration as a finding."""
    if path.endswith(".library_path"):
        return Finding("library", Verdict.FAIL, f"{path}: {message}", slot=slot)
    if path.endswith((".pin_file", ".pin")):
        remedy = (
            "make a file that holds the PIN alone and belongs to the user of the service, chmod 600 it, "
            "and name it in pin_file"
        )
        return Finding("pin file", Verdict.FAIL, f"{path}: {message}", remedy, slot)
    return Finding("configuration", Verdict.FAIL, f"{path}: {message}", slot=slot)


# ---- the library ----

_LIBRARY_REMEDIES = {
    "LIBRARY_NOT_FOUND": "install the vendor's PKCS#11 library, or set library_path to where it is",
    "LIBRARY_UNUSABLE": "set library_path to the PKCS#11 library itself (a .so that has C_GetFunctionList), built for "
    "this machine, with the libraries that it needs (ldd shows them)",
    "HOST_CRASHED": "the library crashes when it is loaded: look at its own configuration and log, then ask its vendor",
    "DEADLINE_PASSED": "look whether the device and its network answer (the vendor's own tool tells), then try again",
}


def library_failed(path: str, failed: ProbeFailed, slot: str | None) -> Finding:
    """A library that can not be used."""
    remedy = _LIBRARY_REMEDIES.get(failed.name, "look at the library's own configuration and log; docs of its vendor")
    return Finding("library", Verdict.FAIL, f"{path}: {failed}", remedy, slot)


def library_found(library: Library, slot: str | None) -> Iterator[Finding]:
    """A library that loads, and whether threads may use it."""
    yield Finding("library", Verdict.OK, f"{library.description} ({library.path})", slot=slot)
    if library.locking:
        yield Finding("locking", Verdict.OK, "threads may use it (CKF_OS_LOCKING_OK)", slot=slot)
    else:
        yield Finding(
            "locking",
            Verdict.WARN,
            "it refuses to be used by threads: each host process has one session",
            "raise connection_pool.processes to the number of signatures that should be made at once",
            slot,
        )


# ---- the token ----


def choose(
    tokens: Sequence[Token], label: str | None, slot_id: int | None, slot: str | None
) -> tuple[Token | None, Finding]:
    """The token that a slot names, and what to say of it."""
    fitting = [token for token in tokens if label in (None, token.label) and slot_id in (None, token.slot_id)]
    if len(fitting) == 1:
        return fitting[0], Finding("token", Verdict.OK, fitting[0].title, slot=slot)
    wanted = " ".join(
        part
        for part, named in (
            (f"labelled {label!r}", label is not None),
            (f"in slot {slot_id}", slot_id is not None),
        )
        if named
    )
    there = "; ".join(token.title for token in tokens) or "none"
    if fitting:
        return None, Finding(
            "token", Verdict.FAIL, f"several tokens {wanted}; there are: {there}", "set slot_id as well", slot
        )
    return None, Finding(
        "token",
        Verdict.FAIL,
        f"no token {wanted}; there are: {there}",
        "set token_label to one that is there, or look at the library's own configuration: its variables belong into "
        "[hsm.environment] (for SoftHSM SOFTHSM2_CONF)",
        slot,
    )


def mechanisms_found(token: Token, slot: str | None) -> Iterator[Finding]:
    """Whether the token can sign at all, and make keys."""
    if "CKM_ECDSA" not in token.mechanisms:
        yield Finding(
            "mechanism",
            Verdict.FAIL,
            "the token does not offer CKM_ECDSA: it can not sign for Ethereum",
            "use another token, or have its firmware or policy allow ECDSA",
            slot,
        )
    elif "CKM_EC_KEY_PAIR_GEN" not in token.mechanisms:
        yield Finding(
            "mechanism",
            Verdict.WARN,
            "CKM_ECDSA, but not CKM_EC_KEY_PAIR_GEN: it signs, and makes no keys",
            "import keys (manahsm keys import), or have its policy allow key generation",
            slot,
        )
    else:
        yield Finding("mechanism", Verdict.OK, "CKM_ECDSA and CKM_EC_KEY_PAIR_GEN", slot=slot)


_PIN_FLAGS = (
    (
        "USER_PIN_LOCKED",
        Verdict.FAIL,
        "the PIN is locked: too many wrong ones were tried",
        "have the security officer set a new PIN with the vendor's tool",
    ),
    (
        "USER_PIN_FINAL_TRY",
        Verdict.FAIL,
        "one more wrong PIN locks the token: it was not tried here",
        "log in once with the vendor's tool and the right PIN, which sets the counter back",
    ),
    (
        "USER_PIN_TO_BE_CHANGED",
        Verdict.WARN,
        "the token wants its PIN to be changed",
        "change it with the vendor's tool, then in the PIN file",
    ),
    (
        "USER_PIN_COUNT_LOW",
        Verdict.WARN,
        "a wrong PIN was tried since the last good login",
        "find out who tried it: the token locks after a few of them. A good login sets the counter back",
    ),
)


def pin_state(flags: Sequence[str], slot: str | None) -> Finding:
    """What the token says of its PIN, the worst of it."""
    if "PROTECTED_AUTHENTICATION_PATH" in flags:
        return Finding(
            "pin",
            Verdict.WARN,
            "the token has a PIN pad of its own; whether it takes a PIN from us is up to it",
            "",
            slot,
        )
    for flag, verdict, text, remedy in _PIN_FLAGS:
        if flag in flags:
            return Finding("pin", verdict, text, remedy, slot)
    if "LOGIN_REQUIRED" in flags and "USER_PIN_INITIALIZED" not in flags:
        return Finding(
            "pin",
            Verdict.FAIL,
            "the token has no user PIN yet",
            "set one with the vendor's tool (for SoftHSM: softhsm2-util --init-token)",
            slot,
        )
    return Finding("pin", Verdict.OK, "no wrong PIN was tried since the last good login", slot=slot)


def login_is_safe(flags: Sequence[str]) -> bool:
    """Whether a wrong PIN would not lock the token."""
    return "USER_PIN_LOCKED" not in flags and "USER_PIN_FINAL_TRY" not in flags


def sessions_allowed_by(token: Token, pool: ConnectionPool, slot: SlotConfig) -> Finding:
    """Whether the token's own limit leaves room for the pool."""
    limits = [limit for limit in (token.max_sessions, slot.quirks.max_sessions) if limit is not None]
    # A token's limit counts for each application, and each host keeps one session as its anchor.
    hosts = min(pool.processes, pool.size)
    wanted = -(-(pool.size + pool.max_overflow) // hosts) + 1
    if not limits:
        return Finding("session limit", Verdict.OK, "the token names no limit", slot=slot.name)
    most = min(limits)
    if wanted <= most:
        return Finding(
            "session limit", Verdict.OK, f"the token allows {most}, a host uses up to {wanted}", slot=slot.name
        )
    return Finding(
        "session limit",
        Verdict.WARN,
        f"the token allows one process {most} sessions, and a host would use up to {wanted}",
        "lower connection_pool.size and max_overflow, or raise processes",
        slot.name,
    )
