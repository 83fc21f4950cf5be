"""Files that hold a secret: written new, and for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

import click

__all__ = ["write_private"]


def write_private(path: Path, text: str) -> None:
    """Write a new file of mode 0600.

    Raises:
        click.UsageError: there is such a file already, or it can not be made.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise click.UsageError(f"can not make {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
