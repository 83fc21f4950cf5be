"""From the body of a request to the body of its answer: who does each call, and what becomes of its error.

The one thing to know: nothing but cancellation leaves :meth:`Dispatcher.answer` as an exception. A fault of ours is
written to the log with its traceback, and its caller is told no more than the id to find it by.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Protocol

import anyio
from attrs import define

from manahsm.api.calls import Answer, Call, Methods, RPCError, Visitor
from manahsm.api.codes import MethodDenied, Shown, internal_error, not_found, shown
from manahsm.api.jsonrpc import Batch, Failure, Id, Invalid, Notification, Request, Success, join, read, write
from manahsm.errors import ManaHSMError, ServiceStopping
from manahsm.logs import get_logger

__all__ = ["Dispatcher", "Forward"]

_log = get_logger("manahsm.api")

_AT_ONCE = 16  # calls of a batch
_MOST_ANSWERS = 32 * 2**20  # bytes of a batch's answers, which are held in memory
_RESPONSE_TOO_LARGE = -32003  # as geth has it


class Forward(Protocol):
    """Does what is not ours: a node behind."""

    async def stream(self, call: Call, body: bytes) -> Answer:
        """Answer a call that is alone in its request, as the answer comes; ``body`` is the caller's."""
        ...

    async def ask(self, call: Call) -> Any:
        """Return the result of a call of a batch, or raise :class:`~manahsm.api.calls.RPCError`."""
        ...


class Dispatcher:
    """Answers requests.

    Args:
        methods: what is served here; each looks by itself at whether its caller may call it.
        forward: does every other method, where there is somebody to do it.
        max_batch: most calls in one batch.
    """

    def __init__(self, methods: Methods, *, forward: Forward | None, max_batch: int) -> None:
        self._methods = methods
        self._forward = forward
        self._max_batch = max_batch

    async def answer(self, body: bytes, visitor: Visitor) -> Answer:
        """Answer the body of one HTTP request, whatever is in it."""
        match read(body, max_batch=self._max_batch):
            case Invalid() as invalid:
                return Answer(status=HTTPStatus.BAD_REQUEST, body=write(_refusal(invalid)))
            case Notification():
                return _NOTHING
            case Request() as request:
                return await self._single(request, body, visitor)
            case Batch(items):
                return await self._batch(items, visitor)

    async def _single(self, request: Request, body: bytes, visitor: Visitor) -> Answer:
        call = Call(method=request.method, params=request.params, visitor=visitor, request_id=visitor.request_id)
        try:
            if request.method not in self._methods and self._forward is not None:
                _check_access(call)
                return await self._forward.stream(call, body)
            return Answer(body=write(Success(request.id, await self._result(call))))
        except Exception as error:  # noqa: BLE001 - whatever it is, this caller alone is told
            problem = _shown(error, call)
            return Answer(status=problem.status, body=write(_failure(request.id, problem)), headers=problem.headers)

    async def _batch(self, items: Sequence[Request | Notification | Invalid], visitor: Visitor) -> Answer:
        batch = _Answers([None] * len(items))
        ahead = iter(enumerate(items))

        async def answer_some() -> None:
            for position, item in ahead:
                batch.put(position, item, await self._item(item, position, visitor))

        async with anyio.create_task_group() as tasks:
            for _ in range(min(_AT_ONCE, len(items))):
                tasks.start_soon(answer_some)
        answers = [
            batch.written[position] or _unanswered(item, visitor)
            for position, item in enumerate(items)
            if not isinstance(item, Notification)
        ]
        return Answer(body=join(answers)) if answers else _NOTHING

    async def _item(self, item: Request | Notification | Invalid, position: int, visitor: Visitor) -> bytes | None:
        match item:
            case Notification():
                return None
            case Invalid():
                return write(_refusal(item))
            case Request():
                request_id = f"{visitor.request_id}/{position}"
                call = Call(method=item.method, params=item.params, visitor=visitor, request_id=request_id)
                try:
                    return write(Success(item.id, await self._result(call)))
                except Exception as error:  # noqa: BLE001 - as above
                    return write(_failure(item.id, _shown(error, call)))

    async def _result(self, call: Call) -> Any:
        method = self._methods.get(call.method)
        if method is not None:
            return await method(call)
        if self._forward is None:
            raise not_found()
        _check_access(call)
        return await self._forward.ask(call)


@define
class _Answers:
    """The answers of a batch as they are made: the place of each is that of its call."""

    written: list[bytes | None]
    size: int = 0

    def put(self, position: int, item: Request | Notification | Invalid, answer: bytes | None) -> None:
        if answer is None:
            return
        if self.size + len(answer) > _MOST_ANSWERS and not isinstance(item, Notification):
            message = f"the answers of a batch have at most {_MOST_ANSWERS} bytes: make this call alone"
            answer = write(Failure(id=item.id, code=_RESPONSE_TOO_LARGE, message=message))
        self.size += len(answer)
        self.written[position] = answer


_NOTHING = Answer(status=HTTPStatus.NO_CONTENT, body=b"")


def _check_access(call: Call) -> None:
    access = call.visitor.access
    if not access.admits(call.method):
        raise MethodDenied(f"caller {access.caller} may not call this method: an administrator can add it")


def _shown(error: Exception, call: Call) -> Shown:
    if isinstance(error, ManaHSMError | RPCError):
        return shown(error, call.visitor.dialect, call.method)
    _log.error("a call failed for a fault of ours", request_id=call.request_id, exc_info=error)
    return shown(internal_error(call.request_id), call.visitor.dialect, call.method)


def _failure(call_id: Id, problem: Shown) -> Failure:
    return Failure(id=call_id, code=problem.code, message=problem.message, data=problem.data)


def _refusal(invalid: Invalid) -> Failure:
    return Failure(id=invalid.id, code=invalid.error.code, message=invalid.error.message, data=invalid.error.data)


def _unanswered(item: Request | Invalid, visitor: Visitor) -> bytes:
    """The answer to a call whose task ended without one: the loop that the service runs on has ended."""
    if isinstance(item, Invalid):
        return write(_refusal(item))
    stopped = ServiceStopping("the service has stopped: what became of this call is not known")
    return write(_failure(item.id, shown(stopped, visitor.dialect, item.method)))
