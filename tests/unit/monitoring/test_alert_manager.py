"""The alert manager: what becomes an alert, who hears of it, and what a restart keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from alert_samples import RecordingSink, health_of, wall_of

from manahsm.config.tables import AlertOptions, Monitoring
from manahsm.errors import InvalidRequest
from manahsm.monitoring import causes
from manahsm.monitoring.alert_rules import ResolvedBy
from manahsm.monitoring.alert_store import ALERTS_FILE, AlertStore
from manahsm.monitoring.alerts import MOST_RESOLVED, AlertManager
from manahsm.monitoring.sinks import OnTrouble
from manahsm.signing.observed import StandInBegan
from supervisors import BreakerStateChanged, ChildContext
from supervisors.testing import ManualClock, settle

pytestmark = pytest.mark.anyio

COMPONENTS = ("pkcs11:main", "pkcs11:spare", "key_manager", "signing_service", "audit", "config_manager")


class Stage:
    def __init__(
        self,
        directory: Path,
        *,
        components: Sequence[str] = COMPONENTS,
        configuration: str | None = None,
        **options: Any,
    ) -> None:
        self.clock = ManualClock()
        self.sink = RecordingSink()
        self.path = directory / ALERTS_FILE
        self.manager = AlertManager(
            Monitoring(**options),
            components,
            AlertStore(directory, configuration),
            [self.sink],
            clock=self.clock,
            now=wall_of(self.clock),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.manager.run, ChildContext("alerts", clock=self.clock))
            await settle()
            yield
            tasks.cancel_scope.cancel()

    def latched(self, slot: str = "main") -> None:
        self.manager.listen(
            BreakerStateChanged(breaker=f"slot {slot}", previous="closed", state="latched", reason="wrong PIN", at=0.0)
        )

    @property
    def open(self) -> list[str]:
        return [alert.cause for alert in self.manager.alerts()]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_one_cause_at_one_component_is_one_alert(stage: Stage) -> None:
    for _ in range(3):
        stage.manager.observe(health_of("pkcs11:main", causes.CONNECTIVITY_LOST, details={"hosts": 0}))
    stage.manager.observe(health_of("pkcs11:spare", causes.CONNECTIVITY_LOST))

    assert stage.sink.news == [("connectivity_lost", "open")] * 2
    alert = stage.manager.alerts()[0]
    assert (alert.component, alert.severity, alert.message) == ("pkcs11:main", "critical", "HSM connectivity lost")
    assert (alert.count, alert.detail, alert.details) == (3, "seen at pkcs11:main", {"hosts": 0})


def test_it_is_resolved_when_a_check_does_not_find_it_any_more(stage: Stage) -> None:
    stage.manager.observe(health_of("pkcs11:main", causes.CONNECTIVITY_LOST))
    stage.manager.observe(health_of("pkcs11:spare"))
    assert stage.open == ["connectivity_lost"]
    stage.manager.observe(health_of("pkcs11:main"))

    assert stage.open == []
    (alert,) = stage.manager.alerts(resolved=True)
    assert alert.resolved_by is ResolvedBy.ITSELF


@pytest.mark.parametrize("cause", [causes.CONNECTING, causes.CHECK_FAILED])
def test_a_check_that_could_not_look_ends_nothing(stage: Stage, cause: causes.Cause) -> None:
    stage.manager.observe(health_of("pkcs11:main", causes.CONNECTIVITY_LOST))
    stage.manager.observe(health_of("pkcs11:main", cause))

    assert "connectivity_lost" in stage.open


def test_a_slot_that_latches_is_told_at_once_and_once(stage: Stage) -> None:
    stage.latched()
    stage.manager.observe(health_of("pkcs11:main", causes.LATCHED))

    assert stage.sink.news == [("latched", "open")]
    assert stage.sink.offered[0].detail == "wrong PIN"
    stage.manager.observe(health_of("pkcs11:main"))
    assert stage.open == []


def test_other_states_of_a_breaker_and_other_breakers_are_no_alert(stage: Stage) -> None:
    stage.latched("elsewhere")
    stage.manager.listen(BreakerStateChanged(breaker="slot main", previous="closed", state="open", reason="", at=0.0))

    assert stage.open == []


def test_software_that_stands_in_is_told_until_a_token_signs_again(stage: Stage) -> None:
    stage.manager.listen(StandInBegan(slots=("main", "other")))
    stage.manager.observe(health_of("pkcs11:spare"))
    stage.manager.observe(health_of("pkcs11:main", causes.CONNECTIVITY_LOST))
    assert "stand_in" in stage.open
    stage.manager.observe(health_of("signing_service"))
    assert "stand_in" in stage.open
    stage.manager.observe(health_of("pkcs11:main", causes.ON_PROBATION))

    assert stage.open == []


def test_each_outage_with_stand_ins_must_end_before_that_alert_does(stage: Stage) -> None:
    stage.manager.listen(StandInBegan(slots=("main",)))
    stage.manager.listen(StandInBegan(slots=("spare",)))
    stage.manager.observe(health_of("pkcs11:main"))
    assert stage.open == ["stand_in"]
    stage.manager.observe(health_of("pkcs11:spare"))

    assert stage.sink.news == [("stand_in", "open"), ("stand_in", "resolved")]


def test_two_options_silence_what_they_name_and_nothing_else(tmp_path: Path) -> None:
    stage = Stage(tmp_path, alert_on_fallback=False, alert_on_errors=False)
    stage.manager.listen(StandInBegan(slots=("main",)))
    stage.manager.observe(health_of("signing_service", causes.ERRORS_CRITICAL, causes.ERRORS_HIGH, causes.QUEUE_FULL))

    assert stage.open == ["queue_full"]


def test_errors_are_told_by_default(stage: Stage) -> None:
    stage.manager.observe(health_of("signing_service", causes.ERRORS_CRITICAL))

    assert stage.open == ["error_rate_critical"]


def test_an_operator_resolves_it_and_hears_no_more_of_it_while_it_lasts(stage: Stage) -> None:
    stage.latched()
    (alert,) = stage.manager.alerts()

    ended = stage.manager.resolve(alert.id)

    assert (ended.id, ended.resolved_by) == (alert.id, ResolvedBy.OPERATOR)
    stage.manager.observe(health_of("pkcs11:main", causes.LATCHED))
    assert stage.open == []
    assert stage.sink.news == [("latched", "open"), ("latched", "resolved")]
    with pytest.raises(InvalidRequest, match="no open alert"):
        stage.manager.resolve(alert.id)


def test_resolved_alerts_are_remembered_within_a_bound_and_one_that_is_back_is_not_among_them(tmp_path: Path) -> None:
    stage = Stage(tmp_path, alerts=AlertOptions(calm=10.0))
    for _ in range(MOST_RESOLVED + 5):
        stage.manager.observe(health_of("audit", causes.AUDIT_UNAVAILABLE))
        stage.manager.observe(health_of("audit"))
        stage.clock.advance(20.0)
    assert len(stage.manager.alerts(resolved=True)) == MOST_RESOLVED
    assert len({alert.id for alert in stage.manager.alerts(resolved=True)}) == MOST_RESOLVED

    stage.manager.observe(health_of("pkcs11:main", causes.LATCHED))
    stage.manager.observe(health_of("pkcs11:main"))
    stage.manager.observe(health_of("pkcs11:main", causes.LATCHED))
    latched = [alert for alert in stage.manager.alerts(resolved=True) if alert.cause == "latched"]
    assert [alert.is_open for alert in latched] == [True]


# ---- what a restart keeps ----


async def test_open_alerts_survive_a_restart_without_being_news(tmp_path: Path) -> None:
    first = Stage(tmp_path)
    async with first.running():
        first.latched()
        first.manager.observe(health_of("audit", causes.AUDIT_UNAVAILABLE))
        first.manager.observe(health_of("audit"))

    second = Stage(tmp_path)

    assert second.manager.alerts() == first.manager.alerts()
    assert second.manager.alerts(resolved=True) == first.manager.alerts(resolved=True)
    second.latched()
    assert second.sink.news == []
    assert second.manager.alerts()[0].count == 2
    second.manager.observe(health_of("pkcs11:main"))
    assert second.sink.news == [("latched", "resolved")]


async def test_a_sink_that_repeats_what_is_open_goes_on_with_it_after_a_restart(tmp_path: Path) -> None:
    first = Stage(tmp_path)
    async with first.running():
        first.latched()

    second = Stage(tmp_path)

    assert [alert.cause for alert in second.sink.restored] == ["latched"]


async def test_a_change_is_on_the_disk_soon_and_not_only_at_the_end(stage: Stage, tmp_path: Path) -> None:
    async with stage.running():
        stage.latched()
        await stage.clock.run_for(1.0)
        with anyio.fail_after(10):
            while not stage.path.exists():  # noqa: ASYNC110 - a thread writes it
                await anyio.sleep(0.001)

        assert [alert.cause for alert in Stage(tmp_path).manager.alerts()] == ["latched"]


def test_an_alert_about_what_is_not_there_any_more_is_resolved(tmp_path: Path, stage: Stage) -> None:
    stage.latched("spare")
    AlertStore(tmp_path).save(stage.manager.alerts())

    second = Stage(tmp_path, components=("pkcs11:main",))

    assert second.open == []
    assert second.manager.alerts(resolved=True)[0].resolved_by is ResolvedBy.CONFIGURATION


def test_a_damaged_file_is_set_aside_with_an_alert(tmp_path: Path) -> None:
    (tmp_path / ALERTS_FILE).write_text('{"version": 1, "alerts": [{"id": 7}]}')

    stage = Stage(tmp_path)

    assert stage.open == ["store_damaged"]
    (aside,) = tmp_path.glob("alerts.damaged-*.json")
    assert aside.name in stage.manager.alerts()[0].detail
    assert not (tmp_path / ALERTS_FILE).exists()


async def test_a_disk_that_takes_no_file_is_an_alert_until_it_does(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    stage = Stage(directory)
    directory.write_text("in the way")
    async with stage.running():
        stage.latched()
        await until(stage, lambda: "store_trouble" in stage.open)
        directory.unlink()
        await until(stage, lambda: "store_trouble" not in stage.open)

    assert [alert.cause for alert in Stage(directory).manager.alerts()] == ["latched"]


async def until(stage: Stage, condition: Any) -> None:
    """Let time pass until ``condition`` holds; files are written by a thread."""
    with anyio.fail_after(10):
        while not condition():
            await stage.clock.run_for(1.0)
            await anyio.sleep(0.001)


async def test_a_changed_configuration_is_news_for_a_while(tmp_path: Path) -> None:
    first = Stage(tmp_path, configuration="a")
    async with first.running():
        pass
    assert first.open == []
    assert Stage(tmp_path, configuration="a").open == []

    second = Stage(tmp_path, configuration="b")
    async with second.running():
        assert second.open == ["configuration_changed"]
        await second.clock.run_for(3599.0)
        assert second.open == ["configuration_changed"]
        await second.clock.run_for(31.0)
        assert second.open == []

    assert second.manager.alerts(resolved=True)[0].resolved_by is ResolvedBy.TIME
    assert Stage(tmp_path, configuration="b").open == []


# ---- its sinks ----


class StubbornSink(RecordingSink):
    """Tells of trouble when the test says so."""

    tell: OnTrouble

    async def run(self, on_trouble: OnTrouble) -> None:
        self.tell = on_trouble
        await anyio.sleep_forever()


async def test_sinks_that_fail_are_one_alert_until_all_of_them_deliver(tmp_path: Path) -> None:
    stage, sink = Stage(tmp_path), StubbornSink()
    stage.manager._sinks = (sink,)
    async with stage.running():
        sink.tell("webhook", "answered with status 500")
        sink.tell("alertmanager", "not reached")
        (alert,) = stage.manager.alerts()
        assert (alert.component, alert.cause) == ("alert_manager", "sink_trouble")
        assert alert.detail == "webhook: answered with status 500; alertmanager: not reached"
        sink.tell("webhook", None)
        assert stage.open == ["sink_trouble"]
        sink.tell("alertmanager", None)
        assert stage.open == []


async def test_a_sink_that_failed_again_and_is_well_is_resolved_without_another_delivery(tmp_path: Path) -> None:
    stage, sink = Stage(tmp_path), StubbornSink()
    stage.manager._sinks = (sink,)
    async with stage.running():
        for trouble in ("down", None, "down", None):
            sink.tell("webhook", trouble)
        assert stage.open == ["sink_trouble"]  # it flaps
        await stage.clock.run_for(400.0)

        assert stage.open == []
