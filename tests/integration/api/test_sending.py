"""eth_sendTransaction with a real service and a node whose every whim a test decides."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from attrs import frozen
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_node import CHAIN_ID, STRANGER, Fate, PoolNode, sender_of
from scripted_node import HttpRequest, ScriptedNode, Wire, http_answer, scripted_node
from services import audit_records, eventually, software_config

import manahsm
from manahsm import Backend, KeyInfo, Role, Service
from manahsm.access import Access
from manahsm.api.behind import Behind, node_behind
from manahsm.api.calls import Call, RPCError, Visitor
from manahsm.api.downstream import Throttled, Unanswered
from manahsm.api.gateway import Direct
from manahsm.config.api_tables import Api, Dialect
from manahsm.config.secret import Secret
from manahsm.errors import DeadlineExceeded, InvalidRequest, InvalidTransaction, KeyNotFound, RoleDenied
from manahsm.ethereum.signatures import keccak256

pytestmark = pytest.mark.anyio

OTHER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


@pytest.fixture
def anyio_backend() -> str:
    """The HTTP interface lives on asyncio, whatever the service runs on."""
    return "asyncio"


@frozen
class Stage:
    """A service with one key, a node, and what there is between them."""

    service: Service
    key: KeyInfo
    pool: PoolNode
    server: ScriptedNode
    behind: Behind
    directory: Path

    async def send(self, access: Access | None = None, **tx: Any) -> str:
        """Call ``eth_sendTransaction``; returns the hash."""
        return await self.call([{"from": self.key.address, "to": OTHER, **tx}], access)

    async def call(self, params: Any, access: Access | None = None) -> str:
        visitor = Visitor(
            access=access or Access(caller="tester"),
            dialect=Dialect.WEB3SIGNER,
            dialects=(Dialect.WEB3SIGNER,),
            request_id="request-1",
        )
        call = Call(method="eth_sendTransaction", params=params, visitor=visitor, request_id="request-1")
        tx_hash = await self.behind.methods["eth_sendTransaction"](call)
        assert isinstance(tx_hash, str)
        return tx_hash

    @property
    def last(self) -> dict[str, Any]:
        """The fields of the last transaction that was sent."""
        return fields_of(self.pool.sent[-1])


def fields_of(raw: str) -> dict[str, Any]:
    """What eth-account reads in a typed transaction."""
    return TypedTransaction.from_bytes(HexBytes(raw)).as_dict()


@asynccontextmanager
async def staged(directory: Path, *, request_timeout: float = 30.0) -> AsyncIterator[Stage]:
    pool = PoolNode()
    async with manahsm.open_service(software_config(directory)) as service, scripted_node(pool) as server:
        key = await service.generate_key("signer", Role.TRANSACTION_SIGNER, Backend.SOFTWARE)
        api = Api(downstream=Secret(server.url))
        async with node_behind(api, Direct(service), request_timeout=request_timeout) as behind:
            assert behind is not None
            yield Stage(service, key, pool, server, behind, directory)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


# ---- what is sent ----


async def test_everything_that_is_missing_is_filled_in(stage: Stage) -> None:
    tx_hash = await stage.send(value="0x5", data="0x1234")

    assert list(stage.pool.pool.values()) == [tx_hash]
    assert sender_of(stage.pool.sent[-1]) == stage.key.address
    sent = stage.last
    assert {name: sent[name] for name in ("chainId", "nonce", "gas", "value", "type")} == {
        "chainId": CHAIN_ID,
        "nonce": 0,
        "gas": 21000,
        "value": 5,
        "type": 2,
    }
    assert (sent["maxPriorityFeePerGas"], sent["maxFeePerGas"]) == (3, 203)
    assert stage.pool.estimates == [{"from": stage.key.address.lower(), "to": OTHER, "value": "0x5", "data": "0x1234"}]


async def test_what_the_caller_has_set_is_sent_as_it_is(stage: Stage) -> None:
    fees = {"maxFeePerGas": hex(500), "maxPriorityFeePerGas": hex(1), "accessList": []}
    await stage.send(nonce="0x0", gas="0x7530", chainId=hex(CHAIN_ID), type="0x2", **fees)
    sent = stage.last
    assert (sent["gas"], sent["maxFeePerGas"], sent["maxPriorityFeePerGas"], sent["nonce"]) == (30000, 500, 1, 0)
    assert "eth_estimateGas" not in stage.pool.calls
    assert "eth_getTransactionCount" not in stage.pool.calls


async def test_a_chain_without_a_base_fee_gets_a_legacy_transaction(stage: Stage) -> None:
    stage.pool.base_fee = None
    await stage.send()
    raw = stage.pool.sent[-1]
    assert int(raw[2:4], 16) >= 0xC0
    assert sender_of(raw) == stage.key.address


async def test_a_node_that_advises_no_tip_is_asked_what_others_paid(stage: Stage) -> None:
    stage.pool.errors["eth_maxPriorityFeePerGas"] = {"code": -32601, "message": "the method does not exist"}
    await stage.send()
    assert stage.last["maxPriorityFeePerGas"] == 5


async def test_the_audit_log_names_the_caller_the_request_and_the_transaction(stage: Stage) -> None:
    tx_hash = await stage.send(access=Access(caller="bridge"))
    record = [record for record in audit_records(stage.directory) if record["event"] == "sign"][-1]
    assert (record["caller"], record["request_id"], record["tx_hash"]) == ("bridge", "request-1", tx_hash)


async def test_senders_at_the_same_time_share_one_look_at_the_fees(stage: Stage) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(stage.send)
    assert sorted(stage.pool.pool) == list(range(20))
    assert stage.pool.calls.count("eth_getBlockByNumber") <= 3
    assert stage.pool.calls.count("eth_chainId") == 1


# ---- what is refused ----


@pytest.mark.parametrize(
    "params",
    [None, [], [{}], ["0x"], {"from": OTHER}, [{"from": OTHER}, "latest"], [{"from": "0x12"}], [{"from": None}]],
)
async def test_what_is_no_transaction_is_refused(stage: Stage, params: Any) -> None:
    with pytest.raises(InvalidRequest):
        await stage.call(params)
    assert stage.pool.calls == []
    assert audit_records(stage.directory)[-1]["decision"] == "refused"


async def test_an_account_that_is_not_ours_is_refused_before_the_node_is_asked_anything(stage: Stage) -> None:
    with pytest.raises(KeyNotFound):
        await stage.call([{"from": OTHER, "to": OTHER}])
    assert stage.pool.calls == []


async def test_a_key_of_another_caller_is_refused_and_the_refusal_recorded(stage: Stage) -> None:
    with pytest.raises(KeyNotFound):
        await stage.send(access=Access(caller="stranger", keys=frozenset({"another"})))
    assert stage.pool.calls == []
    record = audit_records(stage.directory)[-1]
    assert (record["caller"], record["decision"], record["event"]) == ("stranger", "refused", "sign")


async def test_a_transaction_that_reverts_is_refused_as_the_node_says(stage: Stage) -> None:
    stage.pool.errors["eth_estimateGas"] = {"code": 3, "message": "execution reverted", "data": "0x08c379a0"}
    with pytest.raises(RPCError) as caught:
        await stage.send()
    assert (caught.value.code, caught.value.data) == (3, "0x08c379a0")
    assert stage.pool.sent == []


async def test_a_transaction_for_another_chain_is_never_signed(stage: Stage) -> None:
    with pytest.raises(InvalidTransaction, match="chainId"):
        await stage.send(chainId="0x1")
    record = audit_records(stage.directory)[-1]
    assert (record["event"], record["decision"]) == ("sign", "refused")
    assert "digest" not in record


@pytest.mark.parametrize("field", ["gasLimit", "v", "nonsense"])
async def test_fields_that_would_not_be_signed_are_refused(stage: Stage, field: str) -> None:
    with pytest.raises(InvalidTransaction, match=field):
        await stage.send(**{field: "0x1"})
    assert stage.pool.sent == []
    await stage.send()
    assert sorted(stage.pool.pool) == [0]


async def test_a_refused_signature_leaves_no_gap(stage: Stage) -> None:
    await stage.send()
    await stage.service.assign_role(stage.key.key_id, None)
    with pytest.raises(RoleDenied):
        await stage.send()
    await stage.service.assign_role(stage.key.key_id, Role.TRANSACTION_SIGNER)
    await stage.send()
    assert sorted(stage.pool.pool) == [0, 1]


async def test_a_nonce_of_the_callers_own_is_not_replaced_by_another(stage: Stage) -> None:
    await stage.send()
    with pytest.raises(RPCError, match="replacement transaction underpriced"):
        await stage.send(nonce=0, value="0x1")
    assert len(stage.pool.sent) == 2


async def test_a_nonce_that_is_always_taken_is_given_up(stage: Stage) -> None:
    stage.pool.fates = deque([Fate.OVERTAKEN] * 9)
    with pytest.raises(RPCError, match="underpriced"):
        await stage.send()
    assert len(stage.pool.sent) == 3


async def test_what_was_learnt_of_taken_nonces_serves_the_next_to_send(stage: Stage) -> None:
    stage.pool.counts_pending = False
    stage.pool.pool = dict.fromkeys(range(4), STRANGER)
    with pytest.raises(RPCError, match="underpriced"):
        await stage.send()
    assert await stage.send() == stage.pool.pool[4]


# ---- fates ----


@pytest.mark.parametrize(
    ("fates", "attempts"),
    [
        ([Fate.UNHEARD], 1),
        ([Fate.GARBLED], 1),
        ([Fate.TWICE], 1),
        ([Fate.LOST], 2),
        ([Fate.LOST, Fate.UNHEARD], 2),
        ([Fate.LATE], 2),
        ([Fate.OVERTAKEN], 2),
        ([Fate.OVERTAKEN, Fate.LOST, Fate.OVERTAKEN], 4),
    ],
)
async def test_a_transaction_gets_through(stage: Stage, fates: list[Fate], attempts: int) -> None:
    stage.pool.fates = deque(fates)
    tx_hash = await stage.send()
    assert tx_hash in stage.pool.pool.values()
    assert len(stage.pool.sent) == attempts


async def test_a_transaction_that_nobody_hears_of_is_named_in_the_error(stage: Stage) -> None:
    stage.pool.fates = deque([Fate.LOST])
    stage.pool.errors["eth_getTransactionByHash"] = {"code": -32000, "message": "not today"}
    with pytest.raises(Unanswered, match="may have been sent") as caught:
        await stage.send()
    assert caught.value.data == {"hash": "0x" + keccak256(HexBytes(stage.pool.sent[0])).hex()}


def throttle(stage: Stage, method: str, *headers: str, times: int = 1, after: int = 0) -> None:
    """Have the node answer a method with 429 so many times, after so many answers."""
    seen = 0

    async def script(request: HttpRequest, wire: Wire) -> bytes:
        nonlocal seen
        seen += request.method == method
        if request.method == method and after < seen <= after + times:
            return http_answer(b"no", 429, "text/plain", *headers)
        return await stage.pool(request, wire)

    stage.server.script = script


@pytest.mark.parametrize(
    "method", ["eth_chainId", "eth_estimateGas", "eth_getTransactionCount", "eth_sendRawTransaction"]
)
async def test_a_node_that_was_asked_too_much_is_asked_again(stage: Stage, method: str) -> None:
    throttle(stage, method)
    tx_hash = await stage.send()
    assert stage.pool.pool == {0: tx_hash}
    assert stage.server.methods.count(method) == 2


async def test_a_node_that_is_not_to_be_asked_in_time_gets_no_transaction_and_leaves_no_gap(stage: Stage) -> None:
    throttle(stage, "eth_sendRawTransaction", "retry-after: 31")
    with pytest.raises(Throttled) as caught:
        await stage.send()
    assert caught.value.retry_after == 31
    assert stage.pool.pool == {0: await stage.send()}


async def test_a_transaction_that_was_lost_is_in_doubt_when_the_node_will_hear_no_more_of_it(stage: Stage) -> None:
    stage.pool.fates = deque([Fate.LOST])
    throttle(stage, "eth_sendRawTransaction", "retry-after: 31", after=1)
    with pytest.raises(Unanswered, match="may have been sent"):
        await stage.send()
    assert len(stage.pool.sent) == 1


async def test_a_deadline_passes_while_others_have_their_turn(tmp_path: Path) -> None:
    async with staged(tmp_path, request_timeout=0.3) as stage:
        held = anyio.Event()
        errors: list[Exception] = []

        async def hold(request: Any, wire: Any) -> bytes:
            if request.method == "eth_sendRawTransaction":
                await held.wait()
            return await stage.pool(request, wire)

        async def send_second() -> None:
            try:
                await stage.send()
            except DeadlineExceeded as error:
                errors.append(error)
            held.set()

        stage.server.script = hold
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.send)
            await eventually(lambda: "eth_sendRawTransaction" in stage.server.methods)
            tasks.start_soon(send_second)
        assert len(errors) == 1
        assert sorted(stage.pool.pool) == [0]


async def test_a_caller_who_leaves_while_it_is_sent_leaves_no_gap_and_no_nonce_used_twice(stage: Stage) -> None:
    async with anyio.create_task_group() as tasks:
        stage.pool.on_send = tasks.cancel_scope.cancel
        tasks.start_soon(stage.send)
    stage.pool.on_send = None
    second = await stage.send()
    assert sorted(stage.pool.pool) == [0, 1]
    assert stage.pool.pool[1] == second


# ---- any sequence of fates ----


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as running:
        yield running


@pytest.fixture(scope="module")
def long_lived(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One service for many examples, each with a node and nonces of its own."""
    with portal.wrap_async_context_manager(staged(tmp_path_factory.mktemp("service"))) as made:
        yield made


async def play(stage: Stage, fates: list[Fate], at_once: int, *, counts_pending: bool, mines: bool) -> None:
    """Send a transaction for each fate; then see that what was said of them is so."""
    pool = PoolNode(fates=deque(fates), counts_pending=counts_pending)
    if mines:
        pool.on_send = lambda: pool.mine(1)
    said: list[str] = []
    async with scripted_node(pool) as server:
        api = Api(downstream=Secret(server.url))
        async with node_behind(api, Direct(stage.service), request_timeout=30.0) as behind:
            assert behind is not None
            fresh = Stage(stage.service, stage.key, pool, server, behind, stage.directory)
            room = anyio.Semaphore(at_once)

            async def send(number: int) -> None:
                async with room:
                    with suppress(RPCError):
                        said.append(await fresh.send(value=number))

            async with anyio.create_task_group() as tasks:
                for number in range(len(fates)):
                    tasks.start_soon(send, number)
            pool.settle()
            pool.fates.clear()
            said.append(await fresh.send(value=99))
    assert sorted(pool.pool) == list(range(len(pool.pool))), "a gap"
    assert len(set(said)) == len(said)
    assert set(said) <= set(pool.pool.values()), "a transaction that was said to be sent is not there"


@settings(max_examples=40, deadline=None)
@given(
    fates=st.lists(st.sampled_from(Fate), max_size=8),
    at_once=st.sampled_from([1, 3]),
    counts_pending=st.booleans(),
    mines=st.booleans(),
)
def test_whatever_happens_on_the_way_no_nonce_is_left_out_and_none_used_twice(
    portal: BlockingPortal, long_lived: Stage, *, fates: list[Fate], at_once: int, counts_pending: bool, mines: bool
) -> None:
    async def example() -> None:
        await play(long_lived, fates, at_once, counts_pending=counts_pending, mines=mines)

    portal.call(example)
