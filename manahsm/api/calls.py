"""The values that the parts of the HTTP interface hand to each other: who asks, a call, a method, an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from attrs import field, frozen

from manahsm.access import Access
from manahsm.config.api_tables import Dialect
from manahsm.errors import ManaHSMError

__all__ = ["Answer", "Call", "Method", "Methods", "Parts", "RPCError", "Visitor"]


@frozen(kw_only=True)
class Visitor:
    """Who sent an HTTP request, known and admitted.

    Attributes:
        access: what they may do.
        dialect: whose error codes they get.
        dialects: whose methods are served where they came in.
        request_id: of the HTTP request; it reaches the audit log (``request_id`` alone, or ``request_id/2`` for the
            third call of a batch).
    """

    access: Access
    dialect: Dialect
    dialects: tuple[Dialect, ...]
    request_id: str


@frozen(kw_only=True)
class Call:
    """One JSON-RPC call.

    Attributes:
        method: its name.
        params: positional, by name, or ``None`` where it has none.
        visitor: who asks.
        request_id: for the audit log.
    """

    method: str
    params: list[Any] | dict[str, Any] | None = field(repr=False)
    visitor: Visitor
    request_id: str


Method = Callable[[Call], Awaitable[Any]]
"""Does what a call asks and returns its ``result``, which JSON can hold.

Raises :class:`RPCError` where it knows the code, or a :class:`~manahsm.errors.ManaHSMError`, whose code depends on the
dialect. Anything else is a fault of ours: the caller is told no more than that."""

Methods = Mapping[str, Method]


class RPCError(Exception):
    """An error with a code of its own, such as one that the node gave.

    Args:
        code: of JSON-RPC.
        message: for the caller; holds no secret.
        data: more of it, which JSON can hold.
        cause: what of ours it stands for, where it does.
    """

    def __init__(self, code: int, message: str, data: Any = None, *, cause: ManaHSMError | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.cause = cause


class Parts(Protocol):
    """The parts of an answer as they come: an :class:`~collections.abc.AsyncIterator` that can be left early."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None:
        """Let go of where they come from. Whoever takes an answer calls this in the end, however that came."""
        ...


@frozen(kw_only=True)
class Answer:
    """What is sent back over HTTP.

    Attributes:
        status: of HTTP.
        body: all of it, or its parts as they come.
        content_type: what it is.
        headers: more headers, lower-case names.
    """

    status: int = 200
    body: bytes | Parts = field(repr=False)
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
