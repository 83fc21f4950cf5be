"""Reads a PIN or a passphrase from a file that nobody else can read.

The check is made on the opened file, not on its path, so that it cannot be swapped in between.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from manahsm.config.secret import Secret
from manahsm.errors import ConfigError, ConfigProblem

__all__ = ["insist_on_a_private_file", "read_configured_secret", "read_secret_file"]

_MOST_BYTES = 4096


def read_secret_file(path: Path) -> Secret:
    """Read a secret; one newline at the end of the file is not part of it.

    Raises:
        ValueError: with what is wrong with the file and what to do; never with what it holds.
    """
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ValueError(f"can not open {path}: {reason}") from None
    try:
        insist_on_a_private_file(os.fstat(descriptor).st_mode, path)
        content = os.read(descriptor, _MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    return Secret(_text_of(content, path))


def insist_on_a_private_file(mode: int, path: Path) -> None:
    """Refuse a file that others can read.

    Args:
        mode: of the file, as ``stat`` has it.
        path: where it is.

    Raises:
        ValueError: with what is wrong with it and what to do.
    """
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is not a regular file")
    # systemd lets the service's user read a credential by an access list, whose mask shows as the group's bits.
    shown = stat.S_IRGRP if _is_a_credential(path) else 0
    if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~shown:
        raise ValueError(f"{path} is open to group or others (mode {stat.S_IMODE(mode):04o}); chmod 600 it")


def _is_a_credential(path: Path) -> bool:
    """Whether systemd has put it where only this service can look (systemd.exec(5), LoadCredential)."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return directory.startswith("/") and path.parent == Path(directory)


def read_configured_secret(path: Path | None, option: str) -> Secret | None:
    """Read the secret file that ``option`` (a dotted path) names, if it names one.

    Raises:
        ConfigError: the file can not be used.
    """
    if path is None:
        return None
    try:
        return read_secret_file(path)
    except ValueError as error:
        problem = ConfigProblem(option, str(error))
    raise ConfigError([problem])


def _text_of(content: bytes, path: Path) -> str:
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path} is longer than {_MOST_BYTES} bytes; it should hold one secret only")
    text = None
    with suppress(UnicodeDecodeError):  # it would carry the bytes along
        text = content.removesuffix(b"\n").removesuffix(b"\r").decode()
    if text is None or "\0" in text:
        raise ValueError(f"{path} is not UTF-8 text")
    if not text:
        raise ValueError(f"{path} is empty")
    return text
