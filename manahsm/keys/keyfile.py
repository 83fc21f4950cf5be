"""One Web3 Secret Storage (version 3) file: bytes in, private key out, and back. Knows nothing of folders.

The format is eth-keyfile's business; what is ours is to say what is wrong with a file, and to refuse one
whose parameters would exhaust the machine before its passphrase is even checked.
"""

from __future__ import annotations

import json
from typing import Any

from manahsm.config.model import Kdf
from manahsm.config.secret import Secret
from manahsm.errors import InvalidRequest
from manahsm.ethereum.signatures import address_of, parse_private_key, public_key_of
from manahsm.nesting import recursion_limit_kept, too_deep

__all__ = ["KeyfileProblem", "decrypt", "encrypt", "read_outside"]

_VERSION = 3
_MAX_SCRYPT_MEMORY = 2**30  # bytes; geth's standard parameters need 2**28
_MAX_SCRYPT_PASSES = 16
_MAX_PBKDF2_ROUNDS = 100_000_000


class KeyfileProblem(Exception):  # noqa: N818 - the keystore turns it into its error, with the path
    """What is wrong with a file and what to do, as the end of a sentence that begins with its path."""


def encrypt(private_key: bytes, passphrase: Secret, *, kdf: Kdf, iterations: int, name: str | None) -> bytes:
    """Make the content of a file. Takes as long as the work factor wants.

    Args:
        private_key: 32 bytes.
        passphrase: what the file is encrypted with.
        kdf: key derivation function.
        iterations: its work factor: n for scrypt (r = 8, p = 1), rounds for pbkdf2.
        name: written in the clear, where given.
    """
    with recursion_limit_kept():
        from eth_keyfile.keyfile import create_keyfile_json  # noqa: PLC0415 - slow to import, and not needed at start

    content: dict[str, Any] = create_keyfile_json(
        private_key, passphrase.reveal().encode(), kdf=kdf.value, iterations=iterations
    )
    content["address"] = content["address"].lower()  # as geth writes it
    if name is not None:
        content["name"] = name
    return json.dumps(content, indent=1).encode()


def decrypt(content: bytes, passphrase: Secret) -> bytes:
    """Return the 32 bytes of the private key in a file.

    Raises:
        KeyfileProblem: wrong passphrase, damaged, too costly, or the key is not that of the address in the
        file.
    """
    with recursion_limit_kept():
        from eth_keyfile.exceptions import EthKeyfileValueError  # noqa: PLC0415 - as above
        from eth_keyfile.keyfile import decode_keyfile_json  # noqa: PLC0415 - as above

    file = _parse(content)
    try:
        _check_cost(file["crypto"])
        private_key = parse_private_key(decode_keyfile_json(file, passphrase.reveal().encode()))
    except KeyfileProblem:
        raise
    except EthKeyfileValueError:
        raise KeyfileProblem(
            "does not open with this passphrase; check keystore.passphrase_file, or restore the file if it is damaged"
        ) from None
    except InvalidRequest:
        raise KeyfileProblem("holds no valid private key; restore it from a backup") from None
    except Exception as error:  # noqa: BLE001 - however a malformed field trips the library, it ends here
        raise KeyfileProblem(f"is damaged ({type(error).__name__}); restore it from a backup") from None
    address = file.get("address")  # optional in version 3
    if address is not None and _plain(str(address)) != _plain(address_of(public_key_of(private_key))):
        raise KeyfileProblem("holds another key than its address says; restore the right file")
    return private_key


def read_outside(content: bytes) -> tuple[str | None, str | None]:
    """Return address and name that a file gives in the clear, unchecked.

    Raises:
        KeyfileProblem: it is not a version 3 file.
    """
    file = _parse(content)
    address, name = file.get("address"), file.get("name")
    return (
        "0x" + _plain(address) if isinstance(address, str) else None,
        name if isinstance(name, str) else None,
    )


def _parse(content: bytes) -> dict[str, Any]:
    if too_deep(content):
        raise KeyfileProblem("is not a version 3 keystore file")
    try:
        file = json.loads(content)
    except ValueError:
        raise KeyfileProblem("is damaged (not JSON); restore it from a backup") from None
    if not isinstance(file, dict):
        raise KeyfileProblem("is not a version 3 keystore file")
    file = {name.lower(): value for name, value in file.items()}  # early clients wrote "Crypto"
    if file.get("version") != _VERSION:
        raise KeyfileProblem("is not a version 3 keystore file")
    return file


def _check_cost(crypto: dict[str, Any]) -> None:
    parameters = crypto["kdfparams"]
    if crypto["kdf"] == Kdf.SCRYPT:
        too_much = 128 * parameters["n"] * parameters["r"] > _MAX_SCRYPT_MEMORY or parameters["p"] > _MAX_SCRYPT_PASSES
    else:
        too_much = parameters.get("c", 0) > _MAX_PBKDF2_ROUNDS
    if too_much:
        raise KeyfileProblem("asks for more memory or time than any honest file; it is not opened")


def _plain(address: str) -> str:
    return address.lower().removeprefix("0x")
