"""Every metric as one row; the table in docs/metrics.md is made of them.

``python -m manahsm.monitoring.reference`` prints it, and a test compares it with the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from manahsm.monitoring.metrics import CATALOGUE, Dimension, Names

__all__ = ["label_table", "metric_table"]

_MANY = 24
_FEW = 4


def metric_table() -> str:
    """All metrics in Markdown, with a newline at its end."""
    head = "| metric | type | labels | meaning |\n|---|---|---|---|\n"
    return head + "".join(
        f"| `{metric.name}` | {metric.kind} | {_quoted(metric.labels)} | {metric.help} |\n"
        for metric in CATALOGUE.values()
    )


def label_table() -> str:
    """What the labels of each metric can be, in Markdown: one row for labels that vary together."""
    used: dict[Dimension, list[str]] = {}
    for metric in CATALOGUE.values():
        for dimension in metric.dimensions:
            used.setdefault(dimension, []).append(metric.name)
    head = "| labels | meaning | values | of |\n|---|---|---|---|\n"
    return head + "".join(
        f"| {_quoted(dimension.labels)} | {dimension.meaning} | {_values(dimension)} | {_users(names)} |\n"
        for dimension, names in used.items()
    )


def _values(dimension: Dimension) -> str:
    """All values that do not depend on the configuration, where there are few."""
    rows = dimension.values(Names.of_slots(()))
    return _quoted(value for (value,) in rows) if dimension.fixed and len(rows) <= _MANY else ""


def _users(names: list[str]) -> str:
    return _quoted(names) if len(names) <= _FEW else f"{len(names)} metrics of slots"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(f"{metric_table()}\n{label_table()}")
