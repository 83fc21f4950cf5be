"""Alerts on disk: all or nothing, and never a reason not to start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alert_samples import sample_alert
from hypothesis import given, settings
from hypothesis import strategies as st

from manahsm.monitoring.alert_rules import Alert, ResolvedBy
from manahsm.monitoring.alert_store import ALERTS_FILE, AlertStore, Stored
from manahsm.monitoring.causes import CAUSES

moments = st.integers(0, 10**17).map(lambda us: datetime(1990, 1, 1, tzinfo=UTC) + timedelta(microseconds=us % 10**15))
details = st.dictionaries(
    st.text(max_size=10), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10), max_size=4
)


@st.composite
def alerts(draw: st.DrawFn) -> Alert:
    raised = draw(moments)
    is_open = draw(st.booleans())
    return sample_alert(
        draw(st.sampled_from(sorted(CAUSES))),
        detail=draw(st.text(max_size=30)),
        details=draw(details),
        raised_at=raised,
        last_seen=raised + timedelta(seconds=draw(st.integers(0, 10**6))),
        count=draw(st.integers(1, 10**9)),
        resolved_at=None if is_open else raised,
        resolved_by=None if is_open else draw(st.sampled_from(ResolvedBy)),
    )


@settings(deadline=None)  # a disk takes its time
@given(st.lists(alerts(), max_size=5), st.none() | st.text(max_size=5))
def test_what_is_stored_is_found_again(tmp_path_factory: pytest.TempPathFactory, kept: list[Alert], name: str) -> None:
    store = AlertStore(tmp_path_factory.mktemp("alerts"), name)
    store.save(kept)

    assert store.load() == Stored(alerts=tuple(kept), configuration=name)


def test_no_file_is_no_damage(tmp_path: Path) -> None:
    assert AlertStore(tmp_path / "nowhere").load() == Stored()


def test_the_file_is_private(tmp_path: Path) -> None:
    store = AlertStore(tmp_path / "state")
    store.save([])

    assert store.path.stat().st_mode & 0o077 == 0


@settings(deadline=None)
@given(st.binary(max_size=40) | st.sampled_from([b"", b"[" * 5000, b'{"version": 2, "alerts": []}', b'{"version": 1}']))
def test_whatever_the_file_holds_a_start_is_possible_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    directory = tmp_path_factory.mktemp("alerts")
    (directory / ALERTS_FILE).write_bytes(content)

    stored = AlertStore(directory).load()

    assert stored.damage is not None
    assert [path.read_bytes() for path in directory.iterdir()] == [content]
    assert not (directory / ALERTS_FILE).exists()


def test_a_file_that_can_not_be_read_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / ALERTS_FILE).mkdir()

    stored = AlertStore(tmp_path).load()

    assert stored.damage is not None
    assert "can not be read" in stored.damage
