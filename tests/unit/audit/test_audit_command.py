"""``python -m manahsm.audit``: what it prints and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from audit_samples import CHECKPOINT_ADDRESS, a_record, make_log, segments_of
from hypothesis import given, settings
from hypothesis import strategies as st

from manahsm.audit.__main__ import main
from manahsm.audit.log import AuditLog
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord, Decision
from manahsm.audit.show import describe, moment
from manahsm.requests import Backend, Operation

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of five records, a minute apart."""
    directory = tmp_path_factory.mktemp("log")
    moments = iter(NOON + timedelta(minutes=number) for number in range(5))
    log = AuditLog.open(directory, now=lambda: next(moments))
    log.append(AuditRecord(event=AuditEvent.START, outcome=AuditOutcome.DONE))
    log.append(a_record(1))
    log.append(
        AuditRecord(
            event=AuditEvent.SIGN,
            caller="eve\x1b[2J\n",
            operation=Operation.HASH,
            address="0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf",
            decision=Decision.REFUSED,
            outcome=AuditOutcome.REFUSED,
            reason="role_denied: no role",
        )
    )
    log.append(
        AuditRecord(
            event=AuditEvent.SIGN,
            key_id="fedcba9876543210",
            backend=Backend.SOFTWARE,
            slot=None,
            diverted=True,
            outcome=AuditOutcome.SIGNED,
            summary={"value": 2**200},
        )
    )
    log.append(AuditRecord(event=AuditEvent.STOP, outcome=AuditOutcome.DONE))
    log.close()
    return directory


def sequence(capsys: pytest.CaptureFixture[str]) -> list[int]:
    return [int(line.split()[0]) for line in capsys.readouterr().out.splitlines()]


# --- verify ---------------------------------------------------------------------------------------------------------


def test_a_log_that_holds_ends_with_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "5 records hold, 1 to 5, from 2025-01-02T12:00:00.000000Z to 2025-01-02T12:04:00.000000Z"
    assert re.fullmatch(r"head 5:[0-9a-f]{64}", out[1])
    assert out[2].startswith("no checkpoints: ")
    assert out[3:] == ["OK: the log holds"]


def test_the_same_log_gives_the_same_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for _ in range(2):
        main(["verify", str(folder)])
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_the_printed_head_is_what_a_later_run_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_log(tmp_path, 5)
    main(["verify", str(tmp_path)])
    head = capsys.readouterr().out.splitlines()[1].removeprefix("head ")
    make_log(tmp_path, 5)
    assert main(["verify", str(tmp_path), "--head", head]) == 0
    assert main(["verify", str(tmp_path), "--head", head.replace("5:", "6:")]) == 1
    assert "FAILED (replaced) at record 6" in capsys.readouterr().out


def test_a_log_that_does_not_hold_ends_with_1_and_names_the_first_bad_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = make_log(tmp_path, 5)
    name = segments_of(files)[0]
    (tmp_path / name).write_bytes(files[name].replace(b'"r-3"', b'"r-4"'))
    assert main(["verify", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("2 records hold, 1 to 2,")
    assert out.endswith(f"FAILED (edited) at record 3: {name} line 3: record 3 was edited, or is no record\n")


def test_checkpoints_are_checked_against_the_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_log(tmp_path, 12, checkpoint_every=5)
    assert main(["verify", str(tmp_path), "--address", CHECKPOINT_ADDRESS.lower()]) == 0
    out = capsys.readouterr().out
    assert f"2 checkpoints by {CHECKPOINT_ADDRESS}; 3 records come after the last that they cover" in out
    assert main(["verify", str(tmp_path)]) == 0
    assert "give --address to say whose they must be" in capsys.readouterr().out
    assert main(["verify", str(tmp_path), "--address", "0x" + "11" * 20]) == 1
    assert f"FAILED (checkpoint) at record 5: {segments_of(make_log(tmp_path, 0))[0]} line 5" in capsys.readouterr().out


def test_older_segments_may_be_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_log(tmp_path, 5, segment_size=1)
    oldest = min(tmp_path.glob("*.jsonl"))
    hash_of_first = json.loads(oldest.read_bytes())["hash"]
    oldest.unlink()
    assert main(["verify", str(tmp_path)]) == 1
    assert main(["verify", str(tmp_path), "--after", f"1:{hash_of_first}"]) == 0
    assert "4 records hold, 2 to 5" in capsys.readouterr().out


def test_an_empty_folder_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    assert "0 records hold" in capsys.readouterr().out


# --- show -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], [1, 2, 3, 4, 5]),
        (["--key", "FEDCBA9876543210"], [4]),
        (["--key", "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf"], [3]),
        (["--key", "none"], []),
        (["--caller", "caller 1"], [2]),
        (["--caller", "caller"], []),
        (["--outcome", "signed"], [2, 4]),
        (["--outcome", "refused"], [3]),
        (["--event", "start"], [1]),
        (["--event", "sign", "--outcome", "signed", "--caller", "caller 1"], [2]),
        (["--since", "2025-01-02T12:01:00Z"], [2, 3, 4, 5]),
        (["--until", "2025-01-02T12:01:00Z"], [1]),
        (["--since", "2025-01-02T13:02+01:00", "--until", "2025-01-02T12:04"], [3, 4]),
        (["--since", "2025-01-03"], []),
        (["--until", "2025-01-03"], [1, 2, 3, 4, 5]),
    ],
)
def test_records_are_found(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], found: list[int]
) -> None:
    assert main(["show", str(folder), *arguments]) == 0
    assert sequence(capsys) == found


def test_a_record_is_one_printable_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        "3 2025-01-02T12:02:00.000000Z sign operation=hash outcome=refused "
        r'caller="eve\u001b[2J\n" reason="role_denied: no role"'
    )
    assert lines[3].endswith(f'backend=software diverted=true {{"value":{2**200}}}')


def test_whole_records_can_be_had_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", str(folder), "--json"])
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert shown == [json.loads(line) for line in (folder / "audit-000000000001.jsonl").read_bytes().splitlines()]


def test_what_is_no_record_is_noted_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = make_log(tmp_path, 3)
    name = segments_of(files)[0]
    first, *rest = files[name].splitlines(keepends=True)
    (tmp_path / name).write_bytes(b"".join([first, b"\xff\x1b\n", b"[1]\n", b"[" * 100_000 + b"\n", *rest, b'{"seq"']))
    assert main(["show", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 3
    assert [line.split(": ")[1] for line in shown.err.splitlines()] == [
        f"{name} line {number}" for number in (2, 3, 4, 7)
    ]
    assert "incomplete last line (being written, or torn)" in shown.err


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["seq", "time", "event", "caller", "reason", "summary"]), st.text() | st.none()))
def test_whatever_is_in_a_record_it_is_described_in_one_printable_line(record: dict[str, str | None]) -> None:
    line = describe(record)
    assert line.isascii()
    assert line.isprintable()


@settings(deadline=None)
@given(st.datetimes(timezones=st.timezones()))
def test_times_in_any_zone_are_compared_in_utc(time: datetime) -> None:
    try:
        utc = time.astimezone(UTC)
    except OverflowError:
        return
    assert datetime.fromisoformat(moment(time.isoformat())) == utc.replace(fold=0)


# --- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_folder_that_is_not_there_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, str(tmp_path / "none")]) == 2
    assert "no such folder. The audit log is in audit.directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", ".", "--head", "nonsense"], "argument --head: expected SEQ:HASH"),
        (["verify", ".", "--address", "0x12"], "argument --address: is not an address"),
        (["show", ".", "--since", "yesterday"], "argument --since: Invalid isoformat"),
        (["show", ".", "--outcome", "odd"], "invalid choice: 'odd'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_segment_that_can_not_be_read_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "audit-000000000001.jsonl").mkdir()
    assert main(["show", str(tmp_path)]) == 1
    assert "audit-000000000001.jsonl: Is a directory" in capsys.readouterr().err


def test_a_reader_who_has_seen_enough_is_no_trouble(tmp_path: Path) -> None:
    make_log(tmp_path, 2000)
    with subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "manahsm.audit", "show", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
