"""Alert rules and the dashboard name metrics, labels and values that exist, and each cause of an alert has its rule."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from exposition import promtool
from promql import Selector, selectors

from manahsm.monitoring.causes import CAUSES
from manahsm.monitoring.metrics import CATALOGUE, Kind, Names

FOLDER = Path(__file__).parents[3] / "config"
PROMETHEUS = FOLDER / "prometheus"
RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
TESTS: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana" / "manahsm.json").read_text())
NAMES = Names.of_slots(("main",))
TARGET_LABELS = {"job", "instance"}
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


def base_of(metric: str) -> tuple[str, set[str]]:
    """The name in the catalogue, and labels that a histogram adds."""
    for suffix, added in (("_bucket", {"le"}), ("_sum", set()), ("_count", set())):
        name = metric.removesuffix(suffix)
        if name != metric and name in CATALOGUE and CATALOGUE[name].kind is Kind.HISTOGRAM:
            return name, added
    return metric, set()


def faults_of(expression: str) -> list[str]:
    """Everything in an expression that the catalogue does not know."""
    found, grouping = selectors(expression)
    faults, labels = [], set(TARGET_LABELS)
    for selector in found:
        if selector.metric == "up":
            continue
        name, added = base_of(selector.metric)
        if name not in CATALOGUE or (CATALOGUE[name].kind is Kind.HISTOGRAM) != (name != selector.metric):
            faults.append(f"no metric {selector.metric}")
            continue
        labels |= {*CATALOGUE[name].labels, *added}
        faults += unknown_values(selector, name)
    return faults + [f"no label {label}" for label in grouping - labels]


def unknown_values(selector: Selector, name: str) -> list[str]:
    metric = CATALOGUE[name]
    faults = [
        f"{name} has no label {label}"
        for label, _, _ in selector.matchers
        if label not in {*metric.labels, *TARGET_LABELS}
    ]
    for label, value in selector.values():
        if label in metric.labels:
            position = metric.labels.index(label)
            known = {values[position] for values in metric.series(NAMES)}
            if value not in known:
                faults.append(f"{name}: {label} is never {value}")
    return faults


def run_promtool(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - a tool that we install
        [promtool(), *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- rules ----


def test_promtool_accepts_the_scrape_configuration_with_its_rules() -> None:
    assert "SUCCESS" in run_promtool("check", "config", "manahsm.yml")


def test_the_rules_do_what_their_tests_say() -> None:
    assert "SUCCESS" in run_promtool("test", "rules", "alerts_test.yml")


@every_rule
def test_a_rule_is_tested_both_ways(rule: dict[str, Any]) -> None:
    cases = [case for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == rule["alert"]]

    assert sorted(bool(case["exp_alerts"]) for case in cases) == [False, True]


@every_rule
def test_a_rule_names_what_exists(rule: dict[str, Any]) -> None:
    assert faults_of(rule["expr"]) == []


@every_rule
def test_a_rule_says_how_urgent_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description"}


def test_every_cause_has_one_rule_that_sees_it() -> None:
    seen: Counter[str] = Counter(rule["labels"]["cause"] for rule in RULES if "cause" in rule["labels"])
    for rule in RULES:
        for selector in selectors(rule["expr"])[0]:
            if selector.metric == "mana_hsm_alerts_active":
                seen.update(value for label, value in selector.values() if label == "cause")

    assert dict(seen) == dict.fromkeys(CAUSES, 1)


@every_rule
def test_a_rule_is_as_urgent_as_the_cause_that_it_sees(rule: dict[str, Any]) -> None:
    cause = rule["labels"].get("cause")

    assert cause is None or rule["labels"]["severity"] == CAUSES[cause].severity.value


# ---- dashboard ----


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


@pytest.mark.parametrize("expression", dashboard_expressions())
def test_a_panel_names_what_exists(expression: str) -> None:
    assert faults_of(expression) == []


def test_every_metric_that_can_be_seen_is_on_the_dashboard_or_in_a_rule() -> None:
    used = {base_of(selector.metric)[0] for text in dashboard_expressions() for selector in selectors(text)[0]}
    used |= {base_of(selector.metric)[0] for rule in RULES for selector in selectors(rule["expr"])[0]}
    left_out = {"mana_hsm_accepting", "mana_hsm_queue_capacity", "mana_hsm_queue_refused_total"}
    left_out |= {"mana_hsm_queue_expired_total", "mana_hsm_sessions_opened_total", "mana_hsm_sessions_closed_total"}
    left_out |= {"mana_hsm_slot_keys", "mana_hsm_escalations_total", "mana_hsm_audit_enabled"}
    left_out |= {"mana_hsm_audit_unsynced_records", "mana_hsm_process_start_time_seconds"}

    assert set(CATALOGUE) - used == left_out


def test_variables_ask_for_labels_that_exist() -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            inside = variable["query"]["query"].removeprefix("label_values(").removesuffix(")")
            selector, _, label = inside.rpartition(", ")
            assert faults_of(selector) == []
            assert label in {*CATALOGUE[selectors(selector)[0][0].metric].labels, *TARGET_LABELS}


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


# ---- the reader of expressions ----


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("mana_hsm_slot_upp", "no metric mana_hsm_slot_upp"),
        ("mana_hsm_sign_duration_seconds", "no metric mana_hsm_sign_duration_seconds"),
        ("rate(mana_hsm_hosts_bucket[5m])", "no metric mana_hsm_hosts_bucket"),
        ('mana_hsm_slot_up{slotty="a"}', "mana_hsm_slot_up has no label slotty"),
        ('mana_hsm_breaker_state{state="shut"}', "mana_hsm_breaker_state: state is never shut"),
        ('x + on (job) mana_hsm_slot_up{slot="main"} > 0', "no metric x"),
        ("sum by (slots) (mana_hsm_slot_up)", "no label slots"),
        ('mana_hsm_alerts_active{cause=~"latched|lached"}', "mana_hsm_alerts_active: cause is never lached"),
    ],
)
def test_a_wrong_expression_would_be_found(expression: str, fault: str) -> None:
    assert faults_of(expression) == [fault]


def test_the_operations_page_explains_every_cause() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()

    assert [name for name in CAUSES if f"`{name}`" not in page] == []
