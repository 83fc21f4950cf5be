"""Signing many lines: the reading, signing and writing of ``sign batch``, with its progress bar.

The one thing to know: the lines are those of ``--stdio`` and go the same way (:func:`manahsm.jsonl.serve_lines`), so
the answers come in order, at most so many are under way, and a bad line stops nothing.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from attrs import evolve

from manahsm.cli.failures import Exit
from manahsm.cli.opened import CALLER, with_service
from manahsm.cli.options import Options
from manahsm.cli.output import complain, console
from manahsm.cli.references import is_private_key
from manahsm.errors import InvalidRequest, ManaHSMError
from manahsm.jsonl import serve_lines
from manahsm.requests import Operation, Outcome, RequestOptions, SignRequest
from manahsm.stdio import LineReader, LineWriter

if TYPE_CHECKING:
    from manahsm.service import Service

__all__ = ["ask", "sign_lines"]

_STDIN, _STDOUT = 0, 1
_AT_ONCE = 256
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
        if options.url is None:
            return await service.answer(evolve(request, caller=CALLER))
        return await ask(service, request)

    async def write(line: bytes) -> None:
        nonlocal failed
        failed += "error" in msgspec.json.decode(line)
        await output.write(line)
        written()

    at_once = _AT_ONCE if options.url else service.config.service.queue_size
    await serve_lines(LineReader(source).read, write, answer, anyio.Event(), grace=_NO_GRACE, at_once=at_once)
    return failed


async def ask(service: Service, request: SignRequest) -> Outcome:
    """What ``Service.answer`` does, by way of the methods that a client has."""
    if is_private_key(request.key):  # it is not to go anywhere
        refused = InvalidRequest(
            "key must be a key id, label or 0x address. That was a private key: do not use it again"
        )
        return Outcome(request_id=request.request_id, error=refused)
    given: RequestOptions = {"timeout": request.timeout, "request_id": request.request_id}
    key, payload, chain = request.key, request.payload, request.chain_id
    work: Awaitable[Any]
    match request.operation:
        case Operation.TRANSACTION:
            work = service.sign_transaction(payload, key, chain, **given)
        case Operation.MESSAGE:
            work = service.sign_message(payload, key, **given)
        case Operation.TYPED_DATA:
            work = service.sign_typed_data(payload, key, chain, **given)
        case Operation.AUTHORIZATION:
            work = service.sign_authorization(payload, key, chain, **given)
        case Operation.HASH:
            work = service.sign_hash(payload, key, **given)
        case Operation.BLOCK_PAYLOAD:  # pragma: no cover - no line asks for it
            raise AssertionError("lines do not ask for block payloads")
    try:
        return Outcome(request_id=request.request_id, result=await work)
    except ManaHSMError as error:
        return Outcome(request_id=request.request_id, error=error)


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
