"""Results as JSON and back: what ``manahsm_...`` methods of the HTTP interface return, and clients read.

The one thing to know: JSON of other languages keeps whole numbers up to 2**53 only, so what may be larger is 0x hex:
bytes, and every number of a signature. Times are ISO 8601 in UTC, enums their words. Reading ignores members that it
does not know, so an older client understands a newer service.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum, StrEnum
from pathlib import PurePath
from typing import Any, TypeVar

import attrs
from cattrs import BaseValidationError, Converter
from cattrs.strategies import configure_union_passthrough

from manahsm.monitoring.causes import CAUSES, Cause, HealthStatus, Severity
from manahsm.monitoring.values import Detail
from manahsm.requests import Signature, SignedAuthorization, SignedTransaction

__all__ = ["load", "plain"]

T = TypeVar("T")

_LARGEST_EXACT = 2**53
_NUMBERS = frozenset({"chain_id", "nonce", "v", "r", "s"})


def plain(value: Any) -> Any:
    """Return a value in the form that JSON holds: one of ours, or mappings and lists of what they are made of.

    Raises:
        TypeError: there is no such form.
    """
    form = _PLAIN.get(type(value))
    if form is not None:
        return form(value)
    if attrs.has(type(value)):
        return _fields(value)
    for kind, other_form in _KINDS:
        if isinstance(value, kind):
            return other_form(value)
    raise TypeError(f"no JSON form of {type(value).__name__}")


def load(kind: type[T], document: Any) -> T:
    """Read what :func:`plain` made of a value of ``kind``.

    Raises:
        ValueError: it is nothing of this kind.
    """
    try:
        return _converter.structure(document, kind)
    except (BaseValidationError, ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"this is no {kind.__name__}") from None


# ---- writing ----


def _whole(value: int) -> int | str:
    return value if abs(value) <= _LARGEST_EXACT else hex(value)


def _hex(value: Any) -> str:
    return "0x" + bytes(value).hex()


def _time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _fields(value: Any) -> Any:
    if isinstance(value, Cause):
        return value.name
    fields = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
    if isinstance(value, Signature | SignedTransaction | SignedAuthorization):
        return {name: hex(item) if name in _NUMBERS else plain(item) for name, item in fields.items()} | _more(value)
    return {name: plain(item) for name, item in fields.items()}


def _more(signed: object) -> dict[str, Any]:
    """What other programs want of a signature, beside its fields."""
    return {"v": hex(signed.v), "signature": _hex(signed.to_bytes())} if isinstance(signed, Signature) else {}


def _mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {_name(name): plain(item) for name, item in value.items()}


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a name is text, not {type(name).__name__}")
    return name.value if isinstance(name, Enum) else name


def _list(value: Any) -> list[Any]:
    return [plain(item) for item in value]


_PLAIN: Mapping[type, Any] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    str: lambda value: value,
    int: _whole,
    float: lambda value: value if math.isfinite(value) else None,
    bytes: _hex,
    list: _list,
    tuple: _list,
    dict: _mapping,
}
# In order: words are enums and text, flags are numbers.
_KINDS: tuple[tuple[Any, Any], ...] = (
    (Enum, lambda value: plain(value.value)),
    (str, str),
    (int, lambda value: _whole(int(value))),
    (float, lambda value: plain(float(value))),
    (bytes | bytearray | memoryview, _hex),
    (datetime, _time),
    (PurePath, str),
    (Mapping, _mapping),
    (frozenset | set, lambda value: sorted(plain(item) for item in value)),
    (list | tuple, _list),
)


# ---- reading ----


def _read_whole(value: Any, _kind: type) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.startswith(("0x", "-0x")):
        return int(value, 16)
    raise ValueError("not a whole number")


def _read_bytes(value: Any, _kind: type) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError("not 0x hex")
    return bytes.fromhex(value[2:])


def _read_float(value: Any, _kind: type) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError("not a number")


def _read_time(value: Any, _kind: type) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment.astimezone(UTC)


def _read_exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"not a {kind.__name__}")
    return value


def _read_cause(value: Any, _kind: type) -> Cause:
    """A cause by its name; one that only a newer service knows has no more than that."""
    if not isinstance(value, str):
        raise ValueError("not the name of a cause")  # noqa: TRY004 - what came in is JSON
    unknown = Cause(value, value.replace("_", " "), severity=Severity.INFO, status=HealthStatus.HEALTHY)
    return CAUSES.get(value, unknown)


def _read_word(value: Any, kind: type[Enum]) -> Enum:
    return kind(value)


_READ: Mapping[type, Callable[[Any, Any], Any]] = {
    Enum: _read_word,
    StrEnum: _read_word,  # which are text too: the most special type decides
    bool: _read_exactly,
    str: _read_exactly,
    int: _read_whole,
    float: _read_float,
    bytes: _read_bytes,
    datetime: _read_time,
    Cause: _read_cause,
}


def _make_converter() -> Converter:
    converter = Converter()
    for kind, read in _READ.items():
        converter.register_structure_hook(kind, read)
    configure_union_passthrough(Detail, converter)
    return converter


_converter = _make_converter()
