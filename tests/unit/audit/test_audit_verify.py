"""The verifier finds what was done to a log, names the first record that does not hold, and says what it can not."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from audit_samples import (
    CHECKPOINT_ADDRESS,
    CHECKPOINT_KEY,
    Files,
    a_record,
    checkpoint_record,
    make_log,
    read_log,
    segments_of,
    write_log,
)
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from manahsm.audit import chain as chain_module
from manahsm.audit.chain import Fault
from manahsm.audit.log import AuditLog
from manahsm.audit.noted import HEAD_FILE
from manahsm.audit.records import GENESIS, AuditEvent, AuditRecord, Head, head_of, seal
from manahsm.audit.verify import Report, verify

RECORDS = 1000
SEGMENT_SIZE = 100_000  # makes five of them
AT_NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = make_log(tmp_path_factory.mktemp("sound"), RECORDS, segment_size=SEGMENT_SIZE)
    assert len(segments_of(files)) == 5
    return files


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that each example of a property test fills anew."""
    return tmp_path_factory.mktemp("harmed")


def lines_of(files: Files) -> list[tuple[str, bytes]]:
    """Every line with its segment."""
    return [(name, line) for name in segments_of(files) for line in files[name].splitlines(keepends=True)]


def from_lines(files: Files, lines: list[tuple[str, bytes]]) -> Files:
    """The log with these lines instead of its own."""
    harmed = dict.fromkeys(segments_of(files), b"") | {HEAD_FILE: files[HEAD_FILE]}
    for name, line in lines:
        harmed[name] += line
    return harmed


def failure_of(place: Path, files: Files) -> tuple[Fault, int] | None:
    failure = verify(write_log(place, files)).failure
    return None if failure is None else (failure.fault, failure.seq)


def head_at(files: Files, seq: int) -> Head:
    head = head_of(lines_of(files)[seq - 1][1])
    assert head is not None
    return head


positions = st.integers(0, RECORDS - 1)


# --- what holds -----------------------------------------------------------------------------------------------------


def test_a_log_that_nobody_touched_holds(sound: Files, place: Path) -> None:
    report = verify(write_log(place, sound))
    assert (report.failure, report.records, report.notes) == (None, RECORDS, ())
    assert report.head == head_at(sound, RECORDS)
    assert report.first is not None
    assert report.last is not None
    assert report.first < report.last


def test_a_log_holds_at_every_moment_while_it_is_written(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path, max_segment_size=4096)
    for number in range(60):
        log.append(a_record(number))
        report = verify(tmp_path)
        assert (report.failure, report.records) == (None, number + 1)
    log.close()


def test_an_incomplete_last_line_is_told_apart(sound: Files, place: Path) -> None:
    last = segments_of(sound)[-1]
    report = verify(write_log(place, sound | {last: sound[last] + b'{"seq":1001,"ti'}))
    assert report.failure is None
    number = sound[last].count(b"\n") + 1
    assert report.notes == (f"{last} line {number}: incomplete last line (being written, or torn): 15 bytes",)


def test_a_first_line_that_was_torn_is_no_fault(place: Path) -> None:
    report = verify(write_log(place, {"audit-000000000001.jsonl": b'{"seq":1'}))
    assert (report.failure, report.records) == (None, 0)


def test_trouble_that_the_log_recorded_is_told(tmp_path: Path) -> None:
    make_log(tmp_path, 2)
    segment = tmp_path / "audit-000000000001.jsonl"
    segment.write_bytes(segment.read_bytes() + b"torn")
    AuditLog.open(tmp_path).close()
    report = verify(tmp_path)
    assert report.failure is None
    assert len(report.notes) == 1
    assert report.notes[0].startswith('record 3, recovery: "the end of the log was torn')


def test_many_notes_are_counted_and_not_kept(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path)
    for _ in range(30):
        log.append(AuditRecord(event=AuditEvent.LOG_RESUMED, reason="again"))
    log.close()
    notes = verify(tmp_path).notes
    assert (len(notes), notes[-1]) == (21, "and 10 more notes")


# --- every kind of harm ---------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_single_byte_edit_is_found(data: st.DataObject, sound: Files, place: Path) -> None:
    name = data.draw(st.sampled_from(segments_of(sound)))
    content = bytearray(sound[name])
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.integers(0, 255).filter(lambda value: value != content[position]))
    before = sum(sound[other].count(b"\n") for other in segments_of(sound) if other < name)
    seq = before + sound[name].count(b"\n", 0, position) + 1
    found = failure_of(place, sound | {name: bytes(content)})
    last_newline = seq == RECORDS and position == len(content) - 1
    assert found == (Fault.TRUNCATED if last_newline else Fault.EDITED, seq)


def test_the_last_newline_is_missed_though_it_proves_nothing_itself(sound: Files, place: Path) -> None:
    last = segments_of(sound)[-1]
    assert failure_of(place, sound | {last: sound[last][:-1]}) == (Fault.TRUNCATED, RECORDS)
    assert failure_of(place, sound | {last: sound[last][:-1] + b"\0"}) == (Fault.TRUNCATED, RECORDS)


@settings(max_examples=40, deadline=None)
@given(at=positions)
def test_any_removed_record_is_found(at: int, sound: Files, place: Path) -> None:
    lines = lines_of(sound)
    kind = Fault.TRUNCATED if at == RECORDS - 1 else Fault.MISSING
    assert failure_of(place, from_lines(sound, lines[:at] + lines[at + 1 :])) == (kind, at + 1)


@settings(max_examples=40, deadline=None)
@given(at=positions, other=positions)
def test_any_swap_of_two_records_is_found(at: int, other: int, sound: Files, place: Path) -> None:
    at, other = min(at, other), max(at, other)
    if at == other:
        other, at = (other, other - 1) if other else (1, 0)
    lines = lines_of(sound)
    lines[at], lines[other] = (lines[at][0], lines[other][1]), (lines[other][0], lines[at][1])
    assert failure_of(place, from_lines(sound, lines)) == (Fault.MISSING, at + 1)


@settings(max_examples=40, deadline=None)
@given(at=positions, to=st.integers(0, RECORDS))
def test_any_repeated_record_is_found(at: int, to: int, sound: Files, place: Path) -> None:
    lines = lines_of(sound)
    lines.insert(to, (lines[max(0, to - 1)][0], lines[at][1]))
    kind = Fault.OUT_OF_ORDER if at <= to else Fault.MISSING
    at_fault = to + 1 if at != to else to + 2  # a copy of the next record holds; the record itself does not any more
    found = failure_of(place, from_lines(sound, lines))
    assert found == ((Fault.OUT_OF_ORDER if at == to else kind), at_fault)


@settings(max_examples=20, deadline=None)
@given(garbage=st.binary(max_size=40), to=st.integers(0, RECORDS))
def test_any_line_that_is_no_record_is_found(garbage: bytes, to: int, sound: Files, place: Path) -> None:
    lines = lines_of(sound)
    lines.insert(to, (lines[max(0, to - 1)][0], garbage + b"\n"))
    assert failure_of(place, from_lines(sound, lines)) == (Fault.EDITED, to + 1)


def test_a_record_with_an_honest_hash_of_its_own_is_found(sound: Files, place: Path) -> None:
    lines = lines_of(sound)
    name, _ = lines[499]
    forged, _ = seal(a_record(7), head_at(sound, 499), AT_NOON)
    lines[499] = (name, forged)
    assert failure_of(place, from_lines(sound, lines)) == (Fault.REPLACED, 501)


def test_a_last_record_with_an_honest_hash_of_its_own_is_found(sound: Files, place: Path) -> None:
    lines = lines_of(sound)
    forged, _ = seal(a_record(7), head_at(sound, RECORDS - 1), AT_NOON)
    lines[-1] = (lines[-1][0], forged)
    assert failure_of(place, from_lines(sound, lines)) == (Fault.REPLACED, RECORDS)


@pytest.mark.parametrize("gone", range(5))
def test_any_removed_segment_is_found(gone: int, sound: Files, place: Path) -> None:
    name = segments_of(sound)[gone]
    first = int(name[6:18])
    kind = Fault.TRUNCATED if gone == 4 else Fault.MISSING
    assert failure_of(place, {other: sound[other] for other in sound if other != name}) == (kind, first)


@pytest.mark.parametrize("cut", range(5))
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 0.999))
def test_any_truncated_segment_is_found(cut: int, share: float, sound: Files, place: Path) -> None:
    name = segments_of(sound)[cut]
    left = sound[name][: int(len(sound[name]) * share)]
    first_gone = int(name[6:18]) + left.count(b"\n")
    found = failure_of(place, sound | {name: left})
    assert found is not None
    assert found[1] == first_gone
    assert found[0] in ({Fault.TRUNCATED} if cut == 4 else {Fault.MISSING, Fault.EDITED})


def test_renamed_segments_are_found(sound: Files, place: Path) -> None:
    first, second, *_ = segments_of(sound)
    swapped = sound | {first: sound[second], second: sound[first]}
    assert failure_of(place, swapped) == (Fault.MISSING, 1)


def test_an_empty_folder_does_not_hold(tmp_path: Path) -> None:
    failure = verify(tmp_path).failure
    assert failure is not None
    assert failure.text.startswith("there is no record here")


def test_a_segment_that_can_not_be_read_is_said_to_be(sound: Files, place: Path) -> None:
    name = segments_of(sound)[2]
    write_log(place, {other: sound[other] for other in sound if other != name})
    (place / name).mkdir()
    failure = verify(place).failure
    (place / name).rmdir()
    assert failure is not None
    assert (failure.fault, failure.seq) == (Fault.UNREADABLE, int(name[6:18]))
    assert name in failure.text


# --- what is known from outside -------------------------------------------------------------------------------------


def test_without_its_note_missing_last_records_are_not_found_and_the_report_says_so(sound: Files, place: Path) -> None:
    shorter = from_lines(sound, lines_of(sound)[:-1])
    del shorter[HEAD_FILE]
    report = verify(write_log(place, shorter))
    assert (report.failure, report.records) == (None, RECORDS - 1)
    assert "whether the last records are missing can not be told" in report.notes[0]


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"1:" + b"a" * 64, b"\xff" * 86, b"0" * 20 + b":" + b"g" * 64 + b"\n"]
)
def test_a_damaged_note_is_told(content: bytes, sound: Files, place: Path) -> None:
    report = verify(write_log(place, sound | {HEAD_FILE: content}))
    assert report.failure is None
    assert report.notes[0].startswith(f"{HEAD_FILE} does not hold")


def test_a_note_that_can_not_be_read_is_told(sound: Files, place: Path) -> None:
    write_log(place, {name: sound[name] for name in segments_of(sound)})
    (place / HEAD_FILE).mkdir()
    report = verify(place)
    (place / HEAD_FILE).rmdir()
    assert report.failure is None
    assert report.notes[0].startswith(f"{HEAD_FILE} can not be read (Is a directory)")


def test_a_head_that_was_noted_elsewhere_must_be_in_the_log(sound: Files, place: Path) -> None:
    write_log(place, sound)
    assert verify(place, heads=[head_at(sound, 1), head_at(sound, 700), GENESIS]).failure is None
    failure = verify(place, heads=[Head(700, "ab" * 32)]).failure
    assert failure is not None
    assert (failure.fault, failure.seq) == (Fault.REPLACED, 700)
    failure = verify(place, heads=[Head(RECORDS + 5, "ab" * 32)]).failure
    assert failure is not None
    assert (failure.fault, failure.seq) == (Fault.TRUNCATED, RECORDS + 1)
    failure = verify(place, heads=[Head(0, "ab" * 32)]).failure
    assert failure is not None
    assert (failure.fault, failure.seq) == (Fault.REPLACED, 0)


def test_older_segments_may_be_kept_elsewhere(sound: Files, place: Path) -> None:
    oldest, second, *_ = segments_of(sound)
    write_log(place, {name: sound[name] for name in sound if name != oldest})
    first = int(second[6:18])
    report = verify(place, after=head_at(sound, first - 1), heads=[head_at(sound, 3)])
    assert (report.failure, report.records) == (None, RECORDS - first + 1)
    assert report.notes == (f"record 3 was noted, but the log is read only from {first} on",)
    failure = verify(place, after=Head(first - 1, "ab" * 32)).failure
    assert failure is not None
    assert (failure.fault, failure.seq) == (Fault.REPLACED, first)


def rewritten(tmp_path: Path, *, drop: int) -> Files:
    """What a forger leaves who can write everything: the log without one record, all hashes computed anew."""
    original = AuditLog.open(tmp_path / "forged")
    for number in range(1, 51):
        if number != drop:
            original.append(a_record(number))
    original.close()
    return read_log(tmp_path / "forged")


def test_a_log_that_was_rewritten_whole_is_found_only_from_outside(tmp_path: Path) -> None:
    true = make_log(tmp_path / "true", 50)
    place = write_log(tmp_path / "place", rewritten(tmp_path, drop=10))
    assert verify(place).failure is None  # the chain alone can not know
    failure = verify(place, heads=[head_at(true, 20)]).failure
    assert failure is not None
    assert (failure.fault, failure.seq) == (Fault.REPLACED, 20)
    failure = verify(place, addresses=frozenset({CHECKPOINT_ADDRESS})).failure
    assert failure is not None
    assert failure.fault is Fault.CHECKPOINT


def test_a_record_that_was_appended_with_a_right_hash_is_found_only_from_outside(sound: Files, place: Path) -> None:
    last = segments_of(sound)[-1]
    line, forged = seal(a_record(1001), head_at(sound, RECORDS), AT_NOON)
    true, _ = seal(AuditRecord(event=AuditEvent.STOP), head_at(sound, RECORDS), AT_NOON)
    write_log(place, sound | {last: sound[last] + line})
    assert verify(place).head == forged
    noted = head_of(true)
    assert noted is not None
    failure = verify(place, heads=[noted]).failure
    assert failure is not None
    assert (failure.fault, failure.seq) == (Fault.REPLACED, RECORDS + 1)


# --- checkpoints ----------------------------------------------------------------------------------------------------


OURS = frozenset({CHECKPOINT_ADDRESS})


def checked(folder: Path, *records: AuditRecord | None) -> Report:
    """Verify a log of ten records, a checkpoint for each ``None``, and the given records."""
    log = AuditLog.open(folder)
    for number in range(10):
        log.append(a_record(number))
    for record in records:
        log.append(record if record is not None else checkpoint_record(log.head))
    log.close()
    return verify(folder, addresses=OURS)


def test_checkpoints_say_how_far_they_vouch(tmp_path: Path) -> None:
    report = checked(tmp_path, None, a_record(1), None, a_record(2), a_record(3))
    assert (report.failure, report.checkpoints, report.covered) == (None, 2, 12)
    assert (report.signers, report.head.seq) == ((CHECKPOINT_ADDRESS,), 15)


def test_a_log_without_the_demanded_checkpoints_does_not_hold(tmp_path: Path) -> None:
    failure = checked(tmp_path, a_record(1)).failure
    assert failure is not None
    assert failure.fault is Fault.CHECKPOINT
    assert CHECKPOINT_ADDRESS in failure.text


def summary(head: Head, signature: object) -> AuditRecord:
    return AuditRecord(
        event=AuditEvent.CHECKPOINT, summary={"seq": head.seq, "hash": head.hash, "signature": signature}
    )


A_HEAD = Head(3, "ab" * 32)
GOOD_FORM = "0x" + "11" * 64 + "00"


@pytest.mark.parametrize(
    "record",
    [
        AuditRecord(event=AuditEvent.CHECKPOINT),
        AuditRecord(event=AuditEvent.CHECKPOINT, summary={"seq": True, "hash": "ab" * 32, "signature": GOOD_FORM}),
        AuditRecord(event=AuditEvent.CHECKPOINT, summary={"seq": 3, "hash": 3, "signature": GOOD_FORM}),
        AuditRecord(event=AuditEvent.CHECKPOINT, summary={"seq": 3, "hash": "xy" * 32, "signature": GOOD_FORM}),
        summary(A_HEAD, None),
        summary(A_HEAD, "11" * 65),
        summary(A_HEAD, "0x" + "11" * 64),
        summary(A_HEAD, "0x" + "zz" * 65),
        summary(A_HEAD, GOOD_FORM),  # of another log
        checkpoint_record(A_HEAD),  # of another log, by the right key
        checkpoint_record(Head(11, "ab" * 32)),  # of itself
        checkpoint_record(Head(500, "ab" * 32)),  # of the future
    ],
)
def test_a_checkpoint_that_fits_nothing_is_found(tmp_path: Path, record: AuditRecord) -> None:
    failure = checked(tmp_path, record).failure
    assert failure is not None
    assert (failure.fault, failure.seq) == (Fault.CHECKPOINT, 11)


def test_a_checkpoint_that_says_nothing_of_the_kind_is_found(place: Path) -> None:
    body = b'{"seq":1,"time":"","prev":"%b","event":"checkpoint","summary":[1]' % GENESIS.hash.encode()
    line = body + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'
    assert failure_of(place, {"audit-000000000001.jsonl": line}) == (Fault.CHECKPOINT, 1)


def resigned(files: Files, head: Head, key: PrivateKey | None, signature: str | None = None) -> Files:
    """Append a checkpoint of ``head`` by another key, or with this signature, and a right hash."""
    last = segments_of(files)[-1]
    end = head_of(files[last].splitlines(keepends=True)[-1])
    assert end is not None
    record = checkpoint_record(head, key) if key is not None else summary(head, signature)
    return files | {last: files[last] + seal(record, end, AT_NOON)[0]}


@pytest.mark.parametrize("key", [PrivateKey(b"\x08" * 32), None])
def test_a_checkpoint_by_another_key_or_by_none_is_found(tmp_path: Path, key: PrivateKey | None) -> None:
    files = make_log(tmp_path / "true", 20, checkpoint_every=10)
    head = head_at(files, 15)
    # r is the x coordinate of no point: nobody can have made this one
    place = write_log(tmp_path / "place", resigned(files, head, key, "0x" + "00" * 31 + "05" + "00" * 31 + "01" + "00"))
    failure = verify(place, addresses=OURS).failure
    assert failure is not None
    assert (failure.fault, failure.seq) == (Fault.CHECKPOINT, 21)
    assert (verify(place).failure is None) == (key is not None)  # without --address, any key will do


def test_every_bit_of_a_checkpoints_signature_counts(tmp_path: Path) -> None:
    files = make_log(tmp_path / "true", 20)
    head = head_at(files, 15)
    good = bytes.fromhex(str((checkpoint_record(head).summary or {})["signature"])[2:])
    for position in range(65):
        bad = bytearray(good)
        bad[position] ^= 1
        place = write_log(tmp_path / "place", resigned(files, head, None, "0x" + bad.hex()))
        failure = verify(place, addresses=OURS).failure
        assert failure is not None, position
        assert failure.fault is Fault.CHECKPOINT


def test_a_rewritten_log_needs_the_checkpoint_key(tmp_path: Path) -> None:
    true = make_log(tmp_path / "true", 50, checkpoint_every=25)
    lines = [line for _, line in lines_of(true)]
    head, forged = GENESIS, b""
    for number, line in enumerate(lines, 1):
        if number == 10:
            continue
        content = checkpoint_line(line, head) if b'"checkpoint"' in line else seal(a_record(number), head, AT_NOON)[0]
        forged += content
        head = head_of(content) or head
    note = f"{head.seq:020d}:{head.hash}\n".encode()
    place = write_log(tmp_path / "place", {segments_of(true)[0]: forged, HEAD_FILE: note})
    failure = verify(place, addresses=OURS).failure
    assert failure is not None
    assert failure.fault is Fault.CHECKPOINT


def checkpoint_line(line: bytes, head: Head) -> bytes:
    """The same checkpoint, chained to something else."""
    content = json.loads(line)
    return seal(AuditRecord(event=AuditEvent.CHECKPOINT, summary=content["summary"]), head, AT_NOON)[0]


def test_a_checkpoint_too_far_back_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_log(tmp_path / "true", 20)
    place = write_log(tmp_path / "place", resigned(files, head_at(files, 3), CHECKPOINT_KEY))
    assert verify(place).checkpoints == 1
    monkeypatch.setattr(chain_module, "_RECENT", 10)
    report = verify(place)
    assert (report.failure, report.checkpoints, report.covered) == (None, 0, 0)
    assert "too far back" in report.notes[0]
