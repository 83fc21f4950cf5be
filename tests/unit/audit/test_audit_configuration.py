"""The configuration in force has its record at each start, with what changed and without anything secret."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manahsm.audit.configuration import CONFIGURATION_FILE, configuration_summary, encoded, record_configuration
from manahsm.audit.journal import Journal
from manahsm.audit.log import AuditLog
from manahsm.config.load import load_config
from manahsm.config.model import Config
from manahsm.errors import AuditUnavailable

pytestmark = pytest.mark.anyio

PIN = "0451-secret"


def config(folder: Path, **options: Any) -> Config:
    return load_config({"enabled": False, "state_dir": str(folder), **options}, environ={})


async def start(folder: Path, **options: Any) -> dict[str, Any]:
    """Record a configuration as a start does, and return the summary."""
    loaded = config(folder, **options)
    log = AuditLog.open(loaded.audit_directory)
    await record_configuration(Journal(log, required=True), loaded)
    log.close()
    record = json.loads(log.path.read_bytes().splitlines()[-1])
    assert record["event"] == "configuration"
    summary: dict[str, Any] = record["summary"]
    return summary


async def test_each_start_says_what_changed_since_the_one_before(tmp_path: Path) -> None:
    first = await start(tmp_path)
    assert first == {"sha256": hashlib.sha256(encoded(config(tmp_path))).hexdigest()}
    assert await start(tmp_path) == {"sha256": first["sha256"], "previous": first["sha256"], "changed": {}}
    changed = await start(tmp_path, audit={"fsync": "always"}, token_label="east")
    assert changed["previous"] == first["sha256"]
    assert changed["changed"] == {"hsm.audit.fsync": ["interval", "always"], "hsm.token_label": [None, "east"]}
    back = await start(tmp_path)
    assert (back["sha256"], back["changed"]["hsm.token_label"]) == (first["sha256"], ["east", None])


async def test_slots_are_compared_one_by_one(tmp_path: Path) -> None:
    await start(tmp_path, slots=[{"slot_id": 1}, {"slot_id": 2, "priority": "backup"}])
    summary = await start(tmp_path, slots=[{"slot_id": 1}, {"slot_id": 3, "priority": "backup"}])
    assert summary["changed"] == {"hsm.slots[1].slot_id": [2, 3]}


async def test_a_pin_is_in_none_of_it(tmp_path: Path) -> None:
    await start(tmp_path, pin=PIN)
    await start(tmp_path, pin=PIN + "-new")
    files = [path.read_bytes() for path in (tmp_path / "audit").iterdir()]
    assert len(files) == 4
    assert not any(PIN.encode() in content for content in files)


async def test_a_kept_configuration_that_somebody_changed_shows_in_the_digests(tmp_path: Path) -> None:
    first = await start(tmp_path)
    kept = tmp_path / "audit" / CONFIGURATION_FILE
    for content in (b"not JSON", b"[" * 100_000):
        kept.write_bytes(content)
        summary = await start(tmp_path)
        assert summary["previous"] == hashlib.sha256(content).hexdigest() != first["sha256"]
        assert summary["previous_readable"] is False


async def test_a_kept_configuration_that_can_not_be_read_or_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audit" / CONFIGURATION_FILE).mkdir(parents=True)
    assert list(await start(tmp_path)) == ["sha256"]
    assert "can not be read" in caplog.text
    assert "can not be kept" in caplog.text


async def test_without_an_audit_log_there_is_no_record(tmp_path: Path) -> None:
    unaudited = config(tmp_path, audit={"enabled": False}, security_policy={"audit_all_operations": False})
    await record_configuration(Journal(None, required=False), unaudited)
    assert list(tmp_path.iterdir()) == []


async def test_what_can_not_be_recorded_is_not_kept(tmp_path: Path) -> None:
    loaded = config(tmp_path)
    log = AuditLog.open(loaded.audit_directory)
    log.close()
    with pytest.raises(AuditUnavailable):
        await record_configuration(Journal(log, required=True), loaded)
    assert not (loaded.audit_directory / CONFIGURATION_FILE).exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_any_two_documents_differ_exactly_where_they_differ(before: Any, now: Any) -> None:
    kept, new = json.dumps(before).encode(), json.dumps(now).encode()
    assert configuration_summary(new, new)["changed"] == {}
    changed = configuration_summary(kept, new)["changed"]
    mirrored = configuration_summary(new, kept)["changed"]
    assert {path: [b, a] for path, (a, b) in changed.items()} == mirrored
