"""Every operation with every kind of key, held against eth-account."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
import rlp
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from services import A_PRIVATE_KEY, A_TRANSACTION, config_for, digest_of, recovered_address, software_config
from softhsm import SoftHSMToken

import manahsm

KEYS = ("hot", "soft", "raw")
TYPED_DATA = {
    "types": {
        "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "chainId", "type": "uint256"}],
        "Mail": [{"name": "to", "type": "address"}, {"name": "text", "type": "string"}],
    },
    "primaryType": "Mail",
    "domain": {"name": "Example", "chainId": 5},
    "message": {"to": A_TRANSACTION["to"], "text": "hello"},
}
AUTHORIZATION = {"chainId": 5, "address": A_TRANSACTION["to"], "nonce": 3}
FEES = {"maxPriorityFeePerGas": 10**9, "maxFeePerGas": 2 * 10**9}
BASE = {"nonce": 7, "gas": 90_000, "to": A_TRANSACTION["to"], "value": 10**15}
TRANSACTIONS: dict[str, dict[str, Any]] = {
    "legacy": {**BASE, "gasPrice": 10**9},
    "eip155": {**BASE, "gasPrice": 10**9, "chainId": 5},
    "eip2930": {**BASE, "gasPrice": 10**9, "chainId": 5, "type": 1, "accessList": []},
    "eip1559": {**BASE, **FEES, "chainId": 5, "type": 2, "data": "0xd09de08a"},
    "eip4844": {
        **BASE,
        **FEES,
        "chainId": 5,
        "type": 3,
        "maxFeePerBlobGas": 10**9,
        "blobVersionedHashes": ["0x010657f37554c781402a22917dee2f75def7ab966d7b770905398eba3c444014"],
    },
    "eip7702": {
        **BASE,
        **FEES,
        "chainId": 5,
        "type": 4,
        "authorizationList": [
            {"chainId": 5, "address": A_TRANSACTION["to"], "nonce": 0, "yParity": 0, "r": 12345, "s": 6789}
        ],
    },
}


@asynccontextmanager
async def three_keys(token: SoftHSMToken, directory: Path) -> AsyncIterator[tuple[manahsm.Service, dict[str, Any]]]:
    """A service with a key in the token (``hot``), another one in a keystore (``soft``), and the raw key of ``hot``."""
    async with manahsm.open_service(config_for(token, directory)) as service:
        await service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer")
        await service.import_key(b"\x07" * 32, "soft", "transaction_signer", "software")
        yield service, {"hot": "hot", "soft": "soft", "raw": A_PRIVATE_KEY}


def secret_of(name: str) -> bytes:
    return b"\x07" * 32 if name == "soft" else A_PRIVATE_KEY


@pytest.mark.anyio
async def test_every_kind_of_transaction_equals_that_of_eth_account(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with three_keys(softhsm_token, tmp_path) as (service, keys):
        signed = {
            (kind, name): await service.sign_transaction(tx, keys[name], tx.get("chainId"))
            for kind, tx in TRANSACTIONS.items()
            for name in KEYS
        }

    for (kind, name), result in signed.items():
        oracle = Account.sign_transaction(TRANSACTIONS[kind], secret_of(name))
        if name == "hot":  # its nonce k is the token's own: another signature of the same transaction by the same key
            assert Account.recover_transaction(result.raw_transaction) == Account.from_key(A_PRIVATE_KEY).address
            assert fields_of(result.raw_transaction) == fields_of(oracle.raw_transaction)
            assert (result.backend, result.key_id is None) == ("hsm", False)
        else:
            assert result.raw_transaction == oracle.raw_transaction, (kind, name)
            assert (result.hash, result.v, result.r, result.s) == (oracle.hash, oracle.v, oracle.r, oracle.s)
            assert (result.backend, result.key_id is None) == ("software", name == "raw")


@pytest.mark.anyio
async def test_messages_typed_data_and_digests_equal_those_of_eth_account(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    message, typed = encode_defunct(text="hello"), encode_typed_data(full_message=TYPED_DATA)
    async with three_keys(softhsm_token, tmp_path) as (service, keys):
        results = {
            name: (
                await service.sign_message("hello", keys[name]),
                await service.sign_typed_data(TYPED_DATA, keys[name], 5),
                await service.sign_hash(digest_of(9), keys[name]),
            )
            for name in KEYS
        }

    for name, (of_message, of_typed, of_hash) in results.items():
        account = Account.from_key(secret_of(name))
        oracles = (account.sign_message(message), account.sign_message(typed), account.unsafe_sign_hash(digest_of(9)))
        for result, oracle in zip((of_message, of_typed, of_hash), oracles, strict=True):
            assert result.digest == bytes(oracle.message_hash)
            assert recovered_address(result, result.digest) == account.address
            if name != "hot":
                assert result.to_bytes() == bytes(oracle.signature)
                assert (result.v, result.r, result.s) == (oracle.v, oracle.r, oracle.s)


@pytest.mark.anyio
async def test_an_authorization_of_the_token_is_taken_into_a_transaction(
    softhsm_token: SoftHSMToken, tmp_path: Path
) -> None:
    async with three_keys(softhsm_token, tmp_path) as (service, keys):
        results = {name: await service.sign_authorization(AUTHORIZATION, keys[name], 5) for name in KEYS}
        carried = await service.sign_transaction(
            {**TRANSACTIONS["eip7702"], "authorizationList": [results["hot"].to_mapping()]}, "hot", 5
        )

    for name, result in results.items():
        oracle = Account.from_key(secret_of(name)).sign_authorization(AUTHORIZATION)
        assert recovered_address(result, bytes(oracle.authorization_hash)) == Account.from_key(secret_of(name)).address
        if name != "hot":
            assert (result.y_parity, result.r, result.s) == (oracle.y_parity, oracle.r, oracle.s)
    assert Account.recover_transaction(carried.raw_transaction) == Account.from_key(A_PRIVATE_KEY).address


@pytest.mark.anyio
async def test_a_batch_answers_each_in_its_place(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    wrong_chain = {**A_TRANSACTION, "chainId": 1}
    txs = [wrong_chain if n % 10 == 3 else {**A_TRANSACTION, "nonce": n} for n in range(200)]
    async with three_keys(softhsm_token, tmp_path) as (service, _):
        results = await service.batch_sign_transactions(txs, "hot", 31337)
        nothing = await service.batch_sign_transactions([], "hot", 31337)
        stranger = await service.batch_sign_transactions(txs[:2], "nobody", 31337)

    assert nothing == []
    assert [getattr(result, "code", None) for result in stranger] == ["key_not_found"] * 2
    address = Account.from_key(A_PRIVATE_KEY).address
    for number, result in enumerate(results):
        if number % 10 == 3:
            assert isinstance(result, manahsm.InvalidTransaction)
        else:
            assert isinstance(result, manahsm.SignedTransaction)
            software = Account.sign_transaction(txs[number], A_PRIVATE_KEY).raw_transaction
            assert fields_of(result.raw_transaction) == fields_of(software)
            assert Account.recover_transaction(result.raw_transaction) == address
    assert len(results) == 200


@pytest.mark.anyio
async def test_a_batch_larger_than_the_queue_is_not_refused(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    config = config_for(softhsm_token, tmp_path, service={"queue_size": 4})
    async with manahsm.open_service(config) as service:
        await service.generate_key("hot", "transaction_signer")
        results = await service.batch_sign_transactions([A_TRANSACTION] * 100, "hot", 31337)

    assert {type(result) for result in results} == {manahsm.SignedTransaction}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "key",
    [A_PRIVATE_KEY, "0x" + A_PRIVATE_KEY.hex(), A_PRIVATE_KEY.hex(), Account.from_key(A_PRIVATE_KEY)],
    ids=["bytes", "0x hex", "hex", "account"],
)
async def test_a_raw_private_key_comes_in_every_form_of_old_code(tmp_path: Path, key: Any) -> None:
    async with manahsm.open_service(software_config(tmp_path)) as service:
        signed = await service.sign_transaction(A_TRANSACTION, key, 31337)

    assert signed.raw_transaction == Account.sign_transaction(dict(A_TRANSACTION), A_PRIVATE_KEY).raw_transaction


@pytest.mark.anyio
@pytest.mark.parametrize("key", [None, b"short", b"\x00" * 32, "0x" + "ff" * 32, object(), ["hot"]])
async def test_what_is_no_key_is_refused_and_never_shown(tmp_path: Path, key: Any) -> None:
    async with manahsm.open_service(software_config(tmp_path)) as service:
        with pytest.raises(manahsm.InvalidRequest) as refused:
            await service.sign_transaction(A_TRANSACTION, key, 31337)

    assert "ffff" not in str(refused.value)


@pytest.mark.anyio
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 10**400, True, "soon"])
async def test_a_timeout_that_means_nothing_is_refused(tmp_path: Path, timeout: Any) -> None:  # noqa: ASYNC109 - its value is the subject
    async with manahsm.open_service(software_config(tmp_path)) as service:
        with pytest.raises(manahsm.InvalidRequest, match="timeout"):
            await service.sign_transaction(A_TRANSACTION, A_PRIVATE_KEY, 31337, timeout=timeout)


@pytest.mark.anyio
async def test_a_chain_id_means_nothing_for_a_message_or_digest(tmp_path: Path) -> None:
    async with manahsm.open_service(software_config(tmp_path)) as service:
        await service.import_key(A_PRIVATE_KEY, "soft", "node_identity", "software")
        for operation, payload in ((manahsm.Operation.HASH, digest_of(1)), (manahsm.Operation.MESSAGE, b"hello")):
            request = manahsm.SignRequest(operation=operation, key="soft", payload=payload, chain_id=1)
            with pytest.raises(manahsm.InvalidRequest, match="chain_id means nothing"):
                await service.sign(request)


@pytest.mark.anyio
async def test_a_sender_that_is_not_the_key_is_refused(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    address = Account.from_key(A_PRIVATE_KEY).address
    async with three_keys(softhsm_token, tmp_path) as (service, keys):
        for name in ("hot", "raw"):
            await service.sign_transaction({**A_TRANSACTION, "from": address}, keys[name], 31337)
            with pytest.raises(manahsm.InvalidTransaction, match="from"):
                await service.sign_transaction({**A_TRANSACTION, "from": "0x" + "11" * 20}, keys[name], 31337)


# ---- random transactions: one service for all examples, driven from outside of its loop ----

FIELD_NAMES = st.sampled_from(
    [*TRANSACTIONS["eip7702"], *TRANSACTIONS["eip4844"], *TYPED_DATA, "blobs", "from", "input"]
)
UINT64 = st.integers(0, 2**64 - 2)
UINT256 = st.integers(0, 2**256 - 1)
ADDRESSES = st.binary(min_size=20, max_size=20)


@st.composite
def transactions(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.integers(0, 2))
    tx: dict[str, Any] = {
        "chainId": draw(st.integers(1, 2**53)),
        "nonce": draw(UINT64),
        "gas": draw(UINT64),
        "to": draw(ADDRESSES),
        "value": draw(UINT256),
        "data": draw(st.binary(max_size=64)),
    }
    if kind < 2:
        tx["gasPrice"] = draw(UINT64)
    else:
        tx["maxFeePerGas"] = draw(UINT64)
        tx["maxPriorityFeePerGas"] = draw(st.integers(0, tx["maxFeePerGas"]))
    return tx if kind == 0 else {**tx, "type": kind}


class _Driven:
    """A service in a loop of its own thread, for tests that are not asynchronous themselves."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal, service: manahsm.Service) -> None:
        self._portal = portal
        self._service = service

    def sign(self, tx: dict[str, Any], key: Any) -> manahsm.SignedTransaction:
        return self._portal.call(self._service.sign_transaction, tx, key, tx["chainId"])

    def answer(self, request: manahsm.SignRequest) -> manahsm.Outcome:
        return self._portal.call(self._service.answer, request)


@pytest.fixture
def driven(softhsm_token: SoftHSMToken, tmp_path: Path, anyio_backend: str) -> Iterator[_Driven]:
    with (
        anyio.from_thread.start_blocking_portal(anyio_backend) as portal,
        portal.wrap_async_context_manager(manahsm.open_service(config_for(softhsm_token, tmp_path))) as service,
    ):
        portal.call(service.import_key, A_PRIVATE_KEY, "hot", "transaction_signer")
        yield _Driven(portal, service)


@given(tx=transactions())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_transactions_of_raw_keys_equal_those_of_eth_account(driven: _Driven, tx: dict[str, Any]) -> None:
    signed = driven.sign(tx, A_PRIVATE_KEY)
    oracle = Account.sign_transaction(tx, A_PRIVATE_KEY)

    assert signed.raw_transaction == oracle.raw_transaction
    assert (signed.hash, signed.v, signed.r, signed.s) == (oracle.hash, oracle.v, oracle.r, oracle.s)


@given(tx=transactions())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_transactions_of_token_keys_say_what_eth_account_says(driven: _Driven, tx: dict[str, Any]) -> None:
    signed = driven.sign(tx, "hot")

    assert Account.recover_transaction(signed.raw_transaction) == Account.from_key(A_PRIVATE_KEY).address
    assert fields_of(signed.raw_transaction) == fields_of(Account.sign_transaction(tx, A_PRIVATE_KEY).raw_transaction)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(
    request=st.builds(
        manahsm.SignRequest,
        operation=st.sampled_from(manahsm.Operation),
        payload=ANYTHING
        | transactions().flatmap(lambda tx: st.dictionaries(FIELD_NAMES, ANYTHING, max_size=2).map(tx.__or__)),
        key=st.just("hot") | st.text(max_size=8),
        chain_id=st.none() | st.integers(),
        caller=st.text(max_size=4),
    )
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_asked_ends_in_a_result_or_an_error_of_ours(driven: _Driven, request: manahsm.SignRequest) -> None:
    outcome = driven.answer(request)

    assert (outcome.result is None) is isinstance(outcome.error, manahsm.ManaHSMError)
    assert outcome.request_id == request.request_id


def fields_of(raw: bytes) -> list[Any]:
    """The fields of an encoded transaction, without its signature."""
    payload = raw if raw[0] >= 0xC0 else raw[1:]
    fields: list[Any] = rlp.decode(payload)
    return [raw[:1] if raw[0] < 0xC0 else b"", *fields[:-3]]
