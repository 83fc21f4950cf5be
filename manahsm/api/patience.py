"""Coming back to a node that has had enough: calls of our own wait when it answers 429 (RFC 6585), and ask again.

The one thing to know: nobody waits beyond the deadline of the request that they do. Where the node asks for more time
than is left, or there is no deadline, its refusal goes to the caller at once, and says when to come back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from manahsm.api.downstream import Throttled
from manahsm.logs import get_logger
from supervisors import SYSTEM_CLOCK, Backoff, Clock

__all__ = ["Asks", "Patient"]

_log = get_logger("manahsm.api")

_BACKOFF = Backoff(initial=0.5, maximum=8.0)  # seconds, where the node does not say how long
_DEADLINE: ContextVar[float | None] = ContextVar("manahsm_node_deadline", default=None)


class Asks(Protocol):
    """Calls methods of a node."""

    async def call(self, method: str, params: list[Any] | dict[str, Any]) -> Any:
        """Call a method and return its result; see :meth:`manahsm.api.downstream.Node.call`."""
        ...


class Patient:
    """A node that is asked again when it was asked too much.

    Args:
        node: the one that is asked.
        clock: whose seconds the waits and deadlines are.
    """

    def __init__(self, node: Asks, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._node = node
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - spreads waits, keeps no secret

    @contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Say until when calls in the block may wait for their turn."""
        token = _DEADLINE.set(deadline)
        try:
            yield
        finally:
            _DEADLINE.reset(token)

    async def call(self, method: str, params: list[Any] | dict[str, Any]) -> Any:
        """Call a method and return its result.

        Raises:
            Throttled: the node was asked too much, and there is no time to wait.
            RPCError, Unanswered, Overloaded: see :meth:`manahsm.api.downstream.Node.call`.
        """
        refusals = 0
        while True:
            try:
                return await self._node.call(method, params)
            except Throttled as refusal:
                wait = max(refusal.retry_after or 0.0, _BACKOFF.delay(refusals, self._random))
                deadline = _DEADLINE.get()
                if deadline is None or self._clock.now() + wait >= deadline:
                    raise
                refusals += 1
                _log.info("the node was asked too much", method=method, waiting=round(wait, 3))
            await self._clock.sleep(wait)
