"""The in-process channel API: send requests, receive outcomes, in whatever order they finish.

The one thing to know: each request that :meth:`SigningChannel.send` accepted yields exactly one outcome. At most
``capacity`` requests are under way or wait to be received; a sender waits for room, never longer than its own
request's timeout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from manahsm.errors import InvalidRequest, Overloaded, ServiceStopping
from manahsm.requests import Outcome, SignRequest
from supervisors import Clock

__all__ = ["CAPACITY", "SigningChannel", "open_channel"]

CAPACITY = 1024
"""Requests that may be under way or wait to be received, where nothing else is said."""

_FINISHED = "this channel was finished: open another one"


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
        self._outcomes: deque[Outcome] = deque()
        self._changed = anyio.Event()
        self._finished_sending = False

    async def send(self, request: SignRequest) -> None:
        """Hand a request over; its outcome will come from :meth:`receive`.

        Raises:
            InvalidRequest: this is no request, or :meth:`finish` was called before it was accepted.
            Overloaded: no room came free within the request's timeout. It was not accepted.
        """
        self._check(request)
        with self._clock.move_on_after(request.timeout or self._default_timeout):
            await self._room.acquire()
            if self._finished_sending:  # while this one waited; nobody may be left to receive its outcome
                self._room.release()
                raise InvalidRequest(_FINISHED)
            self._start(request)
            return
        raise Overloaded("the channel is full: receive outcomes, or open it with a larger capacity")

    def send_nowait(self, request: SignRequest) -> None:
        """Hand a request over if there is room now.

        Raises:
            InvalidRequest: this is no request, or :meth:`finish` was called before.
            Overloaded: there is no room. It was not accepted.
        """
        self._check(request)
        try:
            self._room.acquire_nowait()
        except anyio.WouldBlock:
            raise Overloaded("the channel is full: receive outcomes, or open it with a larger capacity") from None
        self._start(request)

    def finish(self) -> None:
        """Say that nothing more is sent: :meth:`receive` ends after the last outcome."""
        self._finished_sending = True
        self._notify()

    async def receive(self) -> Outcome:
        """Wait for the next outcome, in the order in which requests finish.

        Raises:
            ServiceStopping: :meth:`finish` was called and every outcome was received.
        """
        while not self._outcomes:
            if self._finished_sending and not self._under_way:
                raise ServiceStopping("the channel is finished: every outcome was received")
            await self._changed.wait()
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

    def _check(self, request: SignRequest) -> None:
        if not isinstance(request, SignRequest):
            raise InvalidRequest(f"a channel takes SignRequest objects, not {type(request).__name__}")
        if self._finished_sending:
            raise InvalidRequest(_FINISHED)

    def _start(self, request: SignRequest) -> None:
        self._under_way += 1
        self._tasks.start_soon(self._run, request)

    async def _run(self, request: SignRequest) -> None:
        outcome = await self._answer(request)
        self._under_way -= 1
        self._outcomes.append(outcome)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


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
