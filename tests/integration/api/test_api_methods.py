"""Every method against a running service with software keys: what clients send, and what they get.

On trio the interface asks from an asyncio loop in another thread, as the server does; on asyncio from the same loop.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio.to_thread
import pytest
import sniffio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from attrs import frozen
from coincurve import PrivateKey
from eth_account import Account
from eth_account.messages import encode_defunct, encode_intended_validator, encode_typed_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from services import A_PRIVATE_KEY, A_TRANSACTION, PASSPHRASE, audit_records, software_config

import manahsm
from manahsm import KeyInfo, Role, Service
from manahsm.access import Access
from manahsm.api.calls import Answer, Call, Visitor
from manahsm.api.crossing import crossing
from manahsm.api.dispatch import Dispatcher
from manahsm.api.gateway import Direct, Gateway
from manahsm.api.rest import Rest
from manahsm.api.table import methods_for
from manahsm.config.api_tables import Dialect
from manahsm.ethereum.signatures import keccak256

pytestmark = pytest.mark.anyio

ADDRESS = Account.from_key(A_PRIVATE_KEY).address
OTHER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
PUBLIC_KEY = PrivateKey(A_PRIVATE_KEY).public_key.format(compressed=False)[1:].hex()
TX = {name: hex(value) if isinstance(value, int) else value for name, value in A_TRANSACTION.items()}
TYPED = {
    "types": {
        "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "chainId", "type": "uint256"}],
        "Note": [{"name": "text", "type": "string"}],
    },
    "primaryType": "Note",
    "domain": {"name": "notes", "chainId": 1},
    "message": {"text": "hello"},
}
ADMIN = Access(caller="root", admin=True, blind_signing=True)
SIGNER = Access(caller="alice")

Ask = Callable[[Any], Any]


@frozen
class Stage:
    """A running service and its methods."""

    service: Service
    key: KeyInfo
    gateway: Gateway
    directory: Path

    def visitor(self, access: Access = SIGNER, *dialects: Dialect) -> Visitor:
        """Somebody who came in where these dialects are served."""
        served = dialects or tuple(Dialect)
        return Visitor(access=access, dialect=served[0], dialects=served, request_id="r-1")

    async def answer(self, document: Any, access: Access = SIGNER, *dialects: Dialect) -> Answer:
        """Answer a request."""
        visitor = self.visitor(access, *dialects)
        dispatcher = Dispatcher(
            methods_for(self.service.config, self.gateway, visitor.dialects), forward=None, max_batch=100
        )
        return await elsewhere(lambda: dispatcher.answer(json.dumps(document).encode(), visitor))

    async def call(self, method: str, params: Any, access: Access = SIGNER, *dialects: Dialect) -> Any:
        """Call a method; returns its result."""
        answer = await self.whole(method, params, access, *dialects)
        assert "result" in answer, answer
        return answer["result"]

    async def error(self, method: str, params: Any, access: Access = SIGNER, *dialects: Dialect) -> Any:
        """Call a method that is refused; returns its error."""
        answer = await self.whole(method, params, access, *dialects)
        assert "error" in answer, answer
        return answer["error"]

    async def whole(self, method: str, params: Any, access: Access, *dialects: Dialect) -> Any:
        answer = await self.answer({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, access, *dialects)
        return json.loads(as_bytes(answer))

    def records(self, event: str = "sign") -> list[dict[str, Any]]:
        """Audit records of one kind."""
        return [record for record in audit_records(self.directory) if record["event"] == event]


def as_bytes(answer: Answer) -> bytes:
    assert isinstance(answer.body, bytes)
    return answer.body


async def elsewhere(work: Callable[[], Any]) -> Any:
    """Await on an asyncio loop: this one, or where this is none, one in a thread."""
    if sniffio.current_async_library() == "asyncio":
        return await work()
    return await anyio.to_thread.run_sync(lambda: asyncio.run(work()))


@asynccontextmanager
async def gateway_to(service: Service) -> AsyncIterator[Gateway]:
    if sniffio.current_async_library() == "asyncio":
        yield Direct(service)
    else:
        async with crossing(service) as way:
            yield way


@asynccontextmanager
async def stage(directory: Path, **changes: Any) -> AsyncIterator[Stage]:
    async with manahsm.open_service(software_config(directory, **changes)) as service, gateway_to(service) as gateway:
        key = await service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer", "software")
        yield Stage(service, key, gateway, directory)


class TestWeb3Signer:
    async def test_accounts_are_those_that_the_caller_can_sign_with_sorted(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            second = await on.service.generate_key("second", "transaction_signer", "software")
            without_role = await on.service.generate_key("third", "transaction_signer", "software")
            await on.service.assign_role(without_role.key_id, None)
            everybody = await on.call("eth_accounts", [])
            wallet = await on.call("eth_requestAccounts", [])
            alice = await on.call("eth_accounts", [], Access(caller="alice", keys=frozenset({"hot"})))
        assert everybody == wallet == sorted([ADDRESS.lower(), second.address.lower()])
        assert alice == [ADDRESS.lower()]

    @pytest.mark.parametrize(("data", "message"), [("hello", b"hello"), ("0x00ff", b"\x00\xff"), ("", b"")])
    async def test_messages_are_signed(self, tmp_path: Path, data: str, message: bytes) -> None:
        async with stage(tmp_path) as on:
            signed = await on.call("eth_sign", [ADDRESS.lower(), data])
            personal = await on.call("personal_sign", [data, ADDRESS])
        assert signed == personal == Account.sign_message(encode_defunct(message), A_PRIVATE_KEY).signature.to_0x_hex()

    @pytest.mark.parametrize("method", ["eth_signTypedData", "eth_signTypedData_v3", "eth_signTypedData_v4"])
    async def test_typed_data_is_signed_as_an_object_and_as_text(self, tmp_path: Path, method: str) -> None:
        async with stage(tmp_path) as on:
            signed = [await on.call(method, [ADDRESS, typed]) for typed in (TYPED, json.dumps(TYPED))]
        theirs = Account.sign_message(encode_typed_data(full_message=TYPED), A_PRIVATE_KEY).signature.to_0x_hex()
        assert signed == [theirs, theirs]

    async def test_a_transaction_is_signed_with_the_key_of_its_sender(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            raw = await on.call("eth_signTransaction", [{**TX, "from": ADDRESS}])
        assert raw == Account.sign_transaction(dict(A_TRANSACTION), A_PRIVATE_KEY).raw_transaction.to_0x_hex()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"from": None}, "from: is missing"),
            ({"from": ADDRESS.replace("a", "A", 1).replace("e", "E", 1)}, "checksum"),
            ({"chainId": None}, "chainId: is missing"),
            (
                {"chainId": None, "type": "0x0", "gasPrice": "0x1", "maxFeePerGas": None, "maxPriorityFeePerGas": None},
                "valid on every chain",
            ),
            ({"nonce": None}, "nonce: is missing"),
            ({"nonce": "7"}, "nonce: "),
            ({"colour": "red"}, "colour: is unknown"),
            ({"data": "0x00", "input": "0x01"}, "input: differs from data"),
            ({"gasPrice": "0x1"}, "gasPrice"),
        ],
    )
    async def test_a_transaction_that_could_mean_something_else_is_refused_and_on_record(
        self, tmp_path: Path, change: dict[str, Any], words: str
    ) -> None:
        async with stage(tmp_path) as on:
            error = await on.error("eth_signTransaction", [{**TX, "from": ADDRESS, **change}])
        assert (error["code"], error["message"].startswith("Invalid params: ")) == (-32602, True)
        assert words in error["message"]
        (record,) = on.records()
        assert (record["outcome"], record["caller"], record["request_id"]) == ("refused", "alice", "r-1")

    async def test_an_account_that_is_not_here_is_not_unlocked(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            unknown = await on.error("eth_sign", [OTHER, "0x00"])
            not_theirs = await on.error("eth_sign", [ADDRESS, "0x00"], Access(caller="eve", keys=frozenset({"cold"})))
        for error in (unknown, not_theirs):
            assert error["code"] == -32000
            assert error["message"].startswith("No unlocked account matches the Sender")
            assert error["data"]["code"] == "key_not_found"
        assert [record["caller"] for record in on.records()] == ["alice", "eve"]

    async def test_the_state_of_health_is_ok(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            assert await on.call("health_status", []) == "OK"

    async def test_a_batch_is_signed_and_each_call_has_its_id_in_the_audit_log(self, tmp_path: Path) -> None:
        calls = [
            {"jsonrpc": "2.0", "id": number, "method": "eth_sign", "params": [ADDRESS, hex(number + 256)]}
            for number in range(0, 256, 13)
        ]
        async with stage(tmp_path) as on:
            answers = json.loads(as_bytes(await on.answer(calls)))
        assert [answer["id"] for answer in answers] == [call["id"] for call in calls]
        assert all("error" in answer for answer in answers)  # an odd number of digits
        assert sorted(record["request_id"] for record in on.records()) == sorted(f"r-1/{n}" for n in range(len(calls)))


class TestClef:
    async def test_what_geth_asks_first_is_answered(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            assert await on.call("account_version", [], SIGNER, Dialect.CLEF) == "6.1.0"
            assert await on.call("account_list", [], SIGNER, Dialect.CLEF) == [ADDRESS.lower()]

    @pytest.mark.parametrize("mime", ["text/plain", "TEXT/PLAIN; charset=utf-8"])
    async def test_text_is_signed_and_its_signer_found_again(self, tmp_path: Path, mime: str) -> None:
        async with stage(tmp_path) as on:
            signature = await on.call("account_signData", [mime, ADDRESS, "0x68656c6c6f"])
            signer = await on.call("account_ecRecover", ["0x68656c6c6f", signature])
        assert signature == Account.sign_message(encode_defunct(b"hello"), A_PRIVATE_KEY).signature.to_0x_hex()
        assert signer == ADDRESS.lower()

    async def test_typed_data_is_signed_in_every_form_of_it(self, tmp_path: Path) -> None:
        text = json.dumps(TYPED)
        async with stage(tmp_path) as on:
            signatures = {await on.call("account_signTypedData", [ADDRESS, TYPED])}
            for form in (TYPED, text, "0x" + text.encode().hex()):
                signatures.add(await on.call("account_signData", ["data/typed", ADDRESS, form]))
        assert signatures == {
            Account.sign_message(encode_typed_data(full_message=TYPED), A_PRIVATE_KEY).signature.to_0x_hex()
        }

    async def test_data_for_a_validator_is_a_digest_to_us(self, tmp_path: Path) -> None:
        params = ["text/validator", ADDRESS, {"address": OTHER, "message": "0x0102"}]
        blind = Access(caller="alice", blind_signing=True)
        async with stage(tmp_path) as on:
            signature = await on.call("account_signData", params, blind)
            refused = await on.error("account_signData", params, SIGNER, Dialect.CLEF)
        signable = encode_intended_validator(OTHER, hexstr="0x0102")
        assert signature == Account.sign_message(signable, A_PRIVATE_KEY).signature.to_0x_hex()
        assert refused["message"].startswith("request denied")
        assert "blind_signing" in refused["message"]

    @pytest.mark.parametrize(
        ("mime", "data", "words"),
        [
            ("application/clique", "0x00", "is not served"),
            ("application/x-anything", "0x00", "must be text/plain"),
            ("text/plain", "hello", "data: is not 0x"),
            ("text/plain", {"address": OTHER}, "data: is not 0x"),
            ("data/typed", "0xff", "not the hex of JSON"),
            ("text/validator", "0x00", "exactly address and message"),
        ],
    )
    async def test_data_of_another_kind_is_refused_and_on_record(
        self, tmp_path: Path, mime: str, data: Any, words: str
    ) -> None:
        async with stage(tmp_path) as on:
            error = await on.error("account_signData", [mime, ADDRESS, data], SIGNER, Dialect.CLEF)
        assert (error["code"], words in error["message"]) == (-32602, True)
        assert [record["outcome"] for record in on.records()] == ["refused"]

    async def test_a_transaction_is_shown_as_geth_reads_it(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            signed = await on.call("account_signTransaction", [{**TX, "from": ADDRESS, "data": None}])
        theirs = Account.sign_transaction(dict(A_TRANSACTION), A_PRIVATE_KEY)
        assert signed["raw"] == theirs.raw_transaction.to_0x_hex()
        assert signed["tx"]["hash"] == theirs.hash.to_0x_hex()
        assert (signed["tx"]["type"], signed["tx"]["chainId"], signed["tx"]["gasPrice"]) == ("0x2", "0x7a69", None)

    async def test_a_method_selector_must_be_what_is_called(self, tmp_path: Path) -> None:
        selector = "transfer(address,uint256)"
        data = "0x" + keccak256(selector.encode())[:4].hex() + "00" * 64
        async with stage(tmp_path) as on:
            tx = {**TX, "from": ADDRESS, "input": data}
            assert await on.call("account_signTransaction", [tx, selector])
            assert await on.call("account_signTransaction", [tx, None])
            for wrong in ("approve(address,uint256)", "transfer", "transfer(address, uint256)"):
                error = await on.error("account_signTransaction", [tx, wrong])
                assert "methodSelector" in error["message"]

    @pytest.mark.parametrize("signature", ["0x", "0x" + "00" * 65, "0x" + "11" * 64 + "1d", "0x" + "ff" * 64 + "1b"])
    async def test_what_is_no_signature_was_made_by_nobody(self, tmp_path: Path, signature: str) -> None:
        async with stage(tmp_path) as on:
            error = await on.error("account_ecRecover", ["0x00", signature])
        assert "signature" in error["message"]

    async def test_an_administrator_makes_a_new_account(self, tmp_path: Path) -> None:
        policy = {"key_generation_policy": {"default_backend": "software"}}
        async with stage(tmp_path, security_policy=policy) as on:
            address = await on.call("account_new", [], ADMIN, Dialect.CLEF)
            made = await on.service.get_key(address)
            denied = await on.error("account_new", [], SIGNER, Dialect.CLEF)
        assert made.role is Role.TRANSACTION_SIGNER
        assert denied["message"].startswith("request denied")
        assert [one["caller"] for one in on.records("generate_key")] == ["root"]


class TestOpSigner:
    ARGUMENTS: ClassVar = {
        **{name: value for name, value in TX.items() if name != "type"},
        "from": ADDRESS,
        "input": "0x",
    }

    async def test_a_batcher_gets_its_transaction_signed(self, tmp_path: Path) -> None:
        theirs = Account.sign_transaction(dict(A_TRANSACTION), A_PRIVATE_KEY).raw_transaction.to_0x_hex()
        without_sender = {**self.ARGUMENTS, "from": None}
        async with stage(tmp_path) as on:
            assert await on.call("health_status", [], SIGNER, Dialect.OP_SIGNER) == "OK"
            assert await on.call("eth_signTransaction", [self.ARGUMENTS], SIGNER, Dialect.OP_SIGNER) == theirs
            assert await on.call("eth_signTransaction", [without_sender], SIGNER, Dialect.OP_SIGNER) == theirs

    @pytest.mark.parametrize(
        ("change", "code", "words"),
        [
            ({"gas": None}, -32010, "gas not specified"),
            ({"gasPrice": "0x1"}, -32010, "only accepts maxFeePerGas"),
            ({"colour": "red"}, -32010, "colour: is unknown"),
            ({"from": OTHER}, -32011, "no key that caller alice may use"),
        ],
    )
    async def test_what_is_refused_has_its_codes(
        self, tmp_path: Path, change: dict[str, Any], code: int, words: str
    ) -> None:
        async with stage(tmp_path) as on:
            error = await on.error("eth_signTransaction", [{**self.ARGUMENTS, **change}], SIGNER, Dialect.OP_SIGNER)
        assert (error["code"], words in error["message"]) == (code, True)
        assert [record["outcome"] for record in on.records()] == ["refused"]

    HASH = keccak256(b"a block")
    BLOCK_V1: ClassVar = {
        "domain": [0] * 32,
        "chainId": 10,
        "payloadHash": b64encode(HASH).decode(),
        "senderAddress": ADDRESS.lower(),
    }
    BLOCK_V2: ClassVar = {**BLOCK_V1, "domain": "0x" + "00" * 32, "chainId": "10", "payloadHash": "0x" + HASH.hex()}

    @pytest.mark.parametrize(("version", "args"), [("", BLOCK_V1), ("V2", BLOCK_V2)])
    async def test_a_sequencer_gets_its_block_signed_as_its_peers_check_it(
        self, tmp_path: Path, version: str, args: dict[str, Any]
    ) -> None:
        digest = keccak256(bytes(32) + (10).to_bytes(32, "big") + self.HASH)
        async with stage(tmp_path) as on:
            signature = await on.call(f"opsigner_signBlockPayload{version}", [args], SIGNER, Dialect.OP_SIGNER)
        assert signature == "0x" + PrivateKey(A_PRIVATE_KEY).sign_recoverable(digest, hasher=None).hex()

    async def test_a_block_that_was_signed_is_on_record(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            await on.call("opsigner_signBlockPayloadV2", [self.BLOCK_V2], SIGNER, Dialect.OP_SIGNER)
        (record,) = on.records()
        assert (record["operation"], record["chain_id"], record["outcome"]) == ("block_payload", 10, "signed")
        assert record["summary"]["payloadHash"] == "0x" + self.HASH.hex()

    @pytest.mark.parametrize(
        ("change", "code", "words"),
        [
            ({"payloadHash": None}, -32012, "payloadHash not specified"),
            ({"domain": "0x02" + "00" * 31}, -32012, "domain: is not 32 zero bytes"),
            ({"senderAddress": "0x1234"}, -32012, "senderAddress: "),
            ({"senderAddress": OTHER}, -32013, "no key that caller alice may use"),
        ],
    )
    async def test_a_block_that_is_refused_has_its_codes_and_is_on_record(
        self, tmp_path: Path, change: dict[str, Any], code: int, words: str
    ) -> None:
        args = {**self.BLOCK_V2, **change}
        async with stage(tmp_path) as on:
            error = await on.error("opsigner_signBlockPayloadV2", [args], SIGNER, Dialect.OP_SIGNER)
        assert (error["code"], words in error["message"]) == (code, True)
        assert [record["outcome"] for record in on.records()] == ["refused"]

    async def test_blocks_are_signed_for_those_alone_who_may_use_the_key(self, tmp_path: Path) -> None:
        eve = Access(caller="eve", keys=frozenset({"cold"}))
        async with stage(tmp_path) as on:
            error = await on.error("opsigner_signBlockPayload", [self.BLOCK_V1], eve, Dialect.OP_SIGNER)
        assert (error["code"], error["data"]["code"]) == (-32013, "key_not_found")

    async def test_other_signers_methods_are_not_served(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            for method in ("eth_sign", "account_list", "eth_accounts"):
                assert (await on.error(method, [], SIGNER, Dialect.OP_SIGNER))["code"] == -32601


class TestKeysOfOthers:
    """A caller learns nothing of a key that is not theirs: every answer reads as if there were none."""

    EVE = Access(caller="eve", keys=frozenset({"cold"}), blind_signing=True)
    BY_ADDRESS: ClassVar[dict[str, Callable[[str], Any]]] = {
        "eth_sign": lambda name: [name, "0x00"],
        "personal_sign": lambda name: ["0x00", name],
        "eth_signTypedData_v4": lambda name: [name, TYPED],
        "eth_signTransaction": lambda name: [{**TX, "from": name}],
        "account_signData": lambda name: ["text/validator", name, {"address": name, "message": "0x00"}],
        "account_signTransaction": lambda name: [{**TX, "from": name}],
        "account_signTypedData": lambda name: [name, TYPED],
    }
    BY_ANY_NAME: ClassVar[dict[str, Callable[[str], Any]]] = {
        "manahsm_signTransaction": lambda name: {"tx": TX, "key": name},
        "manahsm_signHash": lambda name: {"hash": "0x" + "07" * 32, "key": name},
        "manahsm_signMessage": lambda name: {"message": "hello", "key": name},
        "manahsm_signTypedData": lambda name: {"typedData": TYPED, "key": name},
        "manahsm_batchSignTransactions": lambda name: {"txs": [TX], "key": name},
        "manahsm_getKey": lambda name: {"key": name},
    }

    @pytest.mark.parametrize("state", ["active", "without a role", "retired"])
    async def test_to_name_one_reads_as_if_there_were_none(self, tmp_path: Path, state: str) -> None:
        async with stage(tmp_path) as on:
            if state == "without a role":
                await on.service.assign_role("hot", None)
            elif state == "retired":
                await on.service.rotate_key("hot")
            pairs = [(ADDRESS, OTHER, {**self.BY_ADDRESS, **self.BY_ANY_NAME})]
            pairs += [(on.key.key_id, "f" * 16, self.BY_ANY_NAME), ("hot", "warm", self.BY_ANY_NAME)]
            told = [
                (await on.whole(method, params(name), self.EVE), await on.whole(method, params(absent), self.EVE))
                for name, absent, methods in pairs
                for method, params in methods.items()
            ]
        replaced = [json.dumps(theirs) for theirs, _ in told]
        for name, absent, _ in pairs:
            replaced = [text.replace(f"'{name}'", f"'{absent}'") for text in replaced]
        assert replaced == [json.dumps(nobodys) for _, nobodys in told]

    async def test_to_name_its_public_key_reads_as_if_there_were_none(self, tmp_path: Path) -> None:
        absent = PrivateKey(b"\x07" * 32).public_key.format(compressed=False)[1:].hex()
        async with stage(tmp_path) as on:
            answers = []
            for public_key in (PUBLIC_KEY, absent):
                visitor = on.visitor(self.EVE)
                rest = Rest(on.gateway, reload=_never)
                path = f"/api/v1/eth1/sign/{public_key}"
                answers.append(await elsewhere(partial(rest.answer, "POST", path, b'{"data":"0x00"}', visitor)))
        assert answers[0] == answers[1]
        assert answers[0].status == 404

    async def test_the_audit_log_tells_whose_key_it_was(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            await on.error("eth_sign", [ADDRESS, "0x00"], self.EVE)
        (record,) = on.records()
        assert (record["caller"], record["key_id"], record["address"]) == ("eve", on.key.key_id, ADDRESS)


async def _never() -> str:
    raise AssertionError("nothing is reloaded here")


class TestManaging:
    """What :mod:`manahsm.client` calls has its own tests; these are about who may."""

    async def test_a_role_picks_the_one_key_that_the_caller_may_use(self, tmp_path: Path) -> None:
        params = {"tx": TX, "role": "transaction_signer"}
        async with stage(tmp_path) as on:
            await on.service.generate_key("second", "transaction_signer", "software")
            both = await on.error("manahsm_signTransactionWithRole", params)
            signed = await on.call(
                "manahsm_signTransactionWithRole", params, Access(caller="alice", keys=frozenset({"hot"}))
            )
            none = await on.error(
                "manahsm_signTransactionWithRole", params, Access(caller="eve", keys=frozenset({"cold"}))
            )
        assert "hot, second" in both["message"]
        assert "found: none" in none["message"]
        assert signed["key_id"] == on.key.key_id

    async def test_keys_of_others_are_neither_listed_nor_found(self, tmp_path: Path) -> None:
        alice = Access(caller="alice", keys=frozenset({"hot"}))
        async with stage(tmp_path) as on:
            await on.service.generate_key("second", "transaction_signer", "software")
            listed = await on.call("manahsm_listKeys", {}, alice)
            hidden = await on.error("manahsm_getKey", {"key": "second"}, alice)
            absent = await on.error("manahsm_getKey", {"key": "third"}, alice)
        assert [key["label"] for key in listed] == ["hot"]
        assert hidden["message"].replace("second", "third") == absent["message"]

    async def test_transactions_of_a_list_end_each_in_its_own_way(self, tmp_path: Path) -> None:
        txs = [{**TX, "nonce": hex(number)} for number in range(70)]
        txs[3] = {**TX, "colour": "red"}
        async with stage(tmp_path) as on:
            answers = await on.call("manahsm_batchSignTransactions", {"txs": txs, "key": "hot"})
            error = await on.error("manahsm_batchSignTransactions", {"txs": txs * 2, "key": "hot"})
        assert [position for position, answer in enumerate(answers) if "error" in answer] == [3]
        assert answers[3]["error"]["data"]["code"] == "invalid_transaction"
        assert "at most 100" in error["message"]

    async def test_digests_are_signed_for_those_who_may(self, tmp_path: Path) -> None:
        params = {"hash": "0x" + "07" * 32, "key": "hot"}
        async with stage(tmp_path) as on:
            signed = await on.call("manahsm_signHash", params, Access(caller="alice", blind_signing=True))
            refused = await on.error("manahsm_signHash", params)
        theirs = Account.unsafe_sign_hash(b"\x07" * 32, A_PRIVATE_KEY)
        assert signed["signature"] == theirs.signature.to_0x_hex()
        assert refused["data"]["code"] == "policy_denied"

    async def test_every_method_for_administrators_is_refused_to_others_and_on_record(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            document = await on.call("rpc.discover", [])
            managing = [one["name"] for one in document["methods"] if one["tags"] == [{"name": "admin"}]]
            errors = [await on.error(method, []) for method in managing]
        assert len(managing) > 15
        assert {error["data"]["code"] for error in errors} == {"policy_denied"}
        refused = [record for record in on.records("operator_action") if record["outcome"] == "refused"]
        assert [record["summary"]["act"] for record in refused] == managing
        assert {record["caller"] for record in refused} == {"alice"}

    async def test_a_method_that_a_caller_may_not_call_is_refused_and_on_record(self, tmp_path: Path) -> None:
        bob = Access(caller="bob", methods=frozenset({"eth_*"}))
        async with stage(tmp_path) as on:
            error = await on.error("personal_sign", ["0x00", ADDRESS], bob)
        assert (error["code"], error["data"]["code"]) == (-32604, "policy_denied")
        (record,) = on.records("operator_action")
        assert (record["caller"], record["summary"]["act"]) == ("bob", "personal_sign")

    async def test_what_an_operator_can_not_do_is_on_record(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            error = await on.error("manahsm_forceOpen", {"slot": "none"}, ADMIN)
        assert error["data"]["code"] == "invalid_request"
        (record,) = on.records("operator_action")
        assert (record["outcome"], record["summary"]["act"]) == ("refused", "manahsm_forceOpen")

    async def test_a_call_that_is_refused_has_one_record(self, tmp_path: Path) -> None:
        taken = {"label": "hot", "role": "transaction_signer", "backend": "software"}
        async with stage(tmp_path) as on:
            assert (await on.error("manahsm_generateKey", taken, ADMIN))["data"]["code"] == "key_exists"
            assert (await on.error("manahsm_importKey", {**taken, "privateKey": "0x00"}, ADMIN))["code"] == -32602
            assert (await on.error("manahsm_signMessage", {"message": "x", "key": "cold"}))["code"] == -32000
        assert [len(on.records(event)) for event in ("generate_key", "operator_action", "sign")] == [1, 1, 1]

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # under trio the way to the service is closed as well
    async def test_a_service_that_has_stopped_says_so(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            pass
        call = {"jsonrpc": "2.0", "id": 1, "method": "eth_sign", "params": [ADDRESS, "0x00"]}
        answer = await on.answer(call)
        assert (answer.status, json.loads(as_bytes(answer))["error"]["data"]["code"]) == (503, "service_stopping")


class TestDiscovery:
    @pytest.mark.parametrize("dialects", [tuple(Dialect), *((dialect,) for dialect in Dialect)])
    async def test_it_lists_exactly_what_is_served(self, tmp_path: Path, dialects: tuple[Dialect, ...]) -> None:
        async def send(_call: Call) -> str:
            return "0x"

        async with stage(tmp_path) as on:
            methods = methods_for(on.service.config, on.gateway, dialects, {"eth_sendTransaction": send})
            visitor = on.visitor(SIGNER, *dialects)
            call = Call(method="rpc.discover", params=None, visitor=visitor, request_id="r-1")
            document = await elsewhere(lambda: methods["rpc.discover"](call))
        assert [method["name"] for method in document["methods"]] == sorted(methods)
        assert "eth_sendTransaction" in methods

    @pytest.mark.parametrize("methods", [frozenset({"eth_sign"}), frozenset({"eth_send*"})])
    async def test_what_is_added_is_for_those_who_may_call_it(self, tmp_path: Path, methods: frozenset[str]) -> None:
        async def send(_call: Call) -> str:
            return "0x07"

        async with stage(tmp_path) as on:
            served = methods_for(on.service.config, on.gateway, tuple(Dialect), {"eth_sendTransaction": send})
            visitor = on.visitor(Access(caller="bob", methods=methods))
            body = b'{"jsonrpc":"2.0","id":1,"method":"eth_sendTransaction","params":[{}]}'
            dispatcher = Dispatcher(served, forward=None, max_batch=9)
            answer = json.loads(as_bytes(await elsewhere(lambda: dispatcher.answer(body, visitor))))
        refused = [record["summary"]["act"] for record in on.records("operator_action")]
        if "eth_sign" in methods:
            assert (answer["error"]["data"]["code"], refused) == ("policy_denied", ["eth_sendTransaction"])
        else:
            assert (answer["result"], refused) == ("0x07", [])

    async def test_every_entry_says_what_it_takes_gives_and_refuses(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            document = await on.call("rpc.discover", [])
        assert document["openrpc"].startswith("1.3.")
        assert document["info"]["version"] == manahsm.__version__
        for method in document["methods"]:
            assert method["summary"].endswith(".")
            assert method["result"]["schema"].keys() & {"type", "enum", "oneOf", "const"}
            assert len({error["code"] for error in method["errors"]}) == len(method["errors"]) >= 2
            names = [param["name"] for param in method["params"]]
            assert len(set(names)) == len(names)
            required = [param["required"] for param in method["params"]]
            assert required == sorted(required, reverse=True), "an optional one before a required one"


class TestRest:
    SIGN = f"/api/v1/eth1/sign/0x{PUBLIC_KEY}"
    BLIND = Access(caller="alice", blind_signing=True)

    @staticmethod
    async def ask(
        on: Stage, method: str, path: str, body: bytes = b"", access: Access = SIGNER, *dialects: Dialect
    ) -> Answer | None:
        async def reload() -> str:
            return "reloaded"

        rest = Rest(on.gateway, reload=reload)
        found: Answer | None = await elsewhere(lambda: rest.answer(method, path, body, on.visitor(access, *dialects)))
        return found

    async def answered(self, *args: Any) -> tuple[int, str]:
        answer = await self.ask(*args)
        assert answer is not None
        return answer.status, as_bytes(answer).decode()

    @pytest.mark.parametrize("prefix", ["0x", "", "04", "0x04"])
    async def test_data_is_signed_by_public_key(self, tmp_path: Path, prefix: str) -> None:
        async with stage(tmp_path) as on:
            path = f"/api/v1/eth1/sign/{prefix}{PUBLIC_KEY}"
            signed = await self.answered(on, "POST", path, b'{"data":"0x68656c6c6f"}', self.BLIND)
        theirs = Account.unsafe_sign_hash(keccak256(b"hello"), A_PRIVATE_KEY).signature.to_0x_hex()
        assert signed == (200, theirs)

    @pytest.mark.parametrize(
        ("path", "body", "access", "status"),
        [
            (SIGN, b'{"data":"0x00"}', SIGNER, 403),
            (SIGN, b'{"data":"0x00"}', Access(caller="eve", blind_signing=True, keys=frozenset({"cold"})), 404),
            (SIGN, b'{"data":"0x00"}', Access(caller="eve", blind_signing=True, methods=frozenset({"eth_*"})), 403),
            ("/api/v1/eth1/sign/0x" + "11" * 64, b'{"data":"0x00"}', BLIND, 404),
            ("/api/v1/eth1/sign/" + OTHER, b'{"data":"0x00"}', BLIND, 404),
            ("/api/v1/eth1/sign/", b'{"data":"0x00"}', BLIND, 404),
            (SIGN, b"", BLIND, 400),
            (SIGN, b"{}", BLIND, 400),
            (SIGN, b'{"data":"hello"}', BLIND, 400),
            (SIGN, b'{"data":"0x00","data":"0x01"}', BLIND, 400),
            (SIGN, b'{"data":"0x00","signingRoot":"0x00"}', BLIND, 400),
        ],
    )
    async def test_what_is_refused_is_on_record(
        self, tmp_path: Path, path: str, body: bytes, access: Access, status: int
    ) -> None:
        async with stage(tmp_path) as on:
            answered = await self.answered(on, "POST", path, body, access)
        assert answered[0] == status
        assert json.loads(answered[1])["error"]["message"]
        records = on.records() + on.records("operator_action")
        assert [(record["outcome"], record["caller"]) for record in records] == [("refused", access.caller)]

    async def test_public_keys_are_those_that_the_caller_can_sign_with(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            everybody = await self.answered(on, "GET", "/api/v1/eth1/publicKeys")
            nobody = await self.answered(
                on, "GET", "/api/v1/eth1/publicKeys", b"", Access(caller="eve", keys=frozenset({"cold"}))
            )
        assert (everybody, nobody) == ((200, f'["0x{PUBLIC_KEY}"]'), (200, "[]"))

    async def test_it_tells_how_it_is(self, tmp_path: Path) -> None:
        nothing = Access(caller="eve", methods=frozenset({"none"}))
        async with stage(tmp_path) as on:
            await on.service.trigger_health_check()
            assert await self.answered(on, "GET", "/upcheck", b"", nothing) == (200, "OK")
            status, body = await self.answered(on, "GET", "/healthcheck", b"", nothing)
        said = json.loads(body)
        assert (status, said["status"], said["outcome"]) == (200, "UP", "UP")
        assert {"id": "audit", "status": "UP"} in said["checks"]

    async def test_reloading_is_for_administrators_and_on_record(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            assert [(await self.answered(on, method, "/reload"))[0] for method in ("GET", "POST")] == [403, 403]
            assert await self.answered(on, "GET", "/reload", b"", ADMIN) == (200, '{"status":"idle"}')
            status, body = await self.answered(on, "POST", "/reload", b"", ADMIN)
        assert (status, json.loads(body)["message"]) == (202, "reloaded")
        acts = [(record["caller"], record["outcome"]) for record in on.records("operator_action")]
        assert acts == [("alice", "refused"), ("alice", "refused"), ("root", "done")]

    async def test_a_reload_that_fails_tells_no_more_than_that(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def reload() -> str:
            raise RuntimeError(A_PRIVATE_KEY.hex())

        async with stage(tmp_path) as on:
            rest = Rest(on.gateway, reload=reload)
            failed = await elsewhere(lambda: rest.answer("POST", "/reload", b"", on.visitor(ADMIN)))
            state = await elsewhere(lambda: rest.answer("GET", "/reload", b"", on.visitor(ADMIN)))
        assert (failed.status, json.loads(as_bytes(failed))["error"]["message"]) == (500, "internal error r-1")
        assert json.loads(as_bytes(state))["status"] == "failed"
        assert "r-1" in caplog.text

    async def test_there_is_nothing_elsewhere(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as on:
            for path in ("/", "/api/v1/eth1", "/api/v1/eth2/publicKeys", "/upcheck/", "/metrics"):
                assert await self.ask(on, "GET", path) is None
            for path in (self.SIGN, "/api/v1/eth1/publicKeys"):
                assert await self.ask(on, "POST", path, b"", self.BLIND, Dialect.CLEF) is None
            assert (await self.answered(on, "POST", "/upcheck"))[0] == 405


# ---- anything at all ----


@frozen
class Fuzzed:
    """A running service that is asked from outside of its loop."""

    portal: BlockingPortal
    dispatcher: Dispatcher

    def answer(self, body: bytes, visitor: Visitor) -> Answer:
        """Answer a request."""
        return self.portal.call(self.dispatcher.answer, body, visitor)

    def body(self, document: Any, visitor: Visitor) -> str:
        """Answer a request; returns the body, which is in form, tells of no fault, and has no secret."""
        answer = self.answer(json.dumps(document).encode(), visitor)
        body = as_bytes(answer).decode()
        assert answer.status in {200, 204, 400, 429, 503}
        assert not any(word in body for word in ("-32603", "Traceback", *SECRETS))
        if body:
            for one in [json.loads(body)] if body[0] == "{" else json.loads(body):
                assert ("result" in one) is not ("error" in one)
        return body


@contextmanager
def fuzzed(directory: Path) -> Iterator[Fuzzed]:
    @asynccontextmanager
    async def running() -> AsyncIterator[Dispatcher]:
        policy = {"key_generation_policy": {"default_backend": "software"}, "audit_all_operations": False}
        async with stage(directory, security_policy=policy, audit={"enabled": False}) as on:
            methods = methods_for(on.service.config, on.gateway, tuple(Dialect))
            yield Dispatcher(methods, forward=None, max_batch=100)

    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(running()) as dispatcher:
        yield Fuzzed(portal, dispatcher)


SECRETS = (A_PRIVATE_KEY.hex(), PASSPHRASE)
HEX = st.binary(max_size=40).map(lambda data: "0x" + data.hex())
TRANSACTION = st.sampled_from([{**TX, "from": ADDRESS}, {**TX, "from": ADDRESS, "type": "0x1"}, {**TX, "from": OTHER}])
PROPER = {
    "address": st.sampled_from([ADDRESS, ADDRESS.lower()]),
    "alertId": st.just("0" * 16),
    "authorization": st.just({"address": OTHER, "chainId": 1, "nonce": 0}),
    "blockPayload": st.sampled_from([TestOpSigner.BLOCK_V1, TestOpSigner.BLOCK_V2]),
    "chainId": st.sampled_from([1, "0x7a69"]),
    "component": st.sampled_from(["audit", "nothing"]),
    "contentType": st.sampled_from(["text/plain", "data/typed", "text/validator", "application/clique"]),
    "data": HEX,
    "hash": st.binary(min_size=32, max_size=32).map(lambda data: "0x" + data.hex()),
    "key": st.sampled_from(["hot", ADDRESS, "hot", "cold"]),
    "keepSoftwareTwin": st.just(value=False),
    "label": st.just("spare") | st.text("abc-", min_size=1, max_size=5),
    "message": HEX | st.text(max_size=20),
    "methodSelector": st.just("transfer(address,uint256)"),
    "privateKey": st.binary(min_size=32, max_size=32).map(bytes.hex),
    "reason": st.text(min_size=1, max_size=10),
    "signature": st.binary(min_size=65, max_size=65).map(lambda data: "0x" + data.hex()),
    "slot": st.just("main"),
    "timeout": st.floats(1, 9),
    "transaction": TRANSACTION,
    "tx": TRANSACTION,
    "txs": st.lists(TRANSACTION, max_size=3),
    "typedData": st.sampled_from([TYPED, json.dumps(TYPED)]),
    "usage": st.just(["signing"]),
}
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from([SECRETS[0], "0x" + SECRETS[0], "0x", OTHER, "cold", "software"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(list(TX)), inner),
    max_leaves=6,
)


@st.composite
def calls(draw: st.DrawFn, method: dict[str, Any]) -> dict[str, Any]:
    """Calls of one method, by its entry in the OpenRPC document: right, nearly right, or nothing of the kind."""
    changes_keys = method["tags"] == [{"name": "admin"}]
    given = [
        draw(st.just("spare") if changes_keys and param["name"] == "key" else _values(param))
        for param in method["params"]
    ]
    wrong = draw(st.sampled_from([0, 0, 0, 1, 2]))  # values that are not what they should be
    for _ in range(wrong if given else 0):
        given[draw(st.integers(0, len(given) - 1))] = draw(ANYTHING)
    by_name = {param["name"]: value for param, value in zip(method["params"], given, strict=True)}
    params = draw(st.sampled_from([by_name, given]) if wrong < 2 else ANYTHING)
    call_id = draw(st.integers(0, 9) | st.text(max_size=3))
    return {"jsonrpc": "2.0", "id": call_id, "method": method["name"], "params": params}


def _values(param: dict[str, Any]) -> st.SearchStrategy[Any]:
    words = param["schema"].get("enum")
    proper = st.sampled_from(words) if words else PROPER.get(param["name"], ANYTHING)
    return proper if param["required"] else st.none() | proper


SOMEBODY = Visitor(access=ADMIN, dialect=Dialect.CLEF, dialects=tuple(Dialect), request_id="r-1")


def visitors() -> st.SearchStrategy[Visitor]:
    return st.builds(
        Visitor,
        access=st.sampled_from([ADMIN, ADMIN, ADMIN, SIGNER]),
        dialect=st.sampled_from(Dialect),
        dialects=st.just(tuple(Dialect)),
        request_id=st.just("r-1"),
    )


def test_whatever_is_asked_is_answered_without_a_fault_or_a_secret(tmp_path: Path) -> None:
    with fuzzed(tmp_path) as service:
        asked = {"jsonrpc": "2.0", "id": 1, "method": "rpc.discover"}
        document = json.loads(service.body(asked, SOMEBODY))["result"]
        for method in document["methods"]:

            @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
            @given(call=calls(method), visitor=visitors())
            def ask(call: Any, visitor: Visitor) -> None:
                service.body(call, visitor)

            ask()

        @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(
            batch=st.lists(st.sampled_from(document["methods"]).flatmap(calls) | ANYTHING, max_size=4) | ANYTHING,
            visitor=visitors(),
        )
        def ask_for_several(batch: Any, visitor: Visitor) -> None:
            service.body(batch, visitor)

        ask_for_several()


def test_any_bytes_are_answered(tmp_path: Path) -> None:
    with fuzzed(tmp_path) as service:

        @settings(max_examples=100, deadline=None)
        @given(body=st.binary(max_size=100), visitor=visitors())
        def ask(body: bytes, visitor: Visitor) -> None:
            assert service.answer(body, visitor).status in {200, 204, 400}

        ask()
