"""When a software twin may stand in for tokens that do not answer: policy, an operator's word, and a budget.

The one thing to know: an *outage* belongs to the slots that hold a key. It begins with the first stand-in signature
and is over when one of these slots has been well for a whole check interval since the last one; then the budget of
``fallback.max_fallback_operations`` starts anew, and an operator's permission for that outage has lapsed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import define

from manahsm.config.model import Fallback, SecurityPolicy
from manahsm.errors import FallbackExhausted, HSMUnavailable, ManaHSMError
from manahsm.keys.roles import software_allowed
from manahsm.logs import get_logger
from manahsm.requests import KeyInfo
from manahsm.signing.observed import Observer, StandInBegan
from manahsm.signing.slot import Slot
from supervisors import Clock

__all__ = ["StandIn"]

_log = get_logger("manahsm.fallback")


@define
class _Outage:
    """What has stood in for one set of slots, since they were last well for a while."""

    used: int = 0
    last: float = -math.inf


class StandIn:
    """Decides, request by request, whether software may sign in a token's place. Counts what did.

    Args:
        policy: ``allow_software_fallback`` and ``require_hsm_for_roles`` win over all of ``options``.
        options: the table ``fallback``.
        clock: its time.
        observe: told when an outage begins to use software.
    """

    def __init__(
        self, policy: SecurityPolicy, options: Fallback, clock: Clock, observe: Observer | None = None
    ) -> None:
        self._policy = policy
        self._options = options
        self._clock = clock
        self._observe = observe
        self._outages: dict[tuple[str, ...], _Outage] = {}
        self._allowed_at: float | None = None
        self.total = 0
        """Stand-in signatures since the start."""

    def may_ever(self, key: KeyInfo) -> bool:
        """Whether software may stand in for this key's token in some outage."""
        return key.software_twin and self._options.enabled and software_allowed(key, self._policy)

    def refusal(self, key: KeyInfo, slots: Sequence[Slot]) -> ManaHSMError | None:
        """Return why software may not sign with ``key`` now, or ``None`` if it may. Takes nothing.

        Args:
            key: a key of a token.
            slots: the slots that hold it.
        """
        if not self.may_ever(key):
            return HSMUnavailable(_why_never(key, self._policy, self._options))
        if not self._options.auto_fallback_on_error and not self._allowed(slots):
            return HSMUnavailable(
                "a software twin exists, but fallback.auto_fallback_on_error is false: an operator may allow it "
                "with Service.allow_fallback()"
            )
        if self._outage(slots).used >= self._options.max_fallback_operations:
            return FallbackExhausted(
                f"this outage has used up its {self._options.max_fallback_operations} software signatures "
                "(fallback.max_fallback_operations): bring the token back; the count starts anew when it was well for "
                "monitoring.health_check_interval"
            )
        return None

    def spend(self, slots: Sequence[Slot]) -> None:
        """Count one stand-in signature; :meth:`refusal` was asked in the same step."""
        outage = self._outage(slots)
        if not outage.used:
            _log.warning("software stands in", slots=" ".join(_names(slots)))
            if self._observe is not None:
                self._observe(StandInBegan(slots=_names(slots)))
        outage.used += 1
        outage.last = self._clock.now()
        self.total += 1

    def allow(self) -> None:
        """An operator allows stand-ins where they are not automatic, until the outage is over."""
        self._allowed_at = self._clock.now()

    def withdraw(self) -> None:
        """An operator takes the permission back."""
        self._allowed_at = None

    def _allowed(self, slots: Sequence[Slot]) -> bool:
        return self._allowed_at is not None and not self._well_since(slots, self._allowed_at)

    def _outage(self, slots: Sequence[Slot]) -> _Outage:
        names = _names(slots)
        outage = self._outages.get(names)
        if outage is None or self._well_since(slots, outage.last):
            outage = self._outages[names] = _Outage()
        return outage

    def _well_since(self, slots: Sequence[Slot], when: float) -> bool:
        now = self._clock.now()
        return any(slot.wellness.for_a_while_after(when, now) for slot in slots)


def _names(slots: Sequence[Slot]) -> tuple[str, ...]:
    return tuple(sorted(slot.name for slot in slots))


def _why_never(key: KeyInfo, policy: SecurityPolicy, options: Fallback) -> str:
    if not key.software_twin:
        return "the key has no software twin that could stand in"
    if key.role in policy.require_hsm_for_roles:
        return f"software never stands in for the role {key.role} (security_policy.require_hsm_for_roles)"
    if not policy.allow_software_fallback:
        return "security_policy.allow_software_fallback is false"
    if not options.enabled:
        return "fallback.enabled is false"
    return "the key has no role"
