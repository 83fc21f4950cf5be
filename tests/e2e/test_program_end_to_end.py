"""The program and ``scripts/run``: JSON lines in, transactions out that a node mines."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from eth_account import Account
from ethereum_node import CHAIN_ID, DEV_ACCOUNT, DEV_PRIVATE_KEY, Node
from services import config_for, write_config_file
from softhsm import SoftHSMToken

import manahsm
from manahsm import Backend, KeyInfo, Role

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TRANSACTION_KINDS = ("legacy", "eip155", "eip2930", "eip1559", "eip4844", "eip7702")
ETHER = 10**18


def make_key(config: dict[str, Any]) -> KeyInfo:
    """Make the key that the examples name, in the token."""

    async def make() -> KeyInfo:
        async with manahsm.open_service(config) as service:
            return await service.generate_key("dev-signer", Role.TRANSACTION_SIGNER, Backend.HSM)

    return anyio.run(make)


def run_program(command: list[str], text: str) -> list[dict[str, Any]]:
    """Give a program its lines; returns its answers. It ends in order and leaves no process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HSM_", "MANAHSM_"))}
    with subprocess.Popen(  # noqa: S603 - our own programs
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            answers, log = program.communicate(text, timeout=90)
        finally:
            program.kill()
    assert program.returncode == 0, log
    assert not members_of_session(program.pid)
    return [json.loads(line) for line in answers.splitlines()]


def members_of_session(leader: int) -> set[int]:
    """Living processes of the session that ``leader`` began."""
    members = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:  # it ended while we looked
                continue
            if int(session) == leader and state != "Z":
                members.add(int(entry.name))
    return members


@pytest.fixture(params=["asyncio", "trio"])
def program(request: pytest.FixtureRequest) -> list[str]:
    return [sys.executable, "-m", "manahsm.run", "--stdio", "--backend", request.param]


def test_lines_are_signed_in_the_token_and_mined_in_one_block(
    softhsm_token: SoftHSMToken, directory: Path, node: Node, program: list[str]
) -> None:
    config = config_for(softhsm_token, directory)
    key = make_key(config)
    node.rpc("anvil_setBalance", key.address, hex(ETHER))
    to, fees = DEV_ACCOUNT, {"maxPriorityFeePerGas": 10**9, "maxFeePerGas": 10**11}
    txs = [{**fees, "nonce": nonce, "gas": 21000, "to": to, "value": hex(nonce)} for nonce in range(10)]
    lines = [
        {"id": nonce, "key": reference, "chain_id": CHAIN_ID, "tx": tx}
        for nonce, (tx, reference) in enumerate(zip(txs, [key.label, key.key_id, key.address] * 4, strict=False))
    ]
    answers = run_program(
        [*program, "--config", str(write_config_file(directory / "config.json", config))],
        "".join(json.dumps(line) + "\n" for line in lines),
    )
    assert [(answer["id"], answer["backend"]) for answer in answers] == [(n, "hsm") for n in range(10)]
    receipts = node.mine(*(answer["raw_transaction"] for answer in answers))
    assert [receipt["transactionHash"] for receipt in receipts] == [answer["hash"] for answer in answers]
    assert {receipt["from"] for receipt in receipts} == {key.address.lower()}


def test_an_authorization_signed_by_the_program_delegates_the_account(
    softhsm_token: SoftHSMToken, directory: Path, node: Node, program: list[str]
) -> None:
    config = config_for(softhsm_token, directory)
    key = make_key(config)
    line = {"id": 1, "key": key.label, "authorization": {"chainId": CHAIN_ID, "address": DEV_ACCOUNT, "nonce": 0}}
    config_file = write_config_file(directory / "config.json", config)
    (answer,) = run_program([*program, "--config", str(config_file)], json.dumps(line))
    tx = {
        "chainId": CHAIN_ID,
        "nonce": node.nonce(DEV_ACCOUNT),
        "maxPriorityFeePerGas": 10**9,
        "maxFeePerGas": 10**11,
        "gas": 100000,
        "to": key.address,
        "authorizationList": [answer["authorization"]],
    }
    sponsored = run_program(
        [*program, "--config", str(config_file)],
        json.dumps({"id": 2, "key": import_dev_key(config).label, "tx": tx}),
    )
    node.mine(sponsored[0]["raw_transaction"])
    assert node.rpc("eth_getCode", key.address, "latest") == "0xef0100" + DEV_ACCOUNT.removeprefix("0x").lower()


def import_dev_key(config: dict[str, Any]) -> KeyInfo:
    """Put the node's rich account into the token."""

    async def bring() -> KeyInfo:
        async with manahsm.open_service(config) as service:
            return await service.import_key(DEV_PRIVATE_KEY, "rich", Role.TRANSACTION_SIGNER)

    return anyio.run(bring)


def assert_examples_are_signed(answers: list[dict[str, Any]], address: str) -> None:
    assert [answer["id"] for answer in answers] == [*TRANSACTION_KINDS, "message", "typed-data", "hash"]
    assert {answer.get("backend") for answer in answers} == {"hsm"}
    for answer in answers[: len(TRANSACTION_KINDS)]:
        assert Account.recover_transaction(answer["raw_transaction"]) == address, answer["id"]


def test_the_examples_are_signed_and_mined(
    softhsm_token: SoftHSMToken, directory: Path, node: Node, program: list[str]
) -> None:
    config = config_for(softhsm_token, directory)
    key = make_key(config)
    node.rpc("anvil_setBalance", key.address, hex(ETHER))
    config_file = write_config_file(directory / "config.json", config)
    answers = run_program([*program, "--config", str(config_file)], (EXAMPLES / "transactions.jsonl").read_text())
    assert_examples_are_signed(answers, key.address)
    raw = {answer["id"]: answer["raw_transaction"] for answer in answers if "raw_transaction" in answer}
    before_blob = node.mine(*(raw[kind] for kind in TRANSACTION_KINDS[:4]))
    # A node takes a blob transaction only with its sidecar, which would make the example 131 KB long.
    node.rpc("anvil_setNonce", key.address, hex(5))
    receipts = [*before_blob, *node.mine(raw["eip7702"])]
    assert [int(receipt["type"], 16) for receipt in receipts] == [0, 0, 1, 2, 4]
    assert {receipt["from"] for receipt in receipts} == {key.address.lower()}


def test_bad_lines_are_answered_and_the_rest_is_signed(
    softhsm_token: SoftHSMToken, directory: Path, program: list[str]
) -> None:
    config = config_for(softhsm_token, directory)
    make_key(config)
    config_file = write_config_file(directory / "config.json", config)
    *bad, last = run_program([*program, "--config", str(config_file)], (EXAMPLES / "bad-lines.jsonl").read_text())
    assert [(line["id"], line["error"]["code"]) for line in bad] == [
        (None, "invalid_request"),
        ("unknown-key", "key_not_found"),
        ("unknown-field", "invalid_transaction"),
        ("wrong-chain", "invalid_transaction"),
    ]
    assert (last["id"], last["backend"]) == ("signed-after-them", "hsm")


def copy_of_checkout(directory: Path) -> Path:
    """What ``scripts/run`` needs, with a .venv that stands for the interpreter of the tests."""
    checkout = directory / "a check out"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    stamp = hashlib.sha256()
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
        stamp.update((checkout / name).read_bytes())
    interpreter = checkout / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    (checkout / ".venv" / ".manahsm-stamp").write_text(f"{stamp.hexdigest()}  -\n")
    return checkout


def test_the_run_script_makes_a_token_with_keys_and_signs_the_examples(tmp_path: Path) -> None:
    checkout = copy_of_checkout(tmp_path)
    examples = (EXAMPLES / "transactions.jsonl").read_text()
    command = [str(checkout / "scripts" / "run"), "--stdio"]
    first = run_program(command, examples)
    address = Account.recover_transaction(first[0]["raw_transaction"])
    assert_examples_are_signed(first, address)
    assert (checkout / "var" / "softhsm" / "pin").stat().st_mode & 0o777 == 0o600
    again = run_program(command, examples)
    assert_examples_are_signed(again, address)
