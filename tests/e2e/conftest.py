"""Fixtures of the end-to-end tests: a token with a funded key, and a node that mines what it signs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ethereum_node import Node, running_node
from softhsm import softhsm_token

__all__ = ["softhsm_token"]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with the newest rules that anvil knows."""
    with running_node(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture(scope="session")
def prague_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with the rules of Prague, the last that took one proof a blob (EIP-4844 before EIP-7594)."""
    with running_node(tmp_path_factory.mktemp("prague-node"), "--hardfork", "prague") as running:
        yield running


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a test's service lives."""
    return tmp_path / "service"
