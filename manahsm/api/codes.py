"""Which code, words and HTTP status an error has, in the dialect of whoever asked (pure).

The one thing to know: programs match on the words of the signer that they were written for, so these come first, and
what there is to do about it follows. The stable code of ours is always in ``data``. Methods of our own
(``manahsm_...``) have no dialect: their errors read as they do in Python.

Sources: ``JsonRpcError`` of Web3Signer; ``signer/core`` of geth, where every refusal is -32000; ``service/errors.go``
of op-signer; EIP-1474 for -32005.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from attrs import frozen

from manahsm.api.calls import RPCError
from manahsm.api.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, SERVER_ERROR
from manahsm.config.api_tables import Dialect
from manahsm.errors import (
    HSMUnavailable,
    InvalidRequest,
    KeyNotFound,
    ManaHSMError,
    Overloaded,
    PolicyDenied,
    RateLimited,
    RoleDenied,
    ServiceStopping,
)

__all__ = [
    "LIMIT_EXCEEDED",
    "MethodDenied",
    "Shown",
    "codes_of",
    "data_of_error",
    "http_status_of",
    "internal_error",
    "not_found",
    "retry_header",
    "shown",
]

LIMIT_EXCEEDED = -32005
_METHOD_NOT_ENABLED = -32604
_INVALID_TRANSACTION, _UNAUTHORIZED_TRANSACTION = -32010, -32011
_INVALID_PAYLOAD, _UNAUTHORIZED_PAYLOAD = -32012, -32013

_DENIED = (KeyNotFound, PolicyDenied, RoleDenied)
_LATER = (Overloaded, ServiceStopping, HSMUnavailable)
_RETRY_AFTER = 1  # seconds
_OUR_PREFIX = "manahsm_"


class MethodDenied(PolicyDenied):
    """A method that its caller may not call."""


@frozen(kw_only=True)
class Shown:
    """An error as its caller sees it.

    Attributes:
        code: of JSON-RPC.
        message: for people, and for programs that match on it.
        data: the stable code of ours, or what a node said.
        status: of HTTP, where the call is alone in its request.
        headers: of HTTP, likewise.
    """

    code: int
    message: str
    data: Any = None
    status: int = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = ()


def shown(error: ManaHSMError | RPCError, dialect: Dialect, method: str) -> Shown:
    """Show an error to its caller.

    Args:
        error: why the call was not done.
        dialect: whose codes the caller knows.
        method: what was called.
    """
    if isinstance(error, RPCError):
        cause = error.cause
        data = data_of_error(cause) if error.data is None and cause is not None else error.data
        return Shown(code=error.code, message=error.message, data=data, **_http(cause))
    code, words = _code_and_words(error, dialect, method)
    message = f"{words}: {error}" if words else str(error)
    return Shown(code=code, message=message, data=data_of_error(error), **_http(error))


def _http(error: ManaHSMError | None) -> dict[str, Any]:
    if error is None:
        return {}
    return {"status": http_status_of(error), "headers": retry_header(error)}


def _code_and_words(error: ManaHSMError, dialect: Dialect, method: str) -> tuple[int, str]:
    if isinstance(error, Overloaded | RateLimited):
        return LIMIT_EXCEEDED, ""
    return (_ours if method.startswith(_OUR_PREFIX) else _DIALECTS[dialect])(error, method)


def _ours(error: ManaHSMError, _method: str) -> tuple[int, str]:
    return INVALID_PARAMS if isinstance(error, InvalidRequest) else SERVER_ERROR, ""


def _web3signer(error: ManaHSMError, _method: str) -> tuple[int, str]:
    if isinstance(error, InvalidRequest):
        return INVALID_PARAMS, "Invalid params"
    if isinstance(error, MethodDenied):
        return _METHOD_NOT_ENABLED, "Method not enabled"
    return SERVER_ERROR, "No unlocked account matches the Sender" if isinstance(error, _DENIED) else ""


def _clef(error: ManaHSMError, _method: str) -> tuple[int, str]:
    if isinstance(error, InvalidRequest):
        return INVALID_PARAMS, "invalid argument"
    return SERVER_ERROR, "request denied" if isinstance(error, _DENIED) else ""


def _op_signer(error: ManaHSMError, method: str) -> tuple[int, str]:
    of_transaction = method.endswith("Transaction")
    if isinstance(error, InvalidRequest):
        return _INVALID_TRANSACTION if of_transaction else _INVALID_PAYLOAD, ""
    if isinstance(error, _DENIED):
        return _UNAUTHORIZED_TRANSACTION if of_transaction else _UNAUTHORIZED_PAYLOAD, ""
    return SERVER_ERROR, ""


_DIALECTS: dict[Dialect, Callable[[ManaHSMError, str], tuple[int, str]]] = {
    Dialect.WEB3SIGNER: _web3signer,
    Dialect.CLEF: _clef,
    Dialect.OP_SIGNER: _op_signer,
}


def codes_of(dialect: Dialect, method: str) -> dict[int, str]:
    """Codes that a method of ours may give beside those of JSON-RPC itself, and what they mean (for people)."""
    meanings: dict[int, str] = {}
    for error in _EXAMPLES:
        code, words = _code_and_words(error, dialect, method)
        meanings.setdefault(code, f"{words}: {error}" if words else str(error))
    return meanings


_EXAMPLES = (
    InvalidRequest("the parameters are malformed, incomplete or ambiguous"),
    HSMUnavailable("it was refused, or could not be done: data.code says why"),
    PolicyDenied("there is no such key, or this caller may not use it"),
    MethodDenied("this caller may not call it"),
    Overloaded("too much at once: try again after data.retry_after seconds"),
)


def data_of_error(error: ManaHSMError) -> dict[str, Any]:
    """``{"code", "retry_after"?}``: what a program matches on, and in how many seconds it may try again."""
    data: dict[str, Any] = {"code": error.code}
    if isinstance(error, RateLimited):
        data["retry_after"] = error.retry_after
    elif isinstance(error, _LATER):
        data["retry_after"] = _RETRY_AFTER
    return data


def http_status_of(error: ManaHSMError) -> int:
    """503 for what may be tried again soon, 429 for too much of it, else 200: JSON-RPC says the rest."""
    if isinstance(error, RateLimited):
        return HTTPStatus.TOO_MANY_REQUESTS
    return HTTPStatus.SERVICE_UNAVAILABLE if isinstance(error, _LATER) else HTTPStatus.OK


def retry_header(error: ManaHSMError) -> tuple[tuple[str, str], ...]:
    """``Retry-After`` in whole seconds, where trying again helps."""
    seconds = data_of_error(error).get("retry_after")
    return () if seconds is None else (("retry-after", str(max(1, math.ceil(seconds)))),)


def not_found() -> RPCError:
    """The error for a method that is served by nobody. Its name is not repeated: it may be anything."""
    return RPCError(METHOD_NOT_FOUND, "Method not found: rpc.discover lists what is served here")


def internal_error(request_id: str) -> RPCError:
    """The error for a fault of ours. Whoever reads the log finds it there by the request id."""
    return RPCError(INTERNAL_ERROR, "internal error", {"code": ManaHSMError.code, "request_id": request_id})
