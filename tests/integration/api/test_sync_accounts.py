"""Accounts for code that does not await: eth-account's results, from any thread, and no call that waits for ever."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from services import A_PRIVATE_KEY, A_TRANSACTION, software_config

import manahsm
from manahsm.compat.eth_account import Accounts, AsyncHSMAccount, HSMAccount, open_accounts

THEIRS: LocalAccount = Account.from_key(A_PRIVATE_KEY)
TO = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
LEGACY = {"nonce": 1, "gas": 21000, "gasPrice": 10**9, "to": TO, "value": 2**70, "data": b"\x01"}
AUTHORIZATION = {"chainId": 31337, "address": TO, "nonce": 5}
PARTS = ({"name": "notes", "chainId": 1}, {"Note": [{"name": "text", "type": "string"}]}, {"text": "hello"})
WHOLE = {
    "types": {"EIP712Domain": [{"name": "name", "type": "string"}], "Note": [{"name": "text", "type": "string"}]},
    "primaryType": "Note",
    "domain": {"name": "notes"},
    "message": {"text": "hello"},
}
Calls = dict[str, Callable[[Any], Any]]
CALLS: Calls = {
    "a message": lambda account: account.sign_message(encode_defunct(text="hello")),
    "a digest": lambda account: account.unsafe_sign_hash(b"\x07" * 32),
    "typed data in parts": lambda account: account.sign_typed_data(*PARTS),
    "typed data as a whole": lambda account: account.sign_typed_data(full_message=WHOLE),
    "an authorization": lambda account: account.sign_authorization(AUTHORIZATION),
    "a legacy transaction": lambda account: account.sign_transaction(LEGACY),
    "a legacy transaction of a chain": lambda account: account.sign_transaction({**LEGACY, "chainId": 1}),
    "a transaction with fees": lambda account: account.sign_transaction({**A_TRANSACTION, "from": account.address}),
    "a transaction with an authorization": lambda account: account.sign_transaction(
        {**A_TRANSACTION, "type": 4, "authorizationList": [account.sign_authorization(AUTHORIZATION)]}
    ),
}


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Of a service with the software key ``hot``, whose signatures are deterministic (RFC 6979)."""
    table = software_config(tmp_path)

    async def bring() -> None:
        async with manahsm.open_service(table) as service:
            await service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer", "software")

    anyio.run(bring)
    return table


@pytest.fixture
def accounts(config: dict[str, Any]) -> Iterator[Accounts]:
    with open_accounts(config) as opened:
        yield opened


def test_every_result_is_that_of_eth_account(accounts: Accounts) -> None:
    account = accounts.get("hot")
    different = {
        name: (ours, theirs) for name, call in CALLS.items() if (ours := call(account)) != (theirs := call(THEIRS))
    }

    assert different == {}


def test_accounts_of_one_key_are_equal(accounts: Accounts) -> None:
    one, same = accounts.get("hot"), accounts.get(THEIRS.address)

    assert one == same
    assert {one: "x"}[same] == "x"
    assert one != THEIRS  # as eth-account has it: accounts of two kinds are never equal


def test_a_copy_is_the_account_itself(accounts: Accounts) -> None:
    account = accounts.get("hot")

    assert copy.deepcopy({"account": account})["account"] is copy.copy(account) is account


def test_an_account_is_not_pickled(accounts: Accounts) -> None:
    with pytest.raises(TypeError, match="belongs to its process"):
        pickle.dumps(accounts.get("hot"))


def test_many_threads_sign_with_one_account(accounts: Accounts) -> None:
    account = accounts.get("hot")
    messages = [encode_defunct(text=str(number)) for number in range(40)]
    with ThreadPoolExecutor(16) as threads:
        signed = list(threads.map(account.sign_message, messages))

    assert [each.signature for each in signed] == [THEIRS.sign_message(message).signature for message in messages]


@pytest.mark.anyio
async def test_a_loop_of_others_may_call(config: dict[str, Any]) -> None:
    with open_accounts(config) as accounts:
        assert CALLS["a message"](accounts.get("hot")) == CALLS["a message"](THEIRS)


@pytest.mark.parametrize("name", CALLS)
def test_an_account_that_was_closed_says_so(config: dict[str, Any], name: str) -> None:
    with open_accounts(config) as accounts:
        account = accounts.get("hot")

    with pytest.raises(manahsm.ServiceStopping, match="were closed"):
        CALLS[name](account)
    with pytest.raises(manahsm.ServiceStopping, match="were closed"):
        accounts.get("hot")


def test_an_account_in_a_process_that_was_forked_says_so(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    account = accounts.get("hot")
    monkeypatch.setattr(os, "getpid", lambda: 1)

    with pytest.raises(manahsm.InvalidRequest, match="was forked"):
        CALLS["a message"](account)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_would_wait_for_itself_is_told(config: dict[str, Any], backend: str) -> None:
    with (
        start_blocking_portal(backend) as portal,
        portal.wrap_async_context_manager(manahsm.open_service(config)) as service,
    ):
        key = portal.call(service.get_key, "hot")
        account = HSMAccount(AsyncHSMAccount(service, key), portal)

        with pytest.raises(manahsm.InvalidRequest, match="wait for itself"):
            portal.call(CALLS["a message"], account)
        assert CALLS["a message"](account) == CALLS["a message"](THEIRS)


@pytest.mark.anyio
async def test_a_connection_that_was_closed_says_so() -> None:
    async with manahsm.connect("unix:/nobody/is/there") as service:
        pass

    with pytest.raises(manahsm.RemoteError, match="was closed"):
        await service.status()
