"""The mailbox against a plain list, for random sequences of everything that can be done to it."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisors import DeadlinePassed, Mailbox, MailboxFull, Poisoned, Request
from supervisors.testing import ManualClock

HOLDERS = ("a", "b", "c")


class MailboxMachine(RuleBasedStateMachine):
    """Requests are numbered by arrival; the model keeps who is where."""

    @initialize(capacity=st.integers(1, 4), max_attempts=st.integers(1, 3))
    def make(self, capacity: int, max_attempts: int) -> None:
        self.clock = ManualClock()
        self.box = Mailbox("box", capacity, self.clock, max_attempts=max_attempts)
        self.capacity, self.max_attempts = capacity, max_attempts
        self.requests: list[Request] = []
        self.queued: list[int] = []
        self.held: dict[str, list[int]] = {holder: [] for holder in HOLDERS}
        self.attempts: dict[int, int] = {}
        self.fate: dict[int, str] = {}

    def overdue(self, number: int) -> bool:
        deadline = self.requests[number].deadline
        return deadline is not None and deadline <= self.clock.now()

    def expire(self) -> None:
        for number in [number for number in self.queued if self.overdue(number)]:
            self.queued.remove(number)
            self.fate[number] = "expired"

    def settle(self, number: int, fate: str) -> None:
        self.fate[number] = fate
        for place in (self.queued, *self.held.values()):
            if number in place:
                place.remove(number)

    @rule(timeout=st.none() | st.integers(1, 5))
    def send(self, timeout: int | None) -> None:
        number = len(self.requests)
        deadline = None if timeout is None else self.clock.now() + timeout
        request = Request(number, deadline=deadline, clock=self.clock)
        if len(self.queued) >= self.capacity:
            self.expire()
        try:
            self.box.send_nowait(request)
        except MailboxFull:
            assert len(self.queued) >= self.capacity
            return
        assert len(self.queued) < self.capacity
        self.requests.append(request)
        self.queued.append(number)
        self.attempts[number] = 0

    @rule(holder=st.sampled_from(HOLDERS))
    def receive(self, holder: str) -> None:
        while self.queued and self.overdue(self.queued[0]):
            self.fate[self.queued.pop(0)] = "expired"
        request = self.box.receive_nowait(holder)
        if not self.queued:
            assert request is None
            return
        assert request is not None
        number = self.queued.pop(0)
        assert request.payload == number
        self.held[holder].append(number)

    @rule(holder=st.sampled_from(HOLDERS))
    def give_back(self, holder: str) -> None:
        numbers, self.held[holder] = self.held[holder], []
        back = 0
        for number in numbers:
            self.attempts[number] += 1
            if self.attempts[number] >= self.max_attempts:
                self.fate[number] = "poisoned"
            else:
                self.queued = sorted([*self.queued, number])
                back += 1
        assert self.box.give_back(holder) == back

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), how=st.sampled_from(["succeeded", "abandoned"]))
    def resolve(self, data: st.DataObject, how: str) -> None:
        number = data.draw(st.integers(0, len(self.requests) - 1))
        reply = self.requests[number].reply
        first = reply.succeed(number) if how == "succeeded" else reply.abandon()
        assert first is (number not in self.fate)
        if first:
            self.settle(number, how)

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "box"):
            return
        assert len(self.box) == len(self.queued)
        assert self.box.held == sum(map(len, self.held.values()))
        for holder, numbers in self.held.items():
            assert [request.payload for request in self.box.holds_of(holder)] == sorted(numbers)
        for number, request in enumerate(self.requests):
            assert request.reply.done is (number in self.fate)
            assert request.attempts == self.attempts[number]
            error = request.reply._error
            assert isinstance(error, DeadlinePassed) is (self.fate.get(number) == "expired")
            assert isinstance(error, Poisoned) is (self.fate.get(number) == "poisoned")


MailboxMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestMailboxModel = MailboxMachine.TestCase
