"""What is wrong with a slot, given what was seen of it. Pure.

The one thing to know: a slot that can not sign has one finding and no more, because everything else about it is a
consequence, and one outage is one alert. A slot that signs may have several.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from attrs import frozen

from manahsm.config.tables import Thresholds
from manahsm.monitoring import causes
from manahsm.monitoring.health_rules import joined, slow_findings
from manahsm.monitoring.values import Finding
from manahsm.signing.slot import SlotPhase
from supervisors import BreakerState

__all__ = ["Answer", "Canary", "Probe", "Signed", "SlotView", "judge_slot"]


class Answer(Enum):
    """Whether a token answered a call that asks only how it is."""

    ANSWERED = "answered"
    NOT_ASKED = "not asked"
    FAILED = "failed"
    """The token, or what reaches it, said no."""
    SILENT = "silent"
    """Nothing came back in time."""


@frozen(kw_only=True)
class Probe:
    """What the hosts of a slot say of its token.

    Attributes:
        answer: the best of theirs.
        detail: what those said that did not answer.
        silent: how many of them did not answer.
        flags: CKF_* of the token, without the prefix.
        duration: seconds until the first answer.
    """

    answer: Answer
    detail: str = ""
    silent: int = 0
    flags: frozenset[str] = frozenset()
    duration: float = 0.0


class Signed(Enum):
    """How a canary signature went."""

    RIGHT = "signed"
    WRONG = "wrong"
    """Made, and not by the key that was asked; every call returned CKR_OK."""
    FAILED = "failed"
    SILENT = "no answer"
    UNUSABLE = "unusable"
    """The token is well and refuses this key."""
    SKIPPED = "skipped"


@frozen(kw_only=True)
class Canary:
    """A canary signature, or why there is none.

    Attributes:
        signed: how it went.
        detail: more about that.
        duration: seconds that it took.
    """

    signed: Signed
    detail: str = ""
    duration: float = 0.0


@frozen(kw_only=True)
class SlotView:
    """What was seen of one slot.

    Attributes:
        phase, reason, breaker: of the slot, after the probe and the canary.
        lost: the check before this one found its token gone; it is until it has answered, or signed.
        hosts: host processes that are ready.
        hosts_wanted: host processes that there should be.
        sessions: sessions that are open.
        sessions_wanted: sessions that should be, as far as the token allows them.
        broken: sessions that broke within the window.
        probe, canary: how the token answered.
    """

    phase: SlotPhase
    reason: str | None
    breaker: BreakerState
    lost: bool
    hosts: int
    hosts_wanted: int
    sessions: int
    sessions_wanted: int
    broken: int
    probe: Probe
    canary: Canary


_PIN_FLAGS = (
    ("USER_PIN_LOCKED", causes.PIN_LOCKED),
    ("USER_PIN_FINAL_TRY", causes.LAST_PIN_TRY),
    ("USER_PIN_COUNT_LOW", causes.WRONG_PIN_TRIED),
)
"""CKF_* of CK_TOKEN_INFO (PKCS#11 v3.1, section 3.2), the worst first."""


def judge_slot(view: SlotView, thresholds: Thresholds) -> tuple[Finding, ...]:
    """What is wrong with a slot."""
    fatal = _fatal(view)
    return (fatal,) if fatal is not None else tuple(_flaws(view, thresholds))


def _fatal(view: SlotView) -> Finding | None:  # noqa: PLR0911 - a table, one row a line
    """Why it can not sign, if it can not. The first that applies explains all that follow."""
    reason, probe, canary = view.reason or "", view.probe, view.canary
    match view:
        case SlotView(phase=SlotPhase.LATCHED):
            return Finding(causes.LATCHED, reason)
        case SlotView(canary=Canary(signed=Signed.WRONG)):  # an operator unlatched it in the same moment
            return Finding(causes.WRONG_SIGNATURE, canary.detail)
        case SlotView(phase=SlotPhase.DOWN):
            return Finding(causes.CONNECTIVITY_LOST, reason)
        case SlotView(probe=Probe(answer=Answer.FAILED | Answer.SILENT)):
            return Finding(causes.CONNECTIVITY_LOST, probe.detail)
        case SlotView(lost=True, probe=Probe(answer=Answer.NOT_ASKED)) if canary.signed is not Signed.RIGHT:
            return Finding(causes.CONNECTIVITY_LOST, reason or "connecting again")
        case SlotView(canary=Canary(signed=Signed.FAILED | Signed.SILENT)):
            return Finding(causes.DOES_NOT_SIGN, canary.detail)
        case SlotView(breaker=BreakerState.FORCED_OPEN):
            return Finding(causes.FORCED_OPEN, reason)
        case SlotView(phase=SlotPhase.UP, breaker=BreakerState.OPEN):
            return Finding(causes.BREAKER_OPEN, reason)
    return None


def _flaws(view: SlotView, thresholds: Thresholds) -> Iterator[Finding]:
    """What is wrong with a slot that may sign."""
    yield from _missing(view)
    match view.breaker:
        case BreakerState.FORCED_CLOSED:
            yield Finding(causes.FORCED_CLOSED, view.reason or "")
        case BreakerState.HALF_OPEN:
            yield Finding(causes.ON_PROBATION, view.reason or "")
    if view.broken >= thresholds.broken_sessions:
        yield Finding(causes.SESSIONS_BREAK, f"{view.broken} within {thresholds.window:g} s")
    for flag, cause in _PIN_FLAGS:
        if flag in view.probe.flags:
            yield Finding(cause)
            break
    if view.canary.signed is Signed.UNUSABLE:
        yield Finding(causes.CANARY_UNUSABLE, view.canary.detail)
    yield from slow_findings(max(view.probe.duration, view.canary.duration), thresholds)


def _missing(view: SlotView) -> Iterator[Finding]:
    """Hosts and sessions that should be there."""
    if view.phase is SlotPhase.CONNECTING:
        yield Finding(causes.CONNECTING, view.reason or "no host is ready")
        return
    hosts = view.hosts - view.probe.silent
    if hosts < view.hosts_wanted:
        yield Finding(causes.HOSTS_MISSING, joined(f"{hosts} of {view.hosts_wanted}", view.probe.detail))
    if view.sessions < view.sessions_wanted:
        yield Finding(causes.SESSIONS_MISSING, f"{view.sessions} of {view.sessions_wanted}")
