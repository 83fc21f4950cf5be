"""Signing many lines: the reading, signing and writing of ``sign batch``, with its progress bar.

The one thing to know: the lines are those of ``--stdio`` and go the same way (:func:`manahsm.jsonl.serve_lines`), so
the answers come in order, at most so many are under way, and a bad line stops nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
from attrs import evolve

from manahsm.cli.failures import Exit
from manahsm.cli.opened import CALLER, with_service
from manahsm.cli.options import Options
from manahsm.cli.output import complain, console
from manahsm.jsonl import serve_lines
from manahsm.requests import EMBEDDED, Outcome, SignRequest
from manahsm.stdio import LineReader, LineWriter

if TYPE_CHECKING:
    from manahsm.service import Service

__all__ = ["sign_lines"]

_STDIN, _STDOUT = 0, 1
_AT_ONCE = 32  # by way of a URL: more wait in the client and cost it time
_NO_GRACE = 0.001  # nothing stops it but its end, or an interruption that cancels it


def sign_lines(options: Options, file: str, *, quiet: bool) -> Exit:
    """Sign the lines of a file (``-`` is standard input) and write the answers to standard output."""
    source = _STDIN if file == "-" else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = None if file == "-" else _count_lines(file)
        with _progress(lines, quiet=quiet) as written:
            failed = with_service(options, lambda service: _sign(service, options, source, written))
    finally:
        if source != _STDIN:
            os.close(source)
    if failed:
        complain(f"manahsm: lines that were not signed: {failed}; their answers say why")
    return Exit.FAILED if failed else Exit.OK


async def _sign(service: Service, options: Options, source: int, written: Callable[[], None]) -> int:
    """Sign every line and return how many were not signed."""
    output, failed = LineWriter(_STDOUT), 0

    async def answer(request: SignRequest) -> Outcome:
        return await service.answer(evolve(request, caller=CALLER if options.url is None else EMBEDDED))

    async def write(line: bytes) -> None:
        nonlocal failed
        failed += "error" in msgspec.json.decode(line)
        await output.write(line)
        written()

    at_once = _AT_ONCE if options.url else service.config.service.queue_size
    await serve_lines(LineReader(source).read, write, answer, anyio.Event(), grace=_NO_GRACE, at_once=at_once)
    return failed


@contextmanager
def _progress(lines: int | None, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """A bar on standard error for as long as the block lasts; yields what advances it by one line."""
    from rich.progress import (  # noqa: PLC0415 - slow to import, and not needed with --quiet
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (TextColumn("signing"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(err=True), disable=quiet) as bar:
        task = bar.add_task("signing", total=lines)
        yield lambda: bar.advance(task)


def _count_lines(file: str) -> int:
    """How many lines will be answered."""
    with Path(file).open("rb") as lines:
        return sum(not line.isspace() for line in lines)
