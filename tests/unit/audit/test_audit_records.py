"""One line of the log: it says what it should, and nothing about it can be changed unnoticed."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manahsm.audit.records import (
    GENESIS,
    LONGEST_LINE,
    AuditEvent,
    AuditOutcome,
    AuditRecord,
    Decision,
    Head,
    head_of,
    link_of,
    seal,
)
from manahsm.nesting import MAX_DEPTH
from manahsm.requests import Backend, Operation, Role

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)
RECORD = AuditRecord(
    event=AuditEvent.SIGN,
    request_id="r-1",
    caller="embedded",
    operation=Operation.TRANSACTION,
    key_id="0123456789abcdef",
    address="0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf",
    role=Role.VALIDATOR,
    chain_id=1,
    summary={"to": None, "value": 2**200, "note": 'a "quote", ü\n'},
    digest="0x" + "ab" * 32,
    decision=Decision.ALLOWED,
    reason="because",
    backend=Backend.HSM,
    slot="east",
    diverted=True,
    outcome=AuditOutcome.SIGNED,
    duration=0.001,
    tx_hash="0x" + "cd" * 32,
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)


def test_a_line_says_everything_in_plain_json() -> None:
    line, head = seal(RECORD, Head(6, "ee" * 32), NOON)
    assert json.loads(line) == {
        "seq": 7,
        "time": "2025-01-02T12:00:00.000000Z",
        "prev": "ee" * 32,
        "event": "sign",
        "request_id": "r-1",
        "caller": "embedded",
        "operation": "transaction",
        "key_id": "0123456789abcdef",
        "address": "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf",
        "role": "validator",
        "chain_id": 1,
        "summary": {"to": None, "value": 2**200, "note": 'a "quote", ü\n'},
        "digest": "0x" + "ab" * 32,
        "decision": "allowed",
        "reason": "because",
        "backend": "hsm",
        "slot": "east",
        "diverted": True,
        "outcome": "signed",
        "duration": 0.001,
        "tx_hash": "0x" + "cd" * 32,
        "hash": head.hash,
    }


def test_the_hash_can_be_checked_with_nothing_but_sha256() -> None:
    line, _ = seal(RECORD, GENESIS, NOON)
    body, rest = line.rsplit(b',"hash":"', 1)
    assert rest == hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def test_what_a_record_leaves_open_is_left_out_of_the_line() -> None:
    line, _ = seal(AuditRecord(event=AuditEvent.START), GENESIS, NOON)
    assert list(json.loads(line)) == ["seq", "time", "prev", "event", "hash"]


def test_no_field_is_for_a_secret_or_a_signature() -> None:
    names = " ".join(AuditRecord.__struct_fields__)
    assert not any(word in names for word in ("pin", "private", "passphrase", "secret", "signature", "raw"))


@settings(deadline=None)
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8")), JSON_VALUES),
    st.text(st.characters(codec="utf-8")),
    st.integers(0, 2**60),
    st.datetimes(timezones=st.just(UTC)),
)
def test_any_record_is_one_line_that_proves_itself(
    summary: dict[str, Any], caller: str, seq: int, time: datetime
) -> None:
    record = AuditRecord(event=AuditEvent.SIGN, caller=caller, summary=summary)
    line, head = seal(record, Head(seq, "12" * 32), time)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert head_of(line) == head
    assert head.seq == seq + 1
    read = json.loads(line)
    assert (read["summary"], read["caller"]) == (summary, caller)


def test_every_single_byte_edit_is_noticed() -> None:
    line, head = seal(AuditRecord(event=AuditEvent.SIGN, caller="a"), GENESIS, NOON)
    assert head_of(line) == head
    for position in range(len(line)):
        for flip in (0x01, 0x20, 0x80):
            edited = bytearray(line)
            edited[position] ^= flip
            assert head_of(bytes(edited)) is None, position


def test_every_cut_and_every_addition_is_noticed() -> None:
    line, _ = seal(AuditRecord(event=AuditEvent.SIGN), GENESIS, NOON)
    for cut in range(len(line)):
        assert head_of(line[:cut]) is None
        assert head_of(line[cut + 1 :]) is None
    assert head_of(line + b"\n") is None
    assert head_of(b" " + line) is None


def test_an_honest_hash_over_something_else_is_no_record() -> None:
    for body in (b"{", b'{"seq":"1","prev":""', b'{"seq":1', b"nonsense"):
        line = body + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'
        assert head_of(line) is None


@pytest.mark.parametrize("value", [object(), {"a": {1: object()}}, "\ud800", {object(): 1}])
def test_what_json_can_not_hold_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        seal(AuditRecord(event=AuditEvent.SIGN, summary={"x": value}), GENESIS, NOON)


@pytest.mark.parametrize("seq", [0, 1, 10**17])
def test_a_head_is_read_as_it_is_written(seq: int) -> None:
    head = Head(seq, "ab" * 32)
    assert Head.parse(str(head)) == head
    assert Head.parse(f"{seq:020d}:{'AB' * 32}") == head


@pytest.mark.parametrize(
    "text", ["", "1", "1:ab", ":" + "a" * 64, "x:" + "a" * 64, "1:" + "g" * 64, "9" * 19 + ":" + "a" * 64]
)
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected SEQ:HASH"):
        Head.parse(text)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("summary", [{"x": nested(MAX_DEPTH)}, {"x": "y" * LONGEST_LINE}])
def test_what_no_reader_could_hold_is_refused(summary: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it would be"):
        seal(AuditRecord(event=AuditEvent.SIGN, summary=summary), GENESIS, NOON)


def test_a_line_nested_too_deep_is_no_record_though_its_hash_holds() -> None:
    body = b'{"seq":1,"time":"","prev":"","event":"","x":' + b"[" * 100_000 + b"]" * 100_000
    line = body + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'
    assert head_of(line) is None


def test_a_line_tells_its_place_in_the_chain() -> None:
    line, head = seal(RECORD, Head(6, "ee" * 32), NOON)
    link = link_of(line)
    assert link is not None
    assert (link.head, link.prev, link.time, link.event) == (head, "ee" * 32, "2025-01-02T12:00:00.000000Z", "sign")
