"""The figures as a table for a terminal, as JSON, and as the part of docs/performance.md that a run replaces. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from attrs import frozen
from bench.figures import Figure

__all__ = ["BEGIN", "END", "Run", "as_json", "as_markdown", "as_text", "replaced"]

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
_HEAD = ("", "value", "quartiles", "target", "")


@frozen(kw_only=True)
class Run:
    """What a run has shown.

    Attributes:
        machine: see :mod:`bench.machine`.
        options: how it was run.
        figures: by event loop.
    """

    machine: Mapping[str, str]
    options: Mapping[str, Any]
    figures: Mapping[str, Sequence[Figure]]


def as_text(figures: Iterable[Figure]) -> str:
    """One table, a part for each measure."""
    rows = [_cells(figure) for figure in figures]
    widths = [max(len(row[column]) for row in [_HEAD, *rows]) for column in range(len(_HEAD))]
    lines = []
    for row in rows:
        name, value, spread, *rest = row
        cells = [name.ljust(widths[0]), value.rjust(widths[1]), spread.rjust(widths[2])]
        lines.append("  " + "  ".join([*cells, *(cell.ljust(w) for cell, w in zip(rest, widths[3:], strict=True))]))
    return "\n".join(line.rstrip() for line in lines)


def as_json(run: Run) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "machine": dict(run.machine),
        "options": dict(run.options),
        "figures": [
            {
                "backend": backend,
                "measure": figure.measure,
                "name": figure.name,
                "unit": figure.unit,
                "value": figure.value,
                "median": figure.spread.median,
                "quartiles": [figure.spread.low, figure.spread.high],
                "range": [figure.spread.smallest, figure.spread.largest],
                "target": None if figure.target is None else _target(figure),
                "reached": figure.reached,
            }
            for backend, figures in run.figures.items()
            for figure in figures
        ],
    }


def as_markdown(run: Run) -> str:
    """The machine and a table for each measure, both event loops beside each other."""
    about = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    options = ", ".join(f"{name} {value}" for name, value in run.options.items())
    backends = list(run.figures)
    lines = [f"Machine: {about}.", "", f"Run: {options}."]
    found = {backend: {(each.measure, each.name): each for each in run.figures[backend]} for backend in backends}
    order = list(dict.fromkeys(key for figures in found.values() for key in figures))
    for measure, keys in groupby(order, key=lambda key: key[0]):
        lines += [
            "",
            f"**{measure}**",
            "",
            _row("", "target", *backends),
            _row("---", "---", *("---:" for _ in backends)),
        ]
        for key in keys:
            figures = [found[backend].get(key) for backend in backends]
            target = next((_target(each) for each in figures if each is not None and each.target is not None), "")
            lines.append(_row(key[1], target, *(_cell(each) for each in figures)))
    return "\n".join(lines)


def replaced(page: str, text: str) -> str:
    """A page with what is between the markers replaced.

    Raises:
        ValueError: the page has no such markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "—"
    _, value, spread, _, verdict = _cells(figure)
    text = f"**{value}**" if figure.target is not None else value
    return f"{text} ({spread}){' ' + verdict if verdict else ''}"


def _cells(figure: Figure) -> tuple[str, str, str, str, str]:
    spread = figure.spread
    verdict = {True: "reached", False: "not reached", None: ""}[figure.reached]
    values = f"{_number(spread.low, figure.unit)} to {_number(spread.high, figure.unit)}"
    value = f"{_number(figure.value, figure.unit)} {figure.unit}"
    return figure.name, value, values, "" if figure.target is None else _target(figure), verdict


def _target(figure: Figure) -> str:
    assert figure.target is not None
    sign = ">=" if figure.target.is_floor else "<="
    return f"{sign} {figure.target.bound:g} {figure.unit}"


def _number(value: float, unit: str) -> str:
    if unit == "/s":
        return f"{value:,.0f}"
    if unit == "bytes":
        return f"{value:,.0f}"
    return f"{value:.1f}" if unit in {"MB", "%"} else f"{value:.3f}"
