"""What a service needs beside its tokens: folders that it may write, a passphrase, nobody else in its place.

The one thing to know: nothing is made and nothing is written here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from manahsm.cli.findings import Finding, Verdict, describe_problem
from manahsm.cli.opened import service_url
from manahsm.config.model import Config
from manahsm.errors import ConfigError

__all__ = ["is_locked", "look_around"]


def look_around(config: Config) -> Iterator[Finding]:
    """Look at the folders and files that a configuration names."""
    yield _folder("state", "state_dir", config.state_dir)
    if config.audit.enabled:
        yield _folder("audit log", "audit.directory", config.audit_directory)
    yield _passphrase(config)
    if is_locked(config.state_dir / "registry.sqlite3.lock"):
        url = service_url(config) or "URL"
        yield Finding("service", Verdict.OK, "is running with this configuration", f"ask it with --url {url}")


def _folder(subject: str, option: str, path: Path) -> Finding:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        return Finding(subject, Verdict.FAIL, f"{there} is no folder", f"set hsm.{option} to another place")
    if not os.access(there, os.W_OK | os.X_OK):
        remedy = f"give the user of the service the right to write there, or set hsm.{option} to another place"
        return Finding(subject, Verdict.FAIL, f"{there} can not be written", remedy)
    if there != path:
        return Finding(subject, Verdict.OK, f"{path} (made at the first start)")
    if path.stat().st_mode & 0o077:
        return Finding(subject, Verdict.NOTE, f"{path} is open to others", "it is closed to them at the next start")
    return Finding(subject, Verdict.OK, str(path))


def _passphrase(config: Config) -> Finding:
    try:
        known = config.passphrase() is not None
    except ConfigError as error:
        problem = describe_problem(error.problems[0].path, error.problems[0].message)
        remedy = "make a file that holds the passphrase alone, chmod 600 it, and name it there"
        return Finding("keystore", Verdict.FAIL, problem.text, remedy)
    if known:
        return Finding("keystore", Verdict.OK, str(config.keystore_directory))
    return Finding("keystore", Verdict.NOTE, "no passphrase file: no software keys and no software twins")


def is_locked(path: Path) -> bool:
    """Whether somebody holds the exclusive lock that a file stands for; the file is not made."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
