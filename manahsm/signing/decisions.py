"""What follows from a failed call: for the request, and for the slot. Pure; who acts on it is elsewhere.

The one thing to know: a request is tried on a slot at most twice, and the second time only where the outcome table
says that another session may do better; what comes after that is another route, or the caller. Only sessions and
logins that got lost while nobody looked (a device that closes idle ones loses all of them) may cost a few tries more.
"""

from __future__ import annotations

from attrs import evolve

from manahsm.errors import HSMUnavailable, ManaHSMError, PolicyDenied, SignatureMismatch
from manahsm.hsm.failures import HSMFailure
from manahsm.hsm.outcomes import Action, BreakerEffect, Outcome

__all__ = ["escalated", "host_ended", "may_try_again", "never_tried", "refusal", "share_of", "speaks_against_slot"]

MOST_TRIES = 2
MOST_TRIES_AFTER_LOSS = 6
MOST_AT_ONCE = 7  # with the first one 8, three milliseconds of SoftHSM

_AGAIN = frozenset({Action.RETRY_ELSEWHERE, Action.FIND_KEY_AGAIN, Action.LOGIN_AGAIN, Action.RESPAWN})
_HOST_ENDED = frozenset({"HOST_NOT_RUNNING", "HOST_STOPPED", "HOST_CRASHED", "DEADLINE_PASSED"})
_NEVER_TRIED = frozenset({"HOST_NOT_RUNNING", "STALE_GENERATION", "SESSION_DISCARDED"})


def escalated(outcome: Outcome, *, often: bool, tries: int = 0) -> Outcome:
    """Return what an outcome means once it is known whether it repeats.

    What counts for the breaker only when it repeats counts, or does not, from here on.

    Args:
        outcome: a row of the table.
        often: it happens often on this host.
        tries: how often the same request had failed before; of lost sessions, two are several at once.
    """
    if outcome.breaker is BreakerEffect.SOFT:
        often = often or tries > 0
        outcome = evolve(outcome, breaker=BreakerEffect.FAILURE if often else BreakerEffect.NONE)
    if often and outcome.repeated is not None:
        outcome = evolve(outcome, action=outcome.repeated)
    return outcome


def never_tried(outcome: Outcome) -> bool:
    """Whether the digest never reached the token, so that another session simply takes it."""
    return outcome.name in _NEVER_TRIED


def host_ended(outcome: Outcome) -> bool:
    """Whether the host process is gone: its keeper knows, and starts another."""
    return outcome.name in _HOST_ENDED


def may_try_again(outcome: Outcome, tries: int) -> bool:
    """Whether the same slot may be asked again after ``tries`` failures of one request."""
    most = MOST_TRIES_AFTER_LOSS if outcome.breaker is BreakerEffect.SOFT else MOST_TRIES
    return tries < most and outcome.action in _AGAIN


def share_of(queued: int, sessions: int) -> int:
    """Return how many digests of a queue a session takes at once, beside the one that it takes anyway.

    An even share for each, for what it has in the token and what waits behind that, and never many: what one session
    has taken no other can sign, however soon it is free.
    """
    return min(MOST_AT_ONCE, queued // (2 * max(1, sessions)))


def speaks_against_slot(outcome: Outcome) -> bool:
    """Whether other routes should be tried: the request itself is not at fault."""
    return outcome.action is not Action.TELL_CALLER


def refusal(failure: HSMFailure, slot: str) -> ManaHSMError:
    """Put a failed call into words for the caller."""
    outcome = failure.outcome
    if outcome.name == "SIGNATURE_MISMATCH":
        return SignatureMismatch(failure.detail)
    match outcome.action:
        case Action.TELL_CALLER:
            return PolicyDenied(f"the token in slot {slot} refuses this key or operation ({outcome.name})")
        case Action.NEXT_ROUTE:
            return HSMUnavailable(f"slot {slot} does not hold this key any more ({outcome.name}): look at its keys")
        case Action.LATCH:
            return HSMUnavailable(f"slot {slot} is out of use ({outcome.name}): correct the cause, then unlatch it")
        case Action.FAIL_OVER:
            return HSMUnavailable(f"slot {slot} has lost its token ({outcome.name}): it is looked for by itself")
        case _:
            return HSMUnavailable(f"slot {slot} could not sign ({failure}): try again")
