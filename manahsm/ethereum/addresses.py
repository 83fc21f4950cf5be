"""Keccak-256, EIP-55 addresses and key ids.

The one thing to know: addresses are 20 bytes inside the program and become checksummed text only where people
read them. Text in one case is accepted as it is; text in mixed case must carry a correct EIP-55 checksum.
"""

from __future__ import annotations

import re
from functools import lru_cache

import sha3

__all__ = ["ADDRESS_SIZE", "address_of", "checksum_address", "decode_address", "keccak256", "key_id_of"]

ADDRESS_SIZE = 20
_KEY_ID_BYTES = 8
_ADDRESSES_AT_HAND = 1024  # callers name the same few again and again; a checksum takes 10 us
_ADDRESS_TEXT = re.compile(r"0[xX][0-9a-fA-F]{40}")


def keccak256(data: bytes) -> bytes:
    """Return the 32-byte Keccak-256 hash of ``data`` (the original padding, not NIST's SHA3-256)."""
    digest: bytes = sha3.keccak_256(data).digest()
    return digest


@lru_cache(maxsize=_ADDRESSES_AT_HAND)
def checksum_address(address: bytes) -> str:
    """Return 20 bytes as EIP-55 text: a letter is upper case where the hash of the text has a nibble >= 8."""
    plain = address.hex()
    hashed = keccak256(plain.encode("ascii")).hex()
    return "0x" + "".join(
        letter.upper() if nibble in "89abcdef" else letter for letter, nibble in zip(plain, hashed, strict=False)
    )


def decode_address(text: str) -> bytes:
    """Return the 20 bytes of a 0x address.

    Raises:
        ValueError: the text is not 0x and 40 hex digits, or it is in mixed case and its EIP-55 checksum is
            wrong. The message continues a sentence that names the field and never repeats the text.
    """
    if not _ADDRESS_TEXT.fullmatch(text):
        raise ValueError("is not an address: give 0x and 40 hex digits")
    digits = text[2:]
    address = bytes.fromhex(digits)
    in_one_case = digits == digits.lower() or digits == digits.upper()
    if not in_one_case and checksum_address(address)[2:] != digits:
        raise ValueError("has a wrong EIP-55 checksum: copy the address again")
    return address


def address_of(public_key: bytes) -> str:
    """Return the EIP-55 address of a 65-byte uncompressed public key (``04 || X || Y``)."""
    return checksum_address(keccak256(public_key[1:])[-ADDRESS_SIZE:])


def key_id_of(public_key: bytes) -> str:
    """Return the key id of a 65-byte public key: the first 16 hex characters of keccak256(X || Y)."""
    return keccak256(public_key[1:])[:_KEY_ID_BYTES].hex()
