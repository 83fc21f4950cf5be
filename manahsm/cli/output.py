"""Writing results: JSON for programs, text for people.

The one thing to know: results go to standard output, everything else (questions, progress, notes, errors) to standard
error, so that output can be piped. Text that came from elsewhere, such as a token's label, is made printable first: it
must not speak to the terminal.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["complain", "console", "grid", "printable", "say", "show_log", "write_json"]


def write_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))


def say(text: str) -> None:
    """Write a line to standard output."""
    click.echo(printable(text))


def complain(text: str) -> None:
    """Write lines to standard error."""
    click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """The text without characters that a terminal would act on, line breaks excepted (pure)."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def console(*, err: bool = False) -> Console:
    """A console for text on standard output, or on standard error."""
    from rich.console import Console  # noqa: PLC0415 - slow to import, and not needed for JSON

    return Console(file=sys.stderr if err else sys.stdout, highlight=False, markup=False, emoji=False)


def grid(
    rows: Iterable[Iterable[str]], styles: Mapping[str, str], *, last: int | None = None, whole: int | None = None
) -> Any:
    """Rows in columns that fold where they are too wide; a cell that is a word of ``styles`` is shown in its style.

    Args:
        rows: lines of cells.
        styles: of words.
        last: the column that takes what room there is.
        whole: the column that the others make room for, so that what is in it can be copied.
    """
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table.grid(padding=(0, 2))
    filled = [[printable(cell) for cell in row] for row in rows]
    width = max((len(row) for row in filled), default=0)
    for number in range(width):
        table.add_column(overflow="fold", no_wrap=number == whole, ratio=1 if number == last else None)
    for row in filled:
        table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in row))
    return table


def show_log(*, verbose: bool, debug: bool = False) -> None:
    """Send the service's log to standard error where it is wanted, else nowhere: what matters comes as a result."""
    from manahsm.logs import configure_logging  # noqa: PLC0415 - as above

    configure_logging(debug=debug)
    if not (verbose or debug):
        logging.getLogger("manahsm").handlers[:] = [logging.NullHandler()]
