"""Where an imported private key comes from: hex on standard input, a hidden prompt, or a v3 keystore file.

The one thing to know: what is read here is secret. It is returned as 32 bytes and shown nowhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from manahsm.cli.questions import ask_secret
from manahsm.config.secret import Secret
from manahsm.config.secret_files import read_secret_file
from manahsm.errors import InvalidRequest, KeystoreError
from manahsm.ethereum.signatures import parse_private_key

__all__ = ["read_key", "read_keystore"]

_MOST_CHARACTERS = 200  # far more than a key has
_MOST_BYTES = 65536  # far more than a keystore file has


def read_key(keystore: Path | None, passphrase_file: Path | None) -> bytes:
    """The private key, 32 bytes.

    Raises:
        InvalidRequest: what was given is no private key.
        KeystoreError: the keystore file does not open.
        click.UsageError: a file can not be read.
    """
    if keystore is not None:
        return read_keystore(keystore, _passphrase(passphrase_file))
    if sys.stdin.isatty():
        text = ask_secret("Private key (64 hex digits, not shown)", "pipe it into this command")
    else:
        text = sys.stdin.read(_MOST_CHARACTERS)
    digits = text.strip()
    if not digits:
        raise InvalidRequest("no private key came in: pipe 64 hex digits into this command, or give --keystore FILE")
    return parse_private_key(digits)


def read_keystore(path: Path, passphrase: Secret) -> bytes:
    """The private key in a v3 keystore file.

    Raises:
        KeystoreError: it does not open with this passphrase, or is damaged.
        click.UsageError: there is no such file.
    """
    from manahsm.keys.keyfile import KeyfileProblem, decrypt  # noqa: PLC0415 - slow to import

    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
    except OSError as error:
        raise click.UsageError(f"--keystore: can not read {path}: {error.strerror}") from None
    try:
        return decrypt(content, passphrase)
    except KeyfileProblem as problem:
        # Its advice is for the service's own files.
        text = str(problem).replace("check keystore.passphrase_file, or ", "check it, or ")
        raise KeystoreError(f"{path} {text}") from None


def _passphrase(file: Path | None) -> Secret:
    if file is None:
        return Secret(ask_secret("Passphrase of the keystore file (not shown)", "give --passphrase-file FILE"))
    try:
        return read_secret_file(file)
    except ValueError as error:
        raise click.UsageError(f"--passphrase-file: {error}") from None
