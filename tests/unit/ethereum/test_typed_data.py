"""EIP-712: byte-equal to eth-account's encoder, and strict where that one guesses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from ethereum_strategies import ADDRESSES, ANYTHING, WORDS
from hypothesis import given
from hypothesis import strategies as st

from manahsm.errors import InvalidTransaction
from manahsm.ethereum import keccak256, parse_typed_data, sign, typed_data_digest

MAIL: dict[str, Any] = {
    "types": {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "version", "type": "string"},
            {"name": "chainId", "type": "uint256"},
            {"name": "verifyingContract", "type": "address"},
        ],
        "Person": [{"name": "name", "type": "string"}, {"name": "wallet", "type": "address"}],
        "Mail": [
            {"name": "from", "type": "Person"},
            {"name": "to", "type": "Person"},
            {"name": "contents", "type": "string"},
        ],
    },
    "primaryType": "Mail",
    "domain": {
        "name": "Ether Mail",
        "version": "1",
        "chainId": 1,
        "verifyingContract": "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC",
    },
    "message": {
        "from": {"name": "Cow", "wallet": "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"},
        "to": {"name": "Bob", "wallet": "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"},
        "contents": "Hello, Bob!",
    },
}


def changed(path: str, value: Any, remove: bool = False) -> dict[str, Any]:
    """MAIL with the value at a dotted path replaced, added or removed."""
    typed = copy.deepcopy(MAIL)
    *parents, last = path.split(".")
    target = typed
    for parent in parents:
        target = target[parent]
    if remove:
        del target[last]
    else:
        target[last] = value
    return typed


def one_field(kind: str, value: Any, **types: Any) -> dict[str, Any]:
    return {
        "types": {"Thing": [{"name": "it", "type": kind}], **types},
        "primaryType": "Thing",
        "domain": {"name": "test"},
        "message": {"it": value},
    }


def refusal(typed: Any, chain_id: Any = None) -> str:
    with pytest.raises(InvalidTransaction) as caught:
        typed_data_digest(typed, chain_id)
    return str(caught.value)


def oracle(typed: dict[str, Any]) -> bytes:
    signable = encode_typed_data(full_message=typed)
    return keccak256(b"\x19\x01" + bytes(signable.header) + bytes(signable.body))


def test_the_example_of_eip_712() -> None:
    digest = typed_data_digest(MAIL)
    assert digest.hex() == "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"
    signature = sign(keccak256(b"cow"), digest)
    assert signature.r == 0x4355C47D63924E8A72E509B65029052EB6C299D53A04E167C5775FD466751C9D
    assert signature.s == 0x07299936D304C153F6443DFA05F40FF007D72911B6F72307F996231605B91562
    assert 27 + signature.y_parity == 28


def test_it_is_signed_as_eth_account_signs_it() -> None:
    theirs = Account.sign_typed_data(b"\x07" * 32, full_message=MAIL)
    signature = sign(b"\x07" * 32, typed_data_digest(MAIL))
    assert (theirs.r, theirs.s, theirs.v) == (signature.r, signature.s, 27 + signature.y_parity)


def test_a_domain_that_is_not_declared_is_declared_by_its_fields() -> None:
    assert typed_data_digest(MAIL) == typed_data_digest(changed("types.EIP712Domain", None, remove=True))


def test_types_that_are_not_needed_change_nothing() -> None:
    assert typed_data_digest(MAIL) == typed_data_digest(changed("types.Other", [{"name": "a", "type": "Gone"}]))


def test_a_type_may_refer_to_itself_through_an_array() -> None:
    types = {"Node": [{"name": "id", "type": "uint8"}, {"name": "children", "type": "Node[]"}]}
    message = {"id": 1, "children": [{"id": 2, "children": []}]}
    typed = {"types": types, "primaryType": "Node", "domain": {"name": "tree"}, "message": message}
    assert oracle(typed) == typed_data_digest(typed)


def test_mutual_recursion_is_refused_as_unsupported() -> None:
    types = {"A": [{"name": "b", "type": "B[]"}], "B": [{"name": "a", "type": "A[]"}]}
    typed = {"types": types, "primaryType": "A", "domain": {"name": "x"}, "message": {"b": []}}
    assert refusal(typed).startswith("types.B.a: refers back to the primary type")


def test_recursion_among_the_other_types_is_fine() -> None:
    types = {
        "A": [{"name": "b", "type": "B"}],
        "B": [{"name": "c", "type": "C[]"}],
        "C": [{"name": "b", "type": "B[]"}],
    }
    message = {"b": {"c": [{"b": []}]}}
    typed = {"types": types, "primaryType": "A", "domain": {"name": "x"}, "message": message}
    assert oracle(typed) == typed_data_digest(typed)


@pytest.mark.parametrize("chain_id", [1, "0x1"])
def test_the_chain_asked_for_must_be_the_domain_s(chain_id: Any) -> None:
    assert typed_data_digest(MAIL, chain_id) == typed_data_digest(MAIL)
    assert refusal(MAIL, 5).startswith("domain.chainId: differs")


def test_a_domain_without_a_chain_is_signed_for_any() -> None:
    typed = one_field("bool", value=True)
    assert typed_data_digest(typed, 5) == typed_data_digest(typed)


def test_a_summary_shows_the_domain_and_never_the_message() -> None:
    parsed = parse_typed_data(MAIL)
    assert parsed.summary() == {
        "type": "eip712",
        "primaryType": "Mail",
        "domain": {
            "name": "Ether Mail",
            "version": "1",
            "chainId": "1",
            "verifyingContract": "0x" + "cc" * 20,
        },
    }
    assert "Hello" not in repr(parsed)


@pytest.mark.parametrize("part", ["types", "primaryType", "domain", "message"])
def test_a_missing_part(part: str) -> None:
    assert refusal(changed(part, None, remove=True)) == f"typed_data.{part}: is missing"


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("extra", 1, "typed_data: has the unknown field extra"),
        ("types", [], "types: "),
        ("types.Mail", {}, "types.Mail: "),
        ("types.Mail", [{"name": "a"}], "types.Mail: "),
        ("types.Mail", [{"name": "a", "type": "bool", "x": 1}], "types.Mail: "),
        ("types.Mail", ["bool a"], "types.Mail: "),
        ("types.Mail", [{"name": "a b", "type": "bool"}], "types.Mail: "),
        ("types.Mail", [{"name": 1, "type": "bool"}], "types.Mail: "),
        ("types.Mail", [{"name": "a", "type": "bool["}], "types.Mail.a: "),
        ("types.Mail", [{"name": "a", "type": "bool[0]"}], "types.Mail.a: "),
        ("types.Mail", [{"name": "a", "type": "[]"}], "types.Mail.a: "),
        ("types.Mail", [{"name": "a", "type": None}], "types.Mail.a: "),
        ("types.Mail", [{"name": "a", "type": "bool"}] * 2, "types.Mail.a: is declared twice"),
        ("types.Mail", [{"name": "a", "type": "Gone"}], "types.Mail.a: has the type Gone"),
        ("types.Mail", [{"name": "a", "type": "uint"}], "types.Mail.a: has the type uint,"),
        ("types.Mail", [{"name": "a", "type": "int7"}], "types.Mail.a: has the type int7,"),
        ("types.Mail", [{"name": "a", "type": "uint264"}], "types.Mail.a: has the type uint264,"),
        ("types.Mail", [{"name": "a", "type": "bytes33"}], "types.Mail.a: has the type bytes33,"),
        ("types.uint8", [], "types: has the struct name uint8"),
        ("types.A-B", [], "types: has the struct name"),
        ("primaryType", "Nail", "primaryType: "),
        ("primaryType", "EIP712Domain", "primaryType: "),
        ("primaryType", ["Mail"], "primaryType: "),
        ("domain", {}, "domain: is empty"),
        ("domain", None, "domain: is empty or not a mapping"),
        ("domain.extra", 1, "domain: has the unknown field extra"),
        ("domain.chainId", "one", "domain.chainId: "),
        ("domain.salt", b"\0" * 32, "types.EIP712Domain: does not list exactly"),
        ("types.EIP712Domain", MAIL["types"]["EIP712Domain"][::-1], "types.EIP712Domain: does not list"),
        ("types.EIP712Domain", MAIL["types"]["EIP712Domain"][:3], "types.EIP712Domain: does not list"),
        ("types.EIP712Domain", [], "types.EIP712Domain: does not list"),
        ("message", [], "message: is list"),
        ("message.extra", 1, "message: has the unknown field extra"),
        ("message.to", None, "message.to: is null"),
        ("message.to.age", 1, "message.to: has the unknown field age"),
        (
            "message.to.wallet",
            "0xCD2a3d9F938E13CD947Ec05AbC7FE734DF8dd826",
            "message.to.wallet: has a wrong EIP-55",
        ),
        ("message.contents", b"bytes", "message.contents: is bytes"),
        ("message.contents", "\ud800", "message.contents: holds a lone surrogate"),
    ],
)
def test_typed_data_that_contradicts_itself(path: str, value: Any, where: str) -> None:
    assert refusal(changed(path, value)).startswith(where)


@pytest.mark.parametrize("path", ["message.contents", "message.to", "message.from.name", "domain.name"])
def test_a_missing_field_is_never_filled_with_zeros(path: str) -> None:
    assert refusal(changed(path, None, remove=True)).startswith((f"{path}: is missing", "types.EIP712Domain: "))


@pytest.mark.parametrize("typed", [None, [], "{}", 5])
def test_something_that_is_no_typed_data(typed: Any) -> None:
    assert refusal(typed).startswith("typed_data: ")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bool", "false"),
        ("bool", 0),
        ("bool", None),
        ("string", 5),
        ("uint8", 256),
        ("uint8", -1),
        ("uint8", "256"),
        ("uint8", True),
        ("uint8", 1.0),
        ("uint8", "1e2"),
        ("uint8", "01"),
        ("uint8", ""),
        ("uint8", " 1"),
        ("uint256", "0x" + "f" * 65),
        ("int8", 128),
        ("int8", -129),
        ("int8", "-129"),
        ("bytes4", b"\0" * 3),
        ("bytes4", "0x000000"),
        ("bytes4", b"\0" * 5),
        ("bytes4", "abcd"),
        ("bytes", "text"),
        ("bytes", ""),
        ("bytes", 5),
        ("address", b"\0" * 19),
        ("uint8[]", 1),
        ("uint8[]", "12"),
        ("uint8[]", {}),
        ("uint8[]", [256]),
        ("uint8[2]", [1]),
        ("uint8[2]", [1, 2, 3]),
        ("uint8[2][]", [[1, 2], [3]]),
    ],
)
def test_a_value_that_does_not_fit_its_type_is_never_converted(kind: str, value: Any) -> None:
    assert refusal(one_field(kind, value)).startswith("message.it")


@pytest.mark.parametrize(
    ("kind", "value", "same"),
    [
        ("uint256", 10**18, "1000000000000000000"),
        ("uint256", 255, "0xff"),
        ("int16", -5, "-5"),
        ("bytes4", b"\xab\xcd\xef\x01", "0xabcdef01"),
        ("bytes", b"", "0x"),
        ("address", b"\xab" * 20, "0x" + "ab" * 20),
        ("uint8[]", [1, 2], (1, 2)),
    ],
)
def test_values_may_be_spelled_as_wallets_spell_them(kind: str, value: Any, same: Any) -> None:
    digest = typed_data_digest(one_field(kind, value))
    assert digest == typed_data_digest(one_field(kind, same))
    assert oracle(one_field(kind, value)) == digest


def test_data_nested_beyond_reason_is_refused_before_the_stack_ends() -> None:
    types = {"Node": [{"name": "next", "type": "Node[]"}]}
    message: dict[str, Any] = {"next": []}
    for _ in range(5000):
        message = {"next": [message]}
    typed = {"types": types, "primaryType": "Node", "domain": {"name": "x"}, "message": message}
    assert "nested more than 32 deep" in refusal(typed)
    assert "nested more than 32 deep" in refusal(one_field("uint8" + "[]" * 40, nested(40)))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


ATOMS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "string": st.text(max_size=20),
    "bytes": st.binary(max_size=40),
    "bytes1": st.binary(min_size=1, max_size=1),
    "bytes20": ADDRESSES,
    "bytes32": WORDS,
    "address": ADDRESSES,
    "uint8": st.integers(0, 255),
    "uint256": st.integers(0, 2**256 - 1),
    "int8": st.integers(-128, 127),
    "int256": st.integers(-(2**255), 2**255 - 1),
}


@st.composite
def random_typed_data(draw: st.DrawFn) -> dict[str, Any]:
    """A primary struct over up to three others, each only using later ones, with arrays of everything."""
    names = [f"S{index}" for index in range(draw(st.integers(1, 4)))]
    types: dict[str, list[dict[str, str]]] = {}
    for index, name in enumerate(names):
        used = [*ATOMS, *names[index + 1 :]]
        fields = draw(st.lists(st.sampled_from(used), max_size=4))
        if index + 1 < len(names):
            fields.append(names[index + 1])  # so that the first is the only one that nothing refers to
        types[name] = [
            {"name": f"f{number}", "type": kind + draw(st.sampled_from(["", "", "[]", "[2]", "[][2]"]))}
            for number, kind in enumerate(fields)
        ]
    domain = draw(
        st.fixed_dictionaries(
            {"name": st.text(max_size=10)},
            optional={
                "version": st.text(max_size=3),
                "chainId": ATOMS["uint256"],
                "verifyingContract": ADDRESSES,
                "salt": WORDS,
            },
        )
    )
    return {"types": types, "primaryType": "S0", "domain": domain, "message": draw(struct_value(types, "S0"))}


def struct_value(types: dict[str, Any], name: str) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({entry["name"]: value_of(types, entry["type"]) for entry in types[name]})


def value_of(types: dict[str, Any], kind: str) -> st.SearchStrategy[Any]:
    if kind.endswith("]"):
        inner, _, size = kind[:-1].rpartition("[")
        bounds = {"min_size": int(size), "max_size": int(size)} if size else {"max_size": 2}
        return st.lists(value_of(types, inner), **bounds)
    return ATOMS[kind] if kind in ATOMS else struct_value(types, kind)


@given(random_typed_data())
def test_random_typed_data_is_digested_as_eth_account_digests_it(typed: dict[str, Any]) -> None:
    assert oracle(typed) == typed_data_digest(typed)


@given(
    ANYTHING,
    st.sampled_from(["types", "primaryType", "domain", "message", "types.Mail", "message.to", "domain.chainId"]),
)
def test_typed_data_with_one_part_spoilt_never_raises_anything_else(value: Any, path: str) -> None:
    try:
        digest = typed_data_digest(changed(path, value))
    except InvalidTransaction:
        return
    assert len(digest) == 32


@given(ANYTHING | st.fixed_dictionaries(dict.fromkeys(["types", "primaryType", "domain", "message"], ANYTHING)))
def test_anything_is_read_as_typed_data_or_refused(value: Any) -> None:
    try:
        digest = typed_data_digest(value)
    except InvalidTransaction:
        return
    assert len(digest) == 32
