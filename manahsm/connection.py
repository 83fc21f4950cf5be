"""The way to a running service: one call of its JSON-RPC over HTTP, and its errors as what they were.

The one thing to know: what goes wrong on the way is a :class:`RemoteError`; a request that met one may have been done
all the same.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx
import msgspec

from manahsm import errors
from manahsm.errors import InvalidRequest, ManaHSMError, RateLimited
from manahsm.http_body import one_piece
from manahsm.wire import plain

__all__ = ["Connection", "RemoteError", "connection_to", "error_of"]

_CONNECTIONS = 64
_THERE_AND_BACK = 5.0  # seconds that a request is waited for longer than it may take there
_UNIX = "unix:"

_KINDS: Mapping[str, type[ManaHSMError]] = {
    kind.code: kind
    for kind in (getattr(errors, name) for name in errors.__all__)
    if issubclass(kind, ManaHSMError) and kind not in {ManaHSMError, errors.ConfigError, RateLimited}
}


class RemoteError(ManaHSMError):
    """The service was not reached, or what answered was not the service that was expected."""

    code = "remote_error"


class Connection:
    """A connection to the service at one address."""

    def __init__(self, client: httpx.AsyncClient, where: str, timeout: float) -> None:
        self._client = client
        self._where = where
        self._ids = itertools.count(1)
        self.timeout = timeout

    async def call(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        request_id: str | None = None,
        within: float | None = None,
    ) -> Any:
        """Call a method of ours and return its result.

        Args:
            method: without ``manahsm_``.
            params: by name.
            request_id: for the audit log there.
            within: seconds that it may take there, where that is known.

        Raises:
            ManaHSMError: as it was there.
            RemoteError: it did not get there, or no answer came back.
        """
        number = next(self._ids)
        call = {"jsonrpc": "2.0", "id": number, "method": f"manahsm_{method}", "params": params}
        headers = {"content-type": "application/json"}
        if request_id is not None:
            headers["x-request-id"] = request_id
        try:
            body = msgspec.json.encode(plain(call))
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"this can not be sent as JSON: {error}") from None
        if self._client.is_closed:
            raise RemoteError(f"the connection to {self._where} was closed: use it inside of the block that opened it")
        timeout = self.timeout if within is None else max(self.timeout, within + _THERE_AND_BACK)
        try:
            request = self._client.build_request("POST", "/", content=body, headers=headers, timeout=timeout)
            answer = await self._client.send(one_piece(request))
        except httpx.TimeoutException:
            raise RemoteError(
                f"{self._where} did not answer in time: the request may have been done all the same"
            ) from None
        except httpx.ConnectError as error:
            raise RemoteError(
                f"{self._where} was not reached: {error}; is the service running, and is this its address?"
            ) from None
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise RemoteError(f"{self._where} broke off: {why}; the request may have been done all the same") from None
        return _result_of(answer, number)


@asynccontextmanager
async def connection_to(
    url: str,
    *,
    token: str | None,
    certificate: tuple[Path, Path] | None,
    ca: Path | None,
    timeout: float,  # noqa: ASYNC109 - of each request
) -> AsyncIterator[Connection]:
    """Hold connections to a service for as long as the context lasts; see :func:`manahsm.connect`."""
    parts = urlsplit(url)
    path = url.removeprefix(_UNIX) if url.startswith(_UNIX) else None
    if path is None and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise RemoteError("an address such as https://signer.example:9000 or unix:/run/manahsm/api.sock is needed")
    if parts.scheme != "https" and (certificate, ca) != (None, None):
        raise RemoteError("certificates go with https: this address is not encrypted, and nobody would look at them")
    secured = _trust(certificate, ca) if parts.scheme == "https" else False
    transport = httpx.AsyncHTTPTransport(
        verify=secured,
        uds=path,
        limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
    )
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    base = "http://localhost" if path is not None else url
    async with httpx.AsyncClient(
        base_url=base, transport=transport, headers=headers, timeout=timeout, trust_env=False
    ) as client:
        yield Connection(client, f"unix:{path}" if path is not None else f"{parts.scheme}://{_host(parts)}", timeout)


def _host(parts: SplitResult) -> str:
    """Host and port, without what may stand before them and is secret."""
    return parts.netloc.rpartition("@")[2]


def _trust(certificate: tuple[Path, Path] | None, ca: Path | None) -> ssl.SSLContext:
    files = "the authorities of the system" if ca is None else str(ca)
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            files = " and ".join(map(str, certificate))
            # A key that is encrypted would have OpenSSL ask for its passphrase on the terminal.
            context.load_cert_chain(*certificate, password=lambda: b"")
    except OSError as error:
        raise RemoteError(f"{files}: no PEM that can be used: {error.strerror or error}") from None
    return context


def _result_of(answer: httpx.Response, number: int) -> Any:
    """The result of a call, or its error."""
    try:
        document = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        document = None
    if not isinstance(document, dict):
        raise RemoteError(f"what answered is no manahsm service (HTTP {answer.status_code}, not JSON)")
    if isinstance(document.get("error"), dict):
        raise error_of(document["error"])
    if document.get("id") != number or "result" not in document:
        raise RemoteError("what answered is no manahsm service: the answer is not that of the request")
    return document["result"]


def error_of(error: Mapping[str, Any]) -> ManaHSMError:
    """An error of JSON-RPC as what it was there."""
    message, data = str(error.get("message", "")), error.get("data")
    said = data if isinstance(data, dict) else {}
    code = said.get("code")
    if code == RateLimited.code:
        return RateLimited(message, retry_after=float(said.get("retry_after", 1.0)))
    kind = _KINDS.get(code) if isinstance(code, str) else None
    return RemoteError(message) if kind is None else kind(message)
