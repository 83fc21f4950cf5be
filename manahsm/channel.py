"""The in-process channel API: send requests, receive outcomes, in whatever order they finish.

The one thing to know: each request that :meth:`SigningChannel.send` accepted yields exactly one outcome. At most
``capacity`` requests are under way or wait to be received; a sender waits for room, never longer than its own
request's timeout. Each request is under way in a task of its own; a task that is through takes the next request,
because making one costs five times what waking one does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from manahsm.errors import InvalidRequest, Overloaded, ServiceStopping
from manahsm.requests import Outcome, SignRequest
from manahsm.signing.changes import Changes
from supervisors import Clock
from supervisors.wakeup import Wakeup, new_wakeup

__all__ = ["CAPACITY", "SigningChannel", "open_channel"]

CAPACITY = 1024
"""Requests that may be under way or wait to be received, where nothing else is said."""

_FINISHED = "this channel was finished: open another one"
_FULL = "the channel is full: receive outcomes, or open it with a larger capacity"
_IN_A_ROW = 16  # requests sent before others get their turn: a millisecond, and enough to be signed together


class SigningChannel:
    """Made by :meth:`manahsm.Service.open_channel`. Use it from one event loop; any number of tasks may share it."""

    def __init__(
        self,
        answer: Callable[[SignRequest], Awaitable[Outcome]],
        tasks: TaskGroup,
        *,
        capacity: int,
        default_timeout: float,
        clock: Clock,
    ) -> None:
        self._answer = answer
        self._tasks = tasks
        self._room = anyio.Semaphore(capacity, max_value=capacity)
        self._default_timeout = default_timeout
        self._clock = clock
        self._under_way = 0
        self._in_a_row = 0
        self._taken: deque[SignRequest] = deque()  # by nobody yet
        self._idle: list[Wakeup] = []  # of tasks with nothing to do
        self._outcomes: deque[Outcome] = deque()
        self._changes = Changes()
        self._finished_sending = False

    async def send(self, request: SignRequest) -> None:
        """Hand a request over; its outcome will come from :meth:`receive`.

        Where there is room, this is a checkpoint for one request in 16 only.

        Raises:
            InvalidRequest: this is no request, or :meth:`finish` was called before it was accepted.
            Overloaded: no room came free within the request's timeout. It was not accepted.
        """
        self._in_a_row = (self._in_a_row + 1) % _IN_A_ROW
        if not self._in_a_row:
            await checkpoint()
        if not self._started(request):
            await self._start_when_there_is_room(request)

    def send_nowait(self, request: SignRequest) -> None:
        """Hand a request over if there is room now.

        Raises:
            InvalidRequest: this is no request, or :meth:`finish` was called before.
            Overloaded: there is no room. It was not accepted.
        """
        if not self._started(request):
            raise Overloaded(_FULL)

    def finish(self) -> None:
        """Say that nothing more is sent: :meth:`receive` ends after the last outcome."""
        self._finished_sending = True
        self._changes.notify()

    async def receive(self) -> Outcome:
        """Wait for the next outcome, in the order in which requests finish.

        Raises:
            ServiceStopping: :meth:`finish` was called and every outcome was received.
        """
        while not self._outcomes:
            if self._finished_sending and not self._under_way:
                raise ServiceStopping("the channel is finished: every outcome was received")
            await self._changes.wait_after(self._changes.version)
        self._room.release()
        return self._outcomes.popleft()

    async def __aiter__(self) -> AsyncIterator[Outcome]:
        """Yield outcomes until :meth:`finish` was called and the last one was received."""
        while True:
            try:
                outcome = await self.receive()
            except ServiceStopping:
                return
            yield outcome

    def _started(self, request: SignRequest) -> bool:
        """Begin a request, and return whether there was room for it."""
        if not isinstance(request, SignRequest):
            raise InvalidRequest(f"a channel takes SignRequest objects, not {type(request).__name__}")
        if self._finished_sending:
            raise InvalidRequest(_FINISHED)
        try:
            self._room.acquire_nowait()
        except anyio.WouldBlock:
            return False
        self._start(request)
        return True

    async def _start_when_there_is_room(self, request: SignRequest) -> None:
        with self._clock.move_on_after(request.timeout or self._default_timeout):
            await self._room.acquire()
            if self._finished_sending:  # while this one waited; nobody may be left to receive its outcome
                self._room.release()
                raise InvalidRequest(_FINISHED)
            self._start(request)
            return
        raise Overloaded(_FULL)

    def _start(self, request: SignRequest) -> None:
        self._under_way += 1
        self._taken.append(request)
        if self._idle:
            self._idle.pop().set()
        else:
            self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        """Answer one request after the other. There are never fewer tasks than requests."""
        while True:
            while self._taken:
                outcome = await self._answer(self._taken.popleft())
                self._under_way -= 1
                self._outcomes.append(outcome)
                self._changes.notify()
            wakeup = new_wakeup()
            self._idle.append(wakeup)
            await wakeup.wait()


@asynccontextmanager
async def open_channel(
    answer: Callable[[SignRequest], Awaitable[Outcome]],
    *,
    capacity: int,
    default_timeout: float,
    clock: Clock,
) -> AsyncIterator[SigningChannel]:
    """Open a channel around ``answer``. Leaving the context cancels what is still under way."""
    async with anyio.create_task_group() as tasks:
        yield SigningChannel(answer, tasks, capacity=capacity, default_timeout=default_timeout, clock=clock)
        tasks.cancel_scope.cancel()
