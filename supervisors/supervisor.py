"""A supervisor: starts children in order, restarts those that fail, stops them in reverse order.

The one thing to know: a supervisor is a child's body too. ``supervisor.spec()`` nests it under another one,
and ``async with supervisor.running():`` runs it on its own. How it decides is in :mod:`supervisors.plan`, how
it acts in :mod:`supervisors.engine`.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from supervisors.backoff import Backoff
from supervisors.clock import SYSTEM_CLOCK, Clock
from supervisors.context import ChildContext
from supervisors.engine import Engine, Settings
from supervisors.errors import AlreadyStarted, SupervisorStopped
from supervisors.events import SupervisorEvent
from supervisors.intensity import Intensity
from supervisors.roster import ChildStatus
from supervisors.specs import AutoShutdown, ChildSpec, Shutdown, Strategy

__all__ = ["Supervisor"]


class Supervisor:
    """A supervisor and its children. Not thread-safe: use it from the event loop that runs it.

    Args:
        name: for errors and events.
        children: the fixed children, in start order. They come back whenever the supervisor is run again.
        strategy: who is restarted along with a child that failed.
        intensity: the restart budget that all children share; over it, the supervisor stops and escalates.
        backoff: delays before restarts, for children that bring none of their own.
        auto_shutdown: whether significant children end the supervisor when they end by themselves.
        max_children: most dynamic children at a time (wedged ones included), or ``None``.
        clock: every timer of the supervisor, and of its children's contexts.
        rng: where jitter comes from.
        on_event: called synchronously with each event; see :mod:`supervisors.events`.

    Raises:
        ValueError: two children share a name, or one is significant and ``auto_shutdown`` is ``NEVER``.
    """

    def __init__(
        self,
        name: str,
        children: Iterable[ChildSpec] = (),
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        intensity: Intensity | None = None,
        backoff: Backoff | None = None,
        auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
        max_children: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
        on_event: Callable[[SupervisorEvent], None] | None = None,
    ) -> None:
        self._settings = Settings(
            name=name,
            children=tuple(children),
            strategy=strategy,
            intensity=intensity or Intensity(),
            backoff=backoff or Backoff(),
            auto_shutdown=auto_shutdown,
            max_children=max_children,
            clock=clock,
            rng=rng or random.Random(),  # noqa: S311 - jitter is no secret
            on_event=on_event,
        )
        self._engine: Engine | None = None
        if max_children is not None and max_children < 0:
            raise ValueError(f"{name}: max_children must be 0 or more, not {max_children}")
        names = [spec.name for spec in self._settings.children]
        if len(set(names)) != len(names):
            raise ValueError(f"{name}: two children share a name: {sorted(names)}")
        for spec in self._settings.children:
            self._check_significance(spec)

    def __repr__(self) -> str:
        return f"<Supervisor {self.name!r}, {'running' if self.is_running else 'not running'}>"

    @property
    def name(self) -> str:
        """The supervisor's name."""
        return self._settings.name

    @property
    def is_running(self) -> bool:
        """Whether children can be started now."""
        return self._engine is not None and self._engine.end_reason is None

    def spec(self, **options: Any) -> ChildSpec:
        """Return the spec to nest this supervisor under another one.

        Args:
            **options: further arguments of :class:`ChildSpec`. Unless said otherwise it may take as long as
                its own children take to start and to stop: both are bounded by their specs.
        """
        defaults: dict[str, Any] = {"shutdown": Shutdown.infinite(), "start_timeout": None}
        return ChildSpec(self.name, self.run, **(defaults | options))

    async def run(self, context: ChildContext) -> None:
        """Run as a child of another supervisor, until told to stop.

        Returns when it was asked to stop or when significant children ended it.

        Raises:
            StartFailed: a fixed child did not start; those before it have been stopped again.
            RestartIntensityExceeded: the restart budget is used up; all children have been stopped.
            HookFailed: an ``on_exit`` hook raised; all children have been stopped.
            AlreadyStarted: this supervisor runs already.
        """
        engine = self._new_engine()
        context.on_stopping(lambda: engine.end("its supervisor asked it to stop"))
        error: Exception | None = None
        async with engine.room():
            try:
                await engine.start()
                context.started(self)
                await engine.ending.wait()
            except Exception as exc:  # noqa: BLE001 - raised again outside of the task group, which would wrap it
                error = exc
            finally:
                with anyio.CancelScope(shield=True):
                    await engine.shut_down()
                    self._detach(engine)
                    if engine.roster.zombies:
                        context.declare_wedged(f"children can not be ended: {', '.join(engine.roster.zombies)}")
                    await engine.vacate()
        if engine.failure is not None:
            raise engine.failure
        if error is not None and not isinstance(error, SupervisorStopped):
            raise error

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Supervisor]:
        """Run on its own for the length of an ``async with`` block.

        Enters when all fixed children are ready; on the way out stops everything in reverse order, even when
        the block is left by cancellation. If the supervisor gives up while the block runs, the block is
        cancelled and the reason raised in its place. If significant children end the supervisor, the block is
        cancelled and left quietly. After ``stop()`` the block goes on, with nothing running under it.

        Raises:
            StartFailed: a fixed child did not start; those before it have been stopped again.
            RestartIntensityExceeded: the restart budget is used up; all children have been stopped.
            HookFailed: an ``on_exit`` hook raised; all children have been stopped.
            SupervisorStopped: ``stop()`` was called before all children were ready.
            AlreadyStarted: this supervisor runs already.
        """
        engine = self._new_engine()
        error: Exception | None = None
        async with engine.room():
            try:
                await engine.start()
                with engine.body:
                    yield self
                engine.end("the block that ran it was left")
            except Exception as exc:  # noqa: BLE001 - raised again outside of the task group, which would wrap it
                error = exc
            finally:
                with anyio.CancelScope(shield=True):
                    await engine.shut_down()
                    await engine.vacate()
                    self._detach(engine)
        if engine.failure is not None and engine.failure is not error:
            raise engine.failure from (error or engine.failure.__cause__)
        if error is not None:
            raise error

    async def start_child(self, spec: ChildSpec) -> Any:
        """Add a dynamic child after all others and wait until it is ready.

        It takes part in the strategy like the others. It is forgotten when it has ended for good, and does
        not come back when the supervisor is run again (OTP). A failed first start is not tried again.

        Returns:
            What the child gave to ``started()``.

        Raises:
            StartFailed: it did not get ready, or a sibling's failure cut its start short.
            DuplicateChild: the name is taken.
            TooManyChildren: ``max_children`` are there already.
            SupervisorStopped: the supervisor does not run, or is stopping.
            ValueError: it is significant and ``auto_shutdown`` is ``NEVER``.
        """
        self._check_significance(spec)
        return await self._require_engine().start_child(spec)

    async def stop_child(self, name: str) -> None:
        """Stop a child, and keep it down; wait until it has ended or is given up as wedged.

        A fixed child stays listed and can be brought back with :meth:`restart_child`; a dynamic one is
        forgotten.

        Raises:
            UnknownChild: there is no such child.
            SupervisorStopped: the supervisor does not run.
        """
        await self._require_engine().stop_child(name)

    async def restart_child(self, name: str) -> Any:
        """Stop a child if it runs, start it, and wait until it is ready. Costs nothing of the restart budget.

        Returns:
            What the child gave to ``started()``.

        Raises:
            StartFailed: it did not get ready; as in OTP it is down now, and stays so until asked for again.
            UnknownChild: there is no such child.
            SupervisorStopped: the supervisor does not run, or is stopping.
        """
        return await self._require_engine().restart_child(name)

    def children(self) -> tuple[ChildStatus, ...]:
        """Return all children, in start order; none where the supervisor does not run."""
        return () if self._engine is None else tuple(record.status() for record in self._engine.roster)

    def child(self, name: str) -> ChildStatus:
        """Return one child.

        Raises:
            UnknownChild: there is no such child.
            SupervisorStopped: the supervisor does not run.
        """
        return self._require_engine().roster[name].status()

    async def stop(self) -> None:
        """Stop all children in reverse order and wait for it; harmless where nothing runs."""
        engine = self._engine
        if engine is not None:
            engine.end("stop() was called", cut_body=False)
            await engine.shut_down()

    def _new_engine(self) -> Engine:
        if self._engine is not None:
            raise AlreadyStarted(f"supervisor {self.name!r} runs already")
        self._engine = Engine(self._settings)
        return self._engine

    def _detach(self, engine: Engine) -> None:
        if self._engine is engine:
            self._engine = None

    def _require_engine(self) -> Engine:
        if self._engine is None:
            raise SupervisorStopped(f"supervisor {self.name!r} does not run")
        return self._engine

    def _check_significance(self, spec: ChildSpec) -> None:
        if spec.significant and self._settings.auto_shutdown is AutoShutdown.NEVER:
            raise ValueError(f"{self.name}: child {spec.name!r} is significant, but auto_shutdown is NEVER")
