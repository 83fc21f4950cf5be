"""Starting in order, stopping in reverse, and everything that can cut it short."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from supervisors import (
    AlreadyStarted,
    AutoShutdown,
    ChildContext,
    ChildSpec,
    ChildState,
    Crashed,
    DuplicateChild,
    HookFailed,
    Restart,
    Returned,
    Shutdown,
    StartFailed,
    Stopped,
    Strategy,
    Supervisor,
    SupervisorStopped,
    TooManyChildren,
    UnknownChild,
)
from supervisors.events import ChildExited, ChildStarted, ChildStartFailed, SupervisorEnded, SupervisorStarted
from supervisors.testing import settle

if TYPE_CHECKING:
    from puppets import Stage

pytestmark = pytest.mark.anyio


async def forever(context: ChildContext) -> None:
    context.started()
    await anyio.sleep_forever()


async def test_children_start_in_order_and_stop_in_reverse(stage: Stage) -> None:
    async with stage.supervisor("a", "b", "c").running():
        assert stage.take_log() == "+a +b +c"
    assert stage.take_log() == "-c -b -a"


async def test_the_next_child_waits_until_the_one_before_is_ready(stage: Stage) -> None:
    gate = anyio.Event()

    async def slow(context: ChildContext) -> None:
        stage.log.append("+slow")
        await gate.wait()
        context.started()
        await anyio.sleep_forever()

    supervisor = stage.supervisor(ChildSpec("slow", slow), "b")
    async with anyio.create_task_group() as tg:

        async def body() -> None:
            async with supervisor.running():
                stage.log.append("ready")

        tg.start_soon(body)
        await settle()
        assert stage.take_log() == "+slow"
        gate.set()
    assert stage.take_log() == "+b ready -b"


async def test_a_crash_before_started_unwinds_the_started_siblings(stage: Stage) -> None:
    supervisor = stage.supervisor("a", "b", "c", "d")
    stage["c"].fail_starts = 1
    with pytest.raises(StartFailed, match="child 'c' did not start: RuntimeError") as caught:
        async with supervisor.running():
            pytest.fail("must not be entered")
    assert stage.take_log() == "+a +b +c !c -b -a"
    assert isinstance(caught.value.cause, RuntimeError)
    assert caught.value.child == "c"
    assert supervisor.children() == ()


async def test_a_crash_before_started_inside_of_a_task_group_is_reported_bare(stage: Stage) -> None:
    async def crash() -> None:
        raise LookupError("deep")

    async def grouped(_context: ChildContext) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(crash)

    with pytest.raises(StartFailed, match="LookupError: deep") as caught:
        async with stage.supervisor(ChildSpec("g", grouped)).running():
            pytest.fail("must not be entered")
    assert isinstance(caught.value.cause, LookupError)


async def test_a_child_that_is_never_ready_is_cancelled_after_its_start_timeout(stage: Stage) -> None:
    async def mute(_context: ChildContext) -> None:
        await anyio.sleep_forever()

    async def run() -> None:
        with pytest.raises(StartFailed, match=r"did not call started\(\) within 3 s"):
            async with stage.supervisor("a", ChildSpec("mute", mute, start_timeout=3)).running():
                pytest.fail("must not be entered")

    async with anyio.create_task_group() as tg:
        tg.start_soon(run)
        await stage.clock.run_for(2.9)
        assert stage.take_log() == "+a"
        await stage.clock.run_for(0.2)
    assert stage.take_log() == "-a"


async def test_a_permanent_child_that_returns_before_started_has_not_started(stage: Stage) -> None:
    async def hasty(_context: ChildContext) -> None:
        pass

    with pytest.raises(StartFailed, match="returned before it called started"):
        async with stage.supervisor(ChildSpec("hasty", hasty)).running():
            pytest.fail("must not be entered")


async def test_a_transient_child_that_returns_before_started_is_done(stage: Stage) -> None:
    async def hasty(_context: ChildContext) -> str:
        return "done"

    async with stage.supervisor(ChildSpec("hasty", hasty, restart=Restart.TRANSIENT), "b").running() as top:
        assert top.child("hasty").state is ChildState.FINISHED
        assert top.child("hasty").last_exit == Returned("done")
        assert top.child("b").state is ChildState.RUNNING


async def test_started_twice_is_an_error_in_the_child(stage: Stage) -> None:
    async def twice(context: ChildContext) -> None:
        context.started()
        with pytest.raises(AlreadyStarted):
            context.started()
        await anyio.sleep_forever()

    async with stage.supervisor(ChildSpec("twice", twice)).running() as top:
        await settle()
        assert top.child("twice").incarnation == 0


async def test_leaving_by_an_error_stops_the_children_and_raises_the_error_bare(stage: Stage) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with stage.supervisor("a").running():
            raise KeyError("mine")
    assert stage.take_log() == "+a -a"


async def test_leaving_by_cancellation_still_gives_each_child_its_grace(stage: Stage) -> None:
    async def polite(context: ChildContext) -> None:
        context.started()
        await context.wait_stopping()
        stage.log.append("asked")
        await context.clock.sleep(4)
        stage.log.append("done")

    async def body() -> None:
        async with stage.supervisor("a", ChildSpec("polite", polite)).running():
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tg:
        tg.start_soon(body)
        await settle()
        tg.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await settle()
            assert stage.take_log() == "+a asked"
            await stage.clock.run_for(4)
    assert stage.take_log() == "done -a"


async def test_a_child_that_outlives_its_grace_is_cancelled(stage: Stage) -> None:
    async def stubborn(context: ChildContext) -> None:
        context.started()
        await context.wait_stopping()
        await anyio.sleep_forever()

    spec = ChildSpec("stubborn", stubborn, shutdown=Shutdown(grace=2))
    async with stage.supervisor(spec).running() as top, anyio.create_task_group() as tg:
        tg.start_soon(top.stop_child, "stubborn")
        await stage.clock.run_for(1.9)
        assert top.child("stubborn").state is ChildState.STOPPING
        await stage.clock.run_for(0.1)
        assert top.child("stubborn").last_exit == Stopped(forced=True)


async def test_a_child_that_ends_within_its_grace_is_not_forced(stage: Stage) -> None:
    async def polite(context: ChildContext) -> str:
        context.started()
        while not context.stopping:
            await context.wait_stopping()
        return "bye"

    async with stage.supervisor(ChildSpec("polite", polite)).running() as top:
        await top.stop_child("polite")
        assert top.child("polite").last_exit == Stopped(forced=False)


async def test_a_child_that_never_listened_is_cancelled_without_waiting(stage: Stage) -> None:
    async with stage.supervisor(ChildSpec("deaf", forever, shutdown=Shutdown(grace=60))).running() as top:
        await top.stop_child("deaf")  # the clock stands still
        assert top.child("deaf").last_exit == Stopped(forced=True)


async def test_brutal_shutdown_cancels_at_once_even_a_child_that_listens(stage: Stage) -> None:
    async def listener(context: ChildContext) -> None:
        context.on_stopping(lambda: stage.log.append("asked"))
        context.started()
        await anyio.sleep_forever()

    async with stage.supervisor(ChildSpec("l", listener, shutdown=Shutdown.brutal())).running() as top:
        await top.stop_child("l")
        assert stage.take_log() == "asked"
        assert top.child("l").last_exit == Stopped(forced=True)


async def test_what_a_child_raises_while_it_stops_is_kept_but_is_no_crash(stage: Stage) -> None:
    async def messy(context: ChildContext) -> None:
        try:
            context.started()
            await anyio.sleep_forever()
        finally:
            raise OSError("cleanup")

    async with stage.supervisor(ChildSpec("messy", messy)).running() as top:
        await top.stop_child("messy")
        exit_ = top.child("messy").last_exit
        assert isinstance(exit_, Stopped)
        assert isinstance(exit_.error, OSError)
        assert top.child("messy").state is ChildState.STOPPED


async def test_a_stop_during_a_restart_loop_is_served(stage: Stage) -> None:
    tried_often = anyio.Event()

    def watch(_event: object) -> None:
        if len(stage.log) > 50:
            tried_often.set()

    async with stage.supervisor("a", "b", on_event=watch).running() as top:
        stage["b"].fail_starts = 10**9
        stage["b"].obey(lambda: 1 / 0)
        await tried_often.wait()
        await top.stop()
        assert [child.state for child in top.children()] == [ChildState.STOPPED] * 2
    tries = stage["b"].incarnations
    await settle()
    assert stage["b"].incarnations == tries


async def test_stop_from_inside_of_a_child_stops_that_child_too(stage: Stage) -> None:
    gate = anyio.Event()

    async def suicidal(context: ChildContext) -> None:
        context.started()
        await gate.wait()
        await supervisor.stop()
        pytest.fail("the child is cancelled in stop()")

    supervisor = stage.supervisor("a", ChildSpec("s", suicidal))
    async with supervisor.running():
        gate.set()
        await settle()
        assert stage.take_log() == "+a -a"


async def test_after_stop_the_block_goes_on_and_nothing_can_be_started(stage: Stage) -> None:
    async with stage.supervisor("a").running() as top:
        await top.stop()
        await top.stop()
        await anyio.lowlevel.checkpoint()
        for forbidden in (top.start_child(stage.spec("b")), top.restart_child("a")):
            with pytest.raises(SupervisorStopped):
                await forbidden
    with pytest.raises(SupervisorStopped):
        top.child("a")


async def test_stop_while_starting_unwinds_and_raises(stage: Stage) -> None:
    async def mute(_context: ChildContext) -> None:
        await anyio.sleep_forever()

    supervisor = stage.supervisor("a", ChildSpec("mute", mute), "never")

    async def body() -> None:
        with pytest.raises(SupervisorStopped, match="stopped while it started"):
            async with supervisor.running():
                pytest.fail("must not be entered")

    async with anyio.create_task_group() as tg:
        tg.start_soon(body)
        await settle()
        await supervisor.stop()
    assert stage.take_log() == "+a -a"


async def test_a_supervisor_can_run_again_but_not_twice_at_once(stage: Stage) -> None:
    supervisor = stage.supervisor("a")
    async with supervisor.running():
        await supervisor.start_child(stage.spec("dynamic"))
        with pytest.raises(AlreadyStarted):
            async with supervisor.running():
                pytest.fail("must not be entered")
    async with supervisor.running():
        assert [child.name for child in supervisor.children()] == ["a"]
        assert supervisor.child("a").incarnation == 0
    assert stage.take_log() == "+a +dynamic -dynamic -a +a -a"


async def test_an_exit_during_the_initial_start_is_followed_up_once_all_are_ready(stage: Stage) -> None:
    gate = anyio.Event()

    async def slow(context: ChildContext) -> None:
        await gate.wait()
        context.started()
        await anyio.sleep_forever()

    supervisor = stage.supervisor("a", ChildSpec("slow", slow))

    async def body() -> None:
        async with supervisor.running():
            await settle()
            assert supervisor.child("a").incarnation == 1

    async with anyio.create_task_group() as tg:
        tg.start_soon(body)
        await settle()
        await stage["a"].crash()
        assert stage.take_log() == "+a -a"
        gate.set()
    assert stage.take_log() == "+a -a"


async def test_start_child_returns_what_the_child_gave_to_started(stage: Stage) -> None:
    async with stage.supervisor().running() as top:
        spec = stage.spec("d")
        stage["d"].value = 42
        assert await top.start_child(spec) == 42
        assert top.child("d").dynamic


async def test_start_child_that_fails_leaves_nothing_behind(stage: Stage) -> None:
    async with stage.supervisor().running() as top:
        spec = stage.spec("d")
        stage["d"].fail_starts = 1
        with pytest.raises(StartFailed):
            await top.start_child(spec)
        assert top.children() == ()
        await top.start_child(spec)


async def test_start_child_that_is_cancelled_leaves_nothing_behind(stage: Stage) -> None:
    async def mute(_context: ChildContext) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stage.log.append("-mute")

    async with stage.supervisor().running() as top:
        async with anyio.create_task_group() as tg:
            tg.start_soon(top.start_child, ChildSpec("mute", mute))
            await settle()
            assert top.child("mute").state is ChildState.STARTING
            tg.cancel_scope.cancel()
        assert stage.take_log() == "-mute"
        assert top.children() == ()


async def test_a_child_that_is_starting_when_its_supervisor_stops_is_refused(stage: Stage) -> None:
    async def mute(_context: ChildContext) -> None:
        await anyio.sleep_forever()

    async with stage.supervisor().running() as top:

        async def start() -> None:
            with pytest.raises(SupervisorStopped):
                await top.start_child(ChildSpec("mute", mute))

        async with anyio.create_task_group() as tg:
            tg.start_soon(start)
            await settle()
            await top.stop()


async def test_names_are_unique_and_dynamic_children_are_limited(stage: Stage) -> None:
    async with stage.supervisor("a", max_children=1).running() as top:
        with pytest.raises(DuplicateChild, match="running"):
            await top.start_child(stage.spec("a"))
        await top.start_child(stage.spec("d"))
        with pytest.raises(TooManyChildren):
            await top.start_child(stage.spec("e"))
        await top.stop_child("d")
        await top.start_child(stage.spec("e"))
        with pytest.raises(UnknownChild, match="there are: a, e"):
            top.child("d")


async def test_a_dynamic_child_that_has_finished_is_forgotten(stage: Stage) -> None:
    async with stage.supervisor().running() as top:
        await top.start_child(stage.spec("d", restart=Restart.TRANSIENT))
        await stage["d"].finish()
        assert top.children() == ()


async def test_dynamic_children_stop_together_and_before_the_fixed_ones(stage: Stage) -> None:
    async def polite(context: ChildContext) -> None:
        context.started()
        await context.wait_stopping()
        stage.log.append(f"asked {context.name}")
        await context.clock.sleep(3)

    async with anyio.create_task_group() as tg, stage.supervisor("a").running() as top:
        await top.start_child(ChildSpec("d1", polite))
        await top.start_child(ChildSpec("d2", polite))
        stage.take_log()
        tg.start_soon(stage.clock.run_for, 3)  # one grace for both
    assert stage.take_log() in {"asked d1 asked d2 -a", "asked d2 asked d1 -a"}


async def test_a_stopped_child_stays_down_until_it_is_restarted(stage: Stage) -> None:
    async with stage.supervisor("a", "b", strategy=Strategy.ONE_FOR_ALL).running() as top:
        await top.stop_child("a")
        stage.take_log()
        await stage["b"].crash()
        assert stage.take_log() == "-b +b"
        stage["a"].value = "back"
        assert await top.restart_child("a") == "back"
        await stage["b"].crash()
        assert stage.take_log() == "+a -b -a +a +b"


async def test_restart_child_that_fails_leaves_it_down(stage: Stage) -> None:
    async with stage.supervisor("a").running() as top:
        stage["a"].fail_starts = 1
        with pytest.raises(StartFailed):
            await top.restart_child("a")
        assert top.child("a").state is ChildState.STOPPED
        await top.restart_child("a")
        assert top.child("a").state is ChildState.RUNNING


async def test_a_child_may_ask_for_its_own_restart(stage: Stage) -> None:
    async def restless(context: ChildContext) -> None:
        context.started()
        if context.incarnation == 0:
            await supervisor.restart_child("restless")
            pytest.fail("the first incarnation is cancelled")
        await anyio.sleep_forever()

    supervisor = stage.supervisor(ChildSpec("restless", restless))
    async with supervisor.running():
        await settle()
        assert supervisor.child("restless").incarnation == 1
        assert supervisor.child("restless").state is ChildState.RUNNING


async def test_two_restarts_at_once_leave_one_incarnation(stage: Stage) -> None:
    alive = 0

    async def counted(context: ChildContext) -> None:
        nonlocal alive
        alive += 1
        try:
            await anyio.lowlevel.checkpoint()
            context.started()
            await anyio.sleep_forever()
        finally:
            alive -= 1

    supervisor = stage.supervisor(ChildSpec("c", counted))

    async def restart() -> None:
        try:
            await supervisor.restart_child("c")
        except StartFailed:
            stage.log.append("cut short")

    async with supervisor.running():
        async with anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(restart)
        assert alive == 1
        assert supervisor.child("c").state is ChildState.RUNNING


async def test_stop_child_wins_over_a_restart_that_waits(stage: Stage) -> None:
    async def polite(context: ChildContext) -> None:
        context.started()
        await context.wait_stopping()
        await context.clock.sleep(1)

    supervisor = stage.supervisor(ChildSpec("p", polite))

    async def restart() -> None:
        with pytest.raises(SupervisorStopped, match="stopped before"):
            await supervisor.restart_child("p")

    async with supervisor.running(), anyio.create_task_group() as tg:
        tg.start_soon(restart)
        await settle()
        tg.start_soon(supervisor.stop_child, "p")
        await stage.clock.run_for(1)
        assert supervisor.child("p").state is ChildState.STOPPED


async def test_on_exit_is_called_before_the_restart(stage: Stage) -> None:
    spec = stage.spec("a", on_exit=lambda exit_: stage.log.append(type(exit_).__name__))
    async with stage.supervisor(spec).running():
        await stage["a"].crash()
        assert stage.take_log() == "+a -a Crashed +a"
    assert stage.take_log() == "-a Stopped"


async def test_an_on_exit_hook_that_raises_ends_the_supervisor(stage: Stage) -> None:
    def hook(_exit: object) -> None:
        raise LookupError("lost")

    with pytest.raises(HookFailed, match="LookupError: lost"):  # noqa: PT012 - all of the block is the situation
        async with stage.supervisor("b", stage.spec("a", on_exit=hook)).running():
            await stage["a"].crash()
            await anyio.sleep_forever()
    assert stage.take_log() == "+b +a -a -b"


async def test_an_observer_that_raises_changes_nothing(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    def observer(_event: object) -> None:
        raise LookupError("observer")

    async with stage.supervisor("a", on_event=observer).running() as top:
        await stage["a"].crash()
        assert top.child("a").incarnation == 1
    assert "a hook failed on ChildExited" in caplog.text


async def test_events_tell_the_story(stage: Stage) -> None:
    async with stage.supervisor("a").running():
        stage["a"].fail_starts = 1
        await stage["a"].crash()
    kinds = [type(event).__name__ for event in stage.events.events]
    assert kinds == [
        "ChildStarted",
        "SupervisorStarted",
        "ChildExited",
        "RestartScheduled",
        "ChildExited",
        "ChildStartFailed",
        "RestartScheduled",
        "ChildStarted",
        "ChildExited",
        "SupervisorEnded",
    ]
    assert [event.incarnation for event in stage.events.of(ChildStarted)] == [0, 2]
    assert stage.events.of(ChildStartFailed)[0].reason == "RuntimeError: a can not start"
    assert len(stage.events.of(SupervisorStarted)) == 1
    assert stage.events.of(SupervisorEnded)[0].reason == "the block that ran it was left"


async def test_an_event_can_be_awaited(stage: Stage) -> None:
    async with stage.supervisor("a").running():
        stage["a"].obey(lambda: 1 / 0)
        event = await stage.events.wait_for(ChildExited)
    assert isinstance(event.exit, Crashed)
    assert isinstance(event.exit.error, ZeroDivisionError)


@pytest.mark.parametrize(
    ("mode", "finished", "ends"),
    [
        (AutoShutdown.ANY_SIGNIFICANT, ["s1"], True),
        (AutoShutdown.ALL_SIGNIFICANT, ["s1"], False),
        (AutoShutdown.ALL_SIGNIFICANT, ["s1", "s2"], True),
        (AutoShutdown.ANY_SIGNIFICANT, ["plain"], False),
    ],
)
async def test_significant_children_end_the_supervisor(
    stage: Stage, mode: AutoShutdown, finished: list[str], ends: bool
) -> None:
    specs = [
        stage.spec("s1", restart=Restart.TRANSIENT, significant=True),
        stage.spec("s2", restart=Restart.TEMPORARY, significant=True),
        stage.spec("plain", restart=Restart.TRANSIENT),
    ]
    survived = False
    async with stage.supervisor(*specs, auto_shutdown=mode).running():
        for name in finished:
            stage[name].obey(lambda: None)
            await settle()
        survived = True
    assert survived is not ends


@pytest.mark.parametrize(
    "make",
    [
        lambda: ChildSpec("x", forever, significant=True),
        lambda: ChildSpec("", forever),
        lambda: ChildSpec("x", forever, start_timeout=0),
        lambda: ChildSpec("x", forever, start_timeout=float("nan")),
        lambda: Shutdown(grace=-1),
        lambda: Shutdown(cancel_grace=float("nan")),
        lambda: Supervisor("s", [ChildSpec("x", forever), ChildSpec("x", forever)]),
        lambda: Supervisor("s", [ChildSpec("x", forever, restart=Restart.TRANSIENT, significant=True)]),
        lambda: Supervisor("s", max_children=-1),
    ],
)
async def test_a_spec_that_can_not_work_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        make()


async def test_nothing_runs_before_it_is_run() -> None:
    supervisor = Supervisor("idle", [ChildSpec("x", forever)])
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: supervisor.stop_child("x"),
        lambda: supervisor.restart_child("x"),
        lambda: supervisor.start_child(ChildSpec("y", forever)),
    ]
    for call in calls:
        with pytest.raises(SupervisorStopped, match="does not run"):
            await call()
    await supervisor.stop()
    assert supervisor.children() == ()
    assert repr(supervisor) == "<Supervisor 'idle', not running>"
