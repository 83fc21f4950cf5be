"""Posting JSON to another program: bounded in time, tried again, and quiet about where it goes.

The one thing to know: addresses of webhooks are secrets, so neither errors nor logs repeat them, and the log lines of
the HTTP client, which would, are turned down. Proxies of the environment are not used: what a signer reports goes where
the configuration says.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from manahsm.http_body import one_piece
from supervisors import Clock

__all__ = ["Poster", "Undelivered"]

_LONGEST_PAUSE = 60.0  # seconds between two tries
_TRY_AGAIN = frozenset({408, 425, 429})


class Undelivered(Exception):  # noqa: N818 - what became of it
    """It was not taken. The message is for people and names no address."""


class _TryAgain(Undelivered):
    """It may be taken later."""


class Poster:
    """Posts JSON to one address.

    Args:
        url: where. Kept secret.
        timeout: seconds for one try.
        attempts: tries, with growing pauses, 1 or more.
        clock: the time of pauses and timeouts.
    """

    def __init__(self, url: str, *, timeout: float, attempts: int, clock: Clock) -> None:
        self._url = url
        self._timeout = timeout
        self._attempts = attempts
        self._clock = clock
        self._client: httpx.AsyncClient | None = None
        logging.getLogger("httpx").setLevel(logging.WARNING)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Hold connections open for as long as the context lasts."""
        # The certificates that the machine trusts, not a list that came with a package.
        verify = ssl.create_default_context()
        headers = {"User-Agent": "manahsm", "Content-Type": "application/json"}
        async with httpx.AsyncClient(
            verify=verify, timeout=self._timeout, headers=headers, trust_env=False, follow_redirects=False
        ) as client:
            self._client = client
            try:
                yield
            finally:
                self._client = None

    async def post(self, body: bytes) -> None:
        """Deliver, however many tries it takes.

        Raises:
            Undelivered: it was refused, or not taken in all tries.
        """
        async for attempt in AsyncRetrying(
            sleep=self._clock.sleep,
            stop=stop_after_attempt(self._attempts),
            wait=wait_exponential(max=_LONGEST_PAUSE),
            retry=retry_if_exception_type(_TryAgain),
            reraise=True,
        ):
            with attempt:
                await self._post_once(body)

    async def _post_once(self, body: bytes) -> None:
        if self._client is None:
            raise RuntimeError("not connected")
        try:
            with self._clock.fail_after(self._timeout):
                request = one_piece(self._client.build_request("POST", self._url, content=body))
                # Only the status is looked at: what else comes back may be endless.
                response = await self._client.send(request, stream=True)
                status = response.status_code
                await response.aclose()
        except TimeoutError:
            raise _TryAgain(f"no answer within {self._timeout:g} s") from None
        except httpx.HTTPError as error:
            raise _TryAgain(f"not reached: {type(error).__name__}") from None
        if status in _TRY_AGAIN or status >= 500:  # noqa: PLR2004 - RFC 9110: a fault of the server
            raise _TryAgain(f"answered with status {status}")
        if not 200 <= status < 300:  # noqa: PLR2004 - RFC 9110: taken
            raise Undelivered(f"refused with status {status}")
