"""The examples run as they are, on both event loops, and do what they say."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from services import config_for, recovered_address, write_config_file
from softhsm import SoftHSMToken

import manahsm
from manahsm import Backend, KeyInfo, Role
from manahsm.ethereum import message_digest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, KeyInfo]:
    """A configuration file and the key that the examples sign with."""
    directory = tmp_path_factory.mktemp("examples")
    config = config_for(SoftHSMToken.create(directory / "softhsm"), directory)

    async def make_key() -> KeyInfo:
        async with manahsm.open_service(config) as service:
            return await service.generate_key("dev-signer", Role.TRANSACTION_SIGNER, Backend.HSM)

    return write_config_file(directory / "config.json", config), anyio.run(make_key)


def run_main(name: str, config: Path, backend: str) -> Any:
    return anyio.run(runpy.run_path(str(EXAMPLES / name))["main"], config, backend=backend)


def test_the_embedding_example_signs_a_transfer_for_each_block(dev: tuple[Path, KeyInfo], anyio_backend: str) -> None:
    config, key = dev
    signed = run_main("embedding.py", config, anyio_backend)
    assert [(transfer.key_id, transfer.backend) for transfer in signed] == [(key.key_id, Backend.HSM)] * 5
    assert len({transfer.hash for transfer in signed}) == 5


def test_the_embedding_example_goes_on_when_its_token_is_away(
    dev: tuple[Path, KeyInfo], tmp_path: Path, anyio_backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = dev
    away = tmp_path / "away.toml"
    away.write_text(
        f"[hsm]\nvendor = 'softhsm'\ntoken_label = 'nobody'\npin_file = '{config.parent / 'softhsm' / 'pin'}'\n"
        f"environment = {{ SOFTHSM2_CONF = '{config.parent / 'softhsm' / 'softhsm2.conf'}' }}\n"
        f"state_dir = '{config.parent / 'state'}'\nconnection_pool = {{ start_timeout = 2000 }}\n"
    )
    assert run_main("embedding.py", away, anyio_backend) == []
    assert capsys.readouterr().out.count(": not signed: ") == 5


def test_the_channel_example_gets_one_outcome_for_each_request(dev: tuple[Path, KeyInfo], anyio_backend: str) -> None:
    config, key = dev
    outcomes = run_main("channel.py", config, anyio_backend)
    transfers = {f"transfer-{number}" for number in range(20)}
    assert outcomes.keys() == {*transfers, "message", "digest", "without-nonce"}
    assert {request_id for request_id, outcome in outcomes.items() if outcome.error} == {"without-nonce"}
    message = outcomes["message"].unwrap()
    assert recovered_address(message, message_digest("Sign in to example.org")) == key.address


@pytest.mark.parametrize(("name", "lines"), [("embedding.py", 5), ("channel.py", 23)])
def test_an_example_runs_as_a_program(dev: tuple[Path, KeyInfo], anyio_backend: str, name: str, lines: int) -> None:
    command = [sys.executable, str(EXAMPLES / name), str(dev[0]), anyio_backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == lines
