"""A node with a real transaction pool and an unreliable line: each transaction meets the fate that a test gives it.

The one thing to know: the rules of the pool are those of nodes. A nonce below the account's is too low, a second
transaction with a nonce that is in the pool is underpriced, and the same transaction again is already known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

import rlp
from attrs import define, field, frozen
from eth_account import Account
from scripted_node import CLOSED, HttpRequest, Wire, http_answer, rpc_answer

from manahsm.ethereum.signatures import keccak256

__all__ = ["CHAIN_ID", "STRANGER", "Fate", "PoolNode", "sender_of"]

CHAIN_ID = 31337
STRANGER = "0x" + "ee" * 32

_FEES = {
    "eth_chainId": hex(CHAIN_ID),
    "eth_maxPriorityFeePerGas": "0x3",
    "eth_gasPrice": "0x14",
    "eth_blobBaseFee": "0x7",
    "eth_feeHistory": {"reward": [["0x9"], ["0x1"], ["0x5"]]},
}


class Fate(Enum):
    """What becomes of a transaction on its way."""

    TAKEN = "the node takes it and says so"
    REFUSED = "the node refuses it"
    LOST = "it never arrives and there is no answer"
    UNHEARD = "the node takes it and there is no answer"
    GARBLED = "the node takes it and a proxy answers with a page"
    LATE = "there is no answer, and it arrives after whatever comes next"
    OVERTAKEN = "somebody else sends a transaction with this nonce first"
    TWICE = "somebody else sends the very same transaction first"


@frozen
class PoolTransaction:
    """What is looked at of a transaction."""

    nonce: int
    tx_hash: str


@define
class PoolNode:
    """Serves what ``eth_sendTransaction`` needs.

    Attributes:
        fates: of the next transactions; when there are none left, each is taken.
        counts_pending: whether the node's count has what is not mined yet, as it should.
        account: the nonce up to which transactions are mined.
        pool: what the node has taken, by nonce, mined or not.
    """

    fates: deque[Fate] = field(factory=deque)
    counts_pending: bool = True
    account: int = 0
    pool: dict[int, str] = field(factory=dict)
    base_fee: str | None = "0x64"
    calls: list[str] = field(factory=list)
    estimates: list[dict[str, Any]] = field(factory=list)
    errors: dict[str, dict[str, Any]] = field(factory=dict)
    sent: list[str] = field(factory=list)
    on_send: Callable[[], None] | None = None
    _late: list[str] = field(factory=list)

    def mine(self, most: int = 1000) -> None:
        """Mine what can be mined."""
        while most and self.account in self.pool:
            self.account += 1
            most -= 1

    def settle(self) -> None:
        """Let arrive what is late."""
        late, self._late = self._late, []
        for raw in late:
            self._take(raw)

    async def __call__(self, request: HttpRequest, _wire: Wire) -> bytes:
        call = request.json
        method, params = call["method"], call.get("params", [])
        self.calls.append(method)
        if method in self.errors:
            return rpc_answer(request, error=self.errors[method])
        if method == "eth_sendRawTransaction":
            late, self._late = self._late, []
            answer = self._send(request, params[0])
            for raw in late:
                self._take(raw)
            return answer
        return rpc_answer(request, self._answer(method, params))

    def _answer(self, method: str, params: list[Any]) -> Any:
        match method:
            case "eth_getBlockByNumber":
                return {"number": "0x1"} | ({} if self.base_fee is None else {"baseFeePerGas": self.base_fee})
            case "eth_estimateGas":
                self.estimates.append(params[0])
                return "0x5208"
            case "eth_getTransactionCount":
                return hex(self._count())
            case "eth_getTransactionByHash":
                return {"hash": params[0]} if params[0] in self.pool.values() else None
            case _:
                return _FEES[method]

    def _count(self) -> int:
        count = self.account
        while self.counts_pending and count in self.pool:
            count += 1
        return count

    def _send(self, request: HttpRequest, raw: str) -> bytes:
        self.sent.append(raw)
        if self.on_send is not None:
            self.on_send()
        fate = self.fates.popleft() if self.fates else Fate.TAKEN
        if fate is Fate.REFUSED:
            return rpc_answer(request, error={"code": -32000, "message": "insufficient funds for gas * price + value"})
        if fate is Fate.LATE:
            self._late.append(raw)
        if fate is Fate.OVERTAKEN:
            self.pool.setdefault(_read(raw).nonce, STRANGER)
        if fate in {Fate.TWICE, Fate.UNHEARD, Fate.GARBLED}:
            self._take(raw)
        if fate is Fate.GARBLED:
            return http_answer(b"<h1>Bad gateway", 502, "text/html")
        if fate in {Fate.LATE, Fate.LOST, Fate.UNHEARD}:
            return CLOSED
        refusal = self._take(raw)
        if refusal is not None:
            return rpc_answer(request, error={"code": -32000, "message": refusal})
        return rpc_answer(request, _read(raw).tx_hash)

    def _take(self, raw: str) -> str | None:
        tx = _read(raw)
        if self.pool.get(tx.nonce) == tx.tx_hash:
            return "already known"
        if tx.nonce < self.account:
            return "nonce too low"
        if tx.nonce in self.pool:
            return "replacement transaction underpriced"
        self.pool[tx.nonce] = tx.tx_hash
        return None


def _read(raw: str) -> PoolTransaction:
    """Of a legacy or an EIP-1559 transaction."""
    data = bytes.fromhex(raw[2:])
    fields = rlp.decode(data[1:] if data[0] == 2 else data)
    nonce = fields[1] if data[0] == 2 else fields[0]
    return PoolTransaction(int.from_bytes(nonce, "big"), "0x" + keccak256(data).hex())


def sender_of(raw: str) -> str:
    """Who signed, as eth-account finds it."""
    address: str = Account.recover_transaction(raw)
    return address
