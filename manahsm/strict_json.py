"""Reading JSON that has one meaning only (pure).

The one thing to know: readers of JSON differ in what they make of a name that stands twice, of ``NaN``, of half a pair
of surrogates or of a document that nests without end. What is signed must not depend on who reads it, so such documents
are refused.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from manahsm.nesting import MAX_DEPTH, too_deep

__all__ = ["NestedTooDeep", "NotJSON", "NotStrict", "TwiceNamed", "read_json"]


class NotStrict(ValueError):  # noqa: N818 - what a document is
    """A document that is not taken. The message says what is wrong with it, without repeating any of it."""


class NestedTooDeep(NotStrict):
    """Brackets and braces nest deeper than :data:`manahsm.nesting.MAX_DEPTH`."""


class TwiceNamed(NotStrict):
    """An object has the same name twice."""


class NotJSON(NotStrict):
    """It is not JSON (RFC 8259) in UTF-8."""


def read_json(document: bytes) -> Any:
    """The value in a document.

    Whole numbers are ints of any size, others are floats.

    Raises:
        NotStrict: it is not taken; which of the classes above says why.
    """
    if too_deep(document):
        raise NestedTooDeep(f"nested deeper than {MAX_DEPTH} levels")
    try:
        # msgspec is strict about what is JSON, but of a name that stands twice it takes the last, where others take the
        # first. A name has a colon behind it, so where there are as many names as colons none was dropped; else there
        # are colons in strings too, or a name stands twice, and the standard library tells which (twice the time).
        value = _DECODER.decode(document)
        if _names_in(value) == document.count(b":"):
            return value
        return _TELLING.decode(document.decode())
    except TwiceNamed:
        raise
    except (ValueError, RecursionError):
        raise NotJSON("not JSON") from None


def _names_in(value: Any) -> int:
    """How many names there are in all objects of a value."""
    names, inside = 0, [value]
    for one in inside:
        if type(one) is dict:
            names += len(one)
            inside.extend(one.values())
        elif type(one) is list:
            inside.extend(one)
    return names


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise TwiceNamed("a name stands twice in one object")
    return fields


_DECODER = msgspec.json.Decoder()
_TELLING = json.JSONDecoder(object_pairs_hook=_without_duplicates)
