"""JSON-RPC 2.0: from the body of a request to its calls, and from results to the body of the answer (pure).

The one thing to know: strict. What the specification does not name is refused, and so is whatever two readers could
read in two ways. In a batch each call is judged alone; a single one that is no request gets an answer with its id where
it has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from attrs import field, frozen

from manahsm.api.calls import RPCError
from manahsm.strict_json import NotStrict, read_json

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "SERVER_ERROR",
    "Batch",
    "Failure",
    "Id",
    "Invalid",
    "Notification",
    "Request",
    "Success",
    "join",
    "read",
    "write",
]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000

Id = str | int | None

_MEMBERS = frozenset({"jsonrpc", "id", "method", "params"})
_VERSION = "2.0"
_LONGEST_NAME = 128
_LEAST_ID, _GREATEST_ID = -(2**63), 2**64 - 1


@frozen(kw_only=True)
class Request:
    """A call that wants an answer.

    Attributes:
        id: echoed in its answer.
        method: what is called.
        params: by position, by name, or ``None`` where there are none.
    """

    id: Id
    method: str
    params: list[Any] | dict[str, Any] | None = field(repr=False)


@frozen
class Notification:
    """A call that wants no answer. What it asks for is never done: nobody would learn that it was refused."""

    method: str


@frozen
class Invalid:
    """Something that is no request.

    Attributes:
        id: of the answer: its own, where it has one.
        error: what is wrong with it.
    """

    id: Id
    error: RPCError


@frozen
class Batch:
    """Several of them, in order; at least one."""

    items: tuple[Request | Notification | Invalid, ...]


@frozen
class Success:
    """The answer to a call that was done."""

    id: Id
    result: Any = field(repr=False)


@frozen(kw_only=True)
class Failure:
    """The answer to a call that was not."""

    id: Id
    code: int
    message: str
    data: Any = None


def read(body: bytes, *, max_batch: int) -> Request | Notification | Invalid | Batch:
    """Read the body of an HTTP request.

    Args:
        body: as it came.
        max_batch: most calls in one batch.
    """
    try:
        document = read_json(body)
    except NotStrict as problem:
        return Invalid(None, RPCError(PARSE_ERROR, f"Parse error: {problem}"))
    if not isinstance(document, list):
        return _item(document)
    if not document:
        return Invalid(None, _invalid("a batch has at least one call"))
    if len(document) > max_batch:
        return Invalid(None, _invalid(f"a batch has at most {max_batch} calls, this one {len(document)}"))
    return Batch(tuple(map(_item, document)))


def _item(document: Any) -> Request | Notification | Invalid:
    if not isinstance(document, dict):
        return Invalid(None, _invalid("a call is an object"))
    given_id = document.get("id")
    if not _is_id(given_id):
        return Invalid(None, _invalid("id must be a string, a whole number of at most 64 bits, or null"))
    problem = _problem(document)
    if problem is not None:
        return Invalid(given_id, _invalid(problem))
    if "id" not in document:
        return Notification(document["method"])
    return Request(id=given_id, method=document["method"], params=document.get("params"))


def _problem(document: dict[str, Any]) -> str | None:
    """What is wrong with a call, its id apart."""
    if not document.keys() <= _MEMBERS:
        return "only jsonrpc, id, method and params are known"
    if document.get("jsonrpc") != _VERSION:
        return f'jsonrpc must be "{_VERSION}"'
    method = document.get("method")
    if not isinstance(method, str) or not 0 < len(method) <= _LONGEST_NAME or not method.isprintable():
        return f"method must be a name of 1 to {_LONGEST_NAME} characters"
    if "params" in document and not isinstance(document["params"], list | dict):
        return "params must be a list or an object, or be left out"
    return None


def _is_id(value: object) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return _LEAST_ID <= value <= _GREATEST_ID
    return value is None or isinstance(value, str)


def _invalid(problem: str) -> RPCError:
    return RPCError(INVALID_REQUEST, f"Invalid Request: {problem}")


def write(answer: Success | Failure) -> bytes:
    """Write an answer.

    Raises:
        TypeError, ValueError, RecursionError: its result is nothing that JSON can hold.
    """
    return msgspec.json.encode(_form(answer))


def join(answers: Iterable[bytes]) -> bytes:
    """Write the answers of a batch, each written already."""
    return b"[" + b",".join(answers) + b"]"


def _form(answer: Success | Failure) -> dict[str, Any]:
    head = {"jsonrpc": _VERSION, "id": answer.id}
    if isinstance(answer, Success):
        return {**head, "result": answer.result}
    error = {"code": answer.code, "message": answer.message}
    if answer.data is not None:
        error["data"] = answer.data
    return {**head, "error": error}
