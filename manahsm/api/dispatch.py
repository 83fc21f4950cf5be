"""From the body of a request to the body of its answer: who does each call, and what becomes of its error.

The one thing to know: nothing but cancellation leaves :meth:`Dispatcher.answer` as an exception. A fault of ours is
written to the log with its traceback, and its caller is told no more than the id to find it by.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Protocol

from attrs import define

from manahsm.api.calls import Answer, Call, Methods, RPCError, Visitor
from manahsm.api.codes import MethodDenied, Shown, internal_error, not_found, shown
from manahsm.api.jsonrpc import Batch, Failure, Id, Invalid, Notification, Request, Success, join, read, write
from manahsm.at_once import each
from manahsm.errors import ManaHSMError
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
        room = _Room()

        async def answer(numbered: tuple[int, Request | Notification | Invalid]) -> bytes | None:
            position, item = numbered
            return room.take(item, await self._item(item, position, visitor))

        answers = await each(answer, enumerate(items), at_once=_AT_ONCE)
        written = [one for one in answers if one is not None]
        return Answer(body=join(written)) if written else _NOTHING

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
class _Room:
    """What is left in memory for the answers of a batch, as they are made."""

    size: int = 0

    def take(self, item: Request | Notification | Invalid, answer: bytes | None) -> bytes | None:
        if answer is None:
            return None
        if self.size + len(answer) > _MOST_ANSWERS and not isinstance(item, Notification):
            message = f"the answers of a batch have at most {_MOST_ANSWERS} bytes: make this call alone"
            answer = write(Failure(id=item.id, code=_RESPONSE_TOO_LARGE, message=message))
        self.size += len(answer)
        return answer


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
