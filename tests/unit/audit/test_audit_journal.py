"""The log lines of audited operations: what people grep for, and nothing that speaks to a terminal."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from audit_samples import a_record
from hypothesis import example, given, settings
from hypothesis import strategies as st

from manahsm.audit.journal import Journal
from manahsm.audit.lines import hsm_line, signing_line
from manahsm.audit.log import AuditLog
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord
from manahsm.errors import AuditUnavailable
from manahsm.requests import Backend, Operation, Role

pytestmark = pytest.mark.anyio

SIGNED = AuditRecord(
    event=AuditEvent.SIGN,
    request_id="r-1",
    caller="alice",
    operation=Operation.TRANSACTION,
    key_id="abc123",
    role=Role.VALIDATOR,
    chain_id=1,
    summary={"to": "0x01"},
    digest="0x" + "ab" * 32,
    backend=Backend.HSM,
    slot="east",
    outcome=AuditOutcome.SIGNED,
    duration=0.001,
    tx_hash="0x" + "cd" * 32,
)


def test_a_signature_is_one_line_to_grep_for_and_one_to_parse() -> None:
    assert hsm_line(SIGNED) == "HSM_AUDIT: key=abc123 operation=sign result=success"
    line = signing_line(SIGNED)
    assert line is not None
    assert json.loads(line.removeprefix("SIGNING_AUDIT: ")) == {
        "event": "transaction_signed",
        "request_id": "r-1",
        "caller": "alice",
        "key": "abc123",
        "role": "validator",
        "chain_id": 1,
        "digest": "0x" + "ab" * 32,
        "tx_hash": "0x" + "cd" * 32,
        "duration": 0.001,
        "signature": {"backend": "hsm", "slot": "east", "diverted": False},
    }


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (AuditRecord(event=AuditEvent.START), "HSM_AUDIT: key=- operation=start result=success"),
        (
            AuditRecord(event=AuditEvent.DELETE_KEY, key_id="abc", outcome=AuditOutcome.DONE),
            "HSM_AUDIT: key=abc operation=delete_key result=success",
        ),
        (
            AuditRecord(event=AuditEvent.SIGN, key_id="abc", outcome=AuditOutcome.REFUSED),
            "HSM_AUDIT: key=abc operation=sign result=refused",
        ),
        (
            AuditRecord(event=AuditEvent.OPERATOR, outcome=AuditOutcome.FAILED),
            "HSM_AUDIT: key=- operation=operator_action result=failure",
        ),
    ],
)
def test_every_operation_has_its_line(record: AuditRecord, line: str) -> None:
    assert hsm_line(record) == line


def test_only_what_was_to_be_signed_has_a_signing_line() -> None:
    assert signing_line(AuditRecord(event=AuditEvent.START)) is None
    refused = AuditRecord(event=AuditEvent.SIGN, outcome=AuditOutcome.REFUSED, reason="role_denied: no")
    assert signing_line(refused) == 'SIGNING_AUDIT: {"event":"request_refused","reason":"role_denied: no"}'


@settings(deadline=None)
@given(st.text(), st.text(), st.text())
@example("\x7f", "\x7f", "\x7f")
@example("\x9b2J\r\n", "a b", "\u2028\ud800")
def test_whatever_a_caller_sends_each_line_stays_one_printable_line(caller: str, key: str, reason: str) -> None:
    record = AuditRecord(event=AuditEvent.SIGN, caller=caller, key_id=key, reason=reason, outcome=AuditOutcome.FAILED)
    signing = signing_line(record)
    assert signing is not None
    for line in (hsm_line(record), signing):
        assert line.isascii()
        assert line.isprintable()
    read = json.loads(signing.removeprefix("SIGNING_AUDIT: "))
    assert (read["caller"], read["reason"]) == (caller, reason)
    said = hsm_line(record).removeprefix("HSM_AUDIT: key=")
    if said.startswith('"'):
        found, end = json.JSONDecoder().raw_decode(said)
    else:
        end = said.index(" ")
        found = said[:end]
    assert (found, said[end:]) == (key, " operation=sign result=failure")


async def told(
    caplog: pytest.LogCaptureFixture, log: AuditLog | None, method: str, *, required: bool = False, level: int = 20
) -> list[str]:
    """The first word of each line that one record leaves in the log of the program."""
    caplog.clear()
    caplog.set_level(level, logger="manahsm.audit")
    written = getattr(Journal(log, required=required), method)(a_record(1))
    if written is not None:
        await written
    return [entry.getMessage().split(":")[0].split(" error=")[0] for entry in caplog.records]


METHODS = ["write", "note", "note_now"]


@pytest.mark.parametrize("method", METHODS)
async def test_a_record_that_is_written_leaves_both_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    log = AuditLog.open(tmp_path)
    assert await told(caplog, log, method) == ["HSM_AUDIT", "SIGNING_AUDIT"]
    assert log.head.seq == 1
    log.close()


@pytest.mark.parametrize("method", METHODS)
async def test_a_record_that_is_lost_still_leaves_its_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    log = AuditLog.open(tmp_path)
    log.close()
    heard = await told(caplog, log, method)
    assert [line.split(" event_type")[0] for line in heard] == ["audit record lost", "HSM_AUDIT", "SIGNING_AUDIT"]


async def test_what_is_no_signature_leaves_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="manahsm.audit")
    log = AuditLog.open(tmp_path)
    await Journal(log, required=True).write(AuditRecord(event=AuditEvent.START))
    log.close()
    assert [entry.getMessage() for entry in caplog.records] == ["HSM_AUDIT: key=- operation=start result=success"]


async def test_what_is_refused_because_it_can_not_be_recorded_is_not_said_to_be_signed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = AuditLog.open(tmp_path)
    log.close()
    with pytest.raises(AuditUnavailable):
        await told(caplog, log, "write", required=True)
    assert caplog.records == []


@pytest.mark.parametrize("method", METHODS)
async def test_without_a_log_there_are_no_lines(caplog: pytest.LogCaptureFixture, method: str) -> None:
    assert await told(caplog, None, method) == []


async def test_lines_that_nobody_reads_are_not_put_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_record: Any) -> str:
        raise AssertionError

    monkeypatch.setattr("manahsm.audit.journal.hsm_line", never)
    log = AuditLog.open(tmp_path)
    assert await told(caplog, log, "write", level=logging.WARNING) == []
    log.close()
