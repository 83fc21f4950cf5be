"""The pure parts of the benchmark: ratios by turns, spreads, verdicts, windows, tables and profiles by package."""

from __future__ import annotations

import cProfile
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from bench import profiling
from bench.children import Child
from bench.contestants import PRIVATE_KEY, TRANSACTIONS, sign_plainly
from bench.figures import (
    Figure,
    Spread,
    Target,
    against,
    at_least,
    at_most,
    each_rate,
    percentile,
    processor_times,
    ratios,
    slope,
)
from bench.machine import describe
from bench.report import BEGIN, END, Run, as_json, as_markdown, as_text, replaced
from bench.turns import Plan, Window, contest, keep_busy, loop_in_turns
from coincurve import PrivateKey
from eth_account import Account

# ---- figures ----


def test_a_ratio_is_taken_turn_by_turn_so_a_busy_machine_does_not_show() -> None:
    ours, others = [100.0, 10.0, 50.0], [200.0, 20.0, 100.0]
    assert ratios(ours, others) == [0.5, 0.5, 0.5]


def test_ratios_of_contestants_with_different_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (25, 2.0), (50, 3.0), (75, 4.0), (99, 4.96), (100, 5.0)])
def test_a_percentile_lies_between_its_neighbours_in_proportion(percent: float, expected: float) -> None:
    assert percentile([5.0, 3.0, 1.0, 4.0, 2.0], percent) == pytest.approx(expected)


def test_every_percentile_of_one_value_is_that_value() -> None:
    assert {percentile([7.0], percent) for percent in (0, 50, 99, 100)} == {7.0}


def test_a_spread_has_median_quartiles_and_the_outermost() -> None:
    assert Spread.of([9.0, 1.0, 5.0, 3.0, 7.0]) == Spread(5.0, 3.0, 7.0, 1.0, 9.0)


@pytest.mark.parametrize(
    ("target", "value", "reached"),
    [
        (at_least(0.5), 0.5, True),
        (at_least(0.5), 0.499, False),
        (at_least(0.5), 2.0, True),
        (at_most(5), 5.0, True),
        (at_most(5), 5.001, False),
        (at_most(5), -1.0, True),
    ],
)
def test_the_bound_itself_reaches_a_target(target: Target, value: float, reached: bool) -> None:
    assert target.is_reached(value) is reached
    assert figure(value, target).reached is reached


def test_a_figure_for_information_has_no_verdict() -> None:
    assert figure(1.0, None).reached is None


def test_a_pooled_value_is_judged_in_place_of_the_median() -> None:
    one = Figure(measure="m", name="n", unit="ms", spread=Spread.of([1.0]), pooled=9.0, target=at_most(5))
    assert (one.value, one.reached) == (9.0, False)


def test_one_contestant_against_another_is_named_after_both() -> None:
    rates = {"ours": [30.0, 10.0, 20.0], "plain": [60.0, 40.0, 40.0]}
    one = against("software", rates, "ours", "plain", at_least(0.5))
    assert (one.name, one.unit, one.value, one.reached) == ("ours / plain", "x", 0.5, True)
    assert [each.value for each in each_rate("software", rates)] == [20.0, 40.0]


def test_processor_times_are_told_in_microseconds() -> None:
    (one,) = processor_times("software", {"ours": [2e-6, 4e-6, 3e-6], "other": [1.0]}, ["ours"])
    assert (one.unit, one.value) == ("us", pytest.approx(3.0))


def test_processor_times_of_hosts_are_told_apart() -> None:
    (one,) = processor_times("hsm", {"ours": [1e-3]}, ["ours"], of="its host")
    assert one.name == "ours: processor time of its host"


def test_growth_is_the_slope_through_all_that_was_seen() -> None:
    assert slope([0, 10, 20, 30], [5.0, 6.0, 7.0, 8.0]) == pytest.approx(0.1)
    assert slope([5], [1.0]) == 0.0


# ---- turns ----


def test_what_is_finished_in_the_ramp_and_in_the_tail_is_not_counted() -> None:
    window = Window(begin=10.0, end=20.0)
    assert all(window.finished(moment) for moment in (1.0, 9.9))  # the queues fill
    assert window.finished(10.5)  # starts the clock
    assert all(window.finished(moment) for moment in (11.5, 12.5))
    assert not window.finished(21.0)
    assert window.rate == 1.0


def test_a_call_that_does_many_counts_as_many() -> None:
    window = Window(begin=0.0, end=10.0)
    for moment in (1.0, 2.0, 3.0):
        window.finished(moment, 1000)
    assert window.rate == 1000.0


def test_a_turn_goes_on_until_something_can_be_said() -> None:
    window = Window(begin=1.0, end=2.0)
    assert window.finished(5.0)
    assert window.rate == 0.0
    assert window.finished(7.0)
    assert not window.finished(9.0)
    assert window.rate == 0.5


def contestant(name: str, turns: list[tuple[str, float]]) -> Callable[[float], Awaitable[float]]:
    async def turn(seconds: float) -> float:
        turns.append((name, seconds))
        return float(len(turns))

    return turn


@pytest.mark.anyio
async def test_contestants_take_turns_after_one_to_warm_up() -> None:
    turns: list[tuple[str, float]] = []
    plan = Plan(rounds=2, seconds=0.2, warm_up=0.5)
    found = await contest({name: contestant(name, turns) for name in "abc"}, plan)
    assert turns == [("a", 0.5), ("b", 0.5), ("c", 0.5), *[("a", 0.2), ("b", 0.2), ("c", 0.2)] * 2]
    assert found.rates == {"a": [4.0, 7.0], "b": [5.0, 8.0], "c": [6.0, 9.0]}
    assert {name: len(times) for name, times in found.processor.items()} == {"a": 2, "b": 2, "c": 2}


@pytest.mark.anyio
async def test_what_other_processes_of_ours_took_is_divided_by_what_was_done() -> None:
    taken = iter([1.0, 3.0])

    async def one_a_turn(seconds: float) -> float:
        await anyio.sleep(seconds)
        return 1 / seconds

    plan = Plan(rounds=1, seconds=0.01, warm_up=0.001)
    found = await contest({"a": one_a_turn}, plan, others=lambda: next(taken))
    assert 0 < found.beside["a"][0] <= 2.0


@pytest.mark.anyio
async def test_callers_are_given_numbers_of_their_own() -> None:
    given: list[int] = []

    async def work(number: int) -> None:
        given.append(number)

    assert await keep_busy(work, 0.005, callers=3) > 0
    assert given == list(range(len(given)))


@pytest.mark.anyio
async def test_a_plain_loop_is_a_contestant() -> None:
    given: list[int] = []
    assert await loop_in_turns(given.append)(0.005) > 0
    assert given == list(range(len(given)))


# ---- contestants ----


@pytest.mark.parametrize("number", [0, 1, 255, 999])
def test_the_plain_loop_makes_what_eth_account_makes(number: int) -> None:
    tx = TRANSACTIONS[number]
    expected = Account.from_key(PRIVATE_KEY).sign_transaction(tx)
    assert sign_plainly(PrivateKey(PRIVATE_KEY), tx) == (bytes(expected.raw_transaction), bytes(expected.hash))


def test_a_child_says_how_it_ended() -> None:
    with pytest.raises(RuntimeError, match="has ended with status 3"):
        Child(["/bin/sh", "-c", "exit 3"])


@pytest.mark.anyio
async def test_a_child_answers_line_by_line() -> None:
    script = "read name; echo ready $name; while read line; do echo 12.5 $line; done"
    with Child(["/bin/sh", "-c", script], first="me") as child:
        assert child.greeting == "ready me"
        assert await child.ask("what") == "12.5 what"
        assert await child.rate(0.25) == 12.5
    assert child.process.returncode == 0


# ---- report ----


def figure(value: float, target: Target | None, name: str = "ours / plain") -> Figure:
    return Figure(measure="software", name=name, unit="x", spread=Spread.of([value]), target=target)


def run_of(**figures: list[Figure]) -> Run:
    return Run(machine={"cores": "2"}, options={"rounds": 3}, figures=figures)


def test_a_table_shows_value_quartiles_target_and_verdict() -> None:
    text = as_text([figure(0.6, at_least(0.5)), figure(0.4, at_least(0.5), "b"), figure(1.0, None, "for information")])
    first, second, third = text.splitlines()
    assert " ".join(first.split()) == "ours / plain 0.600 x 0.600 to 0.600 >= 0.5 x reached"
    assert second.endswith("not reached")
    assert " ".join(third.split()) == "for information 1.000 x 1.000 to 1.000"


def test_json_has_every_figure_of_every_loop() -> None:
    found = as_json(run_of(asyncio=[figure(0.6, at_least(0.5))], trio=[figure(0.4, None)]))
    assert json.loads(json.dumps(found)) == found
    assert [(each["backend"], each["value"], each["target"], each["reached"]) for each in found["figures"]] == [
        ("asyncio", 0.6, ">= 0.5 x", True),
        ("trio", 0.4, None, None),
    ]


def test_a_page_has_both_loops_beside_each_other() -> None:
    text = as_markdown(run_of(asyncio=[figure(0.6, at_least(0.5))], trio=[figure(0.4, at_least(0.5))]))
    assert (
        "| ours / plain | >= 0.5 x | **0.600 x** (0.600 to 0.600) reached | **0.400 x** (0.400 to 0.400) not reached |"
        in text
    )


def test_only_what_is_between_the_markers_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = replaced(page, "new")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert replaced(once, "new") == once


@pytest.mark.parametrize("page", ["", BEGIN, f"{END} {BEGIN}"])
def test_a_page_without_markers_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="the page has no"):
        replaced(page, "new")


def test_the_page_in_the_documentation_has_the_markers() -> None:
    assert replaced((Path(__file__).parents[2] / "docs/performance.md").read_text(), "new")


def test_a_machine_is_described_without_its_name() -> None:
    found = describe()
    assert {"processor", "cores", "kernel", "python", "coincurve"} <= found.keys()
    host = Path("/proc/sys/kernel/hostname").read_text().strip()
    assert host not in json.dumps(found)


# ---- profiles ----


@pytest.mark.parametrize(
    ("file", "name", "package"),
    [
        ("~", "<built-in method posix.write>", "posix.write"),
        (str(profiling._PURE / "anyio/_core/_tasks.py"), "run", "anyio"),
        (str(profiling._PURE / "sniffio.py"), "run", "sniffio"),
        (str(profiling._STANDARD / "asyncio/events.py"), "run", "stdlib asyncio"),
        (str(profiling._STANDARD / "uuid.py"), "uuid4", "stdlib uuid"),
        (str(profiling._ROOT / "manahsm/audit/log.py"), "append", "manahsm.audit"),
        (str(profiling._ROOT / "supervisors/mailbox.py"), "get", "supervisors.mailbox"),
        ("<attrs generated methods manahsm.requests.SignRequest>", "__init__", "generated attrs"),
    ],
)
def test_a_function_is_of_its_package(file: str, name: str, package: str) -> None:
    assert profiling.package_of(file, name) == package


def test_a_profile_is_told_by_function_and_by_package_without_its_file(tmp_path: Path) -> None:
    looking = cProfile.Profile()
    looking.runcall(sign_plainly, PrivateKey(PRIVATE_KEY), TRANSACTIONS[0])
    looking.dump_stats(tmp_path / "profile")
    profiler = profiling.Profiler()
    for _ in range(2):
        profiler.load(tmp_path / "profile")
    text = profiler.report()
    assert "rlp/codec.py" in text.partition("by package")[0]
    assert " rlp" in text.partition("by package")[2]
    assert str(tmp_path) not in text


@pytest.mark.anyio
async def test_only_the_one_who_is_looked_at_is_looked_at() -> None:
    work = contestant("a", [])
    assert profiling.Profiler().over(work) is work
    wanted = profiling.Profiler(wanted=True)
    assert await wanted.over(work)(0.1) == 1.0
    assert "turn" in wanted.report()


def test_packages_are_told_by_the_time_in_their_own_functions() -> None:
    entries: dict[tuple[str, int, str], Any] = {
        (str(profiling._PURE / "anyio/a.py"), 1, "f"): (1, 1, 0.25, 9.0, {}),
        (str(profiling._PURE / "anyio/b.py"), 1, "g"): (1, 1, 0.5, 9.0, {}),
        ("~", 0, "<built-in method x>"): (1, 1, 2.0, 2.0, {}),
    }
    assert profiling.by_package(entries).most_common() == [("x", 2.0), ("anyio", 0.75)]
