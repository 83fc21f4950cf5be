"""The table of all metrics: names that Prometheus likes, labels from closed sets, and a page that tells the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
from exposition import lint

from manahsm import errors
from manahsm.errors import ManaHSMError
from manahsm.monitoring.exposition import Exposition
from manahsm.monitoring.metrics import CATALOGUE, SIGN_OUTCOMES, Kind, Metric, Names
from manahsm.monitoring.reference import label_table, metric_table

PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
NAMES = Names.of_slots(("main", "spare"))
every_metric = pytest.mark.parametrize("metric", CATALOGUE.values(), ids=CATALOGUE)


def test_promtool_has_nothing_to_say() -> None:
    assert lint(Exposition(NAMES).text()) == ""


def test_promtool_would_say_it() -> None:
    text = Exposition(NAMES).text()

    assert "mana_hsm_hosts" in lint(text.replace("# HELP mana_hsm_hosts Host", "# HELP mana_hsm_hostz Host"))


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("mana_hsm_component_health", ("component",)),
        ("mana_hsm_operations_per_second", ("component",)),
        ("mana_hsm_error_rate", ("component",)),
        ("mana_hsm_signatures_total", ("backend", "slot", "operation", "outcome")),
        ("mana_hsm_sign_duration_seconds", ("backend", "slot")),
        ("mana_hsm_breaker_state", ("slot", "state")),
        ("mana_hsm_fallback_operations_total", ()),
    ],
)
def test_names_that_dashboards_of_others_use_are_kept(name: str, labels: tuple[str, ...]) -> None:
    assert CATALOGUE[name].labels == labels


@every_metric
def test_no_series_stands_in_the_table_twice(metric: Metric) -> None:
    series = metric.series(NAMES)

    assert len(set(series)) == len(series)
    assert all(len(values) == len(metric.labels) for values in series)


@every_metric
def test_help_is_one_plain_sentence(metric: Metric) -> None:
    assert metric.help.endswith(".")
    assert not set('\\\n"|') & set(metric.help)  # aioprometheus escapes none of these, nor does Markdown


@every_metric
def test_counters_and_only_counters_end_in_total(metric: Metric) -> None:
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)


def test_every_error_is_an_outcome() -> None:
    classes = [getattr(errors, name) for name in errors.__all__]
    codes = {cls.code for cls in classes if issubclass(cls, ManaHSMError)}

    assert codes < set(SIGN_OUTCOMES)


def test_a_slot_adds_a_known_number_of_series() -> None:
    def count(*slots: str) -> int:
        return sum(len(metric.series(Names.of_slots(slots))) for metric in CATALOGUE.values())

    assert count("a", "b") - count("a") == count("a") - count() < 400


def test_the_page_holds_the_generated_tables() -> None:
    assert metric_table() in PAGE
    assert label_table() in PAGE
