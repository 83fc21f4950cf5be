"""Results as JSON and back: nothing is lost on the way, and what is not of the kind is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manahsm.hsm.info import HostInfo
from manahsm.monitoring.alert_rules import Alert, ResolvedBy
from manahsm.monitoring.causes import CAUSES, HealthStatus, Severity
from manahsm.monitoring.performance import PerformanceMetrics
from manahsm.monitoring.stats import ServiceStats
from manahsm.monitoring.values import ComponentHealth, Finding, HealthReport, Sample, Trend
from manahsm.monitoring.windows import Summary
from manahsm.requests import (
    Backend,
    KeyInfo,
    KeyState,
    Role,
    Signature,
    SignedAuthorization,
    SignedTransaction,
    Usage,
)
from manahsm.signing.pool import PoolStats
from manahsm.signing.router import RouterStats
from manahsm.signing.slot import SlotPhase
from manahsm.status import ServiceStatus, SlotStatus
from manahsm.wire import load, plain
from supervisors import BreakerState, BreakerStats, MailboxStats
from supervisors.window import Counts

NOW = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
QUEUE = MailboxStats(
    name="main",
    capacity=9,
    queued=1,
    held=2,
    waiting_receivers=3,
    sent=4,
    refused=5,
    received=6,
    expired=7,
    abandoned=8,
    returned=9,
    poisoned=10,
)
HOST = HostInfo(
    pid=7,
    slot_id=2**60,
    token_label="dev",
    serial="1",
    manufacturer="m",
    model="x",
    firmware="2.6",
    flags=("USER_PIN_COUNT_LOW",),
    max_sessions=None,
    max_session_threads=1,
    mechanisms=("CKM_ECDSA",),
    locking=False,
    library="SoftHSM 2.6",
    generation=3,
)
SLOT = SlotStatus(
    name="main",
    vendor="softhsm",
    library="/lib/softhsm.so",
    phase=SlotPhase.UP,
    reason=None,
    hosts=(HOST,),
    breaker=BreakerStats(
        name="main",
        state=BreakerState.HALF_OPEN,
        reason="failures",
        available=True,
        window=Counts(10, 2, 1),
        outstanding=1,
        overdue=0,
        openings=2,
        admitted=3,
        refused=4,
        late=5,
    ),
    pool=PoolStats(
        size=4,
        max_overflow=2,
        open=3,
        overflow=0,
        busy=1,
        waiting=0,
        opened=5,
        closed=1,
        discarded=MappingProxyType({"HOST_GONE": 1}),
    ),
    queue=QUEUE,
    keys=2,
)
COMPONENT = ComponentHealth(
    name="pkcs11:main",
    status=HealthStatus.DEGRADED,
    message="Sessions missing: 2",
    findings=(Finding(CAUSES["sessions_missing"], "2"),),
    details={"text": "a", "number": 1, "share": 0.5, "yes": True, "none": None},
    checked_at=NOW,
    duration=0.01,
    since=NOW,
    trend=Trend.WORSENING,
    history=(Sample(checked_at=NOW, status=HealthStatus.HEALTHY, duration=1.0),),
)
SUMMARY = Summary(
    window=60.0, operations=3, failures=1, per_second=0.05, error_rate=1 / 3, mean=0.2, p50=0.1, p95=None, p99=None
)
COUNTS = MappingProxyType({"a": 1})
VALUES: tuple[Any, ...] = (
    KeyInfo(
        key_id="0" * 16,
        address="0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        public_key=b"\x04" * 65,
        label="hot",
        role=None,
        usage=(Usage.SIGNING,),
        backend=Backend.HSM,
        slots=("main",),
        software_twin=True,
        created_at=NOW,
        last_used=NOW,
        use_count=2**60,
        state=KeyState.RETIRED,
    ),
    Signature(r=2**255, s=1, y_parity=1, digest=b"\x07" * 32, backend=Backend.SOFTWARE, key_id=None),
    SignedTransaction(
        raw_transaction=b"\x02\xc0", hash=b"\x01" * 32, v=2**70, r=2**255, s=0, backend=Backend.HSM, key_id="0" * 16
    ),
    SignedAuthorization(
        chain_id=2**200, address=b"\x01" * 20, nonce=2**60, y_parity=0, r=1, s=2, backend=Backend.HSM, key_id="0" * 16
    ),
    ServiceStatus(
        accepting=True, under_way=1, keys=2, slots=(SLOT,), software=QUEUE, routes=RouterStats(primary=1, stand_in=2)
    ),
    HealthReport(status=HealthStatus.DEGRADED, components=(COMPONENT,), made_up_for=frozenset({"pkcs11:main"}), at=NOW),
    Alert(
        id="0" * 16,
        severity=Severity.CRITICAL,
        component="audit",
        cause="latched",
        message="Slot latched",
        details={"tries": 3},
        raised_at=NOW,
        last_seen=NOW,
        resolved_at=NOW,
        resolved_by=ResolvedBy.OPERATOR,
    ),
    PerformanceMetrics(enabled=True, retention=3600.0, components=MappingProxyType({"signing_service": (SUMMARY,)})),
    ServiceStats(
        started_at=NOW,
        uptime=1.5,
        operations=4,
        signed=1,
        failed=1,
        refused=1,
        cancelled=1,
        by_operation=COUNTS,
        by_backend=COUNTS,
        by_slot=COUNTS,
        by_outcome=COUNTS,
        fallback_operations=0,
        backup_operations=0,
        retried_operations=0,
        sessions_opened=COUNTS,
        sessions_discarded=COUNTS,
        restarts=COUNTS,
        audit_records=9,
    ),
)


def kind_name(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("value", VALUES, ids=kind_name)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert load(type(value), msgspec.json.decode(msgspec.json.encode(plain(value)))) == value


@pytest.mark.parametrize("value", VALUES, ids=kind_name)
def test_no_number_is_larger_than_other_languages_keep(value: Any) -> None:
    def numbers(document: Any) -> list[int]:
        match document:
            case dict():
                return [number for item in document.values() for number in numbers(item)]
            case list():
                return [number for item in document for number in numbers(item)]
            case int():
                return [document]
            case _:
                return []

    assert all(abs(number) <= 2**53 for number in numbers(plain(value)))


@pytest.mark.parametrize("value", VALUES, ids=kind_name)
def test_members_of_a_newer_service_are_passed_over(value: Any) -> None:
    assert load(type(value), {**plain(value), "of_tomorrow": {"a": 1}}) == value


@pytest.mark.parametrize("value", VALUES, ids=kind_name)
@pytest.mark.parametrize(
    "wrong",
    [None, [], {}, {"a": object()}, [1], 1.5, True, "0xzz", "text"],
    ids=lambda wrong: type(wrong).__name__,
)
def test_each_member_is_of_its_kind_or_the_whole_is_refused(value: Any, wrong: Any) -> None:
    document = plain(value)
    for name in document:
        try:
            read = load(type(value), {**document, name: wrong})
        except ValueError as refusal:
            assert str(refusal) == f"this is no {kind_name(value)}"  # noqa: PT017 - it may also fit
        else:
            assert isinstance(read, type(value))


@pytest.mark.parametrize("document", [None, [], "text", 1, {}])
def test_what_is_nothing_of_the_kind_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="this is no KeyInfo"):
        load(KeyInfo, document)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("use_count", True),
        ("use_count", "7"),
        ("use_count", 1.0),
        ("software_twin", 1),
        ("label", 1),
        ("public_key", "04"),
        ("role", "king"),
        ("created_at", "2025-01-02T03:04:05"),
        ("created_at", 0),
    ],
)
def test_nothing_is_converted_that_is_not_of_the_kind(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match="this is no KeyInfo"):
        load(KeyInfo, {**plain(VALUES[0]), name: wrong})


def test_a_signature_is_shown_in_the_form_that_wallets_use_too() -> None:
    document = plain(VALUES[1])
    assert document["signature"] == "0x" + VALUES[1].to_bytes().hex()
    assert document["v"] == "0x1c"


@pytest.mark.parametrize("value", VALUES[1:4], ids=kind_name)
def test_numbers_of_a_signature_are_hex_however_small(value: Any) -> None:
    document = plain(value)
    for name in {"chain_id", "nonce", "v", "r", "s"} & document.keys():
        assert document[name] == hex(getattr(value, name))


def test_times_are_in_utc() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    assert plain(elsewhere) == plain(NOW) == "2025-01-02T03:04:05.678901Z"


def test_a_cause_that_only_a_newer_service_knows_keeps_its_name() -> None:
    document = plain(VALUES[5])
    document["components"][0]["findings"][0]["cause"] = "of_tomorrow"
    assert load(HealthReport, document).components[0].findings[0].cause.name == "of_tomorrow"


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (b"\x00\xff", "0x00ff"),
        (bytearray(b"\x01"), "0x01"),
        (memoryview(b"\x01"), "0x01"),
        (2**53, 2**53),
        (2**53 + 1, "0x20000000000001"),
        (-(2**60), "-0x1000000000000000"),
        (True, True),
        (float("inf"), None),
        (Role.VALIDATOR, "validator"),
        (Path("/a"), "/a"),
        ({Role.ADMIN: (1, b"")}, {"admin": [1, "0x"]}),
        (MappingProxyType({"a": None}), {"a": None}),
        (frozenset({"b", "a"}), ["a", "b"]),
    ],
)
def test_what_a_request_may_hold_has_a_form(value: Any, form: Any) -> None:
    assert plain(value) == form


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {3}.__iter__()}, print])
def test_what_has_no_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        plain(value)


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary() | st.text() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(_PLAIN)
def test_any_request_becomes_json(value: Any) -> None:
    json.dumps(plain(value), allow_nan=False)


def test_mappings_of_other_kinds_are_taken() -> None:
    class Odd(Mapping[str, int]):
        def __getitem__(self, name: str) -> int:
            return len(name)

        def __iter__(self) -> Any:
            return iter(("a", "bb"))

        def __len__(self) -> int:
            return 2

    assert plain(Odd()) == {"a": 1, "bb": 2}
