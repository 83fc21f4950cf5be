"""Hosts on one machine log in one at a time, but none waits for ever."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from manahsm.hsm import login_turn as room
from manahsm.hsm.login_turn import login_turn


def is_free(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "library.so"
    path.touch()
    return path


def test_the_turn_is_taken_for_the_block_and_given_back(library: Path) -> None:
    assert is_free(library)
    with login_turn(str(library)):
        assert not is_free(library)
    assert is_free(library)


def test_the_turn_is_given_back_when_the_login_fails(library: Path) -> None:
    with pytest.raises(RuntimeError), login_turn(str(library)):
        raise RuntimeError
    assert is_free(library)


def test_a_turn_that_does_not_come_is_done_without(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PATIENCE", 0.02)
    reached = []
    with login_turn(str(library)):
        with login_turn(str(library)):
            reached.append("inside")
        assert not is_free(library)
    assert reached == ["inside"]


def test_a_library_that_is_not_there_is_for_the_loader_to_report(tmp_path: Path) -> None:
    reached = []
    with login_turn(str(tmp_path / "none")):
        reached.append("inside")
    assert reached == ["inside"]
