"""A circuit breaker: stops calls to what does not answer well, and lets a few through to see if it does.

The one thing to know: whoever wants to call asks for a *permit* and gives it exactly one verdict: success,
failure, or released (no verdict: the call was cancelled or never made). Leaving a ``with permit:`` block
without a verdict gives one, so none can be forgotten; one that is lost all the same counts as a failure after
``verdict_deadline``.

    permit = breaker.try_acquire()
    if permit is None:
        ...  # refused; breaker.refusal() says why, and until when
    else:
        with permit:
            await call()
            permit.success()

States and what leads from one to the other: see :data:`TRANSITIONS`, which is all there is; what is not in
the table raises :class:`IllegalTransition` and changes nothing. Nothing here waits or needs a loop: timers
are looked at when somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

from supervisors.breaker_rules import TRANSITIONS, BreakerSettings, BreakerState, Signal
from supervisors.clock import SYSTEM_CLOCK, Clock
from supervisors.errors import CallRefused, IllegalTransition
from supervisors.events import BreakerAvailabilityChanged, BreakerStateChanged
from supervisors.hooks import report
from supervisors.permits import BreakerStats, Permit, Refusal
from supervisors.window import Counts, SlidingWindow

__all__ = ["CircuitBreaker"]


class CircuitBreaker:
    """A circuit breaker. Not thread-safe; needs no event loop.

    Args:
        name: for errors and events.
        settings: when it opens, and for how long.
        clock: its time.
        on_event: called synchronously with each change.
    """

    def __init__(
        self,
        name: str,
        settings: BreakerSettings | None = None,
        clock: Clock = SYSTEM_CLOCK,
        on_event: Callable[[BreakerStateChanged | BreakerAvailabilityChanged], None] | None = None,
    ) -> None:
        self.name = name
        self.settings = settings or BreakerSettings()
        self._clock = clock
        self._on_event = on_event
        self._state = BreakerState.CLOSED
        self._reason = "new"
        self._since = clock.now()
        self._window = SlidingWindow(self.settings.window)
        self._outstanding: dict[Permit, None] = {}  # oldest first; not slow yet
        self._overdue: dict[Permit, None] = {}  # oldest first; slow already
        self._openings = 0
        self._open_until = 0.0
        self._look_at = math.inf  # nothing comes about by time alone before that
        self._probes_left = 0
        self._probe_counts = Counts()
        self._unavailable: str | None = None
        self._admitted = self._refused = self._late = 0

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r} {self._state.value}>"

    # ---- asking ----

    @property
    def state(self) -> BreakerState:
        """The state, as of now."""
        self._look_at_the_clock()
        return self._state

    @property
    def reason(self) -> str:
        """Why it is in its state."""
        return self._reason

    @property
    def available(self) -> bool:
        """Whether supervision lets calls through; independent of the state."""
        return self._unavailable is None

    def try_acquire(self) -> Permit | None:
        """Return a permit for one call, or ``None`` where :meth:`refusal` says why there is none."""
        if self.refusal() is not None:
            self._refused += 1
            return None
        now = self._clock.now()
        self._admitted += 1
        permit = Permit(self, now)
        self._outstanding[permit] = None
        self._look_at = min(self._look_at, now + self.settings.slow_call)
        if self._state is BreakerState.HALF_OPEN:
            self._probes_left -= 1
        return permit

    def acquire(self) -> Permit:
        """Return a permit for one call.

        Raises:
            CallRefused: there is none now.
        """
        permit = self.try_acquire()
        if permit is None:
            refusal = self.refusal()
            assert refusal is not None  # noqa: S101 - nothing has happened since
            raise CallRefused(self.name, refusal.reason, refusal.retry_after)
        return permit

    def refusal(self) -> Refusal | None:
        """Return why no call would be admitted now, or ``None`` if one would. Takes nothing."""
        self._look_at_the_clock()
        if self._unavailable is not None:
            return Refusal(f"unavailable: {self._unavailable}", None)
        match self._state:
            case BreakerState.CLOSED | BreakerState.FORCED_CLOSED:
                return None
            case BreakerState.HALF_OPEN:
                if self._probes_left > 0:
                    return None
                return Refusal(f"half-open, and its probes are out: {self._reason}", self._next_lost())
            case BreakerState.OPEN:
                return Refusal(f"open: {self._reason}", max(0.0, self._open_until - self._clock.now()))
            case BreakerState.FORCED_OPEN | BreakerState.LATCHED:
                return Refusal(f"{self._state.value}: {self._reason}", None)

    def stats(self) -> BreakerStats:
        """Return all it knows."""
        self._look_at_the_clock()
        return BreakerStats(
            name=self.name,
            state=self._state,
            reason=self._reason,
            available=self.available,
            window=self._window.counts(self._clock.now()),
            outstanding=len(self._outstanding) + len(self._overdue),
            overdue=len(self._overdue),
            openings=self._openings,
            admitted=self._admitted,
            refused=self._refused,
            late=self._late,
        )

    # ---- telling ----

    def trip(self, reason: str) -> None:
        """Open at once: something happened that tells enough. Latched or forced, it stays as it is."""
        self._look_at_the_clock()
        self._signal(Signal.TRIP, reason)

    def latch(self, reason: str) -> None:
        """Admit nothing until :meth:`unlatch`: trying again could do harm."""
        self._signal(Signal.LATCH, reason)

    def unlatch(self) -> None:
        """Say that the reason of the latch is gone; the next calls are probes.

        Raises:
            IllegalTransition: it is not latched.
        """
        self._signal(Signal.UNLATCH, "unlatched by an operator")

    def force_open(self, reason: str = "by an operator") -> None:
        """Admit nothing until :meth:`reset`.

        Raises:
            IllegalTransition: it is latched.
        """
        self._signal(Signal.FORCE_OPEN, reason)

    def force_closed(self, reason: str = "by an operator") -> None:
        """Admit everything, whatever fails, until :meth:`reset`.

        Raises:
            IllegalTransition: it is latched.
        """
        self._signal(Signal.FORCE_CLOSED, reason)

    def reset(self) -> None:
        """Close it and forget what was counted; ends both forced states.

        Raises:
            IllegalTransition: it is latched.
        """
        self._signal(Signal.RESET, "reset by an operator")

    def set_available(self, available: bool, reason: str = "") -> None:
        """Open or close the gate that supervision holds: closed, nothing is admitted in any state.

        Args:
            available: whether the called is there at all, e.g. its worker runs.
            reason: why not, for refusals.
        """
        before = self.available
        self._unavailable = None if available else (reason or "its worker is down")
        if available != before:
            report(
                self._on_event,
                BreakerAvailabilityChanged(
                    breaker=self.name, available=available, reason=self._unavailable or "", at=self._clock.now()
                ),
            )

    def take_verdict(self, permit: Permit, *, failed: bool | None, duration: float | None) -> None:
        """Take the verdict of a permit; called by the permit."""
        self._look_at_the_clock()
        if permit in self._outstanding:
            del self._outstanding[permit]
        elif permit in self._overdue:
            del self._overdue[permit]
        else:
            self._late += failed is not None
            return
        if failed is None:
            if self._state is BreakerState.HALF_OPEN:
                self._probes_left += 1  # another may take its place
            return
        took = self._clock.now() - permit.started if duration is None else duration
        self._count(failed=failed, slow=took >= self.settings.slow_call)

    # ---- inside ----

    def _signal(self, signal: Signal, reason: str) -> None:
        previous = self._state
        state = TRANSITIONS.get((previous, signal))
        if state is None:
            raise IllegalTransition(f"{self.name}: can not {signal.value} while {previous.value} ({self._reason})")
        if signal is Signal.TRIP and state is previous:
            return  # open already, or an operator's word goes before it
        now = self._clock.now()
        if previous is BreakerState.CLOSED:
            calm = int((now - self._since) // self.settings.max_open_for)
            self._openings = max(0, self._openings - calm)
        self._enter(state, now)
        self._state, self._reason, self._since = state, reason, now
        if signal is Signal.RESET:
            self._openings = 0
        if state is not previous:
            report(
                self._on_event,
                BreakerStateChanged(
                    breaker=self.name, previous=previous.value, state=state.value, reason=reason, at=now
                ),
            )

    def _enter(self, state: BreakerState, now: float) -> None:
        # Calls that are out were made under other circumstances: their verdicts decide nothing any more.
        self._outstanding.clear()
        self._overdue.clear()
        self._window.clear()
        if state is BreakerState.OPEN:
            growth: float = 2.0 ** min(self._openings, 60)
            self._open_until = now + min(self.settings.max_open_for, self.settings.open_for * growth)
            self._look_at = self._open_until
            self._openings += 1
        elif state is BreakerState.HALF_OPEN:
            self._probes_left = self.settings.probes
            self._probe_counts = Counts()

    def _count(self, *, failed: bool, slow: bool) -> None:
        if self._state is not BreakerState.HALF_OPEN:
            self._window.record(self._clock.now(), failed=failed, slow=slow)
            self._judge()
            return
        seen = self._probe_counts
        self._probe_counts = seen = Counts(seen.calls + 1, seen.failures + failed, seen.slow + slow)
        if failed:
            self._signal(Signal.PROBES_FAILED, "a probe failed")
        elif seen.calls >= self.settings.probes:
            if seen.slow_rate >= self.settings.slow_call_rate:
                self._signal(Signal.PROBES_FAILED, f"{seen.slow} of {seen.calls} probes were slow")
            else:
                self._signal(Signal.PROBES_PASSED, f"{seen.calls} probes passed")

    def _judge(self) -> None:
        """Open if the window says so. Calls that are out and slow already count as slow calls."""
        if self._state is not BreakerState.CLOSED or (self._window.spotless and not self._overdue):
            return
        window, settings, hanging = self._window.counts(self._clock.now()), self.settings, len(self._overdue)
        seen = Counts(window.calls + hanging, window.failures, window.slow + hanging)
        if seen.calls < settings.minimum_calls:
            return
        if seen.failure_rate >= settings.failure_rate:
            self._signal(Signal.TRIP, f"{seen.failures} of {seen.calls} calls failed")
        elif seen.slow_rate >= settings.slow_call_rate:
            self._signal(Signal.TRIP, f"{seen.slow} of {seen.calls} calls took {settings.slow_call:g} s or more")

    def _look_at_the_clock(self) -> None:
        """Do what time alone brings about: slow calls, lost permits, the end of the open time."""
        now = self._clock.now()
        if now >= self._look_at:
            self._catch_up(now)
            self._look_at = self._next_event()

    def _next_event(self) -> float:
        """Return when time alone brings the next thing about; sooner where that was called off meanwhile."""
        times = [self._open_until] if self._state is BreakerState.OPEN else []
        times += [permit.started + self.settings.slow_call for permit in islice(self._outstanding, 1)]
        times += [permit.started + self.settings.verdict_deadline for permit in islice(self._overdue, 1)]
        return min(times, default=math.inf)

    def _catch_up(self, now: float) -> None:
        news = False
        while self._outstanding:
            permit = next(iter(self._outstanding))
            if now < permit.started + self.settings.slow_call:
                break
            del self._outstanding[permit]
            self._overdue[permit] = None
            news = True
        while self._overdue:
            permit = next(iter(self._overdue))
            if now < permit.started + self.settings.verdict_deadline:
                break
            del self._overdue[permit]
            self._count(failed=True, slow=True)
        if news:
            self._judge()
        if self._state is BreakerState.OPEN and now >= self._open_until:
            self._signal(Signal.OPEN_TIME_OVER, f"probing after: {self._reason}")

    def _next_lost(self) -> float:
        """Return the seconds until the oldest probe counts as lost, at which point the breaker decides."""
        oldest = next(iter(self._overdue or self._outstanding))
        return max(0.0, oldest.started + self.settings.verdict_deadline - self._clock.now())
