"""kill -9 in the middle of signing: the log holds, and every signature that a caller received has its record.

The one thing to know: this is the short form; ``scripts/audit-campaign kill`` does it 200 times.
"""

from __future__ import annotations

import random
from pathlib import Path

from audit_load import killed_under_load, signed_ids
from services import software_config

from manahsm.audit.verify import verify


def test_a_service_that_is_killed_while_it_signs_has_a_record_of_every_signature(tmp_path: Path) -> None:
    chance = random.Random(4)  # noqa: S311 - not for cryptography
    config = software_config(tmp_path, audit={"max_segment_size": 65536})
    audit = tmp_path / "state" / "audit"
    received: set[str] = set()
    for _ in range(5):
        received |= killed_under_load(config, after=chance.randrange(1, 300))
        report = verify(audit)
        assert report.failure is None
        assert all("incomplete last line" in note or "recovery" in note for note in report.notes)
        assert received - signed_ids(audit) == set()
    assert len(received) > 5
