"""Middleware for web3.py that signs ``eth_sendTransaction`` with keys of a service.

::

    account = AsyncHSMAccount(service, await service.get_key("main"))
    w3.middleware_onion.inject(HSMMiddleware.build(account), layer=0)
    await w3.eth.send_transaction({"from": account.address, ...})

The one thing to know: web3.py's own middleware signs in the middle of its async code without awaiting, and the event
loop stands still meanwhile. This one awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio.to_thread
from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address
from web3._utils.async_transactions import async_fill_nonce, async_fill_transaction_defaults
from web3._utils.transactions import fill_nonce, fill_transaction_defaults
from web3.middleware.base import Web3Middleware
from web3.middleware.signing import format_transaction
from web3.types import RPCEndpoint

from manahsm.compat.eth_account import AsyncHSMAccount, HSMAccount

__all__ = ["HSMMiddleware"]

Account = AsyncHSMAccount | HSMAccount

_SEND = "eth_sendTransaction"
_SEND_RAW = RPCEndpoint("eth_sendRawTransaction")


class HSMMiddleware(Web3Middleware):
    """Signs what is sent from one of its accounts; everything else passes.

    Args:
        w3: a ``Web3``, for which accounts must be :class:`~manahsm.compat.eth_account.HSMAccount`, or an ``AsyncWeb3``
            on the event loop of its :class:`~manahsm.compat.eth_account.AsyncHSMAccount`.
        accounts: by checksum address.
    """

    def __init__(self, w3: Any, accounts: Mapping[ChecksumAddress, Account]) -> None:
        super().__init__(w3)
        self._accounts = accounts

    @classmethod
    def build(cls, *accounts: Account) -> Callable[[Any], HSMMiddleware]:
        """Return what ``w3.middleware_onion.inject`` takes."""
        return partial(cls, accounts={account.address: account for account in accounts})

    def request_processor(self, method: RPCEndpoint, params: Any) -> Any:
        """Sign a call of a ``Web3``."""
        account = self._account_of(method, params)
        if account is None:
            return method, params
        if not isinstance(account, HSMAccount):
            raise TypeError("a Web3 does not await: give it an HSMAccount")
        filled = fill_nonce(self._w3, fill_transaction_defaults(self._w3, format_transaction(params[0])))
        return _SEND_RAW, [account.sign_transaction(filled).raw_transaction.to_0x_hex()]

    async def async_request_processor(self, method: RPCEndpoint, params: Any) -> Any:
        """Sign a call of an ``AsyncWeb3``."""
        account = self._account_of(method, params)
        if account is None:
            return method, params
        w3: Any = self._w3
        filled = await async_fill_nonce(w3, await async_fill_transaction_defaults(w3, format_transaction(params[0])))
        if isinstance(account, HSMAccount):
            signed = await anyio.to_thread.run_sync(account.sign_transaction, filled)
        else:
            signed = await account.sign_transaction(filled)
        return _SEND_RAW, [signed.raw_transaction.to_0x_hex()]

    def _account_of(self, method: str, params: Any) -> Account | None:
        sender = params[0].get("from") if method == _SEND else None
        return None if sender is None else self._accounts.get(to_checksum_address(sender))
