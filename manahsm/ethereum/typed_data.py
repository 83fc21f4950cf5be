"""EIP-712: typed data is checked strictly here and then encoded by eth-account.

The one thing to know: eth-account's encoder converts what it is given (missing fields become zeros, "false"
becomes ``True`` or ``False``, short bytes are padded), and ignores what it does not know. Nothing of that
reaches it: this module first proves that types, domain and message fit each other exactly, and passes
canonical values only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from manahsm.errors import InvalidTransaction
from manahsm.ethereum.addresses import keccak256
from manahsm.ethereum.fields import address, byte_string, integer, kind_of, refuse, sequence, show_name
from manahsm.nesting import recursion_limit_kept

__all__ = ["TypedData", "TypedDataParts", "parse_typed_data", "read_typed_data", "typed_data_digest"]

_PARTS = ("types", "primaryType", "domain", "message")
_DOMAIN = "EIP712Domain"
# EIP-712, "Definition of domainSeparator": these fields, in this order, skipping absent ones.
_DOMAIN_FIELDS = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}
_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,127}")
_TYPE = re.compile(r"([A-Za-z_$][A-Za-z0-9_$]{0,127})((?:\[(?:[1-9][0-9]{0,5})?\])*)")
_LAST_DIMENSION = re.compile(r"(.*)\[([0-9]*)\]")
_SIZED = re.compile(r"(u?int|bytes)([1-9][0-9]{0,2})")
_DECIMAL = re.compile(r"(-?)(0|[1-9][0-9]{0,77})")
_HEX_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,64}")
_MAX_DEPTH = 32
_SCHEMELESS_PREFIX = b"\x19\x01"  # EIP-191, version 0x01

_Types = dict[str, dict[str, str]]  # struct name -> field name -> type


@frozen(kw_only=True)
class TypedData:
    """Checked EIP-712 data.

    Attributes:
        digest: 32 bytes, keccak256(0x19 0x01 || domain separator || struct hash).
        primary_type: name of the struct that is signed.
        domain: the domain's fields: text, an int, 20 and 32 bytes.
        message: the message in canonical form.
    """

    digest: bytes
    primary_type: str
    domain: Mapping[str, Any]
    message: Mapping[str, Any] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """Return what is signed and for which domain, for the audit log; never the message itself."""
        return {
            "type": "eip712",
            "primaryType": self.primary_type,
            "domain": {
                name: "0x" + value.hex() if isinstance(value, bytes) else str(value)
                for name, value in self.domain.items()
            },
        }


def typed_data_digest(typed: Mapping[str, Any], chain_id: int | None = None) -> bytes:
    """Return the 32-byte EIP-712 digest of ``typed``; see :func:`parse_typed_data`."""
    return parse_typed_data(typed, chain_id).digest


def parse_typed_data(typed: Mapping[str, Any], chain_id: int | None = None) -> TypedData:
    """Check typed data, in the form of ``eth_signTypedData_v4``, and compute its digest.

    Integers may be ints, 0x strings or decimal strings (wallets send those), bytes may be bytes or 0x hex
    of exactly the type's length. Types that the primary type does not need are ignored: they are not part
    of the digest.

    Args:
        typed: mapping with exactly ``types primaryType domain message``. ``types`` may leave out
            ``EIP712Domain``; where it is given it must list the domain's fields in EIP-712's order.
        chain_id: the chain that the caller means; a ``chainId`` in the domain must equal it.

    Raises:
        InvalidTransaction: anything is missing, unknown, malformed, out of range or contradictory.
    """
    expected = None if chain_id is None else integer("chain_id")(chain_id)
    parts = read_typed_data(typed)
    domain = parts.domain
    if expected is not None and domain.get("chainId", expected) != expected:
        refuse("domain.chainId", f"differs from the chain_id {expected} that was asked for; correct one of them")
    digest = _digest(domain, parts.types, parts.message)
    return TypedData(digest=digest, primary_type=parts.primary_type, domain=domain, message=parts.message)


@frozen
class TypedDataParts:
    """Typed data in canonical form, before it is hashed: numbers are ints, addresses and bytes are bytes.

    Attributes:
        types: fields with their types, by name of the struct; only what the primary type needs.
        primary_type: name of the struct that is signed.
        domain: the domain's fields.
        message: the message.
    """

    types: _Types
    primary_type: str
    domain: Mapping[str, Any]
    message: Mapping[str, Any] = field(repr=False)


def read_typed_data(typed: Any) -> TypedDataParts:
    """Check typed data as :func:`parse_typed_data` does, without hashing it, which needs a large library.

    Raises:
        InvalidTransaction: as there.
    """
    if not isinstance(typed, Mapping):
        refuse("typed_data", f"is {kind_of(typed)}; give a mapping with {', '.join(_PARTS)}")
    _require_exactly("typed_data", typed, _PARTS)
    declared = _read_types(typed["types"])
    domain = _read_domain(typed["domain"], declared.pop(_DOMAIN, None))
    primary = typed["primaryType"]
    if not isinstance(primary, str) or primary not in declared:
        refuse("primaryType", "is not one of the types; EIP712Domain can not be signed alone")
    types = _needed(primary, declared)
    return TypedDataParts(types, primary, domain, _Reader(types).struct("message", primary, typed["message"], 0))


def _digest(domain: Mapping[str, Any], types: _Types, message: Mapping[str, Any]) -> bytes:
    with recursion_limit_kept():
        from eth_account.messages import encode_typed_data  # noqa: PLC0415 - 0.4 s that most processes never need

    definitions = {
        name: [{"name": key, "type": kind} for key, kind in fields.items()] for name, fields in types.items()
    }
    signable = encode_typed_data(dict(domain), definitions, dict(message))
    return keccak256(_SCHEMELESS_PREFIX + bytes(signable.header) + bytes(signable.body))


def _require_exactly(name: str, given: Mapping[Any, Any], wanted: Any) -> None:
    for key in given:
        if key not in wanted:
            refuse(name, f"has the unknown field {show_name(key)}; leave it out or declare it")
    for key in wanted:
        if key not in given:
            refuse(f"{name}.{key}", "is missing")


def _read_types(value: Any) -> _Types:
    if not isinstance(value, Mapping):
        refuse("types", f"is {kind_of(value)}; give a mapping from struct names to lists of fields")
    types: _Types = {}
    for name, fields in value.items():
        if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name) or _is_atomic(name):
            refuse(
                "types",
                f"has the struct name {show_name(name)}, which is not an identifier or is a basic type",
            )
        types[name] = _read_fields(f"types.{name}", fields)
    return types


def _read_fields(path: str, value: Any) -> dict[str, str]:
    fields: dict[str, str] = {}
    for entry in sequence(path, value):
        if not isinstance(entry, Mapping) or entry.keys() != {"name", "type"}:
            refuse(path, "has a field that is not exactly {name, type}")
        name, kind = entry["name"], entry["type"]
        if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
            refuse(path, "has a field whose name is not an identifier")
        if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
            refuse(f"{path}.{name}", "has a type that is neither a name nor an array of one")
        if name in fields:
            refuse(f"{path}.{name}", "is declared twice")
        fields[name] = kind
    return fields


def _is_atomic(kind: str) -> bool:
    """Tell whether EIP-712 knows this type by itself; it has no aliases ``int`` and ``uint``."""
    if kind in {"bool", "address", "string", "bytes"}:
        return True
    match = _SIZED.fullmatch(kind)
    if match is None:
        return False
    size = int(match[2])
    return size <= 32 if match[1] == "bytes" else size % 8 == 0 and size <= 256  # noqa: PLR2004 - Solidity's


def _element(kind: str) -> str:
    return kind.partition("[")[0]


def _needed(primary: str, declared: _Types) -> _Types:
    """Return the primary type and every struct that it refers to, directly or not."""
    needed: _Types = {}
    waiting = [primary]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed[name] = declared[name]
        for key, kind in declared[name].items():
            element = _element(kind)
            if _is_atomic(element):
                continue
            if element not in declared:
                refuse(f"types.{name}.{key}", f"has the type {element}, which is not declared")
            if element == primary and name != primary:
                # eth-account finds the primary type as the one that no other type refers to.
                refuse(f"types.{name}.{key}", "refers back to the primary type; such a cycle is not supported")
            waiting.append(element)
    return needed


def _read_domain(value: Any, declared: dict[str, str] | None) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        refuse("domain", "is empty or not a mapping; EIP-712 needs at least one of its fields")
    unknown = [key for key in value if key not in _DOMAIN_FIELDS]
    if unknown:
        refuse("domain", f"has the unknown field {show_name(unknown[0])}; known are {', '.join(_DOMAIN_FIELDS)}")
    present = {name: kind for name, kind in _DOMAIN_FIELDS.items() if name in value}
    if declared is not None and list(declared.items()) != list(present.items()):
        refuse(
            f"types.{_DOMAIN}",
            "does not list exactly the fields of domain, with EIP-712's types and in its order",
        )
    read = _Reader({})
    return {name: read.value(f"domain.{name}", kind, value[name], 0) for name, kind in present.items()}


@frozen
class _Reader:
    """Turns the values of a message into the canonical values of their declared types."""

    types: _Types

    def struct(self, path: str, kind: str, value: Any, depth: int) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            refuse(path, f"is {kind_of(value)}; give a mapping with the fields of {kind}")
        fields = self.types[kind]
        _require_exactly(path, value, fields)
        return {name: self.value(f"{path}.{name}", of, value[name], depth) for name, of in fields.items()}

    def value(self, path: str, kind: str, value: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            refuse(path, f"is nested more than {_MAX_DEPTH} deep")
        if kind in self.types:
            return self.struct(path, kind, value, depth + 1)
        array = _LAST_DIMENSION.fullmatch(kind)
        if array is not None:
            return self._array(path, array[1], array[2], value, depth + 1)
        return _atom(path, kind, value)

    def _array(self, path: str, kind: str, size: str, value: Any, depth: int) -> list[Any]:
        items = sequence(path, value)
        if size and len(items) != int(size):
            refuse(path, f"has {len(items)} items where its type has {size}")
        return [self.value(f"{path}[{index}]", kind, item, depth) for index, item in enumerate(items)]


def _atom(path: str, kind: str, value: Any) -> Any:
    if kind == "bool":
        if not isinstance(value, bool):
            refuse(path, f"is {kind_of(value)}; give true or false")
        return value
    if kind == "string":
        return _text(path, value)
    if kind == "address":
        return address(path)(value)
    if kind.startswith("bytes"):
        return _bytes(path, kind, value)
    return _number(path, kind, value)


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str):
        refuse(path, f"is {kind_of(value)}; give text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        refuse(path, "holds a lone surrogate, which UTF-8 can not encode")
    return str(value)


def _bytes(path: str, kind: str, value: Any) -> bytes:
    if value == "":
        refuse(path, "is empty text; give bytes or 0x hex")
    data: bytes = byte_string(path)(value)
    size = kind.removeprefix("bytes")
    if size and len(data) != int(size):
        refuse(path, f"has {len(data)} bytes where {kind} has {size}")
    return data


def _number(path: str, kind: str, value: Any) -> int:
    signed = kind.startswith("int")
    bits = int(kind.removeprefix("u").removeprefix("int"))
    number = _read_number(path, value)
    least, below = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    if not least <= number < below:
        refuse(path, f"is outside the range of {kind}")
    return number


def _read_number(path: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        if _HEX_NUMBER.fullmatch(value):
            return int(value, 16)
        if _DECIMAL.fullmatch(value):
            return int(value)
    raise InvalidTransaction(f"{path}: is not a number; give an int, a decimal or a 0x string")
