"""Every kind of fault, as values: what a fault of each kind does, drawn from dice.

The one thing to know: a fault is data. What the module shall do (p11fault_rules), what happens to hosts, whether the
token's directory is taken away and what an operator does are its fields; the conductor begins and lifts it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from attrs import frozen
from p11fault_rules import (
    CantLock,
    Crash,
    CrashSignal,
    Delay,
    DeviceSessions,
    Directive,
    Exit,
    Gone,
    Hang,
    HiddenUntilFinalize,
    Idle,
    Logout,
    Poison,
    Print,
    Replugged,
    Return,
    Sessions,
    Spoil,
    Spoiled,
)

from manahsm.hsm.outcomes import Action, outcome_of
from manahsm.hsm.return_codes import CKR

__all__ = ["KINDS", "Act", "Blow", "Fault", "Maker"]


class Blow(StrEnum):
    """What happens to host processes when a fault begins; those that were stopped go on when it is lifted."""

    KILL_ONE = "kill one"
    KILL_ALL = "kill all"
    STOP_ONE = "stop one"
    STOP_ALL = "stop all"


class Act(StrEnum):
    """What an operator does when a fault begins; all are undone by a reset when it is lifted."""

    FORCE_OPEN = "force open"
    FORCE_CLOSED = "force closed"
    RESET = "reset"


@frozen
class Fault:
    """One misfortune of one slot.

    Attributes:
        kind: as the tables name it.
        directives: what its fault module does meanwhile.
        blow: what becomes of its hosts.
        token_away: its token's directory is renamed meanwhile.
        act: what an operator does to its breaker.
    """

    kind: str
    directives: tuple[Directive, ...] = ()
    blow: Blow | None = None
    token_away: bool = False
    act: Act | None = None

    @property
    def latches(self) -> bool:
        """Whether it is a reason to take the slot out of use until an operator acts."""
        return self.kind in _REASONS_TO_LATCH


_REASONS_TO_LATCH = frozenset({"error that latches", "wrong signature", "PIN refused"})

# ---- return codes ----

_LATCHING = tuple(sorted(name for name, code in CKR.items() if outcome_of(code, "C_Sign").action is Action.LATCH))
_FAILING = tuple(
    sorted(
        name for name, code in CKR.items() if outcome_of(code, "C_Sign").action not in {Action.LATCH, Action.NOTHING}
    )
)
# What a host asks of the library apart from signing; a session or a host must begin anew for it to be asked.
_ELSEWHERE = (
    "C_OpenSession",
    "C_CloseSession",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_FindObjectsFinal",
    "C_GetAttributeValue",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_GetSessionInfo",
    "C_GetMechanismList",
    "C_Initialize",
)


def _one_of(rng: random.Random, *conditions: Mapping[str, Any]) -> Mapping[str, Any]:
    return rng.choice(conditions)


def _how_often(rng: random.Random) -> Mapping[str, Any]:
    return _one_of(rng, {}, {"count": 1}, {"count": 5}, {"probability": 0.1}, {"probability": 0.5})


def _error_in_signing(rng: random.Random) -> Fault:
    rule = Return(rng.choice(["C_SignInit", "C_Sign"]), rng.choice(_FAILING), **_how_often(rng))
    return Fault("error in signing", (rule,))


def _error_after_signing(rng: random.Random) -> Fault:
    return Fault("error after signing", (Return("C_Sign", rng.choice(_FAILING), when_after=True, **_how_often(rng)),))


def _error_elsewhere(rng: random.Random) -> Fault:
    rule = Return(rng.choice(_ELSEWHERE), rng.choice(_FAILING), **_how_often(rng))
    return Fault("error elsewhere", (rule,), rng.choice([Blow.KILL_ONE, Blow.KILL_ALL]))


def _latching_error(rng: random.Random) -> Fault:
    return Fault("error that latches", (Return("C_Sign", rng.choice(_LATCHING), count=rng.choice([1, 3])),))


def _vendor_error(rng: random.Random) -> Fault:
    return Fault("vendor's error", (Return("C_Sign", 0x80000000 + rng.randrange(2**16), **_how_often(rng)),))


# ---- time ----


def _delay(rng: random.Random) -> Fault:
    return Fault("delay", (Delay(rng.choice(["*", "C_Sign"]), rng.randrange(1, 200)),))


def _network(_: random.Random) -> Fault:
    return Fault("network of 1-50 ms", (Delay("*", 1, jitter=49),))


def _hang(rng: random.Random) -> Fault:
    function = rng.choice(["C_Sign", "C_SignInit", "C_OpenSession", "C_FindObjects", "C_CloseSession", "*"])
    return Fault("hang", (Hang(function, **_one_of(rng, {}, {"count": 1})),))


def _slow_start(rng: random.Random) -> Fault:
    return Fault("slow C_Initialize", (Delay("C_Initialize", rng.randrange(300, 2000)),), Blow.KILL_ALL)


# ---- the library ----


def _crash(rng: random.Random) -> Fault:
    how_often = _one_of(rng, {}, {"count": 1}, {"probability": 0.05})
    return Fault("crash", (Crash("C_Sign", rng.choice(list(CrashSignal)), **how_often),))


def _exit(rng: random.Random) -> Fault:
    return Fault("exit", (Exit("C_Sign", rng.choice([0, 3]), count=rng.choice([1, 3])),))


def _noise(_: random.Random) -> Fault:
    return Fault("prints on stdout", (Print("C_Sign", every=7),))


def _no_locking(_: random.Random) -> Fault:
    return Fault("CANT_LOCK", (CantLock(),), Blow.KILL_ALL)


def _poison(rng: random.Random) -> Fault:
    return Fault(
        "poisoned session", (Poison(rng.choice(["CKR_DEVICE_ERROR", "CKR_FUNCTION_FAILED"]), **_how_often(rng)),)
    )


def _session_limit(rng: random.Random) -> Fault:
    limit = rng.choice([Sessions(rng.randrange(1, 4)), DeviceSessions(rng.randrange(2, 6))])
    return Fault("session limit", (limit,), rng.choice([None, Blow.KILL_ONE, Blow.KILL_ALL]))


def _idle(rng: random.Random) -> Fault:
    return Fault("idle sessions closed", (Idle(rng.randrange(5, 60)),))


def _logged_out(rng: random.Random) -> Fault:
    return Fault("logged out", (Logout("C_SignInit", count=rng.choice([1, 4])),))


# ---- signatures ----


def _wrong_signature(rng: random.Random) -> Fault:
    how = rng.choice([Spoiled.CORRUPT, Spoiled.ZERO, Spoiled.OTHER_KEY])
    return Fault("wrong signature", (Spoil(how, **_how_often(rng)),))


def _short_signature(rng: random.Random) -> Fault:
    return Fault("truncated signature", (Spoil(Spoiled.TRUNCATE, **_how_often(rng)),))


def _high_s(_: random.Random) -> Fault:
    return Fault("high s", (Spoil(Spoiled.HIGH_S),))


# ---- the token ----


def _gone(_: random.Random) -> Fault:
    return Fault("token gone", (Gone(),))


def _replugged(rng: random.Random) -> Fault:
    return Fault("token replugged", (Replugged(1 + rng.randrange(1000)),))


def _directory_away(rng: random.Random) -> Fault:
    return Fault("token directory away", blow=rng.choice([None, Blow.KILL_ONE]), token_away=True)


def _hidden(_: random.Random) -> Fault:
    return Fault("shown by C_Finalize", (HiddenUntilFinalize(),), Blow.KILL_ALL)


def _pin_refused(rng: random.Random) -> Fault:
    rule = Return("C_Login", rng.choice(["CKR_PIN_INCORRECT", "CKR_PIN_LOCKED", "CKR_PIN_EXPIRED"]))
    return Fault("PIN refused", (rule,), rng.choice([Blow.KILL_ONE, Blow.KILL_ALL]))


# ---- hosts and operators ----


def _killed(rng: random.Random) -> Fault:
    return Fault("hosts killed", blow=rng.choice([Blow.KILL_ONE, Blow.KILL_ALL]))


def _stopped(rng: random.Random) -> Fault:
    return Fault("hosts stopped", blow=rng.choice([Blow.STOP_ONE, Blow.STOP_ALL]))


def _forced_open(_: random.Random) -> Fault:
    return Fault("forced open", act=Act.FORCE_OPEN)


def _forced_closed(rng: random.Random) -> Fault:
    rule = Return("C_Sign", "CKR_FUNCTION_FAILED", probability=rng.choice([0.2, 0.8]))
    return Fault("forced closed, errors", (rule,), act=Act.FORCE_CLOSED)


def _reset(rng: random.Random) -> Fault:
    rule = Return("C_Sign", "CKR_GENERAL_ERROR", probability=rng.choice([0.2, 0.8]))
    return Fault("reset, errors", (rule,), act=Act.RESET)


Maker = Callable[[random.Random], Fault]

KINDS: tuple[Maker, ...] = (
    _error_in_signing,
    _error_after_signing,
    _error_elsewhere,
    _latching_error,
    _vendor_error,
    _delay,
    _network,
    _hang,
    _slow_start,
    _crash,
    _exit,
    _noise,
    _no_locking,
    _poison,
    _session_limit,
    _idle,
    _logged_out,
    _wrong_signature,
    _short_signature,
    _high_s,
    _gone,
    _replugged,
    _directory_away,
    _hidden,
    _pin_refused,
    _killed,
    _stopped,
    _forced_open,
    _forced_closed,
    _reset,
)
"""One function for each kind."""
