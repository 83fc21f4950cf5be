"""The pure rules: who is stopped, started and forgotten after an exit, and in which order."""

from __future__ import annotations

import pytest

from supervisors import AutoShutdown, Crashed, Restart, Returned, Stopped, Strategy, Wedged
from supervisors.plan import Member, Plan, after_exit, must_restart

CRASH = Crashed(RuntimeError())
NEVER = AutoShutdown.NEVER


def members(*restarts: Restart, dead: str) -> list[Member]:
    return [
        Member(name=name, restart=restart, alive=name != dead) for name, restart in zip("abcd", restarts, strict=False)
    ]


@pytest.mark.parametrize(
    ("strategy", "plan"),
    [
        (Strategy.ONE_FOR_ONE, Plan(start=("b",))),
        (Strategy.ONE_FOR_ALL, Plan(stop=("d", "c", "a"), start=("a", "b", "d"), forget=("c",))),
        (Strategy.REST_FOR_ONE, Plan(stop=("d", "c"), start=("b", "d"), forget=("c",))),
    ],
)
def test_each_strategy_stops_in_reverse_and_starts_in_order(strategy: Strategy, plan: Plan) -> None:
    family = members(Restart.PERMANENT, Restart.TRANSIENT, Restart.TEMPORARY, Restart.PERMANENT, dead="b")
    assert after_exit(strategy, NEVER, family, "b", CRASH) == plan


@pytest.mark.parametrize("strategy", Strategy)
def test_a_temporary_child_is_forgotten_and_nobody_else_is_touched(strategy: Strategy) -> None:
    family = members(Restart.PERMANENT, Restart.TEMPORARY, Restart.PERMANENT, dead="b")
    assert after_exit(strategy, NEVER, family, "b", CRASH) == Plan(forget=("b",))


@pytest.mark.parametrize(
    ("exit_", "expected"),
    [
        (Returned(), {Restart.PERMANENT}),
        (Stopped(), {Restart.PERMANENT}),
        (CRASH, {Restart.PERMANENT, Restart.TRANSIENT}),
        (Wedged("stuck"), {Restart.PERMANENT, Restart.TRANSIENT}),
    ],
)
def test_who_is_restarted_after_what(exit_: Returned | Stopped | Crashed | Wedged, expected: set[Restart]) -> None:
    assert {restart for restart in Restart if must_restart(restart, exit_)} == expected
