"""What happens after a child has failed: backoff, budgets, escalation, and failures during all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from supervisors import (
    AutoShutdown,
    Backoff,
    ChildContext,
    ChildSpec,
    ChildState,
    Crashed,
    Escalated,
    Intensity,
    Restart,
    RestartIntensityExceeded,
    RestartScheduled,
    Returned,
    StartFailed,
    Stopped,
    Strategy,
)
from supervisors.testing import settle

if TYPE_CHECKING:
    from puppets import Stage

pytestmark = pytest.mark.anyio

STEADY = Backoff(initial=1, maximum=8, factor=2, jitter=0, reset_after=60)


async def test_delays_grow_and_start_anew_after_a_calm_time(stage: Stage) -> None:
    async with stage.supervisor("a", backoff=STEADY).running() as top:
        for _ in range(5):
            await stage["a"].crash()
            assert top.child("a").state is ChildState.RESTARTING
            await stage.clock.run_for(8)
            assert top.child("a").state is ChildState.RUNNING
        await stage.clock.run_for(60)
        await stage["a"].crash()
    assert [event.delay for event in stage.events.of(RestartScheduled)] == [1, 2, 4, 8, 8, 1]


async def test_a_child_may_bring_its_own_backoff(stage: Stage) -> None:
    spec = stage.spec("a", backoff=Backoff(initial=5, jitter=0))
    async with stage.supervisor(spec, "b", backoff=STEADY).running():
        await stage["a"].crash()
        await stage["b"].crash()
    assert [(event.child, event.delay) for event in stage.events.of(RestartScheduled)] == [("a", 5), ("b", 1)]


async def test_one_child_in_backoff_does_not_delay_another(stage: Stage) -> None:
    quick = stage.spec("b", backoff=Backoff.none())
    async with stage.supervisor("a", quick, backoff=STEADY).running() as top:
        await stage["a"].crash()
        await stage["b"].crash()
        assert top.child("a").state is ChildState.RESTARTING
        assert (top.child("b").state, top.child("b").incarnation) == (ChildState.RUNNING, 1)


async def test_more_restarts_than_the_budget_escalate_with_child_and_cause(stage: Stage) -> None:
    with pytest.raises(RestartIntensityExceeded, match=r"2 restarts in 5 s; last, child 'b'") as caught:  # noqa: PT012 - all of the block is the situation
        async with stage.supervisor("a", "b", "c", intensity=Intensity(2, 5)).running():
            for name in "acb":
                await stage[name].crash(LookupError(name))
            pytest.fail("the block is cancelled")
    assert (caught.value.child, repr(caught.value.cause)) == ("b", "LookupError('b')")
    assert stage.take_log() == "+a +b +c -a +a -c +c -b -c -a"
    assert stage.events.of(Escalated)[0].error is caught.value


async def test_restarts_that_are_old_enough_do_not_count(stage: Stage) -> None:
    async with stage.supervisor("a", intensity=Intensity(1, 5)).running() as top:
        for _ in range(4):
            await stage["a"].crash()
            await stage.clock.run_for(5.1)
        assert top.child("a").incarnation == 4


async def test_failed_starts_within_a_restart_count_too(stage: Stage) -> None:
    with pytest.raises(RestartIntensityExceeded) as caught:  # noqa: PT012 - all of the block is the situation
        async with stage.supervisor("a", intensity=Intensity(3, 5)).running():
            stage["a"].fail_starts = 100
            await stage["a"].crash()
            await anyio.sleep_forever()
    assert isinstance(caught.value.cause, StartFailed)
    assert stage.take_log() == "+a -a +a !a +a !a +a !a"


async def test_an_error_of_the_block_while_it_is_cut_short_does_not_hide_why(stage: Stage) -> None:
    with pytest.raises(RestartIntensityExceeded) as caught:  # noqa: PT012 - all of the block is the situation
        async with stage.supervisor("a", intensity=Intensity(0, 5)).running():
            try:
                await stage["a"].crash()
                await anyio.sleep_forever()
            finally:
                raise OSError("cleanup")
    assert isinstance(caught.value.__cause__, OSError | RuntimeError)


@pytest.mark.parametrize("strategy", Strategy)
async def test_escalation_stops_what_is_left_in_reverse_order(stage: Stage, strategy: Strategy) -> None:
    with pytest.raises(RestartIntensityExceeded):  # noqa: PT012 - all of the block is the situation
        async with stage.supervisor("a", "b", "c", strategy=strategy, intensity=Intensity(0, 5)).running():
            await stage["b"].crash()
            await anyio.sleep_forever()
    assert stage.take_log() == "+a +b +c -b -c -a"


async def test_a_child_that_crashes_while_its_siblings_stop_is_not_counted(stage: Stage) -> None:
    async def sore(context: ChildContext) -> None:
        context.started()
        await context.wait_stopping()
        raise LookupError("on its way out")

    supervisor = stage.supervisor(
        "a", ChildSpec("sore", sore), strategy=Strategy.ONE_FOR_ALL, intensity=Intensity(1, 5)
    )
    async with supervisor.running() as top:
        await stage["a"].crash()
        status = top.child("sore")
        assert (status.state, status.incarnation) == (ChildState.RUNNING, 1)
        assert isinstance(status.last_exit, Stopped)
        assert isinstance(status.last_exit.error, LookupError)


async def test_another_child_that_fails_during_the_backoff_is_covered_by_it(stage: Stage) -> None:
    supervisor = stage.supervisor("a", "b", "c", strategy=Strategy.REST_FOR_ONE, backoff=STEADY)
    async with supervisor.running():
        stage.take_log()
        await stage["c"].crash()
        await stage["a"].crash()  # takes the restart of c over, and b with it
        assert stage.take_log() == "-c -a -b"
        await stage.clock.run_for(1)
        assert stage.take_log() == "+a +b +c"
    assert [event.children for event in stage.events.of(RestartScheduled)] == [("c",), ("a", "b", "c")]


async def test_another_child_fails_while_a_sibling_is_starting_again(stage: Stage) -> None:
    gate = anyio.Event()

    async def slow(context: ChildContext) -> None:
        stage.log.append("+slow")
        try:
            if context.incarnation == 1:
                await gate.wait()
            context.started()
            await anyio.sleep_forever()
        finally:
            stage.log.append("-slow")

    supervisor = stage.supervisor("a", "b", ChildSpec("slow", slow), "d", strategy=Strategy.REST_FOR_ONE)
    async with supervisor.running() as top:
        stage.take_log()
        await stage["b"].crash()
        assert stage.take_log() == "-b -d -slow +b +slow"
        assert top.child("slow").state is ChildState.STARTING
        assert top.child("d").state is ChildState.RESTARTING
        await stage["a"].crash()
        assert stage.take_log() == "-a -slow -b +a +b +slow +d"
        assert [child.incarnation for child in top.children()] == [1, 2, 2, 1]


async def test_a_restarted_child_that_fails_again_while_the_rest_starts(stage: Stage) -> None:
    gate = anyio.Event()

    async def slow(context: ChildContext) -> None:
        if context.incarnation == 1:
            await gate.wait()
        context.started()
        await anyio.sleep_forever()

    supervisor = stage.supervisor("a", ChildSpec("slow", slow), "c", strategy=Strategy.ONE_FOR_ALL)
    async with supervisor.running() as top:
        await stage["c"].crash()
        await stage["a"].crash()
        assert all(child.state is ChildState.RUNNING for child in top.children())
        assert [child.incarnation for child in top.children()] == [2, 2, 1]


async def test_a_dynamic_child_whose_start_is_cut_short_by_a_sibling_fails_to_start(stage: Stage) -> None:
    async def mute(_context: ChildContext) -> None:
        await anyio.sleep_forever()

    async with stage.supervisor("a", strategy=Strategy.ONE_FOR_ALL).running() as top:

        async def start() -> None:
            with pytest.raises(StartFailed, match="stopped while it started"):
                await top.start_child(ChildSpec("mute", mute))

        async with anyio.create_task_group() as tg:
            tg.start_soon(start)
            await settle()
            await stage["a"].crash()
        assert [child.name for child in top.children()] == ["a"]


async def test_a_temporary_bystander_is_stopped_and_forgotten(stage: Stage) -> None:
    temporary = stage.spec("t", restart=Restart.TEMPORARY)
    async with stage.supervisor("a", temporary, strategy=Strategy.ONE_FOR_ALL).running() as top:
        await stage["a"].crash()
        assert [child.name for child in top.children()] == ["a"]
    assert stage.take_log() == "+a +t -a -t +a -a"


async def test_stop_child_during_its_backoff_keeps_it_down(stage: Stage) -> None:
    async with stage.supervisor("a", backoff=STEADY).running() as top:
        await stage["a"].crash()
        await top.stop_child("a")
        await stage.clock.run_for(60)
        assert top.child("a").state is ChildState.STOPPED
        assert top.child("a").incarnation == 0


async def test_restart_child_during_its_backoff_restarts_at_once_and_only_once(stage: Stage) -> None:
    async with stage.supervisor("a", backoff=STEADY, intensity=Intensity(1, 1000)).running() as top:
        await stage["a"].crash()
        await top.restart_child("a")
        assert top.child("a").state is ChildState.RUNNING
        await stage.clock.run_for(60)
        assert top.child("a").incarnation == 1
        assert top.child("a").failures == 0


async def test_a_failure_takes_over_what_an_older_restart_had_left_to_do(stage: Stage) -> None:
    supervisor = stage.supervisor("a", "b", "c", strategy=Strategy.REST_FOR_ONE, backoff=STEADY)
    async with supervisor.running() as top:
        await stage["a"].crash()
        await top.restart_child("b")  # ahead of its turn
        await stage["b"].crash()
        await stage.clock.run_for(60)
        assert [child.state for child in top.children()] == [ChildState.RUNNING] * 3
    assert [event.children for event in stage.events.of(RestartScheduled)] == [("a", "b", "c"), ("a", "b", "c")]


async def test_restart_child_of_one_that_is_about_to_be_revived_does_not_run_it_twice(stage: Stage) -> None:
    supervisor = stage.supervisor("a", "b", strategy=Strategy.ONE_FOR_ALL, backoff=STEADY)
    async with supervisor.running() as top:
        await stage["a"].crash()
        await top.restart_child("b")
        await stage.clock.run_for(60)
        stage.take_log()
        assert all(child.state is ChildState.RUNNING for child in top.children())
    assert stage.take_log() == "-b -a"


async def test_stop_child_takes_a_child_out_of_a_restart_while_it_starts(stage: Stage) -> None:
    async def slow(context: ChildContext) -> None:
        if context.incarnation:
            await anyio.sleep_forever()
        context.started()
        await anyio.sleep_forever()

    supervisor = stage.supervisor("a", ChildSpec("slow", slow), "c", strategy=Strategy.ONE_FOR_ALL)
    async with supervisor.running() as top:
        await stage["a"].crash()
        assert top.child("c").state is ChildState.RESTARTING
        await top.stop_child("slow")
        await settle()
        states = [child.state for child in top.children()]
        assert states == [ChildState.RUNNING, ChildState.STOPPED, ChildState.RUNNING]


async def test_a_transient_child_that_finishes_before_started_in_a_restart_lets_the_rest_start(
    stage: Stage,
) -> None:
    async def brief(context: ChildContext) -> None:
        if context.incarnation == 0:
            context.started()
            await anyio.sleep_forever()

    spec = ChildSpec("brief", brief, restart=Restart.TRANSIENT)
    async with stage.supervisor("a", spec, "c", strategy=Strategy.ONE_FOR_ALL).running() as top:
        await stage["a"].crash()
        states = [child.state for child in top.children()]
        assert states == [ChildState.RUNNING, ChildState.FINISHED, ChildState.RUNNING]


async def test_a_nested_supervisor_that_gives_up_is_restarted_by_its_parent(stage: Stage) -> None:
    inner = stage.supervisor("x", "y", intensity=Intensity(0, 5))
    outer = stage.supervisor(inner.spec())
    async with outer.running() as top:
        await inner.start_child(stage.spec("dynamic"))
        await stage["x"].crash()
        assert isinstance(top.child("top").last_exit, Crashed)
        assert [child.name for child in inner.children()] == ["x", "y"]
        assert inner.is_running
    assert stage.take_log() == "+x +y +dynamic -x -dynamic -y +x +y -y -x"


async def test_escalation_climbs_to_the_top(stage: Stage) -> None:
    inner = stage.supervisor("x", intensity=Intensity(0, 5))
    with pytest.raises(RestartIntensityExceeded) as caught:  # noqa: PT012 - all of the block is the situation
        async with stage.supervisor("a", inner.spec(), intensity=Intensity(0, 5)).running():
            await stage["x"].crash(LookupError("root cause"))
            await anyio.sleep_forever()
    inner_error = caught.value.cause
    assert isinstance(inner_error, RestartIntensityExceeded)
    assert isinstance(inner_error.cause, LookupError)
    assert stage.take_log() == "+a +x -x -a"


async def test_a_nested_supervisor_whose_child_does_not_start_has_not_started(stage: Stage) -> None:
    inner = stage.supervisor("x", "y")
    stage["y"].fail_starts = 1
    with pytest.raises(StartFailed, match="child 'top' did not start: StartFailed"):
        async with stage.supervisor("a", inner.spec()).running():
            pytest.fail("must not be entered")
    assert stage.take_log() == "+a +x +y !y -x -a"


async def test_a_nested_supervisor_stops_in_order_when_its_parent_stops(stage: Stage) -> None:
    inner = stage.supervisor("x", "y")
    async with stage.supervisor("a", inner.spec(), "z").running():
        pass
    assert stage.take_log() == "+a +x +y +z -z -y -x -a"


async def test_a_nested_supervisor_that_is_asked_to_stop_while_it_starts_stops(stage: Stage) -> None:
    async def mute(_context: ChildContext) -> None:
        await anyio.sleep_forever()

    inner = stage.supervisor("x", ChildSpec("mute", mute))
    async with stage.supervisor().running() as top, anyio.create_task_group() as tg:

        async def start() -> None:
            with pytest.raises(StartFailed):
                await top.start_child(inner.spec())

        tg.start_soon(start)
        await settle()
        await top.stop_child("top")
    assert stage.take_log() == "+x -x"


async def test_an_automatic_shutdown_of_a_nested_supervisor_is_a_normal_end(stage: Stage) -> None:
    inner = stage.supervisor(
        stage.spec("s", restart=Restart.TRANSIENT, significant=True),
        "y",
        auto_shutdown=AutoShutdown.ANY_SIGNIFICANT,
    )
    spec: Any = inner.spec(restart=Restart.TRANSIENT)
    async with stage.supervisor(spec).running() as top:
        await stage["s"].finish()
        assert isinstance(top.child("top").last_exit, Returned)
        assert top.child("top").state is ChildState.FINISHED
    assert stage.take_log() == "+s +y -s -y"
