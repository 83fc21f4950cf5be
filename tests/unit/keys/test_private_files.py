"""Files that only we may read and that survive a crash."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from manahsm.files import (
    FileInUse,
    lock_exclusively,
    make_private_directory,
    remove_leftovers,
    write_atomically,
)


@contextmanager
def files_may_have(size: int) -> Iterator[None]:
    """Let the kernel refuse to make files longer, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_written_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with files_may_have(100), pytest.raises(OSError, match="File too large"):
        write_atomically(path, b"x" * 1000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-file-1234").touch()
    (tmp_path / "file").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lock_is_held_once_until_it_is_closed(tmp_path: Path) -> None:
    held = lock_exclusively(tmp_path / "lock")
    with pytest.raises(FileInUse, match="another manahsm process"):
        lock_exclusively(tmp_path / "lock")
    os.close(held)
    os.close(lock_exclusively(tmp_path / "lock"))


def test_a_child_process_does_not_keep_a_lock_that_its_parent_held(tmp_path: Path) -> None:
    held = lock_exclusively(tmp_path / "lock")
    program = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False) as child:  # noqa: S603 - ours
        assert child.stdout is not None
        child.stdout.readline()  # a parent may go on before the exec that closes the child's copy
        os.close(held)
        os.close(lock_exclusively(tmp_path / "lock"))
        child.communicate(b"\n")


def test_a_lock_is_not_taken_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        lock_exclusively(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_private_folder_is_made_with_its_parents_and_closed(tmp_path: Path) -> None:
    make_private_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "a" / "b").chmod(0o770)
    make_private_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
