"""Fixtures of the service tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hsm_hosts import Shim, build_shim
from softhsm import SoftHSMToken, make_softhsm_token, softhsm_token

__all__ = ["make_softhsm_token", "softhsm_token"]


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shim(softhsm_token: SoftHSMToken, shim_library: Path, tmp_path: Path) -> Shim:
    control = tmp_path / "shim.control"
    control.touch()
    return Shim(softhsm_token, shim_library, control)
