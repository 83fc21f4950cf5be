"""Settings, environments, failures and calls: values without a host."""

from __future__ import annotations

import pytest

from manahsm.config.secret import Secret
from manahsm.hsm.calls import CallTable
from manahsm.hsm.failures import HostCrashed, HostWedged, HSMFailure
from manahsm.hsm.host_session import discards_session, failure_of
from manahsm.hsm.outcomes import outcome_named, outcome_of
from manahsm.hsm.settings import HostSettings
from manahsm.processes.child import child_environment


@pytest.mark.parametrize("name", ["call_timeout", "start_timeout", "stop_grace"])
@pytest.mark.parametrize("value", [0, -1.0])
def test_a_time_that_is_no_time_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        HostSettings(name="s", library_path="lib", **{name: value})


def test_settings_do_not_show_the_pin() -> None:
    assert "12345" not in repr(HostSettings(name="s", library_path="lib", pin=Secret("12345")))


def test_a_pin_may_be_given_fetched_or_absent() -> None:
    assert HostSettings(name="s", library_path="lib").reveal_pin() is None
    assert HostSettings(name="s", library_path="lib", pin=Secret("1")).reveal_pin() == "1"
    assert HostSettings(name="s", library_path="lib", pin=lambda: Secret("2")).reveal_pin() == "2"


def test_a_host_inherits_everything_but_pins() -> None:
    ours = {"PATH": "/bin", "HSM_PIN": "1", "HSM_PIN_FILE": "/f", "COVERAGE_PROCESS_CONFIG": "c"}
    vendor = {"SOFTHSM2_CONF": "/conf", "PATH": "/opt", "HSM_PIN_OTHER": "3"}
    assert child_environment(ours, vendor) == {
        "PATH": "/opt",
        "COVERAGE_PROCESS_CONFIG": "c",
        "SOFTHSM2_CONF": "/conf",
    }


def test_a_failure_says_what_where_and_why() -> None:
    assert str(HSMFailure(outcome_of(0x30, "C_Sign"))) == "CKR_DEVICE_ERROR from C_Sign"
    assert str(HSMFailure(outcome_named("KEY_NOT_FOUND", ""), "not there")) == "KEY_NOT_FOUND: not there"


def test_an_unexpected_exception_is_reported_by_its_class_alone() -> None:
    failure = failure_of(ValueError("with a secret in it"))
    assert (failure.name, failure.detail) == ("HOST_ERROR", "unexpected ValueError")
    assert discards_session(failure)


def test_a_crash_knows_its_signal() -> None:
    assert HostCrashed("x", returncode=-9).signal == 9
    assert HostCrashed("x", returncode=1).signal is None
    assert HostCrashed("x", returncode=None).signal is None
    assert HostWedged("x", call="sign").call == "sign"


@pytest.mark.anyio
async def test_calls_are_answered_by_id_and_the_first_deadline_counts() -> None:
    table = CallTable()
    first, second = table.add("a", 20.0), table.add("b", 10.0)
    assert (first.id, second.id, len(table)) == (0, 1, 2)
    assert table.next_deadline() == 10.0
    assert table.take(second.id) is second
    assert table.take(second.id) is None
    second.answer("reply")
    assert await second.wait() == "reply"
    assert table.next_deadline() == 20.0
    assert table.get(first.id) is first
    table.fail_all(lambda call: HSMFailure(outcome_named("HOST_CRASHED", call.name)))
    with pytest.raises(HSMFailure):
        await first.wait()
    assert len(table) == 0
    assert table.next_deadline() == float("inf")
