"""An Ethereum node in tests: anvil from tests/e2e/node, started on loopback with a free port.

The one thing to know: it mines only when it is told to, so a receipt is there as soon as :meth:`Node.mine` returns.
"""

from __future__ import annotations

import http.client
import json
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define

__all__ = ["CHAIN_ID", "DEV_ACCOUNT", "DEV_PRIVATE_KEY", "Node", "NodeError", "running_node"]

CHAIN_ID = 31337
# The first account of anvil's well-known mnemonic "test test ... junk": rich in every chain that anvil makes.
DEV_ACCOUNT = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
DEV_PRIVATE_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"

_BINARY = Path(__file__).parent / "e2e/node/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"
_START_WITHIN = 30.0  # seconds; it needs 0.05 on an idle machine


class NodeError(Exception):
    """The node answered a call with an error."""


@define
class Node:
    """A running node, spoken to over JSON-RPC."""

    port: int

    def rpc(self, method: str, *params: Any) -> Any:
        """Call the node.

        Raises:
            NodeError: it refused.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in answer:
            raise NodeError(f"{method}: {answer['error']}")
        return answer["result"]

    def nonce(self, address: str) -> int:
        """The nonce of the next transaction."""
        return int(self.rpc("eth_getTransactionCount", address, "pending"), 16)

    def balance(self, address: str) -> int:
        """In wei."""
        return int(self.rpc("eth_getBalance", address, "latest"), 16)

    def mine(self, *raw_transactions: bytes | str) -> list[dict[str, Any]]:
        """Send raw transactions and mine a block; returns their receipts, each of a transaction that succeeded."""
        hashes = [self.rpc("eth_sendRawTransaction", _as_hex(raw)) for raw in raw_transactions]
        self.rpc("evm_mine")
        receipts = [self.rpc("eth_getTransactionReceipt", tx_hash) for tx_hash in hashes]
        for tx_hash, receipt in zip(hashes, receipts, strict=True):
            assert receipt is not None, f"{tx_hash} was not mined"
            assert receipt["status"] == "0x1", f"{tx_hash} was reverted"
        return receipts


def _as_hex(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else "0x" + raw.hex()


@contextmanager
def running_node(directory: Path, *options: str) -> Iterator[Node]:
    """A node that is up inside the block and gone after it.

    Args:
        directory: for its log.
        options: for anvil, e.g. ``"--hardfork", "prague"``.
    """
    if platform.machine() != "x86_64":
        pytest.skip("the lock file in tests/e2e/node has anvil for x86_64 only")
    if not _BINARY.exists():
        pytest.fail("anvil is not installed: scripts/test does it, or npm ci in tests/e2e/node")
    command = [str(_BINARY), "--host", "127.0.0.1", "--port", "0", "--chain-id", str(CHAIN_ID), "--no-mining", *options]
    log = directory / "anvil.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S603
    try:
        yield _wait_until_ready(process, log)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> Node:
    deadline = time.monotonic() + _START_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        if listening := re.search(r"^Listening on 127\.0\.0\.1:(\d+)$", log.read_text(), re.MULTILINE):
            node = Node(int(listening[1]))
            assert int(node.rpc("eth_chainId"), 16) == CHAIN_ID
            return node
        time.sleep(0.01)  # nothing tells when a program of others is ready
    pytest.fail(f"anvil did not start: {log.read_text()}")
