"""A short run of chaos on each loop, with a new seed each day; and proof that chaos would notice what it looks for."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from attrs import evolve
from chaos import drill_report, report
from chaos.asks import Ask, ask, fault_in
from chaos.audited import Limits, audit
from chaos.drills import DrillReport, StandIn
from chaos.faults import KINDS
from chaos.ledger import CANCELLED, NEVER_ENDED, SIGNED, End, Ledger, request_id
from chaos.schedule import schedule
from chaos.sorts import Sort
from chaos.storm import storm
from chaos.tables import WIDTH
from coincurve import PrivateKey

from manahsm.audit.log import AuditLog
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord
from manahsm.config.model import Fsync
from manahsm.ethereum.signatures import address_of, key_id_of, public_key_of, sign
from manahsm.requests import Backend, KeyInfo, Operation, Role, Signature, SignedTransaction
from manahsm.signing.payloads import prepare

SECONDS = 10.0
SECRET = PrivateKey(bytes(31) + b"\x07")
OTHER_SECRET = PrivateKey(bytes(31) + b"\x08")


def seed_of_today() -> int:
    """``MANAHSM_CHAOS_SEED``, or a new one each day."""
    given = os.environ.get("MANAHSM_CHAOS_SEED")
    return datetime.now(UTC).date().toordinal() - date(2025, 1, 1).toordinal() if given is None else int(given)


@pytest.mark.anyio
async def test_ten_seconds_of_chaos_break_no_promise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = seed_of_today()
    found = await storm(tmp_path, seed, SECONDS)

    text = report.as_text(found)
    with capsys.disabled():
        print(f"\nchaos on {found.backend}: {found.requests} requests; MANAHSM_CHAOS_SEED={seed}")  # noqa: T201
    assert found.broken == {}, text
    assert all(outcomes[SIGNED] > 0 for outcomes in found.outcomes.values()), text
    assert found.faults.keys() == {planned.fault.kind for planned in schedule(seed, SECONDS)}
    assert max(map(len, text.splitlines())) <= WIDTH, text
    assert report.as_json(found)["requests"] == found.requests


# ---- the schedule ----


def test_a_seed_gives_the_same_schedule_again() -> None:
    assert schedule(7, 60.0) == schedule(7, 60.0) != schedule(8, 60.0)


def test_a_long_run_has_every_kind_of_fault_and_lifts_each_before_the_end() -> None:
    planned = schedule(7, 120.0)
    assert len({each.fault.kind for each in planned}) == len(KINDS)
    assert all(each.at + each.length < 120.0 for each in planned)


# ---- answers that are wrong ----


def key_info(secret: PrivateKey) -> KeyInfo:
    public_key = public_key_of(secret)
    return KeyInfo(
        key_id=key_id_of(public_key),
        address=address_of(public_key),
        public_key=public_key,
        label="hot",
        role=Role.TRANSACTION_SIGNER,
        backend=Backend.HSM,
        created_at=datetime.now(UTC),
    )


def asked(sort: Sort, operation: Operation, secret: PrivateKey = SECRET) -> Ask:
    """A request of this kind, as the callers draw them."""
    rng = Random(1)  # noqa: S311 - a test's dice
    while (drawn := ask(sort, key_info(secret), request_id(0, 0), rng)).request.operation is not operation:
        pass
    return drawn


def answer(to: Ask, secret: PrivateKey = SECRET, backend: Backend = Backend.HSM) -> Any:
    """What the service answers: its own code makes it, and chaos judges by other code."""
    request = to.request
    prepared = prepare(request.operation, request.payload, request.chain_id, to.key.address)
    return prepared.finish(sign(secret, prepared.digest), backend, to.key.key_id)


@pytest.mark.parametrize("operation", [Operation.TRANSACTION, Operation.MESSAGE, Operation.HASH])
def test_a_right_answer_is_not_complained_of(operation: Operation) -> None:
    request = asked(Sort.ONE_SLOT, operation)
    assert fault_in(request, answer(request), as_a_node_does=True) is None


@pytest.mark.parametrize("operation", [Operation.TRANSACTION, Operation.MESSAGE, Operation.HASH])
def test_a_signature_by_another_key_is_noticed(operation: Operation) -> None:
    request = asked(Sort.ONE_SLOT, operation)
    assert "by another key" in (fault_in(request, answer(request, OTHER_SECRET)) or "")


@pytest.mark.parametrize("operation", [Operation.TRANSACTION, Operation.MESSAGE, Operation.HASH])
def test_a_signature_over_something_else_is_noticed(operation: Operation) -> None:
    request = asked(Sort.ONE_SLOT, operation)
    assert fault_in(evolve(request, digest=bytes(32)), answer(request)) is not None


def test_a_transaction_that_was_changed_is_noticed() -> None:
    request = asked(Sort.ONE_SLOT, Operation.TRANSACTION)
    signed: SignedTransaction = answer(request)
    changed = evolve(signed, raw_transaction=signed.raw_transaction[:-1] + b"\0")
    assert "raw transaction" in (fault_in(request, changed) or "")
    assert "hash" in (fault_in(request, evolve(signed, hash=bytes(32))) or "")


def test_a_high_s_is_noticed() -> None:
    request = asked(Sort.ONE_SLOT, Operation.HASH)
    signed: Signature = answer(request)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high = evolve(signed, s=order - signed.s, y_parity=1 - signed.y_parity)
    assert "lower half" in (fault_in(request, high) or "")


@pytest.mark.parametrize("sort", [Sort.VALIDATOR, Sort.VALIDATOR_TWO_SLOTS, Sort.ONE_SLOT, Sort.TWO_SLOTS])
def test_software_that_signs_with_a_key_of_tokens_is_noticed(sort: Sort) -> None:
    request = asked(sort, Operation.HASH)
    assert "software" in (fault_in(request, answer(request, backend=Backend.SOFTWARE)) or "")


# ---- requests that end badly ----


def broken_by(sort: Sort, end: End) -> set[str]:
    ledger = Ledger()
    ledger.ended(0, asked(sort, Operation.HASH), end)
    return set(ledger.broken)


@pytest.mark.parametrize(
    ("sort", "end", "invariant"),
    [
        (Sort.ONE_SLOT, End(NEVER_ENDED, 2.0, 9.0), "exactly one outcome"),
        (Sort.SOFTWARE, End("hsm_unavailable", 0.1, 9.0), "nothing else stops"),
        (Sort.TWIN, End("hsm_unavailable", 0.1, 9.0), "nothing else stops"),
        (Sort.ONE_SLOT, End("fallback_exhausted", 0.1, 9.0), "nothing else stops"),
        (Sort.ONE_SLOT, End("key_not_found", 0.1, 9.0), "nothing else stops"),
        (Sort.TWO_SLOTS, End("hsm_unavailable", 0.1, 9.0, ("backup",)), "one fault costs no request"),
    ],
)
def test_an_end_that_is_not_owed_to_the_fault_is_noticed(sort: Sort, end: End, invariant: str) -> None:
    assert broken_by(sort, end) == {invariant}


@pytest.mark.parametrize("outcome", [SIGNED, CANCELLED, "hsm_unavailable", "deadline_exceeded"])
def test_an_end_that_a_fault_explains_is_not_complained_of(outcome: str) -> None:
    assert broken_by(Sort.ONE_SLOT, End(outcome, 0.1, 9.0)) == set()


def test_an_outcome_long_after_its_deadline_is_noticed() -> None:
    request = asked(Sort.ONE_SLOT, Operation.HASH)
    late = evolve(request, request=evolve(request.request, timeout=1.0))
    ledger = Ledger()
    ledger.ended(0, late, End(SIGNED, 2.1, 9.0))
    assert set(ledger.broken) == {"an outcome within the deadline"}


# ---- the audit log ----

RECORD = AuditRecord(
    event=AuditEvent.SIGN, backend=Backend.HSM, slot="primary", outcome=AuditOutcome.SIGNED, caller="chaos"
)


class Book:
    """A ledger and a log that agree, until a test has it otherwise."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = AuditLog.open(directory, fsync=Fsync.NEVER)
        self.ledger = Ledger()
        self._numbers: dict[Sort, int] = {}

    def sign(self, sort: Sort = Sort.ONE_SLOT, *, told: str = SIGNED, recorded: bool = True, **changes: Any) -> None:
        """One request: what its caller was told, and what is recorded of it."""
        request, caller = asked(sort, Operation.HASH), list(Sort).index(sort)
        number = self._numbers[sort] = self._numbers.get(sort, -1) + 1
        self.ledger.ended(caller, request, End(told, 0.1, 9.0))
        if recorded:
            identity = {"request_id": request_id(caller, number), "key_id": request.key.key_id}
            fields = {**identity, "digest": "0x" + request.digest.hex(), **changes}
            self.log.append(msgspec.structs.replace(RECORD, **fields))

    def broken(self, limits: Limits = Limits(100, 0.5)) -> set[str]:  # noqa: B008 - frozen
        """Close the log, compare, and return the promises that are broken."""
        self.log.close()
        audit(self.directory, self.ledger, {sort: key_info(SECRET) for sort in Sort}, limits, 0.0)
        return set(self.ledger.broken)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "audit")


def test_a_log_that_agrees_is_not_complained_of(book: Book) -> None:
    book.sign()
    book.sign(Sort.TWO_SLOTS, slot="backup", diverted=True)
    book.sign(Sort.TWIN, backend=Backend.SOFTWARE, slot=None, diverted=True)
    book.sign(Sort.SOFTWARE, backend=Backend.SOFTWARE, slot=None)
    book.sign(told="hsm_unavailable", outcome=AuditOutcome.FAILED, backend=None, slot=None, reason="hsm_unavailable: x")
    book.sign(told=CANCELLED)
    assert book.broken() == set()


@pytest.mark.parametrize(
    "difference",
    [
        {"recorded": False},
        {"recorded": False, "told": "hsm_unavailable"},
        {"recorded": False, "told": CANCELLED},
        {"told": "hsm_unavailable"},
        {"outcome": AuditOutcome.FAILED, "reason": "hsm_unavailable: x"},
        {"digest": "0x" + bytes(32).hex()},
        {"told": "overloaded", "outcome": AuditOutcome.FAILED, "reason": "hsm_unavailable: x"},
    ],
)
def test_a_request_whose_record_is_missing_or_says_something_else_is_noticed(
    book: Book, difference: dict[str, Any]
) -> None:
    book.sign()
    book.sign(**difference)
    assert book.broken() == {"nothing unaudited leaves"}


def test_two_records_of_one_request_and_a_record_of_none_are_noticed(book: Book) -> None:
    book.sign()
    book.sign(request_id=request_id(0, 0))
    assert book.broken() == {"nothing unaudited leaves"}


@pytest.mark.parametrize(
    ("sort", "hand"),
    [
        (Sort.VALIDATOR, {"backend": Backend.SOFTWARE, "slot": None}),
        (Sort.TWO_SLOTS, {"backend": Backend.SOFTWARE, "slot": None}),
        (Sort.ONE_SLOT, {"slot": "backup", "diverted": True}),
        (Sort.TWO_SLOTS, {"slot": "backup", "diverted": False}),
        (Sort.ONE_SLOT, {"key_id": "0" * 16}),
    ],
)
def test_a_record_of_a_signature_by_the_wrong_hand_is_noticed(book: Book, sort: Sort, hand: dict[str, Any]) -> None:
    book.sign(sort, **hand)
    assert book.broken() == {"the same key or nothing"}


def test_a_stand_in_more_than_an_outage_may_use_is_noticed(book: Book) -> None:
    for _ in range(4):
        book.sign(Sort.TWIN, backend=Backend.SOFTWARE, slot=None, diverted=True)
    assert book.broken(Limits(max_fallback_operations=3, health_check_interval=60.0)) == {"max_fallback_operations"}


def test_stand_ins_of_several_outages_are_counted_apart(book: Book) -> None:
    for _ in range(4):
        book.sign(Sort.TWIN, backend=Backend.SOFTWARE, slot=None, diverted=True)
    assert book.broken(Limits(max_fallback_operations=1, health_check_interval=0.0)) == set()


def test_a_record_that_was_edited_is_noticed(book: Book) -> None:
    book.sign()
    book.sign()
    book.log.close()
    (segment,) = book.directory.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b'"caller":"chaos"', b'"caller":"thaos"', 1))
    assert "the audit chain holds" in book.broken()


# ---- what people see ----


def test_a_drill_that_failed_is_told_in_a_table_that_fits() -> None:
    good = DrillReport("hang in C_Sign", StandIn.TWIN, signed=100_000, diverted_after=0.4, recovered_after=29.0)
    bad = DrillReport("CKR_DEVICE_REMOVED", StandIn.SECOND_SLOT, slowest=2.5, faults=["3 requests failed"])
    bad.failed["hsm_unavailable"] = 3
    text = drill_report.as_text([good, bad], "asyncio")
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "CKR_DEVICE_REMOVED, slot: 3 requests failed" in text
