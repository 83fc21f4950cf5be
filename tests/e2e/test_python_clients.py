"""web3.py and eth-account, unmodified, with keys in a token: what they sign is mined by a real node."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_intended_validator, encode_typed_data
from ethereum_node import DEV_ACCOUNT, DEV_PRIVATE_KEY, Node
from services import config_for
from softhsm import SoftHSMToken
from web3 import AsyncHTTPProvider, AsyncWeb3, HTTPProvider, Web3
from web3.middleware import SignAndSendRawMiddlewareBuilder

import manahsm
from manahsm.compat.eth_account import Accounts, AsyncHSMAccount, open_accounts
from manahsm.compat.web3 import HSMMiddleware

pytestmark = pytest.mark.anyio

TYPED: dict[str, Any] = {
    "types": {
        "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "chainId", "type": "uint256"}],
        "Mail": [{"name": "to", "type": "Person"}, {"name": "contents", "type": "string"}],
        "Person": [{"name": "wallet", "type": "address"}],
    },
    "primaryType": "Mail",
    "domain": {"name": "Ether Mail", "chainId": 1},
    "message": {"to": {"wallet": DEV_ACCOUNT}, "contents": "Hello"},
}
PARTS = (
    TYPED["domain"],
    {name: fields for name, fields in TYPED["types"].items() if name != "EIP712Domain"},
    TYPED["message"],
)


@pytest.fixture
def anyio_backend() -> str:
    """web3.py's async code is for asyncio alone."""
    return "asyncio"


@pytest.fixture
def config(softhsm_token: SoftHSMToken, directory: Path) -> dict[str, Any]:
    return config_for(softhsm_token, directory, connection_pool={"size": 2, "processes": 1})


@pytest.fixture
def accounts(config: dict[str, Any]) -> Iterator[Accounts]:
    async def import_key() -> None:
        async with manahsm.open_service(config) as service:
            await service.import_key(DEV_PRIVATE_KEY, "rich", "transaction_signer")

    anyio.run(import_key)
    with open_accounts(config) as opened:
        yield opened


class TestHSMAccount:
    """Beside an eth-account of the same private key."""

    THEIRS = Account.from_key(DEV_PRIVATE_KEY)

    def test_what_it_signs_is_signed_by_its_address(self, accounts: Accounts) -> None:
        account = accounts.get("rich")
        messages = [encode_defunct(text="hello"), encode_intended_validator(DEV_ACCOUNT, text="hello")]
        typed = encode_typed_data(full_message=TYPED)
        signatures = [(message, account.sign_message(message)) for message in messages]
        signatures += [(typed, account.sign_typed_data(full_message=TYPED)), (typed, account.sign_typed_data(*PARTS))]

        assert account.address == self.THEIRS.address
        for message, signed in signatures:
            assert Account.recover_message(message, signature=signed.signature) == DEV_ACCOUNT
            assert signed.message_hash == self.THEIRS.sign_message(message).message_hash
        authorization = {"chainId": 1, "address": DEV_ACCOUNT, "nonce": 3}
        ours, theirs = account.sign_authorization(authorization), self.THEIRS.sign_authorization(authorization)
        assert (ours.authorization_hash, ours.authority) == (theirs.authorization_hash, theirs.authority)

    def test_it_is_a_local_account_without_a_private_key(self, accounts: Accounts) -> None:
        account = accounts.get(DEV_ACCOUNT)

        for ask in (lambda: account.key, lambda: bytes(account), partial(account.encrypt, "password")):
            with pytest.raises(manahsm.PolicyDenied, match="is not here"):
                ask()
        assert DEV_PRIVATE_KEY[2:] not in repr(account)

    @pytest.mark.parametrize("middleware", [SignAndSendRawMiddlewareBuilder, HSMMiddleware])
    @pytest.mark.parametrize("named", ["from", "default_account"])
    def test_web3_signs_with_it_through_its_own_middleware_and_ours(
        self, accounts: Accounts, node: Node, middleware: Any, named: str
    ) -> None:
        account = accounts.get("rich")
        w3 = Web3(HTTPProvider(f"http://127.0.0.1:{node.port}"))
        w3.middleware_onion.inject(middleware.build(account), layer=0)
        sender = {"from": account.address} if named == "from" else {}
        if not sender:
            w3.eth.default_account = account.address

        assert mined(node, w3.eth.send_transaction({**sender, "to": DEV_ACCOUNT, "value": 1}))
        contract = w3.eth.contract(abi=[], bytecode="0x60018060095f395ff300")  # whose code is one byte: STOP
        assert mined(node, contract.constructor().transact(sender))


def mined(node: Node, transaction_hash: bytes) -> bool:
    """Mine a block; whether the transaction was in it, and succeeded."""
    node.rpc("evm_mine")
    receipt = node.rpc("eth_getTransactionReceipt", "0x" + bytes(transaction_hash).hex())
    return receipt is not None and receipt["status"] == "0x1"


async def test_async_web3_signs_without_standing_still(config: dict[str, Any], node: Node) -> None:
    async with manahsm.open_service(config) as service:
        key = await service.import_key(DEV_PRIVATE_KEY, "rich", "transaction_signer")
        account = AsyncHSMAccount(service, key)
        provider = AsyncHTTPProvider(f"http://127.0.0.1:{node.port}")
        w3 = AsyncWeb3(provider)
        w3.middleware_onion.inject(HSMMiddleware.build(account), layer=0)
        try:
            sent = await w3.eth.send_transaction({"from": account.address, "to": DEV_ACCOUNT, "value": 2})
        finally:
            await provider.disconnect()

    assert await anyio.to_thread.run_sync(mined, node, sent)
