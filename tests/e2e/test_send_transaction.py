"""eth_sendTransaction against a real node: hundreds at once from one address are all mined, without a gap."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import pytest
from attrs import frozen
from ethereum_node import CHAIN_ID, DEV_ACCOUNT, Node
from served import rpc, serving
from services import software_config

from manahsm import Backend, KeyInfo, Role

pytestmark = pytest.mark.anyio

AT_ONCE = 500
OTHER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
ETHER = 10**18
ALWAYS_REVERTS = "0x60006000fd"  # PUSH1 0 PUSH1 0 REVERT, as init code


class RefusedError(Exception):
    """The answer was an error."""


@frozen
class Sender:
    """A funded key, and a way to send from it: a connection for each transaction, as scripts make them."""

    key: KeyInfo
    port: int

    async def send(self, **tx: Any) -> str:
        params = [{"from": self.key.address, "to": OTHER, "value": "0x1", **tx}]
        body = json.dumps(rpc("eth_sendTransaction", params))
        head = f"POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
        async with await anyio.connect_tcp("127.0.0.1", self.port) as connection:
            await connection.send(f"{head}content-type: application/json\r\n\r\n{body}".encode())
            answered = b"".join([part async for part in connection])
        answer = json.loads(answered.partition(b"\r\n\r\n")[2])
        if "error" in answer:
            raise RefusedError(answer["error"]["message"])
        tx_hash: str = answer["result"]
        return tx_hash


@asynccontextmanager
async def funded(directory: Path, node: Node) -> AsyncIterator[Sender]:
    config = software_config(directory, service={"request_timeout": 60_000})
    async with serving(config, downstream=f"http://127.0.0.1:{node.port}") as served:
        key = await served.service.generate_key("sender", Role.TRANSACTION_SIGNER, Backend.SOFTWARE)
        node.rpc("anvil_setBalance", key.address, hex(10 * ETHER))
        port = urlsplit(served.url).port
        assert port is not None
        yield Sender(key, port)


@pytest.mark.alone
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what is counted here does not depend on the service's loop
@pytest.mark.usefixtures("unmeasured")
async def test_five_hundred_at_once_are_all_mined_without_gaps(directory: Path, node: Node) -> None:
    hashes: list[str] = []
    async with funded(directory, node) as sender, anyio.create_task_group() as tasks:

        async def send(number: int) -> None:
            hashes.append(await sender.send(value=hex(number)))

        for number in range(AT_ONCE):
            tasks.start_soon(send, number)

    assert len(set(hashes)) == AT_ONCE
    mined: list[dict[str, Any]] = []
    while len(mined) < AT_ONCE:
        node.rpc("evm_mine")
        block = node.rpc("eth_getBlockByNumber", "latest", True)
        assert block["transactions"], "what is left waits for a nonce that never comes"
        mined += block["transactions"]
    assert {tx["hash"] for tx in mined} == set(hashes)
    assert [int(tx["nonce"], 16) for tx in mined] == list(range(AT_ONCE))
    assert sorted(int(tx["value"], 16) for tx in mined) == list(range(AT_ONCE))
    assert all(node.rpc("eth_getTransactionReceipt", tx_hash)["status"] == "0x1" for tx_hash in hashes)


async def test_what_the_node_refuses_leaves_no_gap(directory: Path, node: Node) -> None:
    async with funded(directory, node) as sender:
        hashes = [await sender.send()]
        with pytest.raises(RefusedError, match="revert"):
            await sender.send(to=None, data=ALWAYS_REVERTS)
        with pytest.raises(RefusedError, match=r"(?i)insufficient funds"):
            await sender.send(value=hex(100 * ETHER), gas="0x5208")
        with pytest.raises(RefusedError, match=r"(?i)nonce too low|underpriced"):
            await sender.send(nonce="0x0", gas="0x5208", value="0x2")
        hashes.append(await sender.send())
    node.rpc("evm_mine")
    mined = [node.rpc("eth_getTransactionByHash", tx_hash) for tx_hash in hashes]
    assert [(int(tx["nonce"], 16), int(tx["chainId"], 16), tx["type"]) for tx in mined] == [
        (0, CHAIN_ID, "0x2"),
        (1, CHAIN_ID, "0x2"),
    ]


async def test_transactions_that_others_send_from_the_address_are_counted(directory: Path, node: Node) -> None:
    async with funded(directory, node) as sender:
        await sender.send()
        node.rpc("anvil_impersonateAccount", sender.key.address)
        theirs = {"from": sender.key.address, "to": DEV_ACCOUNT, "value": "0x1", "nonce": "0x1"}
        await anyio.to_thread.run_sync(node.rpc, "eth_sendTransaction", theirs)
        ours = await sender.send()
    node.rpc("evm_mine")
    assert node.rpc("eth_getTransactionReceipt", ours)["status"] == "0x1"
    assert node.rpc("eth_getTransactionByHash", ours)["nonce"] == "0x2"
