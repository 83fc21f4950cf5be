"""The execution-layer methods of Web3Signer, what wallets call for the same, and those of op-signer.

The one thing to know: a transaction is signed only where it says for which chain. Web3Signer adds the chain that it was
configured with; adding one here would sign something else than was asked, and signing without would be good on every
chain.
"""

from __future__ import annotations

from typing import Any

from manahsm.api import params
from manahsm.api.desk import Desk, may_sign
from manahsm.api.op_signer import arguments_for_op_signer, block_payload_for_op_signer
from manahsm.api.specs import Asked, Kind, Spec
from manahsm.config.api_tables import Dialect
from manahsm.errors import InvalidRequest
from manahsm.ethereum.fields import kind_of
from manahsm.requests import KeyInfo, Operation, Signature, SignedTransaction
from manahsm.service import Service

__all__ = ["signature_hex", "signing_keys", "web3signer_specs", "with_chain", "with_sender"]

_HERE = frozenset({Dialect.WEB3SIGNER})
_OP_SIGNER = frozenset({Dialect.OP_SIGNER})
_HERE_AND_OP_SIGNER = _HERE | _OP_SIGNER
_SIGNATURE = {"type": "string", "description": "65 bytes r, s and v (27 or 28), as 0x hex"}
_ADDRESSES = {"type": "array", "items": params.ADDRESS}


def web3signer_specs(desk: Desk) -> tuple[Spec, ...]:
    """Every method of Web3Signer that needs no node."""
    methods = _Methods(desk)

    def signing(name: str, summary: str, do: Any, *taken: params.Param) -> Spec:
        return Spec(name=name, summary=summary, kind=Kind.SIGN, params=taken, result=_SIGNATURE, do=do, dialects=_HERE)

    address = params.address()
    return (
        *(
            Spec(name=name, summary=summary, kind=Kind.READ, result=_ADDRESSES, do=methods.accounts, dialects=_HERE)
            for name, summary in (
                ("eth_accounts", "The addresses that the caller may sign with, sorted."),
                ("eth_requestAccounts", "The same, for wallets' clients (EIP-1102)."),
            )
        ),
        signing("eth_sign", "Sign a message (EIP-191).", methods.sign, address, params.message("data")),
        signing(
            "personal_sign",
            "Sign a message (EIP-191); the parameters are the other way round.",
            methods.personal_sign,
            params.message("data"),
            address,
        ),
        *(
            signing(name, "Sign typed data (EIP-712).", methods.sign_typed_data, address, params.typed_data())
            for name in ("eth_signTypedData", "eth_signTypedData_v3", "eth_signTypedData_v4")
        ),
        Spec(
            name="eth_signTransaction",
            summary="Sign a transaction with the key of its sender; it is sent nowhere.",
            kind=Kind.SIGN,
            params=(params.transaction(),),
            result={**params.DATA, "description": "the signed transaction, for eth_sendRawTransaction"},
            do=methods.sign_transaction,
            dialects=_HERE_AND_OP_SIGNER,
        ),
        *(
            Spec(
                name=name,
                summary=f"Sign an OP Stack block for the sequencer's peers; {forms}.",
                kind=Kind.SIGN,
                params=(params.block_payload(),),
                result={"type": "string", "description": "65 bytes r, s and y parity (0 or 1), as 0x hex"},
                do=methods.sign_block_payload,
                dialects=_OP_SIGNER,
            )
            for name, forms in (
                ("opsigner_signBlockPayload", "written as Go does: a list of numbers, a number, base64"),
                ("opsigner_signBlockPayloadV2", "written as Ethereum does: 0x hex, decimal text"),
            )
        ),
        Spec(
            name="health_status",
            summary="Whether there is anybody here.",
            kind=Kind.READ,
            result={"type": "string", "const": "OK"},
            do=methods.health_status,
            dialects=_HERE_AND_OP_SIGNER,
        ),
    )


class _Methods:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def accounts(self, asked: Asked) -> list[str]:
        keys = await signing_keys(self._desk, asked)
        return sorted(key.address.lower() for key in keys)

    async def sign(self, asked: Asked, address: str, data: bytes) -> str:
        return signature_hex(await self._desk.sign(asked, Operation.MESSAGE, address, data))

    async def personal_sign(self, asked: Asked, data: bytes, address: str) -> str:
        return await self.sign(asked, address, data)

    async def sign_typed_data(self, asked: Asked, address: str, typed: dict[str, Any]) -> str:
        return signature_hex(await self._desk.sign(asked, Operation.TYPED_DATA, address, typed))

    async def sign_transaction(self, asked: Asked, tx: dict[str, Any]) -> str:
        if asked.call.visitor.dialect is Dialect.OP_SIGNER:
            keys = [] if tx.get("from") is not None else await signing_keys(self._desk, asked)
            tx = arguments_for_op_signer(tx, keys)
        sender = with_sender(with_chain(tx))
        signed = await self._desk.sign(asked, Operation.TRANSACTION, sender, tx)
        if not isinstance(signed, SignedTransaction):  # pragma: no cover - the operation decides the type
            raise TypeError("expected a signed transaction")
        return "0x" + signed.raw_transaction.hex()

    async def sign_block_payload(self, asked: Asked, args: dict[str, Any]) -> str:
        keys = [] if args.get("senderAddress") is not None else await signing_keys(self._desk, asked)
        sender, payload = block_payload_for_op_signer(args, keys)
        signed = await self._desk.sign(
            asked, Operation.BLOCK_PAYLOAD, params.address_of(sender, "senderAddress"), payload
        )
        return signature_hex(signed, lowest_v=0)

    async def health_status(self, _asked: Asked) -> str:
        return "OK"


async def signing_keys(desk: Desk, asked: Asked) -> list[KeyInfo]:
    """The keys that the caller can sign with."""
    access = asked.call.visitor.access

    async def find(service: Service) -> list[KeyInfo]:
        return [key for key in await service.list_keys() if may_sign(key, access)]

    return await desk.look(find)


def with_sender(tx: dict[str, Any]) -> str:
    """The address that a transaction says it is from; its key signs.

    Raises:
        InvalidRequest: it says none.
    """
    if tx.get("from") is None:
        raise InvalidRequest("from: is missing; it tells whose key is to sign")
    return params.address_of(tx["from"], "from")


def with_chain(tx: dict[str, Any]) -> dict[str, Any]:
    """Insist that a transaction names its chain.

    Raises:
        InvalidRequest: it does not.
    """
    if tx.get("chainId") is None:
        raise InvalidRequest("chainId: is missing; without it a transaction could be valid on every chain")
    return tx


def signature_hex(signed: object, *, lowest_v: int = 27) -> str:
    """65 bytes r, s and v, as 0x hex; v is the y parity added to ``lowest_v``."""
    if not isinstance(signed, Signature):  # pragma: no cover - the operation decides the type
        raise TypeError(f"expected a signature, not {kind_of(signed)}")
    return "0x" + signed.to_bytes()[:-1].hex() + f"{lowest_v + signed.y_parity:02x}"
