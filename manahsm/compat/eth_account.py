"""Accounts of eth-account whose keys are somewhere else: :class:`AsyncHSMAccount` and :class:`HSMAccount`.

The one thing to know: an :class:`HSMAccount` is a ``LocalAccount`` as far as callers can tell, so web3.py and all that
takes one works with it, but it has no private key. Whatever asks for that gets ``PolicyDenied``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, NoReturn, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from eth_account.datastructures import SignedMessage, SignedSetCodeAuthorization, SignedTransaction
from eth_account.messages import SignableMessage
from eth_account.signers.local import LocalAccount
from eth_keys.datatypes import Signature as EthSignature
from eth_typing import ChecksumAddress
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes

from manahsm.client import RemoteService, connect
from manahsm.compat.elsewhere import Elsewhere
from manahsm.errors import InvalidRequest, PolicyDenied
from manahsm.ethereum import Authorization
from manahsm.ethereum.addresses import keccak256
from manahsm.requests import KeyInfo, Signature
from manahsm.service import Service, open_service

__all__ = ["Accounts", "AsyncHSMAccount", "HSMAccount", "Signs", "open_accounts"]

_PERSONAL = b"E"  # the version byte of EIP-191 that personal_sign uses
_DOMAIN_FIELDS = {  # EIP-712, in its order
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}


T = TypeVar("T")
Signs = Service | RemoteService
"""What signs."""


class AsyncHSMAccount:
    """An account for async code: the methods of eth-account's, awaited, with its results.

    Args:
        service: what signs; used from its own event loop.
        key: as ``service.get_key`` gives it.

    All methods raise :class:`manahsm.ManaHSMError` where nothing was signed.
    """

    def __init__(self, service: Signs, key: KeyInfo) -> None:
        self._service = service
        self._key = key

    @property
    def address(self) -> ChecksumAddress:
        """EIP-55 checksum address."""
        return to_checksum_address(self._key.address)

    async def sign_transaction(self, transaction_dict: Any, blobs: Sequence[Any] | None = None) -> SignedTransaction:
        """Sign a transaction; every type that eth-account takes."""
        tx = {**transaction_dict, "blobs": list(blobs)} if blobs is not None else transaction_dict
        signed = await self._service.sign_transaction(tx, self._key.key_id)
        return SignedTransaction(HexBytes(signed.raw_transaction), HexBytes(signed.hash), signed.r, signed.s, signed.v)

    async def sign_message(self, signable_message: SignableMessage) -> SignedMessage:
        """Sign an EIP-191 message.

        What ``encode_defunct`` makes is signed as the message that it is. All other kinds are hashes of something, and
        are signed blindly: for typed data prefer :meth:`sign_typed_data`.
        """
        if signable_message.version == _PERSONAL:
            expected = b"thereum Signed Message:\n%d" % len(signable_message.body)
            if signable_message.header != expected:
                raise InvalidRequest("the message's header does not fit its body (EIP-191, version E)")
            return _signed(await self._service.sign_message(signable_message.body, self._key.key_id))
        whole = b"\x19" + signable_message.version + signable_message.header + signable_message.body
        return await self.unsafe_sign_hash(keccak256(whole))

    async def unsafe_sign_hash(self, message_hash: Any) -> SignedMessage:
        """Sign 32 bytes whose meaning nobody can see."""
        return _signed(await self._service.sign_hash(bytes(HexBytes(message_hash)), self._key.key_id))

    async def sign_typed_data(
        self,
        domain_data: Mapping[str, Any] | None = None,
        message_types: Mapping[str, Any] | None = None,
        message_data: Mapping[str, Any] | None = None,
        full_message: Mapping[str, Any] | None = None,
    ) -> SignedMessage:
        """Sign typed data (EIP-712): its three parts, or all of it as ``full_message``."""
        typed = _typed(domain_data, message_types, message_data, full_message)
        return _signed(await self._service.sign_typed_data(typed, self._key.key_id))

    async def sign_authorization(self, authorization: Mapping[str, Any]) -> SignedSetCodeAuthorization:
        """Sign an authorization to set an account's code (EIP-7702)."""
        signed = await self._service.sign_authorization(authorization, self._key.key_id)
        unsigned = Authorization(chain_id=signed.chain_id, address=signed.address, nonce=signed.nonce)
        return SignedSetCodeAuthorization(
            chain_id=signed.chain_id,
            address=signed.address,
            nonce=signed.nonce,
            y_parity=signed.y_parity,
            r=signed.r,
            s=signed.s,
            signature=EthSignature(vrs=(signed.y_parity, signed.r, signed.s)),
            authorization_hash=HexBytes(unsigned.signing_digest()),
        )


class HSMAccount(LocalAccount):
    """An account for code that does not await: eth-account's ``LocalAccount``, without a private key.

    Args:
        account: what signs.
        portal: of the event loop where it lives. Calls from any other thread; from the loop's own they would wait
            for themselves, and are refused.

    Where nothing was signed, methods raise :class:`manahsm.ManaHSMError`: so too when the loop has ended, or is not in
    this process, which was forked. A copy is the account itself; it can not be pickled.
    """

    def __init__(self, account: AsyncHSMAccount, portal: BlockingPortal) -> None:
        self._account = account
        self._elsewhere = Elsewhere(portal)
        self._address = account.address

    def __repr__(self) -> str:
        return f"<HSMAccount {self.address}>"

    def sign_transaction(self, transaction_dict: Any, blobs: Any = None) -> SignedTransaction:
        """See :meth:`AsyncHSMAccount.sign_transaction`."""
        return self._wait(self._account.sign_transaction, transaction_dict, blobs)

    def sign_message(self, signable_message: SignableMessage) -> SignedMessage:
        """See :meth:`AsyncHSMAccount.sign_message`."""
        return self._wait(self._account.sign_message, signable_message)

    def unsafe_sign_hash(self, message_hash: Any) -> SignedMessage:
        """See :meth:`AsyncHSMAccount.unsafe_sign_hash`."""
        return self._wait(self._account.unsafe_sign_hash, message_hash)

    def sign_typed_data(
        self,
        domain_data: Any = None,
        message_types: Any = None,
        message_data: Any = None,
        full_message: Any = None,
    ) -> SignedMessage:
        """See :meth:`AsyncHSMAccount.sign_typed_data`."""
        return self._wait(self._account.sign_typed_data, domain_data, message_types, message_data, full_message)

    def sign_authorization(self, authorization: Any) -> SignedSetCodeAuthorization:  # type: ignore[override]
        """See :meth:`AsyncHSMAccount.sign_authorization`."""
        return self._wait(self._account.sign_authorization, authorization)

    @property
    def key(self) -> bytes:
        """There is none here.

        Raises:
            PolicyDenied: always.
        """
        self._has_no_key()

    def __bytes__(self) -> bytes:  # noqa: PLE0308 - there is nothing to return
        self._has_no_key()

    def encrypt(self, password: Any, kdf: Any = None, iterations: Any = None) -> dict[str, Any]:  # noqa: ARG002 - LocalAccount's
        """There is nothing here to encrypt.

        Raises:
            PolicyDenied: always.
        """
        self._has_no_key()

    def __copy__(self) -> HSMAccount:
        return self

    def __deepcopy__(self, memo: object) -> HSMAccount:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("an HSMAccount belongs to its process: send the key's name, and open accounts there")

    def _wait(self, sign: Callable[..., Awaitable[T]], *what: Any) -> T:
        return self._elsewhere.call(sign, *what)

    def _has_no_key(self) -> NoReturn:
        raise PolicyDenied(f"the private key of {self.address} is not here, and leaves its place for nobody")


class Accounts:
    """The keys of one service as accounts, for code that does not await; made by :func:`open_accounts`."""

    def __init__(self, service: Signs, portal: BlockingPortal) -> None:
        self._service = service
        self._portal = portal
        self._elsewhere = Elsewhere(portal)

    def get(self, reference: str) -> HSMAccount:
        """Return the account of a key.

        Args:
            reference: key id, label or 0x address.

        Raises:
            KeyNotFound: there is none.
        """
        key = self._elsewhere.call(self._service.get_key, reference)
        return HSMAccount(AsyncHSMAccount(self._service, key), self._portal)


@contextmanager
def open_accounts(config: Any = None, *, url: str | None = None, **connection: Any) -> Iterator[Accounts]:
    """Run a service, or connect to one, in a thread beside code that does not await.

    Args:
        config: of a service of one's own; see :func:`manahsm.open_service`.
        url: of one that runs, in place of that; see :func:`manahsm.connect`.
        **connection: more for :func:`manahsm.connect`.

    Raises:
        ManaHSMError: it can not be started or reached.
    """
    with start_blocking_portal() as portal:
        opened: AbstractAsyncContextManager[Signs] = open_service(config) if url is None else connect(url, **connection)
        with portal.wrap_async_context_manager(opened) as service:
            yield Accounts(service, portal)


def _signed(signature: Signature) -> SignedMessage:
    return SignedMessage(
        HexBytes(signature.digest), signature.r, signature.s, signature.v, HexBytes(signature.to_bytes())
    )


def _typed(
    domain: Mapping[str, Any] | None,
    types: Mapping[str, Any] | None,
    message: Mapping[str, Any] | None,
    whole: Mapping[str, Any] | None,
) -> Mapping[str, Any]:
    """Put typed data together from its parts, as eth-account does (pure)."""
    if whole is not None:
        if domain is not None or types is not None or message is not None:
            raise InvalidRequest("give full_message, or its three parts, and not both")
        return whole
    if domain is None or types is None or message is None:
        raise InvalidRequest("domain_data, message_types and message_data are needed, or full_message")
    custom = {name: fields for name, fields in types.items() if name != "EIP712Domain"}
    used = {field["type"].partition("[")[0] for name, fields in custom.items() for field in fields if field}
    roots = [name for name in custom if name not in used]
    if len(roots) != 1:
        raise InvalidRequest(
            f"one type that no other uses is needed as primary type; found: {', '.join(roots) or 'none'}"
        )
    described = [{"name": name, "type": kind} for name, kind in _DOMAIN_FIELDS.items() if name in domain]
    return {
        "types": {"EIP712Domain": described, **custom},
        "primaryType": roots[0],
        "domain": dict(domain),
        "message": dict(message),
    }
