"""The circuit breaker against a simple model, for random sequences of calls, verdicts, operators and time."""

from __future__ import annotations

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisors import BreakerSettings, BreakerState, CircuitBreaker, IllegalTransition, Permit
from supervisors.testing import ManualClock

S = BreakerState
RULES = BreakerSettings(
    failure_rate=0.5,
    slow_call_rate=0.6,
    slow_call=3,
    window=20,
    minimum_calls=3,
    open_for=5,
    max_open_for=20,
    probes=2,
    verdict_deadline=8,
)


@define(eq=False)
class Call:
    permit: Permit
    started: float
    era: int


class BreakerMachine(RuleBasedStateMachine):
    """The model keeps every call with its time and counts anew at each step; no cleverness."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.breaker = CircuitBreaker("b", RULES, self.clock)
        self.state, self.era, self.since = S.CLOSED, 0, self.clock.now()
        self.calls: list[Call] = []
        self.finished: list[tuple[float, bool, bool]] = []
        self.probes_left, self.probes_seen, self.probes_slow = 0, 0, 0
        self.openings, self.open_until = 0, 0.0

    # ---- the model ----

    def go(self, state: BreakerState) -> None:
        now = self.clock.now()
        if self.state is S.CLOSED:
            self.openings = max(0, self.openings - int((now - self.since) // RULES.max_open_for))
        self.state, self.since = state, now
        self.era += 1
        self.finished.clear()
        if state is S.OPEN:
            self.open_until = now + min(RULES.max_open_for, RULES.open_for * 2**self.openings)
            self.openings += 1
        if state is S.HALF_OPEN:
            self.probes_left, self.probes_seen, self.probes_slow = RULES.probes, 0, 0

    def in_window(self, when: float) -> bool:
        length = RULES.window / 10
        return int(when // length) > int(self.clock.now() // length) - 10

    def judge(self) -> None:
        if self.state is not S.CLOSED:
            return
        recent = [call for call in self.finished if self.in_window(call[0])]
        hanging = sum(
            call.era == self.era and self.clock.now() - call.started >= RULES.slow_call for call in self.calls
        )
        total = len(recent) + hanging
        failed = sum(call[1] for call in recent)
        slow = sum(call[2] for call in recent) + hanging
        if total >= RULES.minimum_calls and (
            failed >= RULES.failure_rate * total or slow >= RULES.slow_call_rate * total
        ):
            self.go(S.OPEN)

    def count(self, *, failed: bool, slow: bool) -> None:
        if self.state is not S.HALF_OPEN:
            self.finished.append((self.clock.now(), failed, slow))
            self.judge()
            return
        self.probes_seen += 1
        self.probes_slow += slow
        if failed:
            self.go(S.OPEN)
        elif self.probes_seen == RULES.probes:
            self.go(S.OPEN if self.probes_slow / self.probes_seen >= RULES.slow_call_rate else S.CLOSED)

    def tick(self) -> None:
        now = self.clock.now()
        for call in list(self.calls):
            if call in self.calls and now - call.started >= RULES.verdict_deadline:
                self.calls.remove(call)
                if call.era == self.era:
                    self.count(failed=True, slow=True)
        self.judge()
        if self.state is S.OPEN and now >= self.open_until:
            self.go(S.HALF_OPEN)

    # ---- what can happen ----

    @rule()
    def acquire(self) -> None:
        permit = self.breaker.try_acquire()
        admits = self.state in (S.CLOSED, S.FORCED_CLOSED) or (self.state is S.HALF_OPEN and self.probes_left)
        assert (permit is not None) is bool(admits)
        if permit is not None:
            self.probes_left -= self.state is S.HALF_OPEN
            self.calls.append(Call(permit, self.clock.now(), self.era))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), verdict=st.sampled_from(["success", "failure", "release"]))
    def verdict(self, data: st.DataObject, verdict: str) -> None:
        call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        getattr(call.permit, verdict)()
        if call.era != self.era:
            return
        if verdict == "release":
            self.probes_left += self.state is S.HALF_OPEN
            return
        self.count(failed=verdict == "failure", slow=self.clock.now() - call.started >= RULES.slow_call)

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 5.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        assert self.breaker.state in S  # it looks at the clock when it is asked
        self.tick()

    @rule()
    def trip(self) -> None:
        self.breaker.trip("model")
        if self.state in (S.CLOSED, S.HALF_OPEN):
            self.go(S.OPEN)

    @rule(what=st.sampled_from(["force_open", "force_closed", "reset", "unlatch", "latch"]))
    def operate(self, what: str) -> None:
        legal = what == "latch" or (what == "unlatch") is (self.state is S.LATCHED)
        try:
            getattr(self.breaker, what)(*(["model"] if what == "latch" else []))
        except IllegalTransition:
            assert not legal
            return
        assert legal
        self.go(
            {
                "force_open": S.FORCED_OPEN,
                "force_closed": S.FORCED_CLOSED,
                "reset": S.CLOSED,
                "unlatch": S.HALF_OPEN,
                "latch": S.LATCHED,
            }[what]
        )
        if what == "reset":
            self.openings = 0

    @invariant()
    def agrees(self) -> None:
        assert self.breaker.state is self.state
        stats = self.breaker.stats()
        assert stats.openings == self.openings
        assert stats.outstanding == sum(call.era == self.era for call in self.calls)


BreakerMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestBreakerModel = BreakerMachine.TestCase
