"""Parameters of methods: what they are called, what they may be, and how they are read (pure).

The one thing to know: a parameter is taken by position or by name, and nothing is left over: too many, unknown and
missing ones are refused. Values are never repeated in messages, because people paste keys into the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import zip_longest
from typing import Any, TypeVar

from attrs import field, frozen

from manahsm.errors import InvalidRequest
from manahsm.ethereum.addresses import checksum_address, decode_address
from manahsm.ethereum.fields import integer, kind_of, show_name
from manahsm.ethereum.signatures import parse_private_key
from manahsm.requests import is_timeout
from manahsm.strict_json import NotStrict, read_json

__all__ = [
    "ADDRESS",
    "DATA",
    "QUANTITY",
    "Param",
    "Schema",
    "address",
    "address_of",
    "bind",
    "block_payload",
    "chain_id",
    "choice",
    "choices",
    "data",
    "data_of",
    "document",
    "flag",
    "message",
    "message_of",
    "private_key",
    "text",
    "timeout",
    "transaction",
    "transaction_of",
    "transactions",
    "typed_data",
    "typed_data_of",
]

Schema = Mapping[str, Any]
E = TypeVar("E", bound=StrEnum)

ADDRESS: Schema = {"type": "string", "pattern": "^0[xX][0-9a-fA-F]{40}$"}
DATA: Schema = {"type": "string", "pattern": "^0[xX]([0-9a-fA-F]{2})*$"}
QUANTITY: Schema = {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^0[xX][0-9a-fA-F]+$"}]}
_TRANSACTION: Schema = {"type": "object", "description": "with the field names of JSON-RPC; unknown ones are refused"}

_HEX = re.compile(r"0[xX]((?:[0-9a-fA-F]{2})*)")
_LONGEST_TEXT = 1024
_NOT_GIVEN: Any = object()
_KEY_MATERIAL = re.compile(r"[0-9a-fA-F]{41}")  # more hex digits in a row than an address has


@frozen(kw_only=True)
class Param:
    """One parameter.

    Attributes:
        name: by which it is given where parameters have names.
        read: from JSON to the value that the method gets; raises :class:`~manahsm.errors.InvalidRequest`.
        schema: the same for people and their tools (JSON Schema).
        required: whether it must be given; otherwise ``null`` and absence are the same, and the method gets ``None``.
    """

    name: str
    read: Callable[[Any], Any] = field(repr=False)
    schema: Schema
    required: bool = True


def bind(params: tuple[Param, ...], given: list[Any] | dict[str, Any] | None) -> list[Any]:
    """Return one value for each parameter, in order.

    Raises:
        InvalidRequest: the message names the parameter and says what to do.
    """
    values = _in_order(params, given) if isinstance(given, dict) else given or []
    if len(values) > len(params):
        raise InvalidRequest(f"{len(values)} parameters are too many; they are: {_wanted(params)}")
    return [_value(param, value) for param, value in zip_longest(params, values, fillvalue=_NOT_GIVEN)]


def _in_order(params: tuple[Param, ...], given: dict[str, Any]) -> list[Any]:
    known = {param.name for param in params}
    if unknown := [name for name in given if name not in known]:
        raise InvalidRequest(f"{show_name(unknown[0])}: is no parameter of this method; they are: {_wanted(params)}")
    return [given.get(param.name, _NOT_GIVEN) for param in params]


def _wanted(params: tuple[Param, ...]) -> str:
    return ", ".join(param.name for param in params) or "none"


def _value(param: Param, value: Any) -> Any:
    if value is _NOT_GIVEN and param.required:
        raise InvalidRequest(f"{param.name}: is missing")
    if value is _NOT_GIVEN or (value is None and not param.required):
        return None
    return param.read(value)


# ---- values ----


def address_of(value: Any, name: str = "address") -> str:
    """Return an address with its checksum.

    Raises:
        InvalidRequest: it is none, or its own checksum is wrong.
    """
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}: is {kind_of(value)}; give 0x and 40 hex digits")
    try:
        return checksum_address(decode_address(value))
    except ValueError as problem:
        raise InvalidRequest(f"{name}: {problem}") from None


def data_of(value: Any, name: str = "data") -> bytes:
    """Return the bytes of 0x hex.

    Raises:
        InvalidRequest: it is something else.
    """
    match = _HEX.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidRequest(f"{name}: is not 0x and an even number of hex digits")
    return bytes.fromhex(match[1])


def message_of(value: Any, name: str = "message") -> bytes:
    """Return the bytes of a message: 0x hex spells them, any other text is UTF-8.

    Raises:
        InvalidRequest: it is no text, or begins with 0x and is no hex: nobody can tell what is meant.
    """
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}: is {kind_of(value)}; give 0x hex or text")
    return data_of(value, name) if value.startswith(("0x", "0X")) else value.encode()


def transaction_of(value: Any, name: str = "transaction", what: str = "a transaction") -> dict[str, Any]:
    """Return the fields of a transaction, or of ``what``. What they hold is looked at where it is signed.

    Raises:
        InvalidRequest: it is no object.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name}: is {kind_of(value)}; give an object with the fields of {what}")
    return value


def typed_data_of(value: Any, name: str = "typedData") -> dict[str, Any]:
    """Return EIP-712 data, given as an object or, as wallets do, as the text of one.

    Raises:
        InvalidRequest: it is neither.
    """
    if isinstance(value, str):
        try:
            value = read_json(value.encode())
        except NotStrict as problem:
            raise InvalidRequest(f"{name}: {problem}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name}: is {kind_of(value)}; give an object with types, primaryType, domain and message")
    return value


# ---- parameters ----


def address(name: str = "address") -> Param:
    """An address, as text with its checksum."""
    return Param(name=name, read=lambda value: address_of(value, name), schema=ADDRESS)


def data(name: str = "data") -> Param:
    """Bytes, as 0x hex."""
    return Param(name=name, read=lambda value: data_of(value, name), schema=DATA)


def message(name: str) -> Param:
    """A message: 0x hex or text."""
    return Param(
        name=name,
        read=lambda value: message_of(value, name),
        schema={"type": "string", "description": "0x hex for bytes; any other text is taken as UTF-8"},
    )


def transaction(name: str = "transaction") -> Param:
    """A transaction, as its fields."""
    return Param(name=name, read=lambda value: transaction_of(value, name), schema=_TRANSACTION)


def block_payload(name: str = "blockPayload") -> Param:
    """A block payload, as its fields."""
    either = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}
    chain = {"oneOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}
    fields = {"domain": either, "chainId": chain, "payloadHash": either, "senderAddress": ADDRESS}
    schema = {"type": "object", "required": ["chainId", "payloadHash"], "properties": fields}
    return Param(name=name, read=lambda value: transaction_of(value, name, "a block payload"), schema=schema)


def transactions(name: str, *, most: int) -> Param:
    """Several transactions."""

    def read(value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list):
            raise InvalidRequest(f"{name}: is {kind_of(value)}; give a list of transactions")
        if len(value) > most:
            raise InvalidRequest(f"{name}: has {len(value)} transactions; give at most {most} (hsm.api.max_batch)")
        return [transaction_of(tx, f"{name}[{index}]") for index, tx in enumerate(value)]

    return Param(name=name, read=read, schema={"type": "array", "maxItems": most, "items": _TRANSACTION})


def typed_data(name: str = "typedData") -> Param:
    """EIP-712 data."""
    return Param(
        name=name,
        read=lambda value: typed_data_of(value, name),
        schema={"oneOf": [{"type": "object"}, {"type": "string"}], "description": "EIP-712, or the JSON text of it"},
    )


def document(name: str) -> Param:
    """An object or text that only the method itself can judge."""

    def read(value: Any) -> Any:
        if not isinstance(value, dict | str):
            raise InvalidRequest(f"{name}: is {kind_of(value)}; give an object or text")
        return value

    return Param(name=name, read=read, schema={"oneOf": [{"type": "object"}, {"type": "string"}]})


def text(name: str, *, required: bool = True, about: str = "") -> Param:
    """Some text, not empty. It may be shown again in messages, so what looks like a private key is refused."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TEXT:
            raise InvalidRequest(f"{name}: give text of 1 to {_LONGEST_TEXT} characters")
        if _KEY_MATERIAL.search(value):
            raise InvalidRequest(f"{name}: looks like a private key, which has no place here")
        return value

    described = {"description": about} if about else {}
    return Param(
        name=name,
        read=read,
        schema={"type": "string", "minLength": 1, "maxLength": _LONGEST_TEXT, **described},
        required=required,
    )


def flag(name: str) -> Param:
    """True or false, not required."""

    def read(value: Any) -> bool:
        if not isinstance(value, bool):
            raise InvalidRequest(f"{name}: is {kind_of(value)}; give true or false")
        return value

    return Param(name=name, read=read, schema={"type": "boolean"}, required=False)


def choice(name: str, kind: type[E], *, required: bool = True, nullable: bool = False) -> Param:
    """One of the words of ``kind``; with ``nullable``, ``null`` means something and must be given."""

    def read(value: Any) -> E | None:
        return None if value is None and nullable else _member(name, kind, value)

    words: list[str | None] = [member.value for member in kind]
    return Param(name=name, read=read, schema={"enum": [*words, None] if nullable else words}, required=required)


def choices(name: str, kind: type[E]) -> Param:
    """Some of the words of ``kind``, not required."""

    def read(value: Any) -> tuple[E, ...]:
        if not isinstance(value, list) or not 0 < len(value) <= len(kind):
            raise InvalidRequest(f"{name}: give a list of 1 to {len(kind)} words")
        return tuple(_member(name, kind, word) for word in value)

    schema = {"type": "array", "minItems": 1, "items": {"enum": [member.value for member in kind]}}
    return Param(name=name, read=read, schema=schema, required=False)


def _member(name: str, kind: type[E], value: Any) -> E:
    for member in kind:
        if value == member.value:
            return member
    raise InvalidRequest(f"{name}: must be one of {', '.join(member.value for member in kind)}")


def chain_id(*, least: int = 1) -> Param:
    """The chain that the caller means, not required."""
    return Param(name="chainId", read=integer("chainId", least=least), schema=QUANTITY, required=False)


def timeout() -> Param:
    """Seconds that a request may take, not required."""

    def read(value: Any) -> float:
        if not is_timeout(value):
            raise InvalidRequest("timeout: must be a number of seconds above 0 and at most a day")
        return float(value)

    schema = {"type": "number", "exclusiveMinimum": 0, "description": "seconds"}
    return Param(name="timeout", read=read, schema=schema, required=False)


def private_key() -> Param:
    """32 bytes of a private key."""

    def read(value: Any) -> bytes:
        if not isinstance(value, str):
            raise InvalidRequest(f"privateKey: is {kind_of(value)}; give 0x and 64 hex digits")
        return parse_private_key(value)

    return Param(name="privateKey", read=read, schema={"type": "string", "pattern": "^(0[xX])?[0-9a-fA-F]{64}$"})
