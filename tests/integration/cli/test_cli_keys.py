"""``keys`` and ``sign`` with real services: what they do, what they print, and that nothing secret is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import manahsm
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from services import A_PRIVATE_KEY, A_TRANSACTION, PASSPHRASE

from manahsm.config.model import Kdf
from manahsm.config.secret import Secret
from manahsm.ethereum.signatures import address_of, public_key_of
from manahsm.keys.keyfile import encrypt

ADDRESS = address_of(public_key_of(A_PRIVATE_KEY))
TYPED_DATA: dict[str, Any] = {
    "types": {
        "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "chainId", "type": "uint256"}],
        "Mail": [{"name": "contents", "type": "string"}],
    },
    "primaryType": "Mail",
    "domain": {"name": "Post", "chainId": 1},
    "message": {"contents": "Hello"},
}


@pytest.fixture
def hot(software: Path) -> Path:
    """A configuration with the software key ``hot``."""
    words = ("keys", "import", "hot", "--role", "transaction_signer", "--backend", "software", "--config", software)
    assert manahsm(*words, text=A_PRIVATE_KEY.hex() + "\n").status == 0
    return software


def document(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


# ---- keys ----


def test_a_key_from_its_making_to_its_end(software: Path) -> None:
    def run(*words: str, **options: str) -> Any:
        ended = manahsm("keys", *words, "--config", software, "--json", **options)
        assert ended.status == 0
        return ended.document

    made = run("generate", "first", "--role", "transaction_signer", "--backend", "software")
    assert (made["label"], made["backend"], made["state"]) == ("first", "software", "active")
    assert run("show", made["address"]) == made
    assert run("assign", "first", "none")["role"] is None
    assert run("assign", "first", "node_identity")["role"] == "node_identity"
    rotated = run("rotate", "first")
    assert (rotated["label"], rotated["key_id"] == made["key_id"]) == ("first", False)
    assert [key["key_id"] for key in run("list", "--label", "first")] == [rotated["key_id"]]
    assert {key["state"] for key in run("list")} == {"active", "retired"}
    assert run("delete", "first", "--yes")["key_id"] == rotated["key_id"]
    assert [key["key_id"] for key in run("list")] == [made["key_id"]]


def test_keys_are_listed_in_80_columns(hot: Path) -> None:
    long = "a label of sixty-four characters, which is the most that it has."
    words = ("--role", "transaction_signer", "--backend", "software", "--config", hot)
    assert manahsm("keys", "generate", long, *words).width <= 80
    assert manahsm("keys", "rotate", "hot", "--config", hot).status == 0
    listed = manahsm("keys", "list", "--config", hot)
    assert listed.width <= 80
    assert ADDRESS in listed.output


def test_no_keys_are_no_output(software: Path) -> None:
    listed = manahsm("keys", "list", "--config", software)
    assert (listed.status, listed.output) == (0, "")
    assert "keys generate" in listed.errors


def test_a_key_is_deleted_only_when_somebody_says_so(hot: Path) -> None:
    kept = manahsm("keys", "delete", "hot", "--config", hot, text="n\n")
    assert kept.status == 1
    assert ADDRESS in kept.errors
    unanswered = manahsm("keys", "delete", "hot", "--config", hot, "--json")
    assert (unanswered.status, unanswered.error["code"]) == (2, "usage")
    assert manahsm("keys", "show", "hot", "--config", hot).status == 0
    assert manahsm("keys", "delete", "hot", "--config", hot, text="y\n").status == 0
    gone = manahsm("keys", "show", "hot", "--config", hot, "--json")
    assert (gone.status, gone.error["code"]) == (1, "key_not_found")


@pytest.mark.parametrize("given", ["0x" + A_PRIVATE_KEY.hex(), A_PRIVATE_KEY.hex() + "\n"])
def test_an_imported_key_keeps_its_address_and_is_not_shown(given: str, software: Path) -> None:
    words = ("keys", "import", "hot", "--role", "transaction_signer", "--backend", "software", "--config", software)
    imported = manahsm(*words, text=given)
    again = manahsm(*words, "--json", text=given)
    assert imported.status == 0
    assert ADDRESS in imported.output
    assert (again.status, again.error["code"]) == (1, "key_exists")
    assert A_PRIVATE_KEY.hex() not in imported.everything + again.everything


@pytest.mark.parametrize("given", ["", "\n", A_PRIVATE_KEY.hex()[:-2], A_PRIVATE_KEY.hex() + "00", "f" * 64, "secret!"])
def test_what_is_no_private_key_is_refused_and_not_repeated(given: str, software: Path) -> None:
    refused = manahsm("keys", "import", "hot", "--role", "admin", "--config", software, text=given)
    assert refused.status == 1
    assert not given.strip() or given.strip() not in refused.everything


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_keystore_file_opens_with_its_passphrase_alone(
    words: tuple[str, ...], software: Path, tmp_path: Path
) -> None:
    content = encrypt(A_PRIVATE_KEY, Secret("tr0ub4dor"), kdf=Kdf.PBKDF2, iterations=1024, name=None)
    keystore = tmp_path / "theirs.json"
    keystore.write_bytes(content)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for path, passphrase in ((right, "tr0ub4dor"), (wrong, "tr0ub4dour")):
        path.touch(mode=0o600)
        path.write_text(passphrase)
    command = ("keys", "import", "hot", "--role", "transaction_signer", "--backend", "software", "--config", software)
    refused = manahsm(*command, "--keystore", keystore, "--passphrase-file", wrong, *words)
    assert refused.status == 1
    assert "does not open with this passphrase" in refused.everything
    prompted = manahsm(*command, "--keystore", keystore, *words, text="tr0ub4dor\n")
    assert prompted.status == 0
    assert ADDRESS in prompted.output
    wrong.chmod(0o644)
    assert manahsm(*command, "--keystore", keystore, "--passphrase-file", wrong, *words).status == 2
    shown = refused.everything + prompted.everything
    assert [word for word in ("tr0ub4do", A_PRIVATE_KEY.hex()) if word in shown] == []


# ---- sign ----


def test_a_transaction_is_signed_raw(hot: Path, tmp_path: Path) -> None:
    file = document(tmp_path / "tx.json", dict(A_TRANSACTION))
    signed = manahsm("sign", "tx", file, "--key", "hot", "--config", hot)
    assert signed.status == 0
    assert (
        signed.output.strip()
        == "0x" + Account.sign_transaction(dict(A_TRANSACTION), A_PRIVATE_KEY).raw_transaction.hex()
    )
    by_role = manahsm("sign", "tx", "--role", "transaction_signer", "--config", hot, "--json", text=file.read_text())
    assert by_role.document["raw_transaction"] == signed.output.strip()


def test_a_transaction_for_another_chain_is_refused(hot: Path, tmp_path: Path) -> None:
    file = document(tmp_path / "tx.json", dict(A_TRANSACTION))
    refused = manahsm("sign", "tx", file, "--key", "hot", "--chain-id", "1", "--config", hot, "--json")
    assert (refused.status, refused.error["code"]) == (1, "invalid_transaction")


@pytest.mark.parametrize("given", ["text", "hex", "file"])
def test_a_message_is_signed_as_wallets_do(given: str, hot: Path, tmp_path: Path) -> None:
    (tmp_path / "message").write_bytes(b"hello")
    words = {"text": ["hello"], "hex": ["0x68656c6c6f", "--hex"], "file": ["--file", str(tmp_path / "message")]}[given]
    signed = manahsm("sign", "message", *words, "--key", ADDRESS, "--config", hot)
    assert signed.status == 0
    assert Account.recover_message(encode_defunct(b"hello"), signature=signed.output.strip()) == ADDRESS


def test_typed_data_is_signed(hot: Path, tmp_path: Path) -> None:
    signed = manahsm(
        "sign", "typed-data", document(tmp_path / "typed.json", TYPED_DATA), "--key", "hot", "--config", hot, "--json"
    )
    assert signed.status == 0
    encoded = encode_typed_data(full_message=TYPED_DATA)
    assert Account.recover_message(encoded, signature=signed.document["signature"]) == ADDRESS


def test_a_key_in_a_token_signs_and_the_audit_log_says_who_asked(used: Path) -> None:
    signed = manahsm("sign", "message", "hello", "--key", "hot", "--config", used, "--json")
    assert (signed.status, signed.document["backend"]) == (0, "hsm")
    shown = manahsm("audit", "show", "--event", "sign", "--config", used, "--json")
    record = json.loads(shown.output.splitlines()[-1])
    assert (record["caller"], record["outcome"]) == ("cli", "signed")


def test_a_change_to_keys_names_who_asked(hot: Path) -> None:
    shown = manahsm("audit", "show", "--event", "import_key", "--config", hot, "--json")
    assert json.loads(shown.output.splitlines()[-1])["caller"] == "cli"


def test_the_passphrase_of_the_service_is_never_shown(hot: Path) -> None:
    for words in (("config", "show"), ("status",), ("status", "--json"), ("check",), ("doctor",)):
        assert PASSPHRASE not in manahsm(*words, "--config", hot).everything
