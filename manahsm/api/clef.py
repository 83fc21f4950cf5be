"""Clef's ``account_*`` methods, as geth's ``--signer`` and programs of its time call them.

The one thing to know: Clef is gone from geth, its clients are not. Where Clef asked a person, the configuration
decides: keys and rights of the caller. Where it took any content type for text, an unknown one is refused here.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from manahsm.api import params
from manahsm.api.desk import Desk
from manahsm.api.specs import Asked, Kind, Spec
from manahsm.api.transaction_json import signed_transaction_json
from manahsm.api.web3signer import signature_hex, signing_keys, with_chain, with_sender
from manahsm.config.api_tables import Dialect
from manahsm.errors import InvalidRequest
from manahsm.ethereum.addresses import keccak256
from manahsm.ethereum.fields import byte_string
from manahsm.ethereum.messages import message_digest
from manahsm.ethereum.signatures import RecoverableSignature, address_of, recover
from manahsm.requests import Operation, Role, SignedTransaction

__all__ = ["clef_specs"]

_HERE = frozenset({Dialect.CLEF})
_VERSION = "6.1.0"  # of Clef's external API, where it ended
_SIGNATURE = {"type": "string", "description": "65 bytes r, s and v (27 or 28), as 0x hex"}
_SIGNATURE_SIZE = 65
_LOWEST_V = 27
_SELECTOR_SIZE = 4
_SELECTOR = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*\([A-Za-z0-9_,()\[\]]*\)")
_CLIQUE = "application/clique"

_read_input = byte_string("input")


def clef_specs(desk: Desk) -> tuple[Spec, ...]:
    """Every method of Clef that is served."""
    methods = _Methods(desk)

    def spec(
        name: str,
        kind: Kind,
        summary: str,
        do: Callable[..., Awaitable[Any]],
        result: params.Schema,
        *taken: params.Param,
    ) -> Spec:
        return Spec(
            name=f"account_{name}", summary=summary, kind=kind, params=taken, result=result, do=do, dialects=_HERE
        )

    address = params.address()
    return (
        spec(
            "version",
            Kind.READ,
            "The version of Clef's external API that this is.",
            methods.version,
            {"type": "string", "const": _VERSION},
        ),
        spec(
            "list",
            Kind.READ,
            "The addresses that the caller may sign with.",
            methods.accounts,
            {"type": "array", "items": params.ADDRESS},
        ),
        spec(
            "signData",
            Kind.SIGN,
            "Sign data of a content type: text/plain, data/typed or text/validator.",
            methods.sign_data,
            _SIGNATURE,
            params.text("contentType", about="text/plain, data/typed, or text/validator (EIP-191 version 0)"),
            address,
            params.document("data"),
        ),
        spec(
            "signTransaction",
            Kind.SIGN,
            "Sign a transaction with the key of its sender; it is sent nowhere.",
            methods.sign_transaction,
            {"type": "object", "required": ["raw", "tx"], "properties": {"raw": params.DATA, "tx": {"type": "object"}}},
            params.transaction(),
            params.text(
                "methodSelector", required=False, about="such as transfer(address,uint256): must be what is called"
            ),
        ),
        spec(
            "signTypedData",
            Kind.SIGN,
            "Sign typed data (EIP-712).",
            methods.sign_typed_data,
            _SIGNATURE,
            address,
            params.typed_data(),
        ),
        spec(
            "ecRecover",
            Kind.READ,
            "The address whose key signed a message (EIP-191).",
            methods.ec_recover,
            params.ADDRESS,
            params.data(),
            params.data("signature"),
        ),
        spec("new", Kind.MANAGE, "Generate a key for transactions.", methods.new, params.ADDRESS),
    )


class _Methods:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def version(self, _asked: Asked) -> str:
        return _VERSION

    async def accounts(self, asked: Asked) -> list[str]:
        return [key.address.lower() for key in await signing_keys(self._desk, asked)]

    async def sign_data(self, asked: Asked, content_type: str, address: str, data: Any) -> str:
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "text/plain":
            return signature_hex(await self._desk.sign(asked, Operation.MESSAGE, address, params.data_of(data)))
        if kind == "data/typed":
            return await self.sign_typed_data(asked, address, _typed(data))
        if kind == "text/validator":
            # No operation of the service knows this form, so it is a digest to it: only for callers who may have
            # digests signed.
            return signature_hex(await self._desk.sign(asked, Operation.HASH, address, _for_validator(data)))
        if kind == _CLIQUE:
            raise InvalidRequest(
                f"contentType: {_CLIQUE} is not served: Clique blocks are not sealed with keys in tokens"
            )
        raise InvalidRequest("contentType: must be text/plain, data/typed or text/validator")

    async def sign_typed_data(self, asked: Asked, address: str, typed: dict[str, Any]) -> str:
        return signature_hex(await self._desk.sign(asked, Operation.TYPED_DATA, address, typed))

    async def sign_transaction(self, asked: Asked, tx: dict[str, Any], selector: str | None) -> dict[str, Any]:
        sender = with_sender(with_chain(tx))
        if selector is not None:
            _check_selector(tx, selector)
        signed = await self._desk.sign(asked, Operation.TRANSACTION, sender, tx)
        if not isinstance(signed, SignedTransaction):  # pragma: no cover - the operation decides the type
            raise TypeError("expected a signed transaction")
        return {"raw": "0x" + signed.raw_transaction.hex(), "tx": signed_transaction_json(signed)}

    async def ec_recover(self, _asked: Asked, data: bytes, signature: bytes) -> str:
        if len(signature) != _SIGNATURE_SIZE:
            raise InvalidRequest(f"signature: must be {_SIGNATURE_SIZE} bytes long")
        parity = signature[-1] - _LOWEST_V
        if parity not in (0, 1):
            raise InvalidRequest("signature: its last byte, V, must be 27 or 28")
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
        public_key = recover(RecoverableSignature(r, s, parity), message_digest(data))
        if public_key is None:
            raise InvalidRequest("signature: no key made it")
        return address_of(public_key).lower()

    async def new(self, asked: Asked) -> str:
        label = f"clef-{uuid.uuid4().hex[:12]}"
        key = await self._desk.change(asked, lambda service: service.generate_key(label, Role.TRANSACTION_SIGNER))
        return key.address.lower()


def _typed(data: Any) -> dict[str, Any]:
    """EIP-712 data as an object, as its JSON text, or as Clef has it: as the hex of that."""
    if isinstance(data, str) and data.startswith(("0x", "0X")):
        try:
            data = params.data_of(data).decode()
        except UnicodeDecodeError:
            raise InvalidRequest("data: is not the hex of JSON") from None
    return params.typed_data_of(data, "data")


def _for_validator(data: Any) -> bytes:
    """keccak256(0x19 0x00 || address of the validator || message), EIP-191 version 0."""
    if not isinstance(data, dict) or data.keys() != {"address", "message"}:
        raise InvalidRequest("data: must be an object with exactly address and message")
    validator = bytes.fromhex(params.address_of(data["address"], "data.address")[2:])
    return keccak256(b"\x19\x00" + validator + params.data_of(data["message"], "data.message"))


def _check_selector(tx: dict[str, Any], selector: str) -> None:
    if not _SELECTOR.fullmatch(selector):
        raise InvalidRequest("methodSelector: must be a method with its types, such as transfer(address,uint256)")
    given = tx.get("input") if tx.get("input") is not None else tx.get("data")
    called: bytes = _read_input("0x" if given is None else given)[:_SELECTOR_SIZE]
    if called != keccak256(selector.encode())[:_SELECTOR_SIZE]:
        raise InvalidRequest("methodSelector: is not the method that the transaction calls")
