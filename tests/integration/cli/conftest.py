"""Tokens and configurations of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from services import A_PRIVATE_KEY, config_for, software_config, write_config_file
from softhsm import SoftHSMToken, make_softhsm_token, softhsm_token

import manahsm

__all__ = ["make_softhsm_token", "softhsm_token"]


@pytest.fixture
def software(tmp_path: Path) -> Path:
    """Configuration with software keys only; there is none yet."""
    return write_config_file(tmp_path / "config.json", software_config(tmp_path))


@pytest.fixture(scope="module")
def used_token(tmp_path_factory: pytest.TempPathFactory) -> SoftHSMToken:
    """A token with the key ``hot``; its configuration is ``config.json`` in the same folder."""
    directory = tmp_path_factory.mktemp("used")
    token = SoftHSMToken.create(directory / "softhsm")
    table = config_for(token, directory, connection_pool={"size": 2, "processes": 1})

    async def make_key() -> None:
        async with manahsm.open_service(table) as service:
            await service.import_key(A_PRIVATE_KEY, "hot", "transaction_signer")

    anyio.run(make_key)
    write_config_file(directory / "config.json", table)
    return token


@pytest.fixture
def used(used_token: SoftHSMToken) -> Path:
    """The configuration of the token with the key ``hot``."""
    return used_token.directory.parent / "config.json"
