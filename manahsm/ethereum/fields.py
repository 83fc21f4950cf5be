"""Readers: from the forms that callers use to the one form that is signed.

The one thing to know: a reader takes any object and either returns the canonical value (an int in range,
bytes of the right length) or raises :class:`~manahsm.errors.InvalidTransaction` naming the field. Nothing
is guessed: decimal strings, bare hex, bools and odd-length data are refused, because some other signer
reads each of them in another way. Values are never repeated in messages, so a key pasted into the wrong
field does not reach a log.

Readers are installed as attrs converters by :func:`read_by`, so classes accept the same forms as mappings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from attrs import NOTHING, Attribute
from attrs.converters import optional

from manahsm.errors import InvalidTransaction
from manahsm.ethereum.addresses import ADDRESS_SIZE, decode_address

__all__ = [
    "NONCE_LIMIT",
    "UINT256_LIMIT",
    "AccessList",
    "Reader",
    "access_list",
    "address",
    "byte_string",
    "fixed_bytes",
    "integer",
    "kind_of",
    "read_by",
    "recipient",
    "refuse",
    "sequence",
    "show_name",
]

UINT256_LIMIT = 2**256
NONCE_LIMIT = 2**64 - 1  # EIP-2681: the last nonce is 2^64 - 2

_WORD_SIZE = 32
_QUANTITY = re.compile(r"0[xX]([0-9a-fA-F]{1,64})")
_HEX_DATA = re.compile(r"(?:0[xX]((?:[0-9a-fA-F]{2})*))?")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")

Reader = Callable[[Any], Any]
AccessList = tuple[tuple[bytes, tuple[bytes, ...]], ...]


def refuse(name: str, problem: str) -> NoReturn:
    """Raise the error for a field: ``name: problem``, where the problem says what to do instead."""
    raise InvalidTransaction(f"{name}: {problem}")


def kind_of(value: object) -> str:
    """Name a value's type for a message, without showing the value."""
    return "null" if value is None else type(value).__name__


def show_name(key: object) -> str:
    """Return a field name as it can be shown, or a description where the key is not a plain word."""
    plain = isinstance(key, str) and _PLAIN_NAME.fullmatch(key)
    return str(key) if plain else "(a key that is not a field name)"


def integer(name: str, *, below: int = UINT256_LIMIT, least: int = 0) -> Reader:
    """Return a reader of an unsigned integer: an int, or a 0x string of at most 64 digits."""

    def read(value: Any) -> int:
        if type(value) is int:
            number = value
        elif isinstance(value, str):
            number = _quantity(name, value)
        elif isinstance(value, int) and not isinstance(value, bool):
            number = int(value)
        else:
            refuse(name, f"is {kind_of(value)}; give an int or a 0x string")
        if not least <= number < below:
            refuse(name, _range_problem(number, least, below))
        return number

    return read


def _quantity(name: str, text: str) -> int:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        refuse(name, "is not a 0x number of at most 64 digits; give an int or 0x hex (decimal text is refused)")
    return int(match[1], 16)


def _range_problem(number: int, least: int, below: int) -> str:
    if number < least:
        return "is negative" if number < 0 else f"must be at least {least}"
    bits = below.bit_length() - 1
    return f"must be below 2^{bits}" if below == 2**bits else "is above the largest value that a node accepts"


def byte_string(name: str) -> Reader:
    """Return a reader of data of any length: bytes, or 0x hex with an even number of digits ("" is empty)."""

    def read(value: Any) -> bytes:
        if type(value) is bytes:
            return value
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if not isinstance(value, str):
            refuse(name, f"is {kind_of(value)}; give bytes or a 0x string")
        match = _HEX_DATA.fullmatch(value)
        if match is None:
            refuse(name, "is not 0x and an even number of hex digits")
        return bytes.fromhex(match[1] or "")

    return read


def fixed_bytes(name: str, size: int) -> Reader:
    """Return a reader of exactly ``size`` bytes."""
    read_bytes = byte_string(name)

    def read(value: Any) -> bytes:
        data: bytes = read_bytes(value)
        if len(data) != size:
            refuse(name, f"has {len(data)} bytes where {size} are needed")
        return data

    return read


def address(name: str) -> Reader:
    """Return a reader of 20 bytes, or 0x text whose EIP-55 checksum is right where it is in mixed case."""

    def read(value: Any) -> bytes:
        if isinstance(value, str):
            try:
                return decode_address(value)
            except ValueError as error:
                refuse(name, str(error))
        if not isinstance(value, (bytes, bytearray)):
            refuse(name, f"is {kind_of(value)}; give 20 bytes or 0x and 40 hex digits")
        if len(value) != ADDRESS_SIZE:
            refuse(name, f"has {len(value)} bytes where an address has 20")
        return value if type(value) is bytes else bytes(value)

    return read


def recipient(name: str) -> Reader:
    """Return a reader of ``to``: an address, or null, b"" or "" (all mean contract creation, read as b"")."""
    read_address = address(name)

    def read(value: Any) -> bytes:
        if value is None or (isinstance(value, (str, bytes)) and not value):
            return b""
        if value == "0x":
            refuse(name, "is 0x; leave it out (or give null) to create a contract, or give an address")
        read_as_address: bytes = read_address(value)
        return read_as_address

    return read


def sequence(name: str, value: Any) -> Sequence[Any]:
    """Return a list or tuple, or refuse: text and bytes are sequences to Python and never lists here."""
    if not isinstance(value, (list, tuple)):
        refuse(name, f"is {kind_of(value)}; give a list")
    return value


def access_list(name: str) -> Reader:
    """Return a reader of an EIP-2930 access list.

    Entries are ``{"address", "storageKeys"}`` mappings or ``(address, keys)`` pairs. Storage keys are 32-byte
    words: bytes of that length, ints, or 0x numbers.
    """
    read_word = integer("storageKeys")

    def read_key(value: Any) -> bytes:
        if isinstance(value, (bytes, bytearray)):
            if len(value) != _WORD_SIZE:
                refuse("storageKeys", f"holds {len(value)} bytes where a storage key has 32")
            return bytes(value)
        word: int = read_word(value)
        return word.to_bytes(_WORD_SIZE, "big")

    read_address = address("address")

    def read_entry(entry: Any) -> tuple[bytes, tuple[bytes, ...]]:
        if isinstance(entry, Mapping):
            if entry.keys() != {"address", "storageKeys"}:
                refuse("entry", "must have the fields address and storageKeys and no others")
            account, keys = entry["address"], entry["storageKeys"]
        elif isinstance(entry, (list, tuple)) and len(entry) == 2:  # noqa: PLR2004 - a pair
            account, keys = entry
        else:
            refuse("entry", f"is {kind_of(entry)}; give a mapping with address and storageKeys")
        return read_address(account), tuple(read_key(key) for key in sequence("storageKeys", keys))

    def read(value: Any) -> AccessList:
        return tuple(each(name, sequence(name, value), read_entry)) if value != () else ()

    return read


def each(name: str, values: Sequence[Any], read: Reader) -> list[Any]:
    """Read every item of a list; an item's error is prefixed with ``name[index]``."""
    items = []
    for index, value in enumerate(values):
        try:
            items.append(read(value))
        except InvalidTransaction as error:
            raise InvalidTransaction(f"{name}[{index}].{error}") from None
    return items


def read_by(readers: Mapping[str, Reader]) -> Callable[[type, list[Attribute[Any]]], list[Attribute[Any]]]:
    """Return an attrs field transformer that makes each named attribute's reader its converter.

    An attribute whose default is ``None`` may be ``None``. This is how a class keeps plain annotations
    (``nonce: int``) for its readers and type checkers, while its constructor refuses whatever is not one.
    """

    def transform(_cls: type, attributes: list[Attribute[Any]]) -> list[Attribute[Any]]:
        return [
            attribute.evolve(converter=_converter(readers[attribute.name], attribute.default))
            if attribute.name in readers and attribute.converter is None
            else attribute
            for attribute in attributes
        ]

    return transform


def _converter(read: Reader, default: Any) -> Reader:
    if default is NOTHING or default is not None:
        return read
    or_none: Reader = optional(read)
    return or_none
