"""Plain tables for a terminal that is 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["WIDTH", "counts", "heading", "milliseconds", "table"]

WIDTH = 100


def heading(text: str) -> str:
    """A line that begins a part."""
    return f"\n{text} ".ljust(WIDTH + 1, "─")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns under their names: the first to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        first, *rest = row
        aligned = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  " + "  ".join(aligned).rstrip())
    return "\n".join(lines)


def counts(numbers: Mapping[str, int]) -> str:
    """``name 3, other 1``: the most frequent first, wrapped."""
    ordered = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{name}\N{NO-BREAK SPACE}{count}" for name, count in ordered) or "none"
    wrapped = textwrap.fill(text, WIDTH - 2, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return wrapped.replace("\N{NO-BREAK SPACE}", " ")


def milliseconds(seconds: float | None) -> str:
    """``12 ms``, or a dash."""
    return "—" if seconds is None else f"{seconds * 1000:,.0f} ms"
