"""A bounded inbox that outlives its workers, with custody of what they hold.

The one thing to know: every request ends exactly once. A worker that receives a request holds it *in custody*
until its reply is resolved. When the worker dies, whoever supervises it calls :meth:`Mailbox.give_back` (the
``on_exit`` hook of its spec is the place), and what it held goes back to the queue, ahead of everything that
came later, to be received by another. A request that outlives ``max_attempts`` holders is poison and fails.

    caller:  reply = mailbox.send_nowait(Request(payload, deadline=clock.now() + 2, clock=clock)); await
        reply.wait()
    worker:  request = await mailbox.receive("worker-1"); request.reply.succeed(do(request.payload))

Like everything here it is not thread-safe: use it from one event loop.
"""

# ruff: noqa: SLF001 - a mailbox and the replies in it are two halves of one thing

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from attrs import define, frozen

from supervisors.arrivals import Custody, Line
from supervisors.clock import SYSTEM_CLOCK, Clock
from supervisors.errors import DeadlinePassed, MailboxClosed, MailboxFull, Poisoned
from supervisors.reply import Reply, Request
from supervisors.wakeup import new_wakeup

__all__ = ["Mailbox", "MailboxStats", "Receiver"]


@frozen(kw_only=True)
class MailboxStats:
    """Counts of one mailbox. The first four are of the moment, the others since it was made.

    Attributes:
        name: the mailbox.
        capacity: most requests that may wait.
        queued: requests that wait for a receiver.
        held: requests that receivers hold.
        waiting_receivers: receivers that wait for a request, without those in reserve.
        sent: requests taken in.
        refused: requests refused because the mailbox was full or closed.
        received: requests handed out, again after a return included.
        expired: requests that met their deadline in the queue.
        abandoned: requests whose caller left while they were queued.
        returned: requests given back by or for their holders.
        poisoned: requests given up after too many holders.
    """

    name: str
    capacity: int
    queued: int
    held: int
    waiting_receivers: int
    sent: int
    refused: int
    received: int
    expired: int
    abandoned: int
    returned: int
    poisoned: int


@define(eq=False)
class Receiver:
    """A place in line, from :meth:`Mailbox.line_up`. It is served once."""

    holder: str
    take: Callable[[Request], object]
    closed: Callable[[], object]


class _Handed:
    """What a task that waits in line was handed, if it was."""

    __slots__ = ("handout", "request", "wakeup")

    def __init__(self) -> None:
        self.wakeup = new_wakeup()
        self.request: Request | None = None
        self.handout = 0

    def take(self, request: Request) -> None:
        self.request = request
        self.handout = request.reply._handout
        self.wakeup.set()


def _nothing() -> None:
    """What those without a task do when a mailbox is closed."""


class Mailbox:
    """A bounded first-in-first-out queue of requests.

    The queue is always in order of arrival: what comes back takes its old place. Requests in custody keep
    room reserved for no one, so a request that comes back is never refused, even where the queue is full by
    then.

    Args:
        name: for errors and counts.
        capacity: most requests that may wait, 1 or more; those in custody do not count.
        clock: whose time the requests' deadlines are.
        max_attempts: most holders that a request may outlive before it fails with ``Poisoned``.
    """

    def __init__(self, name: str, capacity: int, clock: Clock = SYSTEM_CLOCK, *, max_attempts: int = 3) -> None:
        if capacity < 1:
            raise ValueError(f"mailbox {name!r}: capacity must be 1 or more, not {capacity}")
        if max_attempts < 1:
            raise ValueError(f"mailbox {name!r}: max_attempts must be 1 or more, not {max_attempts}")
        self.name = name
        self.capacity = capacity
        self.max_attempts = max_attempts
        self._clock = clock
        self._line = Line()
        self._custody = Custody()
        self._receivers: deque[Receiver] = deque()
        self._reserve: deque[Receiver] = deque()  # served only where nobody else waits
        self._arrivals = 0
        self._closed: Callable[[], Exception] | None = None
        self._sealed = False
        self._drained: anyio.Event | None = None
        self._sent = self._refused = self._expired = 0
        self._abandoned = self._returned = self._poisoned = 0

    def __repr__(self) -> str:
        return f"<Mailbox {self.name!r}: {len(self._line)}/{self.capacity} queued, {len(self._custody)} held>"

    def __len__(self) -> int:
        """Requests that wait for a receiver."""
        return len(self._line)

    def __bool__(self) -> bool:
        return True  # an empty mailbox is a mailbox

    @property
    def held(self) -> int:
        """Requests in custody of receivers."""
        return len(self._custody)

    @property
    def waiting_receivers(self) -> int:
        """Receivers that wait for a request, without those in reserve."""
        return len(self._receivers)

    @property
    def closed(self) -> bool:
        """Whether :meth:`seal` or :meth:`close` was called: nothing can be sent any more."""
        return self._sealed

    def holds_of(self, holder: str) -> tuple[Request, ...]:
        """Return what ``holder`` has in custody, in order of arrival."""
        return self._custody.of(holder)

    def stats(self) -> MailboxStats:
        """Return all counts."""
        return MailboxStats(
            name=self.name,
            capacity=self.capacity,
            queued=len(self._line),
            held=len(self._custody),
            waiting_receivers=len(self._receivers),
            sent=self._sent,
            refused=self._refused,
            received=self._custody.handouts,
            expired=self._expired,
            abandoned=self._abandoned,
            returned=self._returned,
            poisoned=self._poisoned,
        )

    # ---- sending ----

    def send_nowait(self, request: Request) -> Reply:
        """Queue a request, or hand it to the receiver that has waited longest; return its reply.

        Raises:
            MailboxFull: ``capacity`` requests wait.
            MailboxClosed: the mailbox was sealed or closed.
            ValueError: the request is queued or held somewhere, or resolved already.
        """
        reply = request.reply
        if reply.done or reply._custodian is not None:
            raise ValueError("this request was answered, or it is in a mailbox already; make a new one")
        if self._sealed:
            self._refused += 1
            raise MailboxClosed(f"mailbox {self.name!r} is closed")
        if len(self._line) >= self.capacity and not self._drop_expired():
            self._refused += 1
            raise MailboxFull(f"mailbox {self.name!r} is full ({self.capacity} requests wait)")
        self._sent += 1
        self._arrivals += 1
        reply._arrival = self._arrivals
        reply._custodian = self
        receivers = self._receivers or self._reserve
        if receivers:
            receiver = receivers.popleft()
            self._custody.take(request, receiver.holder)
            receiver.take(request)
        else:
            self._line.put(request)
        return reply

    async def ask(self, payload: Any, *, timeout: float | None) -> Any:  # noqa: ASYNC109 - a deadline of the request
        """Send ``payload`` and wait for the answer, at most ``timeout`` seconds (``None``: for ever).

        Raises:
            MailboxFull, MailboxClosed: it was not taken in.
            DeadlinePassed: there was no answer in time.
            Poisoned: too many holders failed while they held it.
            Exception: what the worker failed the request with.
        """
        deadline = None if timeout is None else self._clock.now() + timeout
        return await self.send_nowait(Request(payload, deadline=deadline, clock=self._clock)).wait()

    # ---- receiving ----

    async def receive(self, holder: str) -> Request:
        """Wait for a request that somebody still waits for; it is then in custody of ``holder``.

        Receivers are served in the order in which they came. A receiver that is cancelled loses nothing.

        Raises:
            MailboxClosed: the mailbox is closed.
        """
        if self._line:
            # Others get their turn before anything is taken: a cancellation here has nothing to lose, and a
            # worker that never waits elsewhere can not starve the loop.
            await checkpoint()
        request = self.receive_nowait(holder)
        line_up = self._receivers.append
        while request is None:
            if self._closed is not None:
                raise MailboxClosed(f"mailbox {self.name!r} is closed")
            handed = _Handed()
            receiver = Receiver(holder, handed.take, handed.wakeup.set)
            line_up(receiver)
            try:
                await handed.wakeup.wait()
            except BaseException:
                self.leave(receiver)
                if (request := self._still_held(handed)) is not None:  # in the same moment: it goes to the next
                    self.give_back_one(request, count_attempt=False)
                raise
            request = self._still_held(handed) or self.receive_nowait(holder)
            line_up = self._receivers.appendleft  # what it was handed has ended meanwhile: its turn is still its own
        return request

    def receive_nowait(self, holder: str) -> Request | None:
        """Return a request that somebody still waits for, in custody of ``holder``, or ``None``."""
        while (request := self._line.first()) is not None:
            if not self._expire(request):
                self._line.take_first()
                self._custody.take(request, holder)
                return request
        return None

    def line_up(self, holder: str, take: Callable[[Request], object], *, reserve: bool = False) -> Receiver:
        """Have ``take`` called with the next request, once, in the moment in which it is sent or comes back.

        For a receiver without a task. It waits as those do that :meth:`receive`, behind those who came before;
        whether something is queued already it asks :meth:`receive_nowait` before. A mailbox that is closed forgets it.

        Args:
            holder: in whose custody the request then is.
            take: must not raise; it runs in the sender's task, and the sender waits for it.
            reserve: be served only while no other receiver waits: for one that has something in hand already.

        Returns:
            The place in line, for :meth:`leave`.
        """
        receiver = Receiver(holder, take, _nothing)
        (self._reserve if reserve else self._receivers).append(receiver)
        return receiver

    def leave(self, receiver: Receiver) -> None:
        """Give a place in line up; harmless when it was served."""
        for line in (self._receivers, self._reserve):
            with suppress(ValueError):
                line.remove(receiver)

    # ---- custody ----

    def release(self, request: Request) -> None:
        """End the custody of an unresolved request without an answer: it now belongs to the caller of this.

        Raises:
            ValueError: it is not in custody here.
        """
        self._end_custody(request)
        request.reply._custodian = None
        self._check_drained()

    def give_back(self, holder: str, cause: BaseException | None = None, *, count_attempt: bool = True) -> int:
        """Put everything unresolved that ``holder`` has back into the queue, in order of arrival.

        For a holder that has ended. If it failed, each request's ``attempts`` grows by one; one that was handed out
        ``max_attempts`` times fails with ``Poisoned``.

        Args:
            holder: who held them.
            cause: why it failed, for ``Poisoned``.
            count_attempt: ``False`` where it did not fail, but was stopped.

        Returns:
            How many requests went back to the queue.
        """
        requests = self.holds_of(holder)
        for request in requests:
            self._end_custody(request)
        # All of them before anyone is served, or the second of them could be handed out ahead of the first.
        back = sum([self._put_back(request, cause, count_attempt=count_attempt) for request in requests])
        self._serve_receivers()
        self._check_drained()
        return back

    def give_back_one(
        self, request: Request, cause: BaseException | None = None, *, count_attempt: bool = True
    ) -> bool:
        """Put one request that is in custody back into the queue.

        Args:
            request: which.
            cause: why, for ``Poisoned``.
            count_attempt: ``False`` where the holder has not even tried it.

        Returns:
            Whether it went back to the queue.

        Raises:
            ValueError: it is not in custody here.
        """
        self._end_custody(request)
        back = self._put_back(request, cause, count_attempt=count_attempt)
        self._serve_receivers()
        self._check_drained()
        return back

    def reclaim(self, holder: str) -> tuple[Request, ...]:
        """End the custody of everything unresolved that ``holder`` has, and return it in order of arrival.

        Unlike :meth:`give_back` nothing is queued: for whoever wants to send it elsewhere.
        """
        requests = self.holds_of(holder)
        for request in requests:
            self.release(request)
        return requests

    # ---- the end ----

    def seal(self) -> None:
        """Refuse new requests; what is in the mailbox is still received and answered. See :meth:`drained`."""
        self._sealed = True

    async def drained(self) -> None:
        """Wait until nothing is queued and nothing held."""
        while self._line or self._custody:
            if self._drained is None:
                self._drained = anyio.Event()
            await self._drained.wait()

    def close(self, error: Callable[[], Exception] | None = None, *, held: bool = False) -> int:
        """Refuse new requests, and fail everything queued.

        Args:
            error: makes the exception for each request; ``MailboxClosed`` if not given.
            held: fail what receivers hold, too. Otherwise they may still answer it; what comes back fails.

        Returns:
            How many requests failed by this.
        """
        self._sealed = True
        self._closed = error or self._closed or (lambda: MailboxClosed(f"mailbox {self.name!r} was closed"))
        failed = 0
        for request in self._line.take_all():
            request.reply._custodian = None
            failed += request.reply.fail(self._closed())
        if held:
            for request in self._custody.everything():
                failed += request.reply.fail(self._closed())
        for line in (self._receivers, self._reserve):
            while line:
                line.popleft().closed()
        self._check_drained()
        return failed

    # ---- inside; replies and mailboxes are two halves of one thing, so they see each other's private parts
    # ----

    def _settled(self, reply: Reply) -> None:
        """Take note that a reply in this mailbox was resolved; called by the reply itself."""
        if reply._holder is None:
            self._line.resolved()
            self._abandoned += reply.abandoned
            self._expired += isinstance(reply._error, DeadlinePassed)
        else:
            self._custody.end(reply)
        self._check_drained()

    def _expire(self, request: Request) -> bool:
        """Fail a pending request whose deadline has passed, and return whether it had."""
        if request.deadline is None or self._clock.now() < request.deadline:
            return False
        return request.reply.fail(DeadlinePassed(f"the deadline passed in mailbox {self.name!r}"))

    def _drop_expired(self) -> bool:
        """Fail everything queued that is overdue, and return whether there is room now."""
        if not self._line.may_have_expired(self._clock.now()):
            return False  # so that a full mailbox refuses at once, instead of looking at all it has each time
        for request in self._line:
            self._expire(request)
        self._line.looked_through()
        return len(self._line) < self.capacity

    def _end_custody(self, request: Request) -> None:
        reply = request.reply
        if reply._custodian is not self or reply._holder is None:
            raise ValueError(f"this request is not in custody of mailbox {self.name!r}")
        self._custody.end(reply)

    def _put_back(self, request: Request, cause: BaseException | None, *, count_attempt: bool) -> bool:
        """Queue a request that has just left custody, or fail it if it may not be tried again."""
        reply = request.reply
        request.attempts += count_attempt
        self._returned += 1
        if self._closed is not None or request.attempts >= self.max_attempts:
            reply._custodian = None
            self._poisoned += self._closed is None
            reply.fail(self._closed() if self._closed is not None else Poisoned(request.attempts, cause))
            return False
        self._line.put(request)
        return True

    def _serve_receivers(self) -> None:
        """Hand what is queued to those that wait."""
        while receivers := self._receivers or self._reserve:
            receiver = receivers[0]
            request = self.receive_nowait(receiver.holder)
            if request is None:
                return
            receivers.popleft()
            receiver.take(request)

    def _still_held(self, handed: _Handed) -> Request | None:
        """Return what a receiver was handed, if it is still its own and still wanted."""
        request = handed.request
        if request is None or request.reply._custodian is not self or request.reply._handout != handed.handout:
            return None
        return None if self._expire(request) else request

    def _check_drained(self) -> None:
        if self._drained is not None and not self._line and not self._custody:
            self._drained.set()
            self._drained = None
