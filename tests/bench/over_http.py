"""The measure of the HTTP interface: ``eth_signTransaction`` against a route of its server that answers a constant.

The one thing to know: server and client are processes of their own. The client is C, keeps 64 connections, and sends
the same bytes to both routes but for the path. Shares of a processor are shown: a client that is busy itself would be
what is measured, and of a server that is not busy the ratio says how long it waits, not how much it works.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from attrs import evolve
from bench.children import HERE, Child, compiled
from bench.contestants import CHAIN_ID, PRIVATE_KEY, TRANSACTIONS, sign_plainly
from bench.figures import Figure, Spread, against, at_least, each_rate
from bench.places import KEY, Bench, opened
from bench.turns import Contestant, contest
from coincurve import PrivateKey
from services import software_config

from manahsm.ethereum.signatures import address_of, public_key_of

__all__ = ["http"]

_CONNECTIONS = 64
_SIGN, _CONSTANT = "eth_signTransaction", "constant"
_PATHS = {_CONSTANT: "/constant", _SIGN: "/"}


async def http(bench: Bench) -> list[Figure]:
    """``eth_signTransaction`` with a software key, 64 connections kept, against a route that answers a constant."""
    directory = bench.place("http")
    config = software_config(directory)
    async with opened(config) as service:
        await service.import_key(PRIVATE_KEY, KEY, "transaction_signer", "software")
    config["hsm"]["api"] = {"port": 0}
    raw, _ = sign_plainly(PrivateKey(PRIVATE_KEY), TRANSACTIONS[0])
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": "0x" + raw.hex()}, separators=(",", ":"))
    first = json.dumps({"config": config, "backend": bench.backend, "answer": answer})
    shares: dict[str, list[tuple[float, float]]] = {name: [] for name in _PATHS}
    with ExitStack() as stack:
        server = stack.enter_context(Child([sys.executable, "-P", HERE / "http_server.py"], first=first))
        port = server.greeting.split()[1]
        _check(port, answer)

        def client(name: str, connections: int) -> Child:
            request = _request(directory / name, _PATHS[name], port)
            return stack.enter_context(Child([compiled("http_load"), port, str(connections), request]))

        contestants: dict[str, Contestant] = {
            name: _turns(bench, server, client(name, _CONNECTIONS), shares[name], looks=name == _SIGN)
            for name in _PATHS
        }
        contestants |= {f"{name}, 1 connection": client(name, 1).rate for name in _PATHS}
        found = await contest(contestants, bench.plan)
        if bench.profiler.wanted:
            file = directory / "profile"
            await server.ask(f"seen {file}")
            bench.profiler.load(file)
    work = {
        name: [rate / used for rate, (_, used) in zip(found.rates[name], shares[name][1:], strict=True)]
        for name in _PATHS
    }
    return [
        against("http", found.rates, _SIGN, _CONSTANT, at_least(0.35)),
        evolve(against("http", work, _SIGN, _CONSTANT), name="the same, by processor time of the server"),
        *each_rate("http", found.rates),
        *(
            Figure(
                measure="http", name=f"{name}: {who}", unit="%", spread=Spread.of(share[place] for share in seen[1:])
            )
            for name, seen in shares.items()
            for place, who in enumerate(("processor of the client", "processor of the server"))
        ),
    ]


def _request(file: Path, path: str, port: str) -> Path:
    """Write a whole request."""
    body = _body()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    file.write_bytes(head.encode() + body)
    return file


def _body() -> bytes:
    """The first of everybody's transactions, as wallets send it."""
    tx = {name: hex(value) if isinstance(value, int) else value for name, value in TRANSACTIONS[0].items()}
    sender = address_of(public_key_of(PrivateKey(PRIVATE_KEY)))
    call = {"jsonrpc": "2.0", "id": 1, "method": _SIGN, "params": [{**tx, "from": sender, "chainId": hex(CHAIN_ID)}]}
    return json.dumps(call).encode()


def _check(port: str, answer: str) -> None:
    """Both routes answer the same."""
    for path in _PATHS.values():
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", _body(), {"content-type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(asked, timeout=10) as got:
            assert json.loads(got.read()) == json.loads(answer), path


def _turns(bench: Bench, server: Child, client: Child, shares: list[tuple[float, float]], *, looks: bool) -> Contestant:
    """A contestant that notes the shares of a processor of both ends, in percent."""

    async def turn(seconds: float) -> float:
        before = float(await server.ask("look" if looks and bench.profiler.wanted else "used"))
        began = perf_counter()
        rate, share = map(float, (await client.ask(f"run {seconds:g}")).split())
        used = float(await server.ask("used")) - before
        shares.append((100 * share, 100 * used / (perf_counter() - began)))
        return rate

    return turn
