"""Just enough of PromQL to see which metrics and labels an expression names.

The one thing to know: it reads tokens and does not judge syntax; ``promtool`` does that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import Factory, define

__all__ = ["Selector", "selectors"]

_TOKENS = re.compile(
    r"""\s+ | (?P<string>"(?:[^"\\]|\\.)*") | (?P<duration>\[[^\]]*\]) | (?P<number>\d[\w.]*)
    | (?P<name>[$A-Za-z_:][\w:]*) | (?P<operator>[=!]~|[!=<>]=|.)""",
    re.VERBOSE,
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}


@define
class Selector:
    """A metric in an expression, and what it is matched by: label, operator and value."""

    metric: str
    matchers: list[tuple[str, str, str]] = Factory(list)

    def values(self) -> Iterator[tuple[str, str]]:
        """Each label with each literal value that it is matched by; variables of a dashboard are left out."""
        for label, operator, value in self.matchers:
            for part in value.split("|") if operator.endswith("~") else [value]:
                if not part.startswith("$"):
                    yield label, part


def selectors(expression: str) -> tuple[list[Selector], set[str]]:
    """Return every metric that an expression names, and the labels that it groups or joins by."""
    tokens = [(match.lastgroup, match[0]) for match in _TOKENS.finditer(expression) if match.lastgroup]
    found: list[Selector] = []
    grouping: set[str] = set()
    position = 0
    while position < len(tokens):
        kind, text = tokens[position]
        position += 1
        following = tokens[position][1] if position < len(tokens) else ""
        if kind != "name" or text in _WORDS:
            continue
        if text in _GROUPING:
            if following == "(":
                end = next(n for n in range(position, len(tokens)) if tokens[n][1] == ")")
                grouping |= {word for sort, word in tokens[position:end] if sort == "name"}
                position = end + 1
        elif following == "{":
            end = next(n for n in range(position, len(tokens)) if tokens[n][1] == "}")
            inside = [word for _, word in tokens[position + 1 : end] if word != ","]
            matchers = [(label, op, value[1:-1]) for label, op, value in zip(*[iter(inside)] * 3, strict=True)]
            found.append(Selector(text, matchers))
            position = end + 1
        elif following != "(" and following not in _GROUPING:
            found.append(Selector(text))
    return found, grouping
