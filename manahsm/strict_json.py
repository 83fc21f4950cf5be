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
        # first. The standard library can tell.
        msgspec.json.decode(document)
        return json.loads(document, object_pairs_hook=_without_duplicates)
    except TwiceNamed:
        raise
    except (ValueError, RecursionError):
        raise NotJSON("not JSON") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise TwiceNamed("a name stands twice in one object")
    return fields
