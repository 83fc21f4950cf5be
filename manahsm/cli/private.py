"""Files that hold a secret: written new, and for their owner alone; or looked at, where they are there.

The one thing to know: what is read or asked for here is written into its file and shown nowhere.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click

from manahsm.cli.output import complain
from manahsm.cli.questions import ask_secret

__all__ = ["see_to_passphrase", "see_to_pin", "write_private"]

_PASSPHRASE_BYTES = 32


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


def see_to_pin(path: Path, token: str, *, option: str, yes: bool) -> None:
    """See that a token's PIN is in its file: look at the one that is there, or ask and write it.

    Raises:
        click.UsageError: the file can not be used, or is not there and nothing may be asked.
    """
    if _is_there(path, option):
        return
    if yes:
        raise click.UsageError(f"{path} is not there: write the PIN into it (chmod 600), or leave out --yes")
    pin = ask_secret(f"User PIN of token {token} (not shown)", f"write the PIN into {path} (chmod 600)", twice=True)
    write_private(path, pin + "\n")
    complain(f"the PIN is in {path}, for you alone")


def see_to_passphrase(path: Path, *, yes: bool) -> None:
    """See that the passphrase of software keys is in its file: look at the one that is there, ask for one, or make one.

    Raises:
        click.UsageError: the file can not be used.
    """
    if _is_there(path, "--passphrase-file"):
        return
    passphrase = ""
    if not yes:
        question = "Passphrase for software keys (not shown; empty: one is made up)"
        instead = f"write the passphrase into {path} (chmod 600), or give --yes to have one made up"
        passphrase = ask_secret(question, instead, twice=True, may_be_empty=True)
    write_private(path, (passphrase or secrets.token_hex(_PASSPHRASE_BYTES)) + "\n")
    how = "the passphrase" if passphrase else "a passphrase of 256 bits that was made up"
    complain(f"{how} is in {path}, for you alone. Keep a copy: without it software keys are lost")


def _is_there(path: Path, option: str) -> bool:
    from manahsm.config.secret_files import read_secret_file  # noqa: PLC0415 - `--help` does not need it

    if not path.exists():
        return False
    try:
        read_secret_file(path)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
    return True
