"""The states of a circuit breaker, what leads from one to the other, and the settings.

Pure. The one thing to know: :data:`TRANSITIONS` is all there is; what is not in the table is illegal.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import Any

from attrs import field, frozen, validators

__all__ = ["TRANSITIONS", "BreakerSettings", "BreakerState", "Signal"]


class BreakerState(Enum):
    """What a breaker lets through."""

    CLOSED = "closed"
    """Everything, while it counts."""
    OPEN = "open"
    """Nothing, until its open time is over."""
    HALF_OPEN = "half_open"
    """A few probes, to decide."""
    FORCED_OPEN = "forced_open"
    """Nothing, until an operator says otherwise."""
    FORCED_CLOSED = "forced_closed"
    """Everything, whatever it counts, until an operator says otherwise."""
    LATCHED = "latched"
    """Nothing, until an operator has dealt with the reason: trying again could do harm."""


class Signal(Enum):
    """What can change a breaker's state."""

    TRIP = "trip"
    """Too many failed or slow calls, or one that tells enough."""
    OPEN_TIME_OVER = "open_time_over"
    PROBES_PASSED = "probes_passed"
    PROBES_FAILED = "probes_failed"
    FORCE_OPEN = "force_open"
    FORCE_CLOSED = "force_closed"
    RESET = "reset"
    LATCH = "latch"
    UNLATCH = "unlatch"


_S = BreakerState
_ANY_BUT_LATCHED = tuple(state for state in BreakerState if state is not BreakerState.LATCHED)

TRANSITIONS = MappingProxyType(
    {
        (_S.CLOSED, Signal.TRIP): _S.OPEN,
        (_S.HALF_OPEN, Signal.TRIP): _S.OPEN,
        (_S.OPEN, Signal.TRIP): _S.OPEN,
        (_S.OPEN, Signal.OPEN_TIME_OVER): _S.HALF_OPEN,
        (_S.HALF_OPEN, Signal.PROBES_PASSED): _S.CLOSED,
        (_S.HALF_OPEN, Signal.PROBES_FAILED): _S.OPEN,
        # An operator's word goes before what was counted; a latch goes before an operator's word, but for
        # unlatch.
        (_S.FORCED_OPEN, Signal.TRIP): _S.FORCED_OPEN,
        (_S.FORCED_CLOSED, Signal.TRIP): _S.FORCED_CLOSED,
        (_S.LATCHED, Signal.TRIP): _S.LATCHED,
        **{(state, Signal.FORCE_OPEN): _S.FORCED_OPEN for state in _ANY_BUT_LATCHED},
        **{(state, Signal.FORCE_CLOSED): _S.FORCED_CLOSED for state in _ANY_BUT_LATCHED},
        **{(state, Signal.RESET): _S.CLOSED for state in _ANY_BUT_LATCHED},
        **{(state, Signal.LATCH): _S.LATCHED for state in BreakerState},
        # Unlatched, it is not trusted yet: it is probed.
        (_S.LATCHED, Signal.UNLATCH): _S.HALF_OPEN,
    }
)
"""(state, signal) -> next state. Anything else is illegal."""


# Typed for fields of both sorts of numbers.
_positive: Any = validators.gt(0)
_rate: Any = validators.and_(validators.gt(0), validators.le(1))
_some: Any = validators.ge(1)


@frozen(kw_only=True)
class BreakerSettings:
    """When a breaker opens, and for how long. Times in seconds, rates from 0 (excluded) to 1.

    Attributes:
        failure_rate: opens when this share of the calls in the window failed, or more.
        slow_call_rate: opens when this share of the calls in the window was slow, or more. A call counts as
            slow from the moment at which it is, not when it returns: calls that hang open the breaker as
            well.
        slow_call: a call is slow from this length on.
        window: how far back calls count.
        minimum_calls: fewer calls in the window never open it.
        open_for: how long it stays open at first. Each opening without a calm time between doubles it ...
        max_open_for: ... up to this; and each time it stayed closed this long halves it again.
        probes: how many calls are let through half-open, together and in all, before it decides.
        verdict_deadline: a permit that had no verdict by then counts as a failed call; its verdict is
            dropped.
    """

    failure_rate: float = field(default=0.5, validator=_rate)
    slow_call_rate: float = field(default=0.9, validator=_rate)
    slow_call: float = field(default=2.0, validator=_positive)
    window: float = field(default=30.0, validator=_positive)
    minimum_calls: int = field(default=10, validator=_some)
    open_for: float = field(default=5.0, validator=_positive)
    max_open_for: float = field(default=60.0, validator=_positive)
    probes: int = field(default=3, validator=_some)
    verdict_deadline: float = field(default=30.0, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.max_open_for < self.open_for:
            raise ValueError(f"max_open_for ({self.max_open_for}) is below open_for ({self.open_for})")
        if self.verdict_deadline < self.slow_call:
            raise ValueError(f"verdict_deadline ({self.verdict_deadline}) is below slow_call ({self.slow_call})")
