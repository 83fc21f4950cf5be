"""What may go to the node behind, and how it gets there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_node import HttpRequest, ScriptedNode, Wire, rpc_answer, scripted_node

from manahsm.access import Access
from manahsm.api.calls import Call, RPCError, Visitor
from manahsm.api.downstream import Node
from manahsm.api.forwarding import Forwarding, may_be_forwarded
from manahsm.config.api_tables import Dialect
from manahsm.config.secret import Secret
from manahsm.errors import PolicyDenied

READS = [
    "eth_call",
    "eth_blockNumber",
    "eth_getTransactionCount",
    "eth_sendRawTransaction",
    "eth_estimateGas",
    "eth_feeHistory",
    "net_version",
    "web3_clientVersion",
    "rpc_modules",
    "trace_block",
    "txpool_content",
    "txpool_contentFrom",
    "debug_traceTransaction",
    "debug_getRawBlock",
    "evm_mine",
    "anvil_setBalance",
    "hardhat_impersonateAccount",
    "ots_getApiLevel",
]
KEPT = [
    "eth_sign",
    "eth_signTransaction",
    "eth_signTypedData_v4",
    "eth_accounts",
    "eth_requestAccounts",
    "eth_sendTransaction",
    "eth_resend",
    "personal_sign",
    "personal_unlockAccount",
    "account_signData",
    "clef_new",
    "clique_propose",
    "admin_addPeer",
    "engine_newPayloadV4",
    "miner_start",
    "parity_newAccountFromSecret",
    "perm_addAccountsToAllowlist",
    "wallet_addEthereumChain",
    "manahsm_generateKey",
    "opsigner_signBlockPayload",
    "health_status",
    "debug_setHead",
    "debug_traceBlockFromFile",
    "debug_standardTraceBlockToFile",
    "debug_writeMemProfile",
    "debug_goTrace",
    "txpool_besuClear",
    "eth_sign ",
    " eth_sign",
    "eth_sign\n",
    "eth_sign\x00",
    "eth_\u017fign",
    "eth",
    "",
    "rpc.discover",
    "eth_" + "a" * 200,
]


@pytest.mark.parametrize("method", READS)
def test_what_a_public_node_would_do_may_be_forwarded(method: str) -> None:
    assert may_be_forwarded(method)


@pytest.mark.parametrize("method", KEPT)
def test_what_touches_keys_or_steers_the_node_stays_here(method: str) -> None:
    assert not may_be_forwarded(method)


@given(st.sampled_from(KEPT), st.data())
def test_no_spelling_gets_around_it(method: str, data: st.DataObject) -> None:
    upper = data.draw(st.lists(st.booleans(), min_size=len(method), max_size=len(method)))
    spelled = "".join(letter.upper() if up else letter for letter, up in zip(method, upper, strict=True))
    padding = data.draw(st.sampled_from(["", " ", "\t", "\n", "\x00", "\ufeff", "\u200b"]))
    assert not may_be_forwarded(padding + spelled)
    assert not may_be_forwarded(spelled + padding)


# ---- on the way ----


@pytest.fixture
def anyio_backend() -> str:
    """The HTTP interface lives on asyncio, whatever the service runs on."""
    return "asyncio"


def call_of(method: str) -> Call:
    visitor = Visitor(
        access=Access(caller="someone"), dialect=Dialect.WEB3SIGNER, dialects=(Dialect.WEB3SIGNER,), request_id="r"
    )
    return Call(method=method, params=["0x1", 2], visitor=visitor, request_id="r")


@asynccontextmanager
async def forwarding() -> AsyncIterator[tuple[Forwarding, ScriptedNode, list[str]]]:
    async def script(request: HttpRequest, _wire: Wire) -> bytes:
        return rpc_answer(request, {"seen": True})

    forgotten: list[str] = []
    async with scripted_node(script) as server, Node(Secret(server.url), timeout=5.0) as node:
        yield Forwarding(node, forget_nonces=lambda: forgotten.append("all")), server, forgotten


@pytest.mark.anyio
async def test_a_call_alone_is_sent_as_the_caller_wrote_it() -> None:
    body = b'{ "id":"x", "method":"eth_call", "params":["0x1", 2], "jsonrpc":"2.0" }'
    async with forwarding() as (forward, server, _):
        answer = await forward.stream(call_of("eth_call"), body)
        assert not isinstance(answer.body, bytes)
        assert json.loads(b"".join([part async for part in answer.body]))["result"] == {"seen": True}
    request = server.requests[0]
    assert request.body == body
    assert request.headers.keys() == {
        "host",
        "content-type",
        "content-length",
        "accept",
        "accept-encoding",
        "connection",
        "user-agent",
    }


@pytest.mark.anyio
async def test_a_call_of_a_batch_is_asked_for_by_itself() -> None:
    async with forwarding() as (forward, server, _):
        result = await forward.ask(call_of("eth_call"))
    assert msgspec.json.encode(result) == b'{"seen": true}'
    assert server.requests[0].json == {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": ["0x1", 2]}


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["stream", "ask"])
async def test_what_stays_here_never_reaches_the_node(way: str) -> None:
    async with forwarding() as (forward, server, _):
        call = call_of("personal_unlockAccount")
        with pytest.raises(RPCError) as caught:
            await (forward.stream(call, b"{}") if way == "stream" else forward.ask(call))
    assert caught.value.code == -32601
    assert isinstance(caught.value.cause, PolicyDenied)
    assert server.requests == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "forgotten"),
    [("evm_revert", ["all"]), ("anvil_reset", ["all"]), ("hardhat_setNonce", ["all"]), ("evm_mine", [])],
)
async def test_nonces_are_forgotten_when_a_development_chain_goes_back(method: str, forgotten: list[str]) -> None:
    async with forwarding() as (forward, _, seen):
        await forward.ask(call_of(method))
    assert seen == forgotten
