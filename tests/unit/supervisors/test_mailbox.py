"""Mailboxes: order, limits, deadlines, custody, and nothing lost whatever is cancelled when."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from supervisors import (
    Abandoned,
    Backoff,
    ChildContext,
    ChildSpec,
    DeadlinePassed,
    Intensity,
    Mailbox,
    MailboxClosed,
    MailboxFull,
    Poisoned,
    Receiver,
    Reply,
    ReplyState,
    Request,
    Supervisor,
)
from supervisors.exits import cause_of
from supervisors.testing import ManualClock, settle

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def box(clock: ManualClock) -> Mailbox:
    return Mailbox("box", 3, clock)


def send(box: Mailbox, *payloads: Any, timeout: float | None = None) -> list[Request]:
    clock = box._clock
    requests = [
        Request(payload, deadline=None if timeout is None else clock.now() + timeout, clock=clock)
        for payload in payloads
    ]
    for request in requests:
        box.send_nowait(request)
    return requests


def take(box: Mailbox, holder: str, count: int = 1) -> list[Any]:
    taken = [box.receive_nowait(holder) for _ in range(count)]
    return [None if request is None else request.payload for request in taken]


async def test_requests_are_received_in_the_order_in_which_they_were_sent(box: Mailbox) -> None:
    send(box, 1, 2, 3)
    assert [(await box.receive("w")).payload for _ in range(3)] == [1, 2, 3]
    assert (len(box), box.held) == (0, 3)


async def test_a_full_mailbox_refuses(box: Mailbox) -> None:
    send(box, 1, 2, 3)
    with pytest.raises(MailboxFull, match=r"'box' is full \(3 requests wait\)"):
        send(box, 4)
    take(box, "w")
    send(box, 4)
    assert box.stats().refused == 1


async def test_a_receiver_that_waits_is_handed_the_next_request(box: Mailbox) -> None:
    async with anyio.create_task_group() as tg:

        async def worker() -> None:
            request = await box.receive("w")
            request.reply.succeed(request.payload * 2)

        tg.start_soon(worker)
        await settle()
        assert box.waiting_receivers == 1
        assert await box.ask(21, timeout=1) == 42
    assert (len(box), box.held, box.waiting_receivers) == (0, 0, 0)


async def test_receivers_are_served_in_the_order_in_which_they_came(box: Mailbox) -> None:
    served: list[tuple[str, int]] = []

    async def worker(name: str) -> None:
        request = await box.receive(name)
        served.append((name, request.payload))

    async with anyio.create_task_group() as tg:
        for name in ("first", "second", "third"):
            tg.start_soon(worker, name)
            await settle()
        send(box, 1, 2, 3)
    assert sorted(served) == [("first", 1), ("second", 2), ("third", 3)]


async def test_a_receiver_that_is_cancelled_as_it_is_handed_a_request_loses_nothing(box: Mailbox) -> None:
    scopes: list[anyio.CancelScope] = []
    got: list[tuple[str, int]] = []

    async def worker(name: str) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            got.append((name, (await box.receive(name)).payload))

    async with anyio.create_task_group() as tg:
        tg.start_soon(worker, "cancelled")
        await settle()
        tg.start_soon(worker, "next")
        await settle()
        send(box, "precious")
        scopes[0].cancel()  # in the same turn: it has been handed the request, and has not run since
        await settle()
        tg.cancel_scope.cancel()
    # A loop may also let the first one have it, if it was woken before it was cancelled; it is never lost.
    assert got in ([("next", "precious")], [("cancelled", "precious")])


async def test_a_request_handed_to_a_receiver_that_was_just_cancelled_goes_to_the_next(
    box: Mailbox,
) -> None:
    scopes: list[anyio.CancelScope] = []
    got: list[tuple[str, str]] = []

    async def worker(name: str) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            got.append((name, (await box.receive(name)).payload))

    async with anyio.create_task_group() as tg:
        tg.start_soon(worker, "cancelled")
        await settle()
        tg.start_soon(worker, "next")
        await settle()
        scopes[0].cancel()
        (request,) = send(box, "precious")  # in the same turn: the receiver is still in line
        assert box.holds_of("cancelled") == (request,)
    assert got == [("next", "precious")]
    assert request.attempts == 0


async def test_a_cancelled_receiver_is_not_in_line_any_more(box: Mailbox) -> None:
    with anyio.move_on_after(0):
        await box.receive("w")
    assert box.waiting_receivers == 0
    send(box, 1)
    assert take(box, "w") == [1]


async def test_a_receiver_that_never_waits_elsewhere_still_lets_others_run() -> None:
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await anyio.lowlevel.checkpoint()

    big = Mailbox("big", 1000)
    send(big, *range(1000))
    async with anyio.create_task_group() as tg:
        tg.start_soon(other)
        for _ in range(1000):
            (await big.receive("w")).reply.succeed(None)
        tg.cancel_scope.cancel()
    assert others > 100


async def test_a_request_whose_caller_has_left_is_not_received(box: Mailbox) -> None:
    first, _second = send(box, "abandoned", "wanted")
    assert first.reply.abandon()
    assert take(box, "w", 2) == ["wanted", None]
    assert box.stats().abandoned == 1
    assert not first.reply.succeed("too late")
    with pytest.raises(Abandoned):
        await first.reply.wait()


async def test_a_cancelled_caller_abandons_its_request(box: Mailbox) -> None:
    async with anyio.create_task_group() as tg:
        tg.start_soon(lambda: box.ask("x", timeout=None))
        await settle()
        assert len(box) == 1
        tg.cancel_scope.cancel()
    assert (len(box), take(box, "w")) == (0, [None])


async def test_an_overdue_request_is_failed_instead_of_received(box: Mailbox, clock: ManualClock) -> None:
    late, good = send(box, "late", timeout=1) + send(box, "good", timeout=5)
    clock.advance(1)
    assert late.overdue
    assert take(box, "w", 2) == ["good", None]
    with pytest.raises(DeadlinePassed, match="in mailbox 'box'"):
        late.reply.result()
    assert not good.reply.done
    assert box.stats().expired == 1


async def test_the_caller_is_answered_at_its_deadline_though_nobody_receives(box: Mailbox, clock: ManualClock) -> None:
    async def caller() -> None:
        with pytest.raises(DeadlinePassed):
            await box.ask("x", timeout=2)

    async with anyio.create_task_group() as tg:
        tg.start_soon(caller)
        await clock.run_for(1.9)
        assert len(box) == 1
        await clock.run_for(0.1)
    assert len(box) == 0


async def test_the_caller_is_answered_at_its_deadline_though_the_holder_hangs(box: Mailbox, clock: ManualClock) -> None:
    async def caller() -> None:
        with pytest.raises(DeadlinePassed):
            await box.ask("x", timeout=2)

    async with anyio.create_task_group() as tg:
        tg.start_soon(caller)
        request = await box.receive("hanging")
        await clock.run_for(2)
        assert box.held == 0  # a reply that is resolved needs no custodian
        assert not request.reply.succeed("late")


async def test_overdue_requests_make_room_in_a_full_mailbox(box: Mailbox, clock: ManualClock) -> None:
    send(box, 1, 2, timeout=1)
    send(box, 3, timeout=9)
    clock.advance(1)
    send(box, 4, timeout=9)
    assert take(box, "w", 3) == [3, 4, None]


async def test_a_full_mailbox_with_nothing_overdue_stays_full(box: Mailbox, clock: ManualClock) -> None:
    send(box, 1, timeout=1)
    send(box, 2, 3)
    clock.advance(1)
    send(box, 4)
    clock.advance(10)
    with pytest.raises(MailboxFull):
        send(box, 5)


async def test_abandoned_requests_do_not_pile_up_in_a_mailbox_without_receivers() -> None:
    box = Mailbox("unattended", 10)
    for number in range(1000):
        send(box, number)[0].reply.abandon()
    assert len(box._line._requests) < 50
    assert (len(box), box.stats().abandoned) == (0, 1000)


async def test_what_a_holder_had_goes_back_to_its_place(box: Mailbox) -> None:
    send(box, 1, 2, 3)
    assert take(box, "crasher", 2) == [1, 2]
    send(box, 4)
    assert box.give_back("crasher") == 2
    assert take(box, "other", 5) == [1, 2, 3, 4, None]


async def test_what_several_holders_had_goes_back_in_order_of_arrival(box: Mailbox) -> None:
    requests = send(box, 1, 2, 3)
    taken = [box.receive_nowait(holder) for holder in ("a", "b", "a")]
    assert taken == requests
    box.give_back("b")
    box.give_back("a")
    assert take(box, "w", 3) == [1, 2, 3]


async def test_a_request_that_was_given_back_is_not_refused_by_a_full_mailbox(box: Mailbox) -> None:
    send(box, 1, 2, 3)
    take(box, "crasher", 3)
    send(box, 4, 5, 6)
    assert box.give_back("crasher") == 3
    assert len(box) == 6
    with pytest.raises(MailboxFull):
        send(box, 7)


async def test_a_request_that_outlives_too_many_holders_is_poison(box: Mailbox) -> None:
    (request,) = send(box, "bad")
    for attempt in range(3):
        assert request.attempts == attempt
        assert take(box, "w") == ["bad"]
        box.give_back("w", LookupError("again"))
    with pytest.raises(Poisoned, match=r"every one of 3 holders failed.*LookupError: again") as caught:
        await request.wait()
    assert isinstance(caught.value.cause, LookupError)
    assert (len(box), box.held, box.stats().poisoned) == (0, 0, 1)


async def test_poison_names_no_cause_where_none_is_known() -> None:
    box = Mailbox("box", 1, max_attempts=1)
    (request,) = send(box, "bad")
    take(box, "w")
    assert box.give_back("w") == 0
    with pytest.raises(Poisoned, match=r"had this request$"):
        request.reply.result()


async def test_one_request_can_be_given_back_without_counting(box: Mailbox) -> None:
    (request,) = send(box, "x")
    for _ in range(10):
        take(box, "w")
        assert box.give_back_one(request, count_attempt=False)
    assert request.attempts == 0
    take(box, "w")
    assert box.give_back_one(request)
    assert request.attempts == 1


async def test_what_a_stopped_holder_had_is_given_back_without_counting(box: Mailbox) -> None:
    first, second = send(box, 1, 2)
    for _ in range(10):
        take(box, "w", 2)
        assert box.give_back("w", count_attempt=False) == 2
    assert (first.attempts, second.attempts) == (0, 0)


async def test_what_is_given_back_is_handed_to_a_receiver_that_waits(box: Mailbox) -> None:
    send(box, 1, 2)
    take(box, "crasher", 2)
    got: list[int] = []

    async def worker(name: str) -> None:
        got.append((await box.receive(name)).payload)

    async with anyio.create_task_group() as tg:
        tg.start_soon(worker, "w1")
        tg.start_soon(worker, "w2")
        await settle()
        box.give_back("crasher")
    assert sorted(got) == [1, 2]
    assert len(box) == 0


async def test_an_answered_request_is_not_given_back(box: Mailbox) -> None:
    first, second = send(box, 1, 2)
    take(box, "w", 2)
    first.reply.succeed("done")
    assert box.give_back("w") == 1
    assert take(box, "v", 2) == [2, None]
    assert second.attempts == 1


async def test_a_late_answer_of_a_holder_that_was_given_up_still_counts_if_it_is_the_first(
    box: Mailbox,
) -> None:
    (request,) = send(box, 1)
    take(box, "wedged")
    box.give_back("wedged")
    take(box, "replacement")
    assert request.reply.succeed("from the wedged one")
    assert not request.reply.succeed("from the replacement")
    assert box.held == 0
    assert await request.wait() == "from the wedged one"


async def test_a_handed_request_that_ends_before_its_receiver_runs_keeps_the_receiver_in_line(
    box: Mailbox,
) -> None:
    got: list[tuple[str, Any]] = []

    async def worker(name: str) -> None:
        got.append((name, (await box.receive(name)).payload))

    async with anyio.create_task_group() as tg:
        tg.start_soon(worker, "first")
        await settle()
        tg.start_soon(worker, "second")
        await settle()
        send(box, "gone")[0].reply.abandon()  # in the same turn
        await settle()
        assert box.waiting_receivers == 2
        send(box, "a", "b")
    assert sorted(got) == [("first", "a"), ("second", "b")]


async def test_a_handed_request_that_was_given_back_before_its_receiver_runs_is_not_received_twice(
    box: Mailbox,
) -> None:
    got: list[tuple[str, Any]] = []

    async def worker(name: str) -> None:
        got.append((name, (await box.receive(name)).payload))

    async with anyio.create_task_group() as tg:
        tg.start_soon(worker, "first")
        await settle()
        tg.start_soon(worker, "second")
        await settle()
        send(box, "x")
        assert box.give_back("first") == 1  # in the same turn; the second is handed it
        await settle()
        assert got == [("second", "x")]
        assert box.waiting_receivers == 1
        send(box, "y")
    assert got == [("second", "x"), ("first", "y")]


async def test_a_handed_request_that_is_overdue_when_its_receiver_runs_is_failed(
    box: Mailbox, clock: ManualClock
) -> None:
    got: list[Any] = []

    async def worker() -> None:
        got.append((await box.receive("w")).payload)

    async with anyio.create_task_group() as tg:
        tg.start_soon(worker)
        await settle()
        (late,) = send(box, "late", timeout=1)
        clock.advance(2)
        await settle()
        assert isinstance(late.reply._error, DeadlinePassed)
        assert box.waiting_receivers == 1
        send(box, "good")
    assert got == ["good"]


async def test_release_and_reclaim_end_custody_for_another_mailbox(box: Mailbox) -> None:
    one, two, three = send(box, 1, 2, 3)
    take(box, "w", 3)
    box.release(two)
    other = Mailbox("other", 5)
    other.send_nowait(two)
    assert box.reclaim("w") == (one, three)
    assert box.held == 0
    with pytest.raises(ValueError, match="not in custody"):
        box.release(one)
    other.send_nowait(one)
    with pytest.raises(ValueError, match="in a mailbox already"):
        box.send_nowait(one)
    assert take(other, "v", 2) == [2, 1]


async def test_an_answered_request_can_not_be_sent(box: Mailbox) -> None:
    request = Request("x")
    request.reply.succeed(1)
    with pytest.raises(ValueError, match="was answered"):
        box.send_nowait(request)


async def test_closing_fails_what_is_queued_and_wakes_receivers(box: Mailbox) -> None:
    held, queued = send(box, "held", "queued")
    take(box, "w")
    assert box.close(lambda: LookupError("over")) == 1
    with pytest.raises(LookupError, match="over"):
        queued.reply.result()
    assert not held.reply.done
    box.give_back("w")  # what comes back after the end fails too
    with pytest.raises(LookupError, match="over"):
        held.reply.result()
    with pytest.raises(MailboxClosed):
        send(box, "new")
    with pytest.raises(MailboxClosed):
        await box.receive("w")
    assert box.closed


async def test_closing_can_fail_what_is_held(box: Mailbox) -> None:
    held = send(box, "held")[0]
    take(box, "w")
    assert box.close(held=True) == 1
    with pytest.raises(MailboxClosed, match="was closed"):
        held.reply.result()
    assert box.held == 0


async def test_closing_wakes_receivers_that_wait(box: Mailbox) -> None:
    async def worker() -> None:
        with pytest.raises(MailboxClosed):
            await box.receive("w")

    async with anyio.create_task_group() as tg:
        tg.start_soon(worker)
        tg.start_soon(worker)
        await settle()
        box.close()


async def test_a_sealed_mailbox_refuses_the_new_and_serves_the_old(box: Mailbox) -> None:
    first, second = send(box, 1, 2)
    drained = False

    async def wait() -> None:
        nonlocal drained
        await box.drained()
        drained = True

    async with anyio.create_task_group() as tg:
        box.seal()
        with pytest.raises(MailboxClosed):
            send(box, 3)
        tg.start_soon(wait)
        take(box, "w", 2)
        await settle()
        first.reply.succeed(None)
        await settle()
        assert not drained
        second.reply.succeed(None)
        await settle()
        assert drained
    await box.drained()


async def test_only_one_task_waits_for_a_reply(box: Mailbox) -> None:
    (request,) = send(box, 1)
    async with anyio.create_task_group() as tg:
        tg.start_soon(request.wait)
        await settle()
        with pytest.raises(RuntimeError, match="two tasks"):
            await request.wait()
        request.reply.succeed(None)


async def test_a_reply_is_resolved_once() -> None:
    reply = Reply()
    with pytest.raises(RuntimeError, match="no answer yet"):
        reply.result()
    assert reply.fail(LookupError("first"))
    assert not reply.fail(LookupError("second"))
    assert not reply.succeed(1)
    assert not reply.abandon()
    assert (reply.state, reply.done, reply.abandoned) == (ReplyState.FAILED, True, False)
    with pytest.raises(LookupError, match="first"):
        await reply.wait()


async def test_an_answer_at_the_very_deadline_is_not_lost(box: Mailbox, clock: ManualClock) -> None:
    async def caller() -> None:
        assert await box.ask("x", timeout=2) == "just in time"

    async with anyio.create_task_group() as tg:
        tg.start_soon(caller)
        request = await box.receive("w")
        await settle()
        clock.advance(2)
        request.reply.succeed("just in time")  # before the caller runs


async def test_a_mailbox_needs_room_and_attempts() -> None:
    with pytest.raises(ValueError, match="capacity"):
        Mailbox("m", 0)
    with pytest.raises(ValueError, match="max_attempts"):
        Mailbox("m", 1, max_attempts=0)
    assert Mailbox("m", 1)  # an empty one is true


def test_a_mailbox_needs_no_running_loop() -> None:
    box = Mailbox("m", 1)
    reply = box.send_nowait(Request("x"))
    assert take(box, "w") == ["x"]
    reply.succeed(1)
    assert repr(box) == "<Mailbox 'm': 0/1 queued, 0 held>"
    assert repr(reply) == "<Reply succeeded>"
    assert repr(Request("secret")) == "<Request, pending, 0 attempts>"


async def test_every_request_ends_once_while_workers_crash_and_are_cancelled() -> None:
    """Many callers, workers that crash at every third request: each call gets its own answer, or Poisoned."""
    box = Mailbox("busy", 1000, max_attempts=4)
    handled = 0

    async def worker(context: ChildContext) -> None:
        nonlocal handled
        context.started()
        while True:
            request = await box.receive(context.name)
            handled += 1
            await anyio.lowlevel.checkpoint()
            if handled % 3 == 0:
                raise LookupError("every third")
            request.reply.succeed(request.payload)

    specs = [
        ChildSpec(f"w{n}", worker, on_exit=lambda exit_, n=n: box.give_back(f"w{n}", cause_of(exit_))) for n in range(4)
    ]
    answers: list[object] = []

    async def caller(number: int) -> None:
        try:
            answers.append(await box.ask(number, timeout=60) == number)
        except Poisoned:
            answers.append("poisoned")

    top = Supervisor("top", specs, intensity=Intensity.unlimited(), backoff=Backoff.none())
    async with top.running(), anyio.create_task_group() as tg:
        for number in range(300):
            tg.start_soon(caller, number)
    assert len(answers) == 300
    assert False not in answers
    stats = box.stats()
    assert (stats.queued, stats.held, stats.sent) == (0, 0, 300)
    assert answers.count("poisoned") == stats.poisoned


# ---- receivers without a task, and those in reserve: they have something in hand already ----


def line_up(box: Mailbox, got: list[tuple[str, Any]], holder: str, *, reserve: bool = False) -> Receiver:
    return box.line_up(holder, lambda request: got.append((holder, request.payload)), reserve=reserve)


def test_a_receiver_without_a_task_is_served_in_the_moment_of_sending_and_once(box: Mailbox) -> None:
    got: list[tuple[str, Any]] = []
    line_up(box, got, "a")
    send(box, 1, 2)
    assert (got, len(box), box.held) == ([("a", 1)], 1, 1)


async def test_receivers_with_and_without_a_task_are_served_in_the_order_in_which_they_came(box: Mailbox) -> None:
    got: list[tuple[str, Any]] = []

    async def receive(holder: str) -> None:
        got.append((holder, (await box.receive(holder)).payload))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive, "first")
        await settle()
        line_up(box, got, "second")
        tasks.start_soon(receive, "third")
        await settle()
        send(box, 1, 2, 3)
    assert sorted(got) == [("first", 1), ("second", 2), ("third", 3)]


def test_a_receiver_that_left_is_handed_nothing(box: Mailbox) -> None:
    got: list[tuple[str, Any]] = []
    for reserve in (False, True):
        box.leave(line_up(box, got, "gone", reserve=reserve))
    send(box, 1)
    assert (got, len(box)) == ([], 1)


def test_leaving_after_having_been_served_is_harmless(box: Mailbox) -> None:
    receiver = line_up(box, [], "a")
    send(box, 1)
    box.leave(receiver)
    assert box.held == 1


def test_a_receiver_in_reserve_is_served_after_those_that_came_later(box: Mailbox) -> None:
    got: list[tuple[str, Any]] = []
    line_up(box, got, "busy", reserve=True)
    line_up(box, got, "free")
    assert box.waiting_receivers == 1
    send(box, 1, 2)
    assert got == [("free", 1), ("busy", 2)]


def test_a_request_that_comes_back_goes_to_the_reserve_where_nobody_else_waits(box: Mailbox) -> None:
    got: list[tuple[str, Any]] = []
    (request,) = send(box, 1)
    take(box, "failing")
    line_up(box, got, "busy", reserve=True)
    box.give_back_one(request)
    assert got == [("busy", 1)]


def test_a_closed_mailbox_forgets_receivers_without_a_task(box: Mailbox) -> None:
    got: list[tuple[str, Any]] = []
    line_up(box, got, "a")
    line_up(box, got, "b", reserve=True)
    box.close()
    assert (box.waiting_receivers, got) == (0, [])
