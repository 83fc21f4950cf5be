"""One run of a supervisor: carries out what :mod:`supervisors.plan` decides.

The one thing to know: there is no loop. Each exit is judged at once, synchronously, in the task of the child
that ended, so decisions never interleave. What takes time is left to tasks: restarts to
:mod:`supervisors.restarts`, where a newer one may supersede an older, and stops to :mod:`supervisors.child`.

The tasks of children, restarts and stops live in one task group inside of a shielded scope (the *room*): a
cancellation from outside reaches the supervisor, which then stops its children in order; it never reaches the
children directly.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus
from attrs import frozen

from supervisors.backoff import Backoff
from supervisors.child import ChildRun
from supervisors.clock import Clock
from supervisors.errors import (
    HookFailed,
    RestartIntensityExceeded,
    StartFailed,
    SupervisorError,
    SupervisorStopped,
    TooManyChildren,
)
from supervisors.events import (
    ChildExited,
    ChildStarted,
    ChildStartFailed,
    Escalated,
    RestartScheduled,
    SupervisorEnded,
    SupervisorEvent,
    SupervisorStarted,
    WaitingForWedged,
    WedgedChildEnded,
)
from supervisors.exits import Crashed, Exit, Returned, Stopped, Wedged, cause_of
from supervisors.hooks import report
from supervisors.intensity import Intensity, RestartWindow
from supervisors.plan import Plan, after_exit, restart_plan
from supervisors.restarts import Restarts
from supervisors.roster import Record, Roster
from supervisors.specs import AutoShutdown, ChildSpec, Restart, Strategy

__all__ = ["Engine", "Settings"]


@frozen(kw_only=True)
class Settings:
    """What a supervisor was made with; shared by all of its runs."""

    name: str
    children: tuple[ChildSpec, ...]
    strategy: Strategy
    intensity: Intensity
    backoff: Backoff
    auto_shutdown: AutoShutdown
    max_children: int | None
    clock: Clock
    rng: random.Random
    on_event: Callable[[SupervisorEvent], None] | None


class Engine:
    """One run of a supervisor, from its first start to its last stop; never used again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.roster = Roster(settings.children)
        self._window = RestartWindow(settings.intensity)
        self._restarts = Restarts(self.roster, settings.clock, self)
        self._deferred: list[tuple[Record, Exit]] = []
        self._nursery: TaskGroup | None = None
        self._close_room = anyio.Event()
        self._room_closed = anyio.Event()
        self._initial_start = anyio.CancelScope()
        self._starting_up = True
        self._shutting_down = False
        self.body = anyio.CancelScope()
        self.failure: SupervisorError | None = None
        self.end_reason: str | None = None
        self.ending = anyio.Event()
        self.ended = anyio.Event()

    # ---- one run, in order ----

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """Hold the tasks of the children; leave with :meth:`shut_down` and :meth:`vacate` done."""
        async with anyio.create_task_group() as outer:
            await outer.start(self._keep_room)
            yield

    async def _keep_room(self, *, task_status: TaskStatus[None]) -> None:
        try:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as nursery:
                    self._nursery = nursery
                    task_status.started()
                    await self._close_room.wait()
        finally:
            self._room_closed.set()

    async def start(self) -> None:
        """Start the fixed children in order, each ready before the next.

        Exits of children that were ready already wait until all are: OTP's supervisor is inside of its own
        ``init`` for as long, and the next child may be the very one that needs the first.

        Raises:
            StartFailed: a child did not get ready. The caller shuts down, which unwinds the others.
            SupervisorStopped: it was told to end while it started.
        """
        with self._initial_start:
            for record in self.roster:
                await self.bring_up(record)
        if self.end_reason is not None:
            raise self.failure or SupervisorStopped(f"{self._settings.name}: stopped while it started")
        self._starting_up = False
        self._emit(SupervisorStarted(supervisor=self._settings.name, at=self._settings.clock.now()))
        deferred, self._deferred = self._deferred, []
        for record, exit_ in deferred:
            if not record.alive and record.last_exit is exit_:
                self._follow_up(record, exit_)

    def end(self, reason: str, failure: SupervisorError | None = None, *, cut_body: bool = True) -> None:
        """Begin to end this run; the first reason counts. Returns at once."""
        if self.end_reason is None:
            self.end_reason = reason
            self.failure = failure
            self._initial_start.cancel()
            self._restarts.cancel_all()
            self.ending.set()
            if cut_body:
                self.body.cancel()

    async def shut_down(self) -> None:
        """Stop everything in reverse order of start, each within its grace. May be called more than once."""
        self.end("it was cancelled or left", cut_body=False)
        if not self._shutting_down:
            self._shutting_down = True
            if self._room_closed.is_set():  # pragma: no cover - a race: the end of the process has emptied it
                self.ended.set()
            else:
                self.spawn(self._take_all_down)  # it must not end with whoever asked for it
        await self.ended.wait()

    async def _take_all_down(self) -> None:
        try:
            records = list(self.roster)
            if self._settings.strategy is Strategy.ONE_FOR_ONE:
                # They do not need each other, and may be many: dynamic children are stopped all at once.
                dynamic = [record for record in records if record.dynamic]
                self._begin_stop(dynamic)
                for record in reversed(dynamic):
                    await self._await_end(record)
            for record in reversed(records):
                await self.take_down(record)
            now = self._settings.clock.now()
            name, stuck = self._settings.name, self.roster.zombies
            if stuck:
                self._emit(WaitingForWedged(supervisor=name, children=stuck, at=now))
            self._emit(SupervisorEnded(supervisor=name, reason=self.end_reason or "", at=now))
        finally:
            self.ended.set()

    async def vacate(self) -> None:
        """Wait until no task is left, wedged ones included. To be called shielded, when all is stopped."""
        self._close_room.set()
        await self._room_closed.wait()

    # ---- what callers may ask for ----

    async def start_child(self, spec: ChildSpec) -> object:
        """Add a dynamic child and start it; see ``Supervisor.start_child``."""
        self._refuse_when_ending()
        limit = self._settings.max_children
        if limit is not None and self.roster.dynamic_count >= limit:
            raise TooManyChildren(f"{self._settings.name}: there are {limit} dynamic children already")
        record = self.roster.add(spec)
        try:
            return await self.bring_up(record)
        except BaseException as exc:
            self._restarts.leave_out(record)
            with anyio.CancelScope(shield=True):
                await self.take_down(record)
            self.roster.forget(record)
            if isinstance(exc, StartFailed):
                self._refuse_when_ending()
            raise

    async def stop_child(self, name: str) -> None:
        """Stop a child for good; see ``Supervisor.stop_child``."""
        record = self.roster[name]
        record.held_back = True
        self._restarts.leave_out(record)
        await self.take_down(record)
        if record.dynamic:
            self.roster.forget(record)

    async def restart_child(self, name: str) -> object:
        """Stop a child and start it again; see ``Supervisor.restart_child``."""
        self._refuse_when_ending()
        record = self.roster[name]
        record.held_back = False
        record.failures = 0
        self._restarts.leave_out(record)
        done = anyio.Event()
        outcome: list[object | StartFailed] = []

        async def restart() -> None:
            try:
                await self.take_down(record)
                if self.end_reason is None and not record.held_back:
                    outcome.append(await self.bring_up(record))
            except StartFailed as exc:
                outcome.append(exc)
            finally:
                done.set()

        self.spawn(restart)  # in a task of its own: the caller may be the very child that is to be restarted
        await done.wait()
        if not outcome:
            raise SupervisorStopped(f"{self._settings.name}: {name!r} was stopped before it was restarted")
        if isinstance(outcome[0], StartFailed):
            self._refuse_when_ending()
            raise outcome[0]
        return outcome[0]

    def _refuse_when_ending(self) -> None:
        if self.end_reason is not None:
            raise SupervisorStopped(f"{self._settings.name}: {self.end_reason}; nothing is started now")

    # ---- starting and stopping one child ----

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Run a task in the room."""
        self._tasks.start_soon(function, *args)

    @property
    def _tasks(self) -> TaskGroup:
        assert self._nursery is not None, "nothing is started outside of the room"  # noqa: S101 - an invariant
        return self._nursery

    async def bring_up(self, record: Record) -> object:
        """Launch a child, in place of an incarnation that may be there, and wait until it is ready.

        Returns:
            What it gave to ``started()``.

        Raises:
            StartFailed: it did not get ready.
        """
        while record.alive:
            await self.take_down(record)
        spec = record.spec
        record.incarnation += 1
        record.restarting = False
        record.finished = False
        run = ChildRun(
            spec,
            incarnation=record.incarnation,
            clock=self._settings.clock,
            on_ready=self._child_ready,
            on_exit=lambda run, exit_: self._child_ended(record, run, exit_),
            on_late_end=lambda run, exit_: self._wedged_child_ended(record, run, exit_),
        )
        record.run = run
        run.launch(self._tasks)
        with self._settings.clock.move_on_after(spec.start_timeout):
            await run.wait_settled()
        reason = f"it did not call started() within {spec.start_timeout} s"
        if run.context.is_ready and run.ready_at is not None:
            return run.context.value
        if run.alive:
            run.begin_stop(brutal=True)
            await run.wait_ended()
        else:
            assert run.exit is not None  # noqa: S101 - not alive says so
            if isinstance(run.exit, Returned) and spec.restart is not Restart.PERMANENT:
                self._follow_up(record, run.exit)  # done before it said so: OTP's "ignore"
                return run.context.value
            reason = _why_not_started(run.exit)
        now = self._settings.clock.now()
        self._emit(
            ChildStartFailed(
                supervisor=self._settings.name,
                child=spec.name,
                incarnation=run.incarnation,
                reason=reason,
                at=now,
            )
        )
        raise StartFailed(self._settings.name, spec.name, reason, cause_of(run.exit) if run.exit else None)

    async def take_down(self, record: Record) -> None:
        """Stop a child, if it is there, and wait until it has ended or is given up as wedged."""
        self._begin_stop([record])
        await self._await_end(record)

    @staticmethod
    def _begin_stop(records: Iterable[Record]) -> None:
        for record in records:
            if record.run is not None:
                record.run.begin_stop()

    @staticmethod
    async def _await_end(record: Record) -> None:
        if record.run is not None and record.run.alive:
            await record.run.wait_ended()

    # ---- what children report; all synchronous ----

    def _child_ready(self, run: ChildRun) -> None:
        self._emit(
            ChildStarted(
                supervisor=self._settings.name,
                child=run.spec.name,
                incarnation=run.incarnation,
                at=self._settings.clock.now(),
            )
        )

    def _child_ended(self, record: Record, run: ChildRun, exit_: Exit) -> None:
        now = self._settings.clock.now()
        record.last_exit = exit_
        if isinstance(exit_, Wedged) and not run.task_ended:
            record.zombies += 1
        self._emit(
            ChildExited(
                supervisor=self._settings.name,
                child=record.name,
                incarnation=run.incarnation,
                exit=exit_,
                ran_for=now - run.launched_at,
                at=now,
            )
        )
        if run.spec.on_exit is not None:
            try:
                run.spec.on_exit(exit_)
            except Exception as exc:  # noqa: BLE001 - whatever the hook raised, it is passed upwards
                self._escalate(HookFailed(self._settings.name, record.name, exc), record)
        if run.lost:
            self.end(f"child {record.name!r} was cancelled from outside, or ended the process")
        if run.ready_at is None or run.stop_asked:
            return  # whoever starts or stops it waits for this exit and knows what to do
        ran_for = now - run.ready_at
        if self._backoff_of(record).has_calmed(ran_for):
            record.failures = 0
        if self._starting_up:
            self._deferred.append((record, exit_))
        else:
            self._follow_up(record, exit_)

    def _wedged_child_ended(self, record: Record, run: ChildRun, exit_: Exit) -> None:
        record.zombies -= 1
        self._emit(
            WedgedChildEnded(
                supervisor=self._settings.name,
                child=record.name,
                incarnation=run.incarnation,
                exit=exit_,
                at=self._settings.clock.now(),
            )
        )
        if record.forgotten:
            self.roster.forget(record)

    # ---- decisions; all synchronous ----

    def _follow_up(self, record: Record, exit_: Exit) -> None:
        """Do what the rules say after a child ended by itself."""
        if self.end_reason is not None or self._restarts.covers(record):
            return  # it was about to be stopped anyway
        settings = self._settings
        plan = after_exit(settings.strategy, settings.auto_shutdown, self.roster.members(), record.name, exit_)
        if plan.start:
            self._restart(record, plan, cause_of(exit_))
            return
        record.finished = True
        if plan.forget or record.dynamic:
            self.roster.forget(record)
        if plan.end_supervisor:
            self.end(f"significant child {record.name!r} has ended")

    def _restart(self, record: Record, plan: Plan, cause: BaseException | None) -> None:
        settings = self._settings
        now = settings.clock.now()
        if not self._window.admit(now):
            self._escalate(RestartIntensityExceeded(settings.name, record.name, str(settings.intensity), cause), record)
            return
        delay = self._backoff_of(record).delay(record.failures, settings.rng)
        record.failures += 1
        names = self._restarts.begin(plan, delay)
        self._emit(RestartScheduled(supervisor=settings.name, child=record.name, children=names, delay=delay, at=now))

    def start_failed_again(self, record: Record, error: StartFailed) -> None:
        """Treat a failed start within a restart as one more failure (OTP: ``try_again_restart``)."""
        if self.end_reason is None:
            plan = restart_plan(self._settings.strategy, self.roster.members(), record.name)
            self._restart(record, plan, error)

    def _escalate(self, error: SupervisorError, record: Record) -> None:
        if self.end_reason is None:
            now = self._settings.clock.now()
            self._emit(Escalated(supervisor=self._settings.name, child=record.name, error=error, at=now))
            self.end(str(error), error)

    def _backoff_of(self, record: Record) -> Backoff:
        return record.spec.backoff or self._settings.backoff

    def _emit(self, event: SupervisorEvent) -> None:
        report(self._settings.on_event, event)


def _why_not_started(exit_: Exit) -> str:
    match exit_:
        case Crashed(error=error):
            return f"{type(error).__name__}: {error}"
        case Returned():
            return "it returned before it called started()"
        case Stopped():
            return "it was stopped while it started"
        case Wedged(reason=reason):
            return reason
