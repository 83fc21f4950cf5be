"""The HTTP interface in a process of its own, with one route more: ``http_server.py``, and JSON as the first line.

The one thing to know: ``POST /constant`` is a Starlette route that reads the body and answers a constant. It is laid
over the product's application here, before Starlette, so that the product's own requests pass one comparison more and
nothing else. It says ``ready PORT`` and takes commands, each answered with the processor time of this process: ``used``
does no more, ``look`` starts a profile of the loop, and ``seen FILE`` writes it.
"""

from __future__ import annotations

import cProfile
import gc
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import manahsm
from manahsm.api import app, server
from manahsm.config.load import load_config

_CONSTANT = "/constant"

Application = Callable[..., Awaitable[None]]


def _with_constant(make_app: Callable[..., Application], answer: bytes) -> Callable[..., Application]:
    async def constant(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type="application/json")

    other = Starlette(routes=[Route(_CONSTANT, constant, methods=["POST"])])

    def make(*arguments: Any) -> Application:
        ours = make_app(*arguments)

        async def either(scope: Any, receive: Any, send: Any) -> None:
            await (other if scope["path"] == _CONSTANT else ours)(scope, receive, send)

        return either

    return make


async def _main(asked: Mapping[str, Any]) -> None:
    config = load_config(asked["config"], environ={})
    with server.listening(config) as listening:
        async with manahsm.open_service(config, interfaces={"api": listening.serve}):
            gc.freeze()
            print("ready", listening.doors[0].url.rpartition(":")[2].strip("/"), flush=True)  # noqa: T201
            profile = cProfile.Profile()
            while line := await anyio.to_thread.run_sync(sys.stdin.readline):
                match line.split():
                    case ["look"]:
                        profile.enable()
                    case ["seen", file]:
                        profile.disable()
                        profile.dump_stats(file)
                    case _:
                        pass
                print(time.process_time(), flush=True)  # noqa: T201


if __name__ == "__main__":
    logging.getLogger("manahsm").setLevel(logging.WARNING)
    first = json.loads(sys.stdin.readline())
    server.make_app = _with_constant(app.make_app, first["answer"].encode())  # type: ignore[attr-defined]
    anyio.run(_main, first, backend=first["backend"])
