"""Children that can not be ended, and what the event loops do with cancellation: the pitfalls, one test each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest

from supervisors import (
    ChildContext,
    ChildExited,
    ChildSpec,
    ChildStarted,
    ChildState,
    Crashed,
    DuplicateChild,
    Exit,
    Shutdown,
    StartFailed,
    Stopped,
    Strategy,
    TooManyChildren,
    WaitingForWedged,
    Wedged,
    WedgedChildEnded,
)
from supervisors.testing import settle

if TYPE_CHECKING:
    from puppets import Stage

pytestmark = pytest.mark.anyio

QUICK = Shutdown(grace=0, cancel_grace=3)


class Stuck:
    """A child whose first run ignores cancellation until it is let go."""

    def __init__(self) -> None:
        self.let_go = anyio.Event()
        self.runs = 0

    async def run(self, context: ChildContext) -> None:
        self.runs += 1
        context.started()
        if self.runs == 1:
            with anyio.CancelScope(shield=True):
                await self.let_go.wait()
        else:
            await anyio.sleep_forever()


async def test_a_child_that_ignores_cancellation_is_given_up_as_wedged(stage: Stage) -> None:
    stuck = Stuck()
    async with stage.supervisor(ChildSpec("s", stuck.run, shutdown=QUICK)).running() as top:
        async with anyio.create_task_group() as tg:
            tg.start_soon(top.stop_child, "s")
            await stage.clock.run_for(3)
        status = top.child("s")
        assert (status.state, status.wedged) == (ChildState.WEDGED, True)
        assert status.last_exit == Wedged("still running 3 s after it was cancelled")
        stuck.let_go.set()
        event = await stage.events.wait_for(WedgedChildEnded)
        assert event.exit == Stopped(forced=True)
        assert top.child("s").state is ChildState.STOPPED
        assert not top.child("s").wedged


async def test_a_wedged_child_is_replaced_and_on_exit_is_called_for_it_once(stage: Stage) -> None:
    stuck = Stuck()
    exits: list[Exit] = []
    spec = ChildSpec("s", stuck.run, shutdown=QUICK, on_exit=exits.append)
    async with stage.supervisor(spec).running() as top:
        async with anyio.create_task_group() as tg:
            tg.start_soon(top.restart_child, "s")
            await stage.clock.run_for(3)
        status = top.child("s")
        assert (status.state, status.wedged, status.incarnation) == (ChildState.RUNNING, True, 1)
        assert [type(exit_) for exit_ in exits] == [Wedged]
        stuck.let_go.set()
        await settle()


async def test_a_group_restart_goes_on_without_the_wedged_sibling(stage: Stage) -> None:
    stuck = Stuck()
    spec = ChildSpec("s", stuck.run, shutdown=QUICK)
    async with stage.supervisor("a", spec, strategy=Strategy.ONE_FOR_ALL).running() as top:
        await stage["a"].crash()
        await stage.clock.run_for(3)
        assert [child.state for child in top.children()] == [ChildState.RUNNING] * 2
        assert stuck.runs == 2
        stuck.let_go.set()


async def test_a_start_that_can_not_be_cancelled_ends_as_a_failed_start(stage: Stage) -> None:
    let_go = anyio.Event()

    async def stuck(_context: ChildContext) -> None:
        with anyio.CancelScope(shield=True):
            await let_go.wait()

    spec = ChildSpec("s", stuck, start_timeout=2, shutdown=Shutdown(grace=None, cancel_grace=3))
    async with stage.supervisor(max_children=1).running() as top:
        refused: list[BaseException] = []

        async def start() -> None:
            try:
                await top.start_child(spec)
            except Exception as exc:  # noqa: BLE001 - looked at below
                refused.append(exc)

        async with anyio.create_task_group() as tg:
            tg.start_soon(start)
            await stage.clock.run_for(5)
        assert "did not call started() within 2 s" in str(refused[0])
        assert top.child("s").state is ChildState.WEDGED
        with pytest.raises(TooManyChildren):  # it still uses what children use
            await top.start_child(stage.spec("t"))
        let_go.set()
        await settle()
        assert top.children() == ()


async def test_a_child_that_declares_itself_wedged_while_it_starts_has_not_started(stage: Stage) -> None:
    async def honest(context: ChildContext) -> None:
        context.declare_wedged("its device hangs")
        await anyio.sleep_forever()

    async with stage.supervisor().running() as top:
        with pytest.raises(StartFailed, match="its device hangs"):
            await top.start_child(ChildSpec("h", honest))
        await settle()
        assert top.children() == ()


async def test_the_name_of_a_wedged_child_is_not_free(stage: Stage) -> None:
    stuck = Stuck()
    async with stage.supervisor().running() as top:
        await top.start_child(ChildSpec("s", stuck.run, shutdown=QUICK))
        async with anyio.create_task_group() as tg:
            tg.start_soon(top.stop_child, "s")
            await stage.clock.run_for(3)
        with pytest.raises(DuplicateChild, match="wedged"):
            await top.start_child(ChildSpec("s", stuck.run))
        stuck.let_go.set()
        await settle()
        await top.start_child(ChildSpec("s", stuck.run))


async def test_a_child_that_declares_itself_wedged_is_restarted_at_once(stage: Stage) -> None:
    let_go = anyio.Event()

    async def honest(context: ChildContext) -> None:
        context.started()
        if context.incarnation == 0:
            context.declare_wedged("a thread hangs")
            context.declare_wedged("said twice")
            with anyio.CancelScope(shield=True):
                await let_go.wait()
        await anyio.sleep_forever()

    async with stage.supervisor(ChildSpec("h", honest)).running() as top:
        await settle()
        status = top.child("h")
        assert (status.incarnation, status.last_exit) == (1, Wedged("a thread hangs"))
        let_go.set()
        await settle()
        assert top.child("h").incarnation == 1


async def test_shutdown_reports_who_keeps_it_from_returning(stage: Stage) -> None:
    stuck = Stuck()
    async with anyio.create_task_group() as tg:

        async def body() -> None:
            async with stage.supervisor("a", ChildSpec("s", stuck.run, shutdown=QUICK)).running():
                pass
            stage.log.append("returned")

        tg.start_soon(body)
        await stage.clock.run_for(3)
        assert stage.events.of(WaitingForWedged)[0].children == ("s",)
        assert stage.take_log() == "+a -a"  # everything else is down
        stuck.let_go.set()
    assert stage.take_log() == "returned"


async def test_a_nested_supervisor_with_a_wedged_child_does_not_hold_up_its_parent(stage: Stage) -> None:
    stuck = Stuck()
    inner = stage.supervisor("x", ChildSpec("s", stuck.run, shutdown=QUICK))
    async with stage.supervisor(inner.spec()).running() as top:
        async with anyio.create_task_group() as tg:
            tg.start_soon(top.restart_child, "top")  # whose grace is infinite
            await stage.clock.run_for(3)
        assert isinstance(top.child("top").last_exit, Wedged)
        assert inner.is_running
        assert stuck.runs == 2
        assert stage.take_log() == "+x -x +x"
        stuck.let_go.set()
        await settle()
        assert not top.child("top").wedged


async def test_a_cancelled_child_whose_cleanup_raises_in_a_group_has_stopped_on_both_loops(
    stage: Stage,
) -> None:
    async def worker() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("cleanup")

    async def grouped(context: ChildContext) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(worker)
            tg.start_soon(anyio.sleep_forever)
            context.started()

    async with stage.supervisor(ChildSpec("g", grouped)).running() as top:
        await top.stop_child("g")
        exit_ = top.child("g").last_exit
        assert isinstance(exit_, Stopped)
        assert isinstance(exit_.error, OSError)
        assert top.child("g").incarnation == 0


async def test_a_crash_in_a_task_group_of_the_child_leaves_its_siblings_alone(stage: Stage) -> None:
    async def boom() -> None:
        raise LookupError("boom")

    async def grouped(context: ChildContext) -> None:
        context.started()
        if context.incarnation:
            await anyio.sleep_forever()
        async with anyio.create_task_group() as tg:
            tg.start_soon(anyio.sleep_forever)
            tg.start_soon(boom)

    async with stage.supervisor("a", ChildSpec("g", grouped)).running() as top:
        await stage.events.wait_for(ChildStarted, 3)
        exit_ = top.child("g").last_exit
        assert isinstance(exit_, Crashed)
        assert isinstance(exit_.error, LookupError)
        assert (top.child("g").incarnation, top.child("a").incarnation) == (1, 0)


async def test_several_errors_at_once_are_kept_as_a_group(stage: Stage) -> None:
    with_two = ExceptionGroup("two", [LookupError("1"), OSError("2")])
    async with stage.supervisor("a").running() as top:
        await stage["a"].crash(with_two)
        assert top.child("a").last_exit == Crashed(with_two)


async def test_no_restart_runs_on_during_a_shutdown_by_cancellation(stage: Stage) -> None:
    async def sore(context: ChildContext) -> None:
        stage.log.append("+sore")
        context.started()
        try:
            await anyio.sleep_forever()
        finally:
            raise ExceptionGroup("cleanup", [OSError("sore")])

    async with anyio.create_task_group() as tg:

        async def body() -> None:
            async with stage.supervisor(ChildSpec("sore", sore)).running():
                await anyio.sleep_forever()

        tg.start_soon(body)
        await settle()
        tg.cancel_scope.cancel()
    assert stage.take_log() == "+sore"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_that_nobody_here_asked_for_is_a_crash(stage: Stage) -> None:
    tasks: list[asyncio.Task[object] | None] = []

    async def native(context: ChildContext) -> None:
        tasks.append(asyncio.current_task())
        context.started()
        await anyio.sleep_forever()

    async with stage.supervisor(ChildSpec("n", native)).running() as top:
        task = tasks[0]
        assert task is not None
        task.cancel()
        await settle()
        exit_ = top.child("n").last_exit
        assert isinstance(exit_, Crashed)
        assert isinstance(exit_.error, asyncio.CancelledError)
        assert top.child("n").incarnation == 1


async def test_what_ends_the_process_is_not_restarted_and_ends_everything(stage: Stage) -> None:
    class Abort(BaseException):
        pass

    gate = anyio.Event()

    async def abort(context: ChildContext) -> None:
        context.started()
        await gate.wait()
        raise Abort

    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - all of the block is the situation
        async with stage.supervisor("a", ChildSpec("abort", abort), "c").running():
            gate.set()
            await anyio.sleep_forever()
    assert caught.group_contains(Abort)
    assert sorted(stage.take_log().split()) == ["+a", "+c", "-a", "-c"]
    exits = {event.child: event.exit for event in stage.events.of(ChildExited)}
    assert isinstance(exits["abort"], Crashed)
    assert isinstance(exits["a"], Stopped)
    assert len(stage.events.of(ChildExited)) == 3


async def test_a_child_that_gets_ready_after_it_was_given_up_changes_nothing(stage: Stage) -> None:
    let_go = anyio.Event()

    async def late(context: ChildContext) -> None:
        with anyio.CancelScope(shield=True):
            await let_go.wait()
        context.started()

    spec = ChildSpec("late", late, start_timeout=1, shutdown=QUICK)
    async with stage.supervisor().running() as top:

        async def start() -> None:
            with pytest.raises(Exception, match="did not call"):
                await top.start_child(spec)

        async with anyio.create_task_group() as tg:
            tg.start_soon(start)
            await stage.clock.run_for(4)
        let_go.set()
        await settle()
        assert top.children() == ()
        assert [type(event).__name__ for event in stage.events.events].count("ChildStarted") == 0


async def test_a_context_can_be_used_without_a_supervisor() -> None:
    context = ChildContext("alone")
    asked: list[str] = []
    context.on_stopping(lambda: asked.append("first"))
    context.declare_wedged("nobody listens")
    context.started("value")
    context.ask_to_stop()
    context.ask_to_stop()
    context.on_stopping(lambda: asked.append("late"))
    await context.wait_stopping()
    assert asked == ["first", "late"]
    assert (context.value, context.is_ready, context.stopping) == ("value", True, True)
    assert repr(context) == "<ChildContext 'alone' incarnation 0>"
