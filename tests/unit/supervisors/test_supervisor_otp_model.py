"""The supervisor against a transcription of the rules of OTP's ``supervisor.erl``, on both event loops.

The model below keeps OTP's names and is sequential, as OTP's supervisor process is. What the supervisor starts and
stops, in which order, and what is left must agree with it, for every exit of every child in every small tree, and
for random sequences of exits, failed starts, operations and passing time.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from puppets import Stage

from supervisors import (
    AutoShutdown,
    ChildState,
    Intensity,
    Restart,
    RestartIntensityExceeded,
    StartFailed,
    Strategy,
    Supervisor,
    UnknownChild,
)
from supervisors.testing import settle

NORMAL, CRASH, WEDGE = "normal", "crash", "wedge"


class Shutdown(Exception):  # noqa: N818 - OTP's exit reason
    """The modelled supervisor ends by itself; ``abnormal`` when it gives up."""

    def __init__(self, *, abnormal: bool) -> None:
        super().__init__(abnormal)
        self.abnormal = abnormal


@define
class Child:
    """OTP's ``#child{}``: ``pid`` is true, ``None`` (undefined) or ``"restarting"``."""

    id: str
    restart_type: Restart
    significant: bool
    pid: Any = None
    fail_starts: int = 0


@define
class OTP:
    """The state of a supervisor process, and its functions."""

    strategy: Strategy
    auto_shutdown: AutoShutdown
    intensity: int
    period: float
    children: list[Child]
    log: list[str] = field(factory=list)
    restarts: list[float] = field(factory=list)
    now: float = 0.0
    ended: Shutdown | None = None

    def get(self, name: str) -> Child | None:
        return next((child for child in self.children if child.id == name), None)

    def init(self) -> None:
        for child in self.children:
            assert self.do_start_child(child)

    def do_start_child(self, child: Child) -> bool:
        self.log.append(f"+{child.id}")
        if child.fail_starts:
            child.fail_starts -= 1
            self.log.append(f"!{child.id}")
            return False
        child.pid = True
        return True

    def do_terminate(self, child: Child) -> None:
        if child.pid is True:
            self.log.append(f"-{child.id}")
        child.pid = None

    def del_child(self, child: Child) -> None:
        child.pid = None
        if child.restart_type is Restart.TEMPORARY:
            self.children.remove(child)

    def exit(self, name: str, reason: str) -> None:
        """``handle_info({'EXIT', ...})``, ``restart_child``, ``do_restart``."""
        child = self.get(name)
        assert child is not None
        assert child.pid is True
        self.log.append(f"-{name}")
        if child.restart_type is Restart.PERMANENT or (child.restart_type is Restart.TRANSIENT and reason != NORMAL):
            child.pid = "restarting"
            self.restart(child)
        else:
            self.del_child(child)
            self.do_auto_shutdown(child)

    def do_auto_shutdown(self, child: Child) -> None:
        if self.auto_shutdown is AutoShutdown.NEVER or not child.significant:
            return
        if self.auto_shutdown is AutoShutdown.ALL_SIGNIFICANT and any(
            other.significant and other.pid for other in self.children
        ):
            return
        raise Shutdown(abnormal=False)

    def restart(self, child: Child) -> None:
        """``restart/2`` and, for what does not start, ``try_again_restart``."""
        failed: Child | None = child
        while failed is not None:
            self.add_restart()
            match self.strategy:
                case Strategy.ONE_FOR_ONE:
                    failed = None if self.do_start_child(failed) else failed
                case Strategy.REST_FOR_ONE:
                    failed = self.restart_multiple_children(self.children[self.children.index(failed) :])
                case Strategy.ONE_FOR_ALL:
                    failed = self.restart_multiple_children(list(self.children))

    def restart_multiple_children(self, children: list[Child]) -> Child | None:
        for child in reversed(children):
            self.do_terminate(child)
            if child.restart_type is Restart.TEMPORARY:
                self.children.remove(child)
                children.remove(child)
        for child in children:
            if not self.do_start_child(child):
                child.pid = "restarting"
                return child
        return None

    def add_restart(self) -> None:
        self.restarts = [when for when in self.restarts if when >= self.now - self.period] + [self.now]
        if len(self.restarts) > self.intensity:
            raise Shutdown(abnormal=True)

    def terminate(self) -> None:
        for child in reversed(self.children):
            self.do_terminate(child)

    def restart_child(self, name: str) -> None:
        """``handle_call({restart_child, ...})``; ours stops a running child first."""
        child = self.get(name)
        assert child is not None
        self.do_terminate(child)
        self.do_start_child(child)


def compare(top: Supervisor, model: OTP, stage: Stage) -> None:
    assert stage.take_log() == " ".join(model.log)
    model.log.clear()
    alive = {child.name: child.state is ChildState.RUNNING for child in top.children()}
    assert alive == {child.id: child.pid is True for child in model.children}


def twin(
    strategy: Strategy,
    auto_shutdown: AutoShutdown,
    intensity: int,
    children: list[tuple[Restart, bool]],
) -> tuple[Stage, Supervisor, OTP]:
    """Make a supervisor and its model."""
    stage = Stage()
    model = OTP(strategy, auto_shutdown, intensity, 10.0, [], now=stage.clock.now())
    specs = []
    for name, (restart, wanted) in zip("abcdef", children, strict=False):
        significant = wanted and restart is not Restart.PERMANENT and auto_shutdown is not AutoShutdown.NEVER
        specs.append(stage.spec(name, restart=restart, significant=significant))
        model.children.append(Child(name, restart, significant))
    top = stage.supervisor(*specs, strategy=strategy, auto_shutdown=auto_shutdown, intensity=Intensity(intensity, 10.0))
    return stage, top, model


async def exit_child(stage: Stage, name: str, reason: str) -> None:
    match reason:
        case "normal":
            await stage[name].finish()
        case "crash":
            await stage[name].crash()
        case _:
            await stage[name].wedge()


Step = Callable[[Stage, Supervisor, OTP], Awaitable[None]]


async def play(stage: Stage, top: Supervisor, model: OTP, steps: list[Step]) -> None:
    """Do the steps to both; when the model ends, the supervisor must end in the same way."""
    model.init()
    escalated = finished = False
    try:
        async with top.running():
            compare(top, model, stage)
            for step in steps:
                await step(stage, top, model)
                await settle()  # a supervisor that ends cuts the block short here
                assert model.ended is None, "the model ended, the supervisor did not"
                compare(top, model, stage)
            finished = True
    except RestartIntensityExceeded:
        escalated = True
    assert finished is (model.ended is None)
    assert escalated is (model.ended is not None and model.ended.abnormal)
    model.terminate()
    assert stage.take_log() == " ".join(model.log)


def exit_step(name: str, reason: str) -> Step:
    async def step(stage: Stage, top: Supervisor, model: OTP) -> None:
        child = model.get(name)
        if child is not None and child.pid is True:
            try:
                model.exit(name, reason)
            except Shutdown as exc:
                model.ended = exc
            await exit_child(stage, name, reason)
        del top

    return step


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("reason", [NORMAL, CRASH, WEDGE])
def test_every_exit_of_every_child_in_every_tree_of_three(backend: str, strategy: Strategy, reason: str) -> None:
    async def all_of_them() -> None:
        for restarts in itertools.product(Restart, repeat=3):
            for position in "abc":
                for auto_shutdown in AutoShutdown:
                    stage, top, model = twin(strategy, auto_shutdown, 5, [(restart, True) for restart in restarts])
                    await play(stage, top, model, [exit_step(position, reason)])

    anyio.run(all_of_them, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("strategy", Strategy)
def test_every_failed_start_within_every_restart(backend: str, strategy: Strategy) -> None:
    async def all_of_them() -> None:
        for crashed, failing in itertools.product("abcd", repeat=2):
            for times in (1, 2, 9):
                stage, top, model = twin(strategy, AutoShutdown.NEVER, 5, [(Restart.PERMANENT, False)] * 4)

                async def fail(
                    stage: Stage, _top: Supervisor, model: OTP, failing: str = failing, times: int = times
                ) -> None:
                    stage[failing].fail_starts = times
                    child = model.get(failing)
                    assert child is not None
                    child.fail_starts = times

                await play(stage, top, model, [fail, exit_step(crashed, CRASH)])

    anyio.run(all_of_them, backend=backend)


def fail_step(name: str, times: int) -> Step:
    async def step(stage: Stage, _top: Supervisor, model: OTP) -> None:
        child = model.get(name)
        if child is not None:
            child.fail_starts = stage[name].fail_starts = times

    return step


def pass_step(seconds: float) -> Step:
    async def step(stage: Stage, _top: Supervisor, model: OTP) -> None:
        await stage.clock.run_for(seconds)
        model.now += seconds

    return step


def restart_step(name: str) -> Step:
    async def step(_stage: Stage, top: Supervisor, model: OTP) -> None:
        if model.get(name) is None:
            with pytest.raises(UnknownChild):
                await top.restart_child(name)
            return
        model.restart_child(name)
        try:
            await top.restart_child(name)
        except StartFailed:
            child = model.get(name)
            assert child is not None
            assert child.pid is None

    return step


names = st.sampled_from("abcd")
steps_of = st.lists(
    st.one_of(
        st.builds(exit_step, names, st.sampled_from([NORMAL, CRASH, WEDGE])),
        st.builds(fail_step, names, st.integers(1, 4)),
        st.builds(pass_step, st.sampled_from([1.0, 5.0, 10.0, 10.5])),
        st.builds(restart_step, names),
    ),
    max_size=12,
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    strategy=st.sampled_from(Strategy),
    auto_shutdown=st.sampled_from(AutoShutdown),
    intensity=st.integers(0, 4),
    children=st.lists(st.tuples(st.sampled_from(Restart), st.booleans()), min_size=1, max_size=4),
    steps=steps_of,
)
def test_random_lives(  # noqa: PLR0917 - Hypothesis passes them by name
    backend: str,
    strategy: Strategy,
    auto_shutdown: AutoShutdown,
    intensity: int,
    children: list[tuple[Restart, bool]],
    steps: list[Step],
) -> None:
    stage, top, model = twin(strategy, auto_shutdown, intensity, children)
    anyio.run(play, stage, top, model, steps, backend=backend)
