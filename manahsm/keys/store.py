"""The registry's database: one SQLite file that survives kill -9 and power loss.

Write-ahead log with ``synchronous=FULL``: when :meth:`KeyStore.commit` returns, the change is on the disk;
when it does not return, the file holds the state before or the state after, never a mixture. Everything here
blocks; only :mod:`manahsm.keys.registry` calls it, from one worker thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from manahsm.errors import RegistryError
from manahsm.files import PRIVATE_FILE, FileInUse, lock_exclusively, make_private_directory
from manahsm.keys.index import Change
from manahsm.keys.rows import from_row, microseconds, to_row
from manahsm.requests import KeyInfo

__all__ = ["SCHEMA_VERSION", "KeyStore"]

# "mana" in ASCII: SQLite's application_id tells our file from any other database.
_APPLICATION_ID = 0x6D616E61

# One script a schema version, applied in order inside one transaction. Never edit one that was released:
# append.
_MIGRATIONS = (
    """
    CREATE TABLE keys (
        key_id        TEXT PRIMARY KEY,
        address       TEXT NOT NULL UNIQUE,
        public_key    BLOB NOT NULL UNIQUE,
        label         TEXT NOT NULL UNIQUE,
        role          TEXT,
        usage         TEXT NOT NULL,
        backend       TEXT NOT NULL,
        slots         TEXT NOT NULL,
        software_twin INTEGER NOT NULL,
        created_at    INTEGER NOT NULL,
        last_used     INTEGER,
        use_count     INTEGER NOT NULL,
        state         TEXT NOT NULL
    ) STRICT
    """,
)
SCHEMA_VERSION = len(_MIGRATIONS)

_LOAD = """
    SELECT key_id, address, public_key, label, role, usage, backend, slots, software_twin,
           created_at, last_used, use_count, state
    FROM keys ORDER BY rowid
"""

# Use counters belong to write_uses: a change of label must not set them back to what the index remembers.
_PUT = """
    INSERT INTO keys (key_id, address, public_key, label, role, usage, backend, slots, software_twin,
                      created_at, last_used, use_count, state)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key_id) DO UPDATE SET
        label = excluded.label, role = excluded.role, usage = excluded.usage, backend = excluded.backend,
        slots = excluded.slots, software_twin = excluded.software_twin, state = excluded.state
"""


class KeyStore:
    """An open registry file, held exclusively by this process."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> KeyStore:
        """Open the registry, making or upgrading it where needed.

        Raises:
            RegistryError: in use by another process, unreadable, damaged, not ours, or of a newer version.
        """
        try:
            make_private_directory(path.parent)
            lock = lock_exclusively(path.with_name(path.name + ".lock"))
        except FileInUse:
            raise RegistryError(
                f"{path}: another manahsm process uses this registry; stop it, or set another hsm.state_dir"
            ) from None
        except OSError as error:
            raise RegistryError(f"{path}: cannot be opened: {error.strerror or error}") from error
        try:
            connection = _connect(path)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, connection, lock)

    def load(self) -> list[KeyInfo]:
        """Read every key, in the order of registration.

        Raises:
            RegistryError: the file is damaged, or a row contradicts its own public key.
        """
        with self._explained():
            keys = []
            for row in self._connection.execute(_LOAD):
                try:
                    keys.append(from_row(row))
                except (ValueError, TypeError, OverflowError) as error:
                    raise RegistryError(_damaged(self.path, f"key {row[0]!r}: {error}")) from error
            return keys

    def commit(self, change: Change[Any]) -> None:
        """Make a change durable, whole or not at all.

        Raises:
            RegistryError: nothing was changed.
        """
        with self._transaction() as connection:
            connection.executemany("DELETE FROM keys WHERE key_id = ?", ((key_id,) for key_id in change.removed))
            connection.executemany(_PUT, map(to_row, change.put))

    def write_uses(self, uses: Mapping[str, tuple[int, datetime]]) -> None:
        """Store counters: ``key_id -> (use_count, last_used)``. Keys that are gone by now are passed over.

        Raises:
            RegistryError: nothing was changed.
        """
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE keys SET use_count = ?, last_used = ? WHERE key_id = ?",
                ((count, microseconds(when), key_id) for key_id, (count, when) in uses.items()),
            )

    def close(self) -> None:
        """Close the file (SQLite folds its write-ahead log into it) and let others open it."""
        try:
            self._connection.close()
        finally:
            os.close(self._lock)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors (disk full, I/O).
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RegistryError(_explain(self.path, error)) from error


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # Made by us and not by SQLite, so that it is never readable by others; its -wal and -shm files copy
        # the mode.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            os.fchmod(descriptor, PRIVATE_FILE)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RegistryError(f"{path}: cannot be opened: {error.strerror or error}") from error
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        _prepare(path, connection)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise RegistryError(_explain(path, error)) from error
        raise
    return connection


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    version = _pragma(connection, "user_version")
    application = _pragma(connection, "application_id")
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if not empty and application != _APPLICATION_ID:
        raise RegistryError(f"{path}: is a database of another program; set another hsm.state_dir")
    if version > SCHEMA_VERSION:
        raise RegistryError(
            f"{path}: was written by a newer manahsm (registry version {version}, this one knows "
            f"{SCHEMA_VERSION}); install that version again, or restore the registry from before the upgrade"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if version < SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        for script in _MIGRATIONS[version:]:
            connection.execute(script)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise RegistryError(_damaged(path, problem))


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _explain(path: Path, error: sqlite3.Error) -> str:
    if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF in _DAMAGE:
        return _damaged(path, str(error))
    return f"{path}: {error}; nothing was changed. Check the disk's space and the file's owner, then try again"


# Primary result codes; extended ones (SQLITE_CORRUPT_INDEX ...) carry them in the low byte.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _damaged(path: Path, what: str) -> str:
    return (
        f"{path}: the registry is damaged ({what}). Restore it from a backup, or move it aside: "
        "keys in tokens are found again by themselves and need their roles assigned anew, software keys stay "
        "in their keystore files"
    )
