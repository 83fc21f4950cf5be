"""Runs one incarnation of one child, and turns whatever happens to it into an exit value.

The one thing to know: nothing escapes from a child's task but the end of the process (``KeyboardInterrupt``
and the like) and a cancellation from outside. An exception in a task group would cancel the siblings, which
is for the supervisor's strategy to decide, so it becomes a value here.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from supervisors.clock import Clock
from supervisors.context import ChildContext
from supervisors.exits import Crashed, Exit, Returned, Stopped, Wedged, leaves, unwrapped
from supervisors.specs import ChildSpec

__all__ = ["ChildRun"]


class ChildRun:
    """One incarnation of a child, from its launch until its task has ended.

    ``exit`` is set once, when the supervisor may go on without it: when the task has ended, or when it has
    been given up as wedged. In the second case ``task_ended`` tells when it really ends. ``lost`` says that
    something takes its siblings down with it: the end of the process, or a cancellation that the supervisor
    did not ask for.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        incarnation: int,
        clock: Clock,
        on_ready: Callable[[ChildRun], None],
        on_exit: Callable[[ChildRun, Exit], None],
        on_late_end: Callable[[ChildRun, Exit], None],
    ) -> None:
        self.spec = spec
        self.exit: Exit | None = None
        self.task_ended = False
        self.launched_at = clock.now()
        self.ready_at: float | None = None
        self.stop_asked = False
        self.lost = False
        self.context = ChildContext(spec.name, incarnation=incarnation, clock=clock)
        self.context._on_started = self._became_ready  # noqa: SLF001 - the context is this class's other half
        self.context._on_wedged = self._declared_wedged  # noqa: SLF001
        self._clock = clock
        self._scope = anyio.CancelScope()
        self._settled = anyio.Event()  # ready, or ended before
        self._ended = anyio.Event()
        self._cancelled_by_us = False
        self._grace_over = anyio.CancelScope()
        self._nursery: TaskGroup | None = None
        self._on_ready = on_ready
        self._on_exit = on_exit
        self._on_late_end = on_late_end

    @property
    def incarnation(self) -> int:
        """Number of this incarnation, from 0."""
        return self.context.incarnation

    @property
    def alive(self) -> bool:
        """Whether the supervisor still has to reckon with it."""
        return self.exit is None

    def launch(self, nursery: TaskGroup) -> None:
        """Start the child's task in ``nursery``, shielded from whatever cancels the supervisor."""
        self._nursery = nursery
        nursery.start_soon(self._main, name=f"child {self.spec.name}")

    async def wait_settled(self) -> None:
        """Wait until the child is ready or has ended."""
        await self._settled.wait()

    async def wait_ended(self) -> None:
        """Wait until :attr:`exit` is set. Bounded once a stop was begun, unless its grace is infinite."""
        await self._ended.wait()

    def begin_stop(self, *, brutal: bool = False) -> None:
        """Ask the child to stop, and see to it that it does. Returns at once; harmless when repeated.

        Args:
            brutal: cancel at once, whatever its grace.
        """
        if self.exit is not None or self._nursery is None:
            return
        if not self.stop_asked:
            self.stop_asked = True
            self._nursery.start_soon(self._see_it_stop, name=f"stop of child {self.spec.name}")
        if brutal:
            self._grace_over.cancel()

    async def _see_it_stop(self) -> None:
        shutdown = self.spec.shutdown
        with self._grace_over:
            self.context.ask_to_stop()
            if self.context.listens:
                with self._clock.move_on_after(shutdown.grace):
                    await self._ended.wait()
        if self.exit is not None:
            return
        self._cancel()
        with self._clock.move_on_after(shutdown.cancel_grace):
            await self._ended.wait()
        if self.exit is None:
            self._end(Wedged(f"still running {shutdown.cancel_grace:g} s after it was cancelled"))

    def _cancel(self) -> None:
        self._cancelled_by_us = True
        self._scope.cancel()

    def _became_ready(self) -> None:
        if self.exit is None and not self.stop_asked:  # too late, it is not ready for anybody
            self.ready_at = self._clock.now()
            self._on_ready(self)
            self._settled.set()

    def _declared_wedged(self, reason: str) -> None:
        if self.exit is None:
            self._cancel()
            self._end(Wedged(reason))

    def _end(self, exit_: Exit) -> None:
        self.exit = exit_
        self._settled.set()
        self._ended.set()
        self._on_exit(self, exit_)

    def _task_over(self, exit_: Exit) -> None:
        self.task_ended = True
        if self.exit is None:
            self._end(exit_)
        else:
            self._on_late_end(self, exit_)

    async def _main(self) -> None:
        error: BaseException | None = None
        value: object = None
        returned = False
        try:
            with self._scope:
                value = await self.spec.run(self.context)
                returned = True
        except BaseException as exc:
            error = exc
            if _ends_the_process(exc):
                self.lost = True
                self._task_over(Crashed(unwrapped(exc)))
                raise
        if error is not None and not self.stop_asked and not self._cancelled_by_us:
            try:
                await checkpoint_if_cancelled()  # by who asked, not by type: was it somebody outside?
            except BaseException:
                self.lost = True
                self._task_over(Stopped(forced=True))
                raise
        self._task_over(self._judge(error, value, returned=returned))

    def _judge(self, error: BaseException | None, value: object, *, returned: bool) -> Exit:
        if self.stop_asked or self._cancelled_by_us:
            return Stopped(forced=self._scope.cancelled_caught or self._cancelled_by_us, error=_real_error(error))
        if error is not None:
            return Crashed(unwrapped(error))
        assert returned, "only our own scope can swallow a cancellation here"  # noqa: S101 - an invariant
        return Returned(value)


def _ends_the_process(error: BaseException) -> bool:
    """Return whether ``error`` holds something that is neither an ordinary error nor a cancellation."""
    cancelled = anyio.get_cancelled_exc_class()
    return any(not isinstance(leaf, Exception | cancelled) for leaf in leaves(error))


def _real_error(error: BaseException | None) -> BaseException | None:
    """Return what a stopped child raised apart from its cancellation."""
    if error is None or all(not isinstance(leaf, Exception) for leaf in leaves(error)):
        return None
    if isinstance(error, BaseExceptionGroup):
        kept = error.subgroup(Exception)
        return None if kept is None else unwrapped(kept)
    return error
