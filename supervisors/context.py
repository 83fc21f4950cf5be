"""What a child sees of its supervisor.

The one thing to know: a child must call ``started()`` once it can do its work; until then its supervisor does
not start the next child, and gives up after ``start_timeout``.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from supervisors.clock import SYSTEM_CLOCK, Clock
from supervisors.errors import AlreadyStarted

__all__ = ["ChildContext"]


class ChildContext:
    """The only argument of a child's function; a new one for each incarnation.

    It can be made by hand to test a child without a supervisor.

    Attributes:
        name: the child's name.
        clock: the supervisor's clock; use it for every timer in the child.
        incarnation: 0 for the first run under this run of the supervisor, one more for each further one.
    """

    def __init__(self, name: str, *, incarnation: int = 0, clock: Clock = SYSTEM_CLOCK) -> None:
        self.name = name
        self.clock = clock
        self.incarnation = incarnation
        self._ready = False
        self._value: object = None
        self._listens = False
        self._stopping = anyio.Event()
        self._on_started: Callable[[], None] | None = None
        self._on_wedged: Callable[[str], None] | None = None
        self._on_stopping: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<ChildContext {self.name!r} incarnation {self.incarnation}>"

    def started(self, value: object = None) -> None:
        """Say that the child is ready.

        Args:
            value: handed to whoever started the child (what ``Supervisor.start_child`` returns).

        Raises:
            AlreadyStarted: on a second call in the same incarnation.
        """
        if self._ready:
            raise AlreadyStarted(f"child {self.name!r} called started() twice")
        self._ready = True
        self._value = value
        if self._on_started is not None:
            self._on_started()

    @property
    def is_ready(self) -> bool:
        """Whether ``started()`` has been called."""
        return self._ready

    @property
    def value(self) -> object:
        """What was given to ``started()``."""
        return self._value

    @property
    def stopping(self) -> bool:
        """Whether the supervisor has asked the child to stop. Reading it tells that the child listens."""
        self._listens = True
        return self._stopping.is_set()

    async def wait_stopping(self) -> None:
        """Wait until the supervisor asks the child to stop.

        From the first use of this, of :attr:`stopping` or of :meth:`on_stopping` the child counts as
        listening: it is asked and then given its grace before it is cancelled. A child that never listened
        could not hear the question, so it is cancelled at once (OTP: a process that does not trap exits).
        """
        self._listens = True
        await self._stopping.wait()

    def on_stopping(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when the supervisor asks the child to stop (at once if it has)."""
        self._listens = True
        if self._stopping.is_set():
            callback()
        else:
            self._on_stopping.append(callback)

    @property
    def listens(self) -> bool:
        """Whether the child has ever looked at, or waited for, the question to stop."""
        return self._listens

    def ask_to_stop(self) -> None:
        """Ask the child to stop: for its supervisor, and for tests of the child. Harmless twice."""
        if not self._stopping.is_set():
            self._stopping.set()
            for callback in self._on_stopping:
                callback()

    def declare_wedged(self, reason: str) -> None:
        """Say that this incarnation can not end, whatever it is told; the supervisor goes on without it.

        For a child that knows, e.g., that a thread of its own hangs in a foreign call. Its task is cancelled,
        and counted as wedged until it really ends.
        """
        if self._on_wedged is not None:
            self._on_wedged(reason)
