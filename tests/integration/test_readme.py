"""The README's promises run: its Python blocks, against a token of their own in place of the development one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from softhsm import SoftHSMToken

import manahsm

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def dev_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("readme")
    token = SoftHSMToken.create(directory / "softhsm", label="manahsm-dev")
    pin = directory / "pin"
    pin.touch(mode=0o600)
    pin.write_text(token.pin)
    config = directory / "dev.toml"
    config.write_text(
        f'[hsm]\nvendor = "softhsm"\ntoken_label = "{token.label}"\npin_file = "pin"\nstate_dir = "state"\n'
        f'environment = {{ SOFTHSM2_CONF = "{token.conf}" }}\n'
    )

    async def make_keys() -> None:
        async with manahsm.open_service(config) as service:
            await service.generate_key("dev-signer", "transaction_signer")
            await service.generate_key("dev-validator", "validator")

    anyio.run(make_keys)
    return config


def test_the_readme_has_its_python_blocks() -> None:
    assert len(BLOCKS) == 6


@pytest.mark.parametrize("block", BLOCKS, ids=[str(number) for number in range(len(BLOCKS))])
def test_a_python_block_of_the_readme_runs_as_it_stands(block: str, dev_config: Path, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block.replace("var/dev.toml", str(dev_config)))
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_service_method_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"service\.(\w+)\(", README))
    assert [name for name in sorted(named) if not hasattr(manahsm.Service, name)] == []


def test_every_local_link_of_the_readme_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
