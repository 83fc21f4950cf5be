"""A secret file that is no longer what it was is told before the next start needs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from services import PASSPHRASE, software_config

import manahsm

pytestmark = pytest.mark.anyio


async def test_a_passphrase_file_that_is_open_to_others_is_told_until_it_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    async with manahsm.open_service(software_config(tmp_path)) as service:
        file.chmod(0o644)
        opened = (await service.trigger_health_check("config_manager")).component("config_manager")
        file.unlink()
        gone = (await service.trigger_health_check("config_manager")).component("config_manager")
        file.touch(mode=0o600)
        file.write_text(PASSPHRASE)
        back = (await service.trigger_health_check("config_manager")).component("config_manager")

    assert [one.status.value for one in (opened, gone, back)] == ["degraded", "degraded", "healthy"]
    assert "hsm.keystore.passphrase_file" in opened.message
    assert "chmod 600" in opened.message
    assert PASSPHRASE not in opened.message + gone.message
