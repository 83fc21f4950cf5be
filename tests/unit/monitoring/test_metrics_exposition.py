"""What happens becomes text that a parser reads back, whatever happens and whatever slots are called."""

from __future__ import annotations

from typing import Any

import pytest
from aioprometheus.histogram import Histogram as Buckets
from exposition import lint, samples_of
from hypothesis import given, settings
from hypothesis import strategies as st

from manahsm.config.model import Config
from manahsm.events import Happening
from manahsm.monitoring.exposition import Durations, Exposition, UnknownSeries
from manahsm.monitoring.meters import Meters
from manahsm.monitoring.metrics import CATALOGUE, DURATION_BUCKETS, Kind, Names
from manahsm.monitoring.sources import Sources
from manahsm.requests import Backend, Operation
from manahsm.signing.observed import SessionEnded, SignEnded, StandInBegan
from manahsm.status import ServiceStatus
from supervisors import (
    BreakerAvailabilityChanged,
    BreakerState,
    BreakerStateChanged,
    ChildExited,
    ChildStartFailed,
    Crashed,
    Escalated,
    RestartScheduled,
    Returned,
    Wedged,
)
from supervisors.testing import ManualClock

# What a configuration admits as a name is printable and not empty; what it never admits is tried here all the same.
slot_names = st.lists(
    st.text(min_size=1, max_size=8) | st.sampled_from(['a"b', "c\\", "d\ne", "{}", "ключ", "none", "software"]),
    min_size=1,
    max_size=3,
    unique=True,
).map(tuple)
words = st.text(max_size=12) | st.sampled_from(["signed", "hsm_unavailable", "cancelled", "CKR_DEVICE_ERROR"])


def no_status() -> ServiceStatus:
    raise RuntimeError("a source that is broken")


def meters(slots: tuple[str, ...]) -> Meters:
    return Meters(Config(), slots, Sources(status=no_status, count_keys=dict), clock=ManualClock())


@st.composite
def happenings(draw: Any, slots: tuple[str, ...]) -> Happening:
    slot = st.sampled_from(slots)
    supervisor = st.sampled_from(["manahsm", "watch", "interfaces"]) | slot.flatmap(
        lambda name: st.sampled_from([f"slot {name}", f"hosts of {name}", f"workers of {name}"])
    )
    exits = st.sampled_from([Returned(None), Crashed(RuntimeError("x")), Wedged("y")])
    signed = st.builds(
        SignEnded,
        operation=st.sampled_from(Operation),
        backend=st.none(),
        slot=st.none(),
        outcome=words,
        diverted=st.booleans(),
        duration=st.floats(0, 1e6),
    ) | st.builds(
        SignEnded,
        operation=st.sampled_from(Operation),
        backend=st.just(Backend.HSM),
        slot=slot,
        outcome=words,
        diverted=st.booleans(),
        duration=st.floats(0, 1e6),
    )
    kinds = st.one_of(
        signed,
        st.builds(SessionEnded, slot=slot, reason=st.none() | words),
        st.builds(StandInBegan, slots=st.just(slots)),
        st.builds(
            BreakerStateChanged,
            breaker=slot.map(lambda name: f"slot {name}"),
            previous=words,
            state=st.sampled_from([state.value for state in BreakerState]),
            reason=words,
            at=st.just(0.0),
        ),
        st.builds(BreakerAvailabilityChanged, breaker=words, available=st.booleans(), reason=words, at=st.just(0.0)),
        st.builds(
            ChildExited,
            supervisor=supervisor,
            child=words,
            incarnation=st.just(0),
            exit=exits,
            ran_for=st.just(0.0),
            at=st.just(0.0),
        ),
        st.builds(
            ChildStartFailed, supervisor=supervisor, child=words, incarnation=st.just(0), reason=words, at=st.just(0.0)
        ),
        st.builds(
            RestartScheduled,
            supervisor=supervisor,
            child=words,
            children=st.just(()),
            delay=st.just(0.0),
            at=st.just(0.0),
        ),
        st.builds(Escalated, supervisor=supervisor, child=words, error=st.just(RuntimeError("z")), at=st.just(0.0)),
    )
    event: Happening = draw(kinds)
    return event


@settings(max_examples=40, deadline=None)
@given(st.data(), slot_names)
def test_whatever_happens_can_be_read_and_makes_no_new_series(data: Any, slots: tuple[str, ...]) -> None:
    subject = meters(slots)
    before = samples_of(subject.text())
    events = data.draw(st.lists(happenings(slots), max_size=20))
    for event in events:
        subject.listen(event)
    after = samples_of(subject.text())

    ended = [event for event in events if isinstance(event, SignEnded)]
    counted = {"mana_hsm_signatures_total": 0.0, "mana_hsm_sign_duration_seconds_count": 0.0}
    for (name, _), value in after.items():
        if name in counted:
            counted[name] += value
    assert after.keys() == before.keys()
    assert set(counted.values()) == {float(len(ended))}


@settings(max_examples=40, deadline=None)
@given(slot_names)
def test_a_slot_is_read_back_by_its_own_name(slots: tuple[str, ...]) -> None:
    found = samples_of(Exposition(Names.of_slots(slots)).text())

    assert {labels for name, labels in found if name == "mana_hsm_slot_up"} == {
        frozenset({("slot", slot)}) for slot in slots
    }


def test_promtool_reads_names_with_quotes() -> None:
    assert lint(Exposition(Names.of_slots(('my "token"', "back\\slash"))).text()) == ""


def test_every_series_is_there_from_the_start_at_zero() -> None:
    names = Names.of_slots(("main",))
    found = samples_of(Exposition(names).text())

    expected = set()
    for metric in CATALOGUE.values():
        if metric.kind is Kind.HISTOGRAM:
            continue
        for values in metric.series(names):
            expected.add((metric.name, frozenset(zip(metric.labels, values, strict=True))))
    plain = {series for series in found if not series[0].startswith("mana_hsm_sign_duration_seconds")}
    assert {series for series in plain if series[0] != "mana_hsm_build_info"} == expected
    assert {found[series] for series in expected} == {0.0}


def test_the_buckets_of_a_histogram_are_cumulative_and_end_at_infinity() -> None:
    exposition = Exposition(Names.of_slots(()))
    for duration in (0.0001, 0.003, 0.003, 7.0, 4000.0):
        exposition.observe("mana_hsm_sign_duration_seconds", duration, "software", "")
    found = samples_of(exposition.text())

    def bucket(bound: str) -> float:
        labels = frozenset({("backend", "software"), ("slot", ""), ("le", bound)})
        return found["mana_hsm_sign_duration_seconds_bucket", labels]

    assert [bucket(bound) for bound in ("0.0005", "0.0025", "0.005", "5.0", "10.0", "30.0", "+Inf")] == [
        1,
        1,
        3,
        3,
        4,
        4,
        5,
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100) | st.sampled_from(DURATION_BUCKETS), max_size=30))
def test_a_histogram_counts_as_that_of_aioprometheus_does(durations: list[float]) -> None:
    expected, found = Buckets(*DURATION_BUCKETS), Buckets(*DURATION_BUCKETS)
    subject = Durations(found)
    for duration in durations:
        expected.observe(duration)
        subject.observe(duration)
    subject.show()

    assert (found.buckets, found.observations, found.sum) == (expected.buckets, expected.observations, expected.sum)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mana_hsm_slot_up", ("unknown",)),
        ("mana_hsm_slot_up", ()),
        ("mana_hsm_signatures_total", ("hsm", "", "hash", "signed")),
        ("mana_hsm_signatures_total", ("hsm", "main", "hash", "whatever a caller said")),
    ],
)
def test_a_value_outside_the_closed_sets_is_refused_and_leaves_no_trace(name: str, values: tuple[str, ...]) -> None:
    exposition = Exposition(Names.of_slots(("main",)))
    before = exposition.text()
    with pytest.raises(UnknownSeries):
        exposition.set(name, 1.0, *values)

    assert exposition.text() == before


def test_a_source_that_fails_is_counted_and_the_others_are_shown() -> None:
    subject = meters(("main",))
    found = samples_of(subject.text())

    errors = {labels: value for (name, labels), value in found.items() if name == "mana_hsm_scrape_errors_total"}
    assert {dict(labels)["source"] for labels, value in errors.items() if value} == {"status", "health"}
    assert found["mana_hsm_process_resident_memory_bytes", frozenset()] > 1e6
