"""What the Ethereum tests share: random transactions in many spellings, and the canonical form of each."""

from __future__ import annotations

from typing import Any

from eth_account import Account
from hypothesis import strategies as st

from manahsm.ethereum import public_key_of, sign
from manahsm.ethereum.addresses import checksum_address
from manahsm.ethereum.signatures import CURVE_ORDER

UINT256 = st.integers(0, 2**256 - 1)
NONCES = st.integers(0, 2**64 - 2)
CHAIN_IDS = st.one_of(st.integers(1, 2**31), st.integers(1, 2**200))
ADDRESSES = st.binary(min_size=20, max_size=20)
WORDS = st.binary(min_size=32, max_size=32)
PRIVATE_KEYS = st.integers(1, CURVE_ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
DIGESTS = WORDS
DATA = st.binary(max_size=300)
VERSIONED_HASHES = st.binary(min_size=31, max_size=31).map(lambda tail: b"\x01" + tail)

FEES = {
    0: ("gasPrice",),
    1: ("gasPrice",),
    2: ("maxPriorityFeePerGas", "maxFeePerGas"),
    3: ("maxPriorityFeePerGas", "maxFeePerGas", "maxFeePerBlobGas"),
    4: ("maxPriorityFeePerGas", "maxFeePerGas"),
}


def valid_transaction(kind: int, **changes: Any) -> dict[str, Any]:
    """A small valid transaction of a type (0 to 4) on chain 1; a change to ``None`` removes the field."""
    tx: dict[str, Any] = {
        "type": kind,
        "chainId": 1,
        "nonce": 5,
        "gas": 21_000,
        "to": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "value": 10**18,
        "data": "0xa9059cbb00ff",
    }
    tx.update(dict.fromkeys(FEES[kind], 10**9))
    if kind >= 1:
        tx["accessList"] = [{"address": "0x" + "22" * 20, "storageKeys": ["0x" + "00" * 31 + "07"]}]
    if kind == 3:
        tx["blobVersionedHashes"] = ["0x01" + "ab" * 31]
    if kind == 4:
        tx["authorizationList"] = [signed_authorization(1)]
    tx.update(changes)
    return {name: value for name, value in tx.items() if value is not None}


def signed_authorization(chain_id: int, key: bytes = b"\x07" * 32, nonce: int = 0) -> dict[str, Any]:
    signed = Account.sign_authorization({"chainId": chain_id, "address": "0x" + "11" * 20, "nonce": nonce}, key)
    return {
        "chainId": chain_id,
        "address": "0x" + "11" * 20,
        "nonce": nonce,
        "yParity": signed.y_parity,
        "r": signed.r,
        "s": signed.s,
    }


@st.composite
def canonical_transactions(draw: st.DrawFn, kind: int | None = None) -> dict[str, Any]:
    """A random transaction as eth-account takes it: ints, bytes, RPC-shaped lists."""
    if kind is None:
        kind = draw(st.integers(0, 4))
    tx: dict[str, Any] = {"nonce": draw(NONCES), "gas": draw(UINT256)}
    for name in FEES[kind]:
        tx[name] = draw(UINT256)
    tx["to"] = draw(ADDRESSES if kind >= 3 else st.one_of(ADDRESSES, st.just(b"")))
    for name, values in (("value", UINT256), ("data", DATA)):
        if draw(st.booleans()):
            tx[name] = draw(values)
    if kind == 0:
        if draw(st.booleans()):
            tx["chainId"] = draw(CHAIN_IDS)
        return tx
    tx["type"] = kind
    tx["chainId"] = draw(CHAIN_IDS)
    if draw(st.booleans()):
        entry = st.fixed_dictionaries({"address": ADDRESSES, "storageKeys": st.lists(UINT256, max_size=3)})
        tx["accessList"] = draw(st.lists(entry, max_size=3))
    if kind == 3:
        tx["blobVersionedHashes"] = draw(st.lists(VERSIONED_HASHES, min_size=1, max_size=3))
    if kind == 4:
        chains = st.sampled_from([0, tx["chainId"]])
        tx["authorizationList"] = draw(st.lists(chains.flatmap(random_authorizations), min_size=1, max_size=3))
    return tx


def random_authorizations(chain_id: int) -> st.SearchStrategy[dict[str, Any]]:
    def build(address: bytes, nonce: int, digest: bytes, key: bytes) -> dict[str, Any]:
        signature = sign(key, digest)
        return {
            "chainId": chain_id,
            "address": address,
            "nonce": nonce,
            "yParity": signature.y_parity,
            "r": signature.r,
            "s": signature.s,
        }

    return st.builds(build, ADDRESSES, NONCES, DIGESTS, PRIVATE_KEYS)


@st.composite
def respelled(draw: st.DrawFn, canonical: dict[str, Any]) -> dict[str, Any]:
    """The same transaction in another spelling: hex or ints, hex or bytes, data or input, type or none."""
    tx = {name: _respell(draw, name, value) for name, value in canonical.items()}
    if "data" in tx:
        spelling = draw(st.sampled_from(["data", "input", "both"]))
        if spelling != "data":
            tx["input"] = "0x" + canonical["data"].hex()
        if spelling == "input":
            del tx["data"]
    if canonical["to"] == b"" and draw(st.booleans()):
        del tx["to"]
    if "type" in tx and canonical["type"] != 1 and draw(st.booleans()):
        del tx["type"]
    if "type" not in tx and canonical.get("type", 0) == 0 and draw(st.booleans()):
        tx["type"] = draw(st.sampled_from([0, "0x0"]))
    return dict(draw(st.permutations(list(tx.items()))))


def _respell(draw: st.DrawFn, name: str, value: Any) -> Any:
    if isinstance(value, int):
        return draw(st.sampled_from([value, hex(value), f"0x0{value:x}" if value < 2**252 else value]))
    if isinstance(value, bytes):
        if name in {"to", "address"}:
            spellings = [value, value or None]
            if value:
                spellings += ["0x" + value.hex(), "0x" + value.hex().upper(), checksum_address(value)]
            return draw(st.sampled_from(spellings))
        return draw(st.sampled_from([value, bytearray(value), "0x" + value.hex(), "0x" + value.hex().upper()]))
    if isinstance(value, dict):
        return {key: _respell(draw, key, item) for key, item in value.items()}
    items = [_respell(draw, name, item) for item in value]
    return draw(st.sampled_from([items, tuple(items)]))


def key_pair(seed: int) -> tuple[bytes, bytes]:
    private_key = seed.to_bytes(32, "big")
    return private_key, public_key_of(private_key)


# Anything at all, with a taste for what nearly is a field value.
ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=70),
        st.binary(max_size=70),
        st.binary(max_size=33).map(lambda data: "0x" + data.hex()),
        st.sampled_from(["0x", "0X1", "1", "", "-0x1", "0x-1", "0x_1", b"", bytearray(b"1"), 2**256, -1, object()]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=12), st.integers(), st.none()), inner, max_size=4),
    ),
    max_leaves=12,
)
