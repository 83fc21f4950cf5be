"""Calls into an event loop in another thread, from code that does not await.

The one thing to know: no call waits for what can not come. A loop that has ended, the loop's own thread, and a process
that was forked off without the loop are errors at once.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from typing import TypeVar

from anyio.from_thread import BlockingPortal

from manahsm.errors import InvalidRequest, ServiceStopping

__all__ = ["Elsewhere"]

T = TypeVar("T")


class Elsewhere:
    """The event loop behind a portal.

    Args:
        portal: made in this process.
    """

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal
        self._process = os.getpid()

    def call(self, work: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Await ``work(*arguments)`` there and return its result.

        Raises:
            InvalidRequest: it would wait for itself, or for a thread that is not in this process.
            ServiceStopping: the loop has ended, or ends before the work is done.
        """
        if os.getpid() != self._process:
            raise InvalidRequest("this process was forked and has no event loop: open the accounts after the fork")
        try:
            future = self._portal.start_task_soon(work, *arguments)
        except RuntimeError as error:
            if "event loop thread" in str(error):
                raise InvalidRequest(
                    "this is the event loop that would do it, and it would wait for itself: await AsyncHSMAccount, or "
                    "call from another thread"
                ) from None
            raise ServiceStopping("the accounts were closed: use them inside of the block that opened them") from None
        try:
            result: T = future.result()
        except CancelledError:
            raise ServiceStopping("the accounts were closed before this was done; it may have been signed") from None
        return result
