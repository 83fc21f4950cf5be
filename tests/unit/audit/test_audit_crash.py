"""kill -9 while records are written: every one that was promised is there, and the log goes on."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from manahsm.audit.log import AuditLog
from manahsm.audit.records import GENESIS, AuditEvent, AuditRecord, head_of
from manahsm.audit.segments import segments

# Appends for ever; prints the number of a record once append has returned.
WRITER = """
import sys
from itertools import count
from pathlib import Path

from manahsm.audit.log import AuditLog
from manahsm.audit.records import AuditEvent, AuditRecord

log = AuditLog.open(Path(sys.argv[1]))
for number in count(log.head.seq + 1):
    log.append(AuditRecord(event=AuditEvent.SIGN, chain_id=number, summary={"data": "x" * 5000}))
    print(number, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_log_killed_while_writing_has_every_promised_record(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not for cryptography
    promised = 0
    for _ in range(2):
        promised = write_and_kill(tmp_path, chance.randrange(1, 200))
    log = AuditLog.open(tmp_path)
    log.append(AuditRecord(event=AuditEvent.STOP))
    log.close()
    previous = GENESIS
    signed = []
    for path in segments(tmp_path):
        for line in path.read_bytes().splitlines(keepends=True):
            head = head_of(line)
            assert head is not None
            content = json.loads(line)
            assert (content["seq"], content["prev"]) == (previous.seq + 1, previous.hash)
            previous = head
            signed += [content["chain_id"]] if content["event"] == "sign" else []
    assert set(range(1, promised + 1)) - set(signed) <= repairs(tmp_path)
    assert signed[-1] - promised in {0, 1}


def repairs(folder: Path) -> set[int]:
    """Sequence numbers that went to records of repairs: the writer counts those too."""
    lines = [json.loads(line) for path in segments(folder) for line in path.read_text().splitlines()]
    return {line["seq"] for line in lines if line["event"] == "recovery"}


def write_and_kill(folder: Path, after: int) -> int:
    """Let a process write until it has promised ``after`` records, kill it, and return the last it promised."""
    with subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return int([line for line in lines if line.endswith("\n")][-1])
