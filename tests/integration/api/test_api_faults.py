"""What callers of the HTTP interface notice of a crash, a full disk, a wrong PIN and of their own impatience."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from served import rpc, serving
from services import A_PRIVATE_KEY, audit_records, config_for, eventually, fill_the_disk_under, software_config
from softhsm import SoftHSMToken

import manahsm
from manahsm.api.server import listening
from manahsm.config.load import load_config
from manahsm.http_body import one_piece
from supervisors import ChildContext

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}


async def ask(url: str, method: str, params: Any, timeout: float = 30.0) -> httpx.Response:  # noqa: ASYNC109 - a client's
    body = json.dumps(rpc(method, params)).encode()
    async with httpx.AsyncClient(trust_env=False, timeout=timeout) as client:
        return await client.send(one_piece(client.build_request("POST", url, content=body, headers=JSON)))


async def test_a_server_that_crashes_serves_again_at_the_same_port(tmp_path: Path) -> None:
    crash, runs = anyio.Event(), 0
    config = load_config(software_config(tmp_path, api={"port": 0}), environ={})
    with listening(config) as server:
        url = f"http://{server.doors[0].url}"

        async def serve(service: manahsm.Service, ctx: ChildContext) -> None:
            nonlocal runs
            runs += 1
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.serve, service, ctx)
                if runs == 1:
                    await crash.wait()
                    raise ValueError("a fault of ours")

        async with manahsm.open_service(config, interfaces={"api": serve}):
            before = (await ask(url, "eth_accounts", [])).json()
            crash.set()
            await eventually(lambda: runs == 2)
            after = (await ask(url, "eth_accounts", [])).json()

    assert before == after == {"jsonrpc": "2.0", "id": 1, "result": []}


async def test_a_full_disk_releases_nothing_and_says_so(tmp_path: Path) -> None:
    slowly = {"fsync_interval": 60_000}  # nothing but a request is to find it
    async with serving(software_config(tmp_path, audit=slowly)) as served:
        key = await served.service.generate_key("hot", "transaction_signer", "software")
        log = served.service._journal._log
        assert log is not None
        fill_the_disk_under(log)
        refused = await ask(served.url, "eth_sign", [key.address, "0x00"])
        again = await ask(served.url, "eth_sign", [key.address, "0x00"])  # in a new file, where there is room

    assert refused.json()["error"]["data"]["code"] == "audit_unavailable"
    assert "result" not in refused.json()
    assert len(again.json()["result"]) == 132


async def test_a_wrong_pin_is_a_503_with_what_to_do(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = config_for(softhsm_token, tmp_path, connection_pool={"size": 1, "processes": 1})
    async with manahsm.open_service(config) as service:
        key = await service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer")
    Path(config["hsm"]["pin_file"]).write_text("98765")
    async with serving(config) as served:
        answer = await ask(served.url, "eth_sign", [key.address, "0x00"])

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    error = answer.json()["error"]
    assert error["data"]["code"] == "hsm_unavailable"
    assert "PIN" in error["message"]
    assert "98765" not in answer.text


async def test_a_caller_who_leaves_costs_nobody_else_anything(tmp_path: Path) -> None:
    async with serving(software_config(tmp_path)) as served:
        key = await served.service.generate_key("hot", "transaction_signer", "software")
        host, _, port = served.server.doors[0].url.partition(":")
        body = json.dumps(rpc("eth_sign", [key.address, "0x00"])).encode()
        head = (
            f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        for sent in (head.encode() + body, head.encode() + body[:9]):
            async with await anyio.connect_tcp(host, int(port)) as stream:
                await stream.send(sent)
        answer = await ask(served.url, "eth_sign", [key.address, "0x00"])
        await eventually(lambda: len(served.service.stats().by_operation) > 0 and served.service.stats().signed == 2)

    assert "result" in answer.json()
    assert [one["outcome"] for one in audit_records(tmp_path) if one["event"] == "sign"] == ["signed"] * 2
