"""viem, ethers and cast, unmodified: only their RPC URL is ours. The key is in a token, the node is anvil."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import frozen
from ethereum_node import Node
from served import serving
from services import config_for
from softhsm import SoftHSMToken

from manahsm import Backend, Role

pytestmark = pytest.mark.anyio

NODE = Path(__file__).parent / "node"
HARDHAT = Path(__file__).parent / "hardhat"
CAST = NODE / "node_modules/@foundry-rs/cast-linux-amd64/bin/cast"
OTHER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
ETHER = 10**18


@frozen
class Wallet:
    """What a client is told: a URL, and an account that is there."""

    url: str
    address: str
    directory: Path

    async def run(self, *command: str | Path, inside: Path | None = None, **variables: str) -> str:
        """Run a client; returns what it printed."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "NO_COLOR": "1", **variables}
        with anyio.fail_after(60):
            done = await anyio.run_process([str(part) for part in command], env=environment, check=False, cwd=inside)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


@asynccontextmanager
async def wallet(token: SoftHSMToken, directory: Path, node: Node) -> AsyncIterator[Wallet]:
    config = config_for(token, directory, connection_pool={"size": 2, "processes": 1})
    async with serving(config, downstream=f"http://127.0.0.1:{node.port}") as served:
        key = await served.service.generate_key("wallet", Role.TRANSACTION_SIGNER, Backend.HSM)
        node.rpc("anvil_setBalance", key.address, hex(10 * ETHER))
        yield Wallet(served.url, key.address, directory)


@pytest.mark.parametrize(("anyio_backend", "client"), [("asyncio", "viem_client.mjs"), ("trio", "ethers_client.mjs")])
async def test_a_javascript_client_recovers_the_account_from_all_that_it_has_signed(
    softhsm_token: SoftHSMToken, directory: Path, node: Node, client: str
) -> None:
    async with wallet(softhsm_token, directory, node) as ours:
        printed = await ours.run("node", NODE / client, ours.url, ours.address, OTHER)
        result: dict[str, Any] = json.loads(printed)
        sent = result.pop("sent")
        assert result == {
            "accounts": [ours.address],
            "personal_sign": ours.address,
            "personal_sign_bytes": ours.address,
            "eth_signTypedData_v4": ours.address,
            "eth_signTransaction": ours.address,
        }
    assert_mined(node, ours.address, sent, values=[1, 2, 3, 4])


async def test_cast_sends_from_an_unlocked_account(softhsm_token: SoftHSMToken, directory: Path, node: Node) -> None:
    async with wallet(softhsm_token, directory, node) as ours:
        sent = []
        for value in ("1", "2"):
            command = ["send", "--unlocked", "--from", ours.address, "--rpc-url", ours.url, "--async"]
            sent.append((await ours.run(CAST, *command, OTHER, "--value", value)).strip())
            node.rpc("evm_mine")  # cast chooses the nonce, by what is mined
        assert (await ours.run(CAST, "nonce", ours.address, "--rpc-url", ours.url)).strip() == "2"
    assert_mined(node, ours.address, sent, values=[1, 2])


def assert_mined(node: Node, address: str, sent: list[str], *, values: list[int]) -> None:
    node.rpc("evm_mine")
    mined = [node.rpc("eth_getTransactionByHash", tx_hash) for tx_hash in sent]
    assert {tx["from"] for tx in mined} == {address.lower()}
    assert sorted(int(tx["nonce"], 16) for tx in mined) == list(range(len(values)))
    assert sorted(int(tx["value"], 16) for tx in mined) == values
    assert all(node.rpc("eth_getTransactionReceipt", tx_hash)["status"] == "0x1" for tx_hash in sent)


async def test_hardhat_deploys_and_calls_a_contract(softhsm_token: SoftHSMToken, directory: Path, node: Node) -> None:
    async with wallet(softhsm_token, directory, node) as ours, mining_at_once(node):
        told = {
            "MANAHSM_URL": ours.url,
            "MANAHSM_DIRECTORY": str(directory),
            "HARDHAT_DISABLE_TELEMETRY_PROMPT": "true",
        }
        command = (HARDHAT / "node_modules/.bin/hardhat", "run", "--no-compile", "client.cjs")
        printed = await ours.run(*command, inside=HARDHAT, **told)
    assert json.loads(printed.splitlines()[-1]) == {
        "signers": [ours.address],
        "sendTransaction": [ours.address, 1],
        "signMessage": ours.address,
        "signTypedData": ours.address,
        "deployed": True,
        "stored": [ours.address, 1, 42],
        "balance": True,
    }
    assert node.nonce(ours.address) == 3


@asynccontextmanager
async def mining_at_once(node: Node) -> AsyncIterator[None]:
    """Whoever waits for a receipt is not told when to mine."""
    node.rpc("evm_setAutomine", True)
    try:
        yield
    finally:
        node.rpc("evm_setAutomine", False)
