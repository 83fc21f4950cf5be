"""A service with its HTTP interface, and clients that know no more of it than its address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from attrs import frozen

import manahsm
from manahsm.api.server import Server, listening
from manahsm.config.load import load_config

__all__ = ["Served", "serving"]


@frozen
class Served:
    """A running service and where it listens."""

    service: manahsm.Service
    server: Server

    @property
    def url(self) -> str:
        """Of the first door."""
        door = self.server.doors[0]
        scheme = "https" if self.service.config.api.tls.certificate and not door.listener.socket else "http"
        return f"{scheme}://{door.url}"

    async def post(self, body: bytes, *, url: str | None = None, **headers: str) -> httpx.Response:
        """Send a request of one's own making."""
        given = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            return await client.post(url or self.url, content=body, headers=given)

    async def call(self, method: str, *params: Any, **headers: str) -> Any:
        """Call a method; returns the whole answer."""
        body = httpx.Request("POST", self.url, json=rpc(method, list(params))).content
        answer = await self.post(body, **headers)
        return answer.json()


def rpc(method: str, params: Any = None, number: Any = 1) -> dict[str, Any]:
    """A call."""
    return {"jsonrpc": "2.0", "id": number, "method": method} | ({} if params is None else {"params": params})


@asynccontextmanager
async def serving(config: Mapping[str, Any], **api: Any) -> AsyncIterator[Served]:
    """Run a service with ``api`` as its table of that name, on a free port."""
    loaded = load_config({**config["hsm"], "api": {"port": 0, **api}} if "hsm" in config else config, environ={})
    with listening(loaded) as server:
        async with manahsm.open_service(loaded, interfaces={"api": server.serve}) as service:
            yield Served(service, server)
