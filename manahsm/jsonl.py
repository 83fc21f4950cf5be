"""The JSONL interface: one request a line in, one answer a line out, in the same order.

A request is ``{"id", "key", "chain_id", "tx"}``, or with ``message``, ``typed_data``, ``authorization`` or ``hash``
in place of ``tx``. An answer is ``{"id", "raw_transaction", "hash", "backend", "key_id"}``, or the like for the other
operations, or ``{"id", "error": {"code", "message"}}``. A bad line gets an error line and stops nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream
from attrs import define, field

from manahsm.errors import InvalidRequest, ManaHSMError, ServiceStopping
from manahsm.requests import (
    Operation,
    Outcome,
    Signature,
    SignedAuthorization,
    SignedTransaction,
    SignRequest,
    is_timeout,
)
from manahsm.stdio import LineTooLong
from manahsm.strict_json import NotJSON, NotStrict, read_json
from supervisors import SYSTEM_CLOCK, Clock

__all__ = ["CALLER", "answer_line", "parse_line", "serve_lines"]

CALLER = "stdio"
_AT_ONCE = 256  # lines that are being signed while earlier ones are not written yet
_LAST_WORDS = 2.0  # seconds in which a reader may take the last answers when the service stops

_PAYLOADS = {
    "tx": Operation.TRANSACTION,
    "message": Operation.MESSAGE,
    "typed_data": Operation.TYPED_DATA,
    "authorization": Operation.AUTHORIZATION,
    "hash": Operation.HASH,
}
_FIELDS = {"id", "key", "chain_id", "timeout", *_PAYLOADS}
_LEAST_ID, _GREATEST_ID = -(2**63), 2**64 - 1  # what msgspec writes as a whole number


def parse_line(line: bytes) -> tuple[Any, SignRequest]:
    """Turn a line into its id and its request (pure).

    Raises:
        BadLine: it is no request; the error carries the id where there is one.
    """
    try:
        fields = read_json(line)
    except NotJSON:
        raise BadLine(None, "not a line of JSON") from None
    except NotStrict as problem:
        raise BadLine(None, str(problem)) from None
    if not isinstance(fields, dict):
        raise BadLine(None, "not a JSON object")
    line_id = fields.get("id")
    if not _is_id(line_id):
        raise BadLine(None, "id must be a string, a whole number of at most 64 bits or null")
    if unknown := sorted(fields.keys() - _FIELDS):
        raise BadLine(line_id, f"unknown field {unknown[0]!r}; known are {', '.join(sorted(_FIELDS))}")
    payloads = [name for name in _PAYLOADS if name in fields]
    if len(payloads) != 1:
        raise BadLine(line_id, f"exactly one of {', '.join(_PAYLOADS)} is needed, not {len(payloads)}")
    key, chain_id, timeout = fields.get("key"), fields.get("chain_id"), fields.get("timeout")
    if not isinstance(key, str):
        raise BadLine(line_id, "key must be a string: a key id, label or 0x address")
    if chain_id is not None and (not isinstance(chain_id, int) or isinstance(chain_id, bool)):
        raise BadLine(line_id, "chain_id must be a whole number")
    if timeout is not None and not is_timeout(timeout):
        raise BadLine(line_id, "timeout must be a number of seconds above 0 and at most a day")
    request = SignRequest(
        operation=_PAYLOADS[payloads[0]],
        key=key,
        payload=fields[payloads[0]],
        chain_id=chain_id,
        timeout=timeout,
        caller=CALLER,
    )
    return line_id, request


def _is_id(value: object) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return _LEAST_ID <= value <= _GREATEST_ID
    return value is None or isinstance(value, str)


class BadLine(InvalidRequest):
    """A line that is no request."""

    def __init__(self, line_id: Any, message: str) -> None:
        super().__init__(message)
        self.line_id = line_id


def answer_line(line_id: Any, outcome: Outcome) -> bytes:
    """Write an outcome as a line (pure)."""
    if outcome.error is not None:
        return _error_line(line_id, outcome.error)
    result = outcome.unwrap()
    fields: dict[str, Any] = {"id": line_id}
    match result:
        case SignedTransaction():
            fields |= {"raw_transaction": _hex(result.raw_transaction), "hash": _hex(result.hash)}
        case Signature():
            fields |= {"signature": _hex(result.to_bytes()), "hash": _hex(result.digest)}
        case SignedAuthorization():
            fields["authorization"] = {
                name: hex(value) if isinstance(value, int) else value for name, value in result.to_mapping().items()
            }
    fields |= {"backend": result.backend.value, "key_id": result.key_id}
    return msgspec.json.encode(fields)


def _error_line(line_id: Any, error: ManaHSMError) -> bytes:
    return msgspec.json.encode({"id": line_id, "error": {"code": error.code, "message": str(error)}})


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


@define
class _Line:
    """The place of one line in the output; ``answered`` is set once ``text`` is there."""

    text: bytes = b""
    answered: anyio.Event = field(factory=anyio.Event)

    def answer(self, text: bytes) -> None:
        self.text = text
        self.answered.set()


async def serve_lines(
    read: Callable[[], Awaitable[bytes | LineTooLong | None]],
    write: Callable[[bytes], Awaitable[None]],
    answer: Callable[[SignRequest], Awaitable[Outcome]],
    stop: anyio.Event,
    *,
    grace: float,
    at_once: int = _AT_ONCE,
    clock: Clock = SYSTEM_CLOCK,
) -> bool:
    """Answer every line until the input ends or ``stop`` is set; what was read by then is answered first.

    Args:
        read: returns the next line, or ``None`` at the end; loses nothing when it is cancelled.
        write: writes one line of output.
        answer: signs, and never raises a :class:`ManaHSMError`.
        stop: read nothing more.
        grace: seconds after ``stop`` in which lines may still be signed; the rest is refused then.
        at_once: lines that may be under way; with a queue that is shorter, the input waits instead of the queue
            refusing.
        clock: whose seconds they are.

    Returns:
        Whether every answer was written: false where nobody took them after ``stop``.
    """
    at_once = min(at_once, _AT_ONCE)
    room = anyio.Semaphore(at_once)
    places, in_order = anyio.create_memory_object_stream[_Line](at_once)
    written = False
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as writing:
            writing.start_soon(_write_in_order, in_order, write, room)
            async with places, anyio.create_task_group() as signing:
                tasks.start_soon(_end_in_time, stop, grace, clock, (signing.cancel_scope, writing.cancel_scope))
                while (line := await _next_line(read, room, stop)) is not None:
                    if not isinstance(line, LineTooLong) and not line.strip():
                        room.release()
                        continue
                    place = _Line()
                    places.send_nowait(place)  # there is room: it was reserved before the line was read
                    try:
                        line_id, request = _parse(line)
                    except BadLine as bad:
                        place.answer(_error_line(bad.line_id, bad))
                    else:
                        signing.start_soon(_answer, line_id, request, answer, place)
        written = not writing.cancel_scope.cancel_called
        tasks.cancel_scope.cancel()
    return written


async def _end_in_time(
    stop: anyio.Event, grace: float, clock: Clock, scopes: tuple[anyio.CancelScope, anyio.CancelScope]
) -> None:
    """See to it that a stop ends: refuse what takes too long to sign, and leave what nobody reads."""
    signing, writing = scopes
    await stop.wait()
    await clock.sleep(grace)
    signing.cancel()
    await clock.sleep(_LAST_WORDS)
    writing.cancel()


async def _next_line(
    read: Callable[[], Awaitable[bytes | LineTooLong | None]], room: anyio.Semaphore, stop: anyio.Event
) -> bytes | LineTooLong | None:
    """Read a line once there is room for its answer; ``None`` at the end of the input and after ``stop``."""
    line: bytes | LineTooLong | None = None
    async with anyio.create_task_group() as waiting:

        async def stopped() -> None:
            await stop.wait()
            waiting.cancel_scope.cancel()

        waiting.start_soon(stopped)
        await room.acquire()
        line = await read()
        waiting.cancel_scope.cancel()
    return line


def _parse(line: bytes | LineTooLong) -> tuple[Any, SignRequest]:
    if isinstance(line, LineTooLong):
        raise BadLine(None, str(line))
    return parse_line(line)


async def _answer(
    line_id: Any, request: SignRequest, answer: Callable[[SignRequest], Awaitable[Outcome]], place: _Line
) -> None:
    try:
        place.answer(answer_line(line_id, await answer(request)))
    except anyio.get_cancelled_exc_class():
        place.answer(_error_line(line_id, ServiceStopping("the service stopped before this was signed")))
        raise


async def _write_in_order(
    places: MemoryObjectReceiveStream[_Line],
    write: Callable[[bytes], Awaitable[None]],
    room: anyio.Semaphore,
) -> None:
    async with places:
        async for place in places:
            await place.answered.wait()
            await write(place.text)
            room.release()
