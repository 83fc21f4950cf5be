"""Bodies of requests that are sent with httpx.

The one thing to know: httpx's own body is an asynchronous generator. Trio finds it unfinished, and complains of it,
when a request is cancelled or fails while it is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

__all__ = ["one_piece"]


class _OnePiece(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._left = [content]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


def one_piece(request: httpx.Request) -> httpx.Request:
    """Have the content of a request, which is bytes, sent in one piece; returns the request."""
    request.stream = _OnePiece(request.content)
    return request
