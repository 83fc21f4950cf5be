"""What counts as an operation, a failure, and whose they are."""

from __future__ import annotations

import pytest

from manahsm.monitoring.performance import Performance, is_failure
from manahsm.requests import Backend, Operation
from manahsm.signing.observed import Observed, SessionEnded, SignEnded, StandInBegan
from supervisors.testing import ManualClock


def ended(outcome: str = "signed", slot: str | None = "main", duration: float = 0.1) -> SignEnded:
    return SignEnded(
        operation=Operation.HASH,
        backend=Backend.HSM if slot else None,
        slot=slot,
        outcome=outcome,
        diverted=False,
        duration=duration,
    )


def counted(*events: Observed) -> dict[str, tuple[int, int]]:
    """Operations and failures of each component that has any."""
    subject = Performance(("main", "spare"), retention=60.0, clock=ManualClock())
    for event in events:
        subject.record(event)
    report = subject.report()
    return {
        name: (summaries[0].operations, summaries[0].failures)
        for name, summaries in report.components.items()
        if summaries[0].operations
    }


def test_a_signature_is_the_services_and_its_slots() -> None:
    assert counted(ended(), ended(slot="spare"), ended()) == {
        "signing_service": (3, 0),
        "pkcs11:main": (2, 0),
        "pkcs11:spare": (1, 0),
    }


def test_software_is_no_slot() -> None:
    assert counted(ended(slot=None)) == {"signing_service": (1, 0)}


def test_a_failure_is_the_services_and_a_broken_session_its_slots() -> None:
    assert counted(ended("hsm_unavailable", None), SessionEnded(slot="main", reason="CKR_DEVICE_ERROR")) == {
        "signing_service": (1, 1),
        "pkcs11:main": (1, 1),
    }


@pytest.mark.parametrize(
    "event",
    [
        ended("invalid_transaction", None),
        ended("rate_limited", None),
        ended("role_denied"),
        ended("cancelled", None),
        SessionEnded(slot="main", reason=None),
        SessionEnded(slot="main", reason="HOST_GONE"),
        StandInBegan(slots=("main",)),
    ],
)
def test_what_is_no_fault_of_the_signer_counts_nowhere(event: Observed) -> None:
    assert counted(event) == {}


def test_a_signature_that_was_withheld_is_not_its_slots() -> None:
    assert counted(ended("audit_unavailable")) == {"signing_service": (1, 1)}


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [
        ("signed", False),
        ("cancelled", False),
        ("key_not_found", False),
        ("policy_denied", False),
        ("hsm_unavailable", True),
        ("deadline_exceeded", True),
        ("overloaded", True),
        ("signature_mismatch", True),
        ("other", True),
    ],
)
def test_a_failure_could_have_been_signed(outcome: str, failed: bool) -> None:
    assert is_failure(outcome) is failed


def test_nothing_is_kept_where_it_was_turned_off() -> None:
    subject = Performance(("main",), retention=60.0, clock=ManualClock(), enabled=False)
    subject.record(ended())
    report = subject.report()

    assert (report.enabled, dict(report.components), subject.last_minute()) == (False, {}, {})


def test_the_last_minute_is_over_when_it_is() -> None:
    clock = ManualClock()
    subject = Performance(("main",), retention=3600.0, clock=clock)
    clock.advance(600.0)
    for _ in range(30):
        subject.record(ended())
    subject.record(ended("hsm_unavailable", None))

    assert subject.last_minute()["signing_service"] == (31 / 60, 1 / 31)
    clock.advance(70.0)
    assert subject.last_minute()["signing_service"] == (0.0, 0.0)
    assert subject.report().components["signing_service"][1].operations == 31
