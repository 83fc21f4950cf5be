"""The stage that the supervisors' tests play on."""

from __future__ import annotations

import pytest
from puppets import Stage


@pytest.fixture
def stage() -> Stage:
    return Stage()
