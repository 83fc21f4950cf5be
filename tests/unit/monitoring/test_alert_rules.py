"""When an alert is raised, comes back and ends: the rules alone, over whatever may be seen."""

from __future__ import annotations

from datetime import timedelta

import pytest
from alert_samples import A_MOMENT, sample_alert
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from manahsm.monitoring.alert_rules import (
    Pace,
    ResolvedBy,
    Standing,
    bad_look,
    good_look,
    resolved_by_operator,
    restored,
)
from manahsm.monitoring.causes import CAUSES, Cause

INTERVAL = 30.0
PACE = Pace(interval=INTERVAL, calm=300.0)


class Case:
    """One cause at one component, looked at as a test says."""

    def __init__(self, *, bad: int = 1, good: int = 1, standing: Standing | None = None) -> None:
        self.cause: Cause = evolve(CAUSES["latched"], bad=bad, good=good)
        self.standing = standing or Standing()
        self.now = 0.0
        self.raised = 0

    def look(self, letters: str, every: float = INTERVAL) -> str:
        """``b`` is a bad look, ``g`` a good one, ``o`` an operator; what is open after each, as a string of o and -."""
        seen = ""
        for letter in letters:
            self.now += every
            wall = A_MOMENT + timedelta(seconds=self.now)
            if letter == "b":
                self.raised += 1
                new = sample_alert(self.cause, id=f"{self.raised:016x}", raised_at=wall, last_seen=wall)
                self.standing = bad_look(self.standing, self.cause, new, now=self.now, pace=PACE)
            elif letter == "g":
                self.standing = good_look(self.standing, self.cause, now=self.now, wall=wall, pace=PACE)
            else:
                self.standing = resolved_by_operator(self.standing, wall=wall)
            seen += "o" if self.standing.open else "-"
        return seen


def test_an_alert_is_raised_once_kept_up_to_date_and_resolved_by_itself() -> None:
    case = Case()

    assert case.look("gbbbg") == "-ooo-"
    alert = case.standing.alert
    assert alert is not None
    assert (alert.id, alert.count, alert.resolved_by) == ("0000000000000001", 3, ResolvedBy.ITSELF)
    assert alert.last_seen - alert.raised_at == timedelta(seconds=2 * INTERVAL)
    assert alert.resolved_at == alert.last_seen + timedelta(seconds=INTERVAL)


@pytest.mark.parametrize(
    ("bad", "good", "looks", "open_after"),
    [
        (2, 1, "bgbgbb", "-----o"),
        (1, 2, "bgbggb", "oooo-o"),
        (3, 3, "bbbgggb", "--ooo--"),
    ],
)
def test_as_many_looks_as_its_cause_asks_for(bad: int, good: int, looks: str, open_after: str) -> None:
    assert Case(bad=bad, good=good).look(looks) == open_after


def test_looks_in_quick_succession_do_not_raise_it_sooner_or_end_it_sooner() -> None:
    case = Case(bad=2, good=2)

    assert case.look("bbbbb", every=1.0) == "-----"
    assert case.look("b") == "o"
    assert case.look("ggggg", every=1.0) == "ooooo"
    assert case.look("g") == "-"


def test_one_that_comes_back_soon_is_the_same_and_stays_until_it_was_calm() -> None:
    case = Case()
    case.look("bg")

    assert case.look("bg") == "oo"
    alert = case.standing.open
    assert alert is not None
    assert (alert.id, alert.reopened, alert.resolved_by) == ("0000000000000001", 1, None)
    calm_looks = int(PACE.calm / INTERVAL)
    assert case.look("g" * calm_looks) == "o" * (calm_looks - 1) + "-"


def test_calm_is_counted_from_the_last_bad_look() -> None:
    case = Case()
    case.look("bgb")

    assert case.look("ggggbgggggggggg") == "o" * 15
    assert case.look("g") == "-"


def test_one_that_comes_back_late_is_another() -> None:
    case = Case()
    case.look("bg")
    case.now += PACE.calm

    assert case.look("b") == "o"
    assert case.standing.open is not None
    assert case.standing.open.id == "0000000000000002"
    assert case.look("g") == "-"


def test_an_operator_silences_it_until_its_cause_has_ended_and_come_again() -> None:
    case = Case()

    assert case.look("bobbb") == "o----"
    assert case.standing.alert is not None
    assert case.standing.alert.resolved_by is ResolvedBy.OPERATOR
    assert case.look("gb") == "-o"
    assert case.standing.open is not None
    assert case.standing.open.id != "0000000000000001"


def test_an_operator_who_resolves_what_has_just_ended_silences_nothing() -> None:
    case = Case(good=2)

    assert case.look("bgob") == "oo-o"


def test_one_that_was_open_at_the_stop_goes_on_or_ends_with_the_next_look() -> None:
    alert = sample_alert(count=7)

    assert Case(standing=restored(alert)).look("g") == "-"
    going_on = Case(standing=restored(alert))
    assert going_on.look("b") == "o"
    assert going_on.standing.open == evolve(
        alert, count=8, last_seen=A_MOMENT + timedelta(seconds=INTERVAL), detail="", details={}
    )


events = st.lists(st.tuples(st.sampled_from("bgo"), st.sampled_from([0.0, 1.0, 15.0, 30.0, 200.0, 400.0])), max_size=60)


@given(events, st.integers(1, 3), st.integers(1, 3))
def test_whatever_is_seen_there_is_never_a_second_alert_while_one_is_open(
    seen: list[tuple[str, float]], bad: int, good: int
) -> None:
    case = Case(bad=bad, good=good)
    before = case.standing
    for letter, every in seen:
        case.look(letter, every)
        one, other = before.open, case.standing.open
        if one is not None and other is not None:
            assert one.id == other.id
            assert other.count - one.count == (letter == "b")
        if one is None and other is not None:
            assert letter == "b"
            assert case.standing.bad >= bad
        if one is not None and other is None:
            assert letter == "o" or case.standing.good >= good
        before = case.standing


@given(events, st.integers(1, 3), st.integers(1, 3))
def test_whatever_was_seen_long_calm_ends_it_and_long_trouble_raises_it(
    seen: list[tuple[str, float]], bad: int, good: int
) -> None:
    case = Case(bad=bad, good=good)
    for letter, every in seen:
        case.look(letter, every)

    case.look("g" * 12)
    assert case.standing.open is None
    case.look("b" * 3)
    assert case.standing.open is not None
