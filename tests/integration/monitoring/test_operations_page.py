"""The operators' page tells of every alert and of nothing else, and its drill runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import anyio
import yaml
from softhsm import SoftHSMToken

import manahsm
from manahsm.monitoring.causes import CAUSES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text()
RULES = yaml.safe_load((ROOT / "config" / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]


def test_every_cause_and_every_rule_without_one_is_explained_and_nothing_else() -> None:
    cells = re.findall(r"^\| (`.+?) \|", PAGE, re.MULTILINE)
    of_prometheus_alone = [rule["alert"] for rule in RULES if "cause" not in f"{rule['labels']} {rule['expr']}"]

    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted([*CAUSES, *of_prometheus_alone])


def test_every_method_that_the_page_names_exists() -> None:
    named = set(re.findall(r"service\.(\w+)\(", PAGE))

    assert [name for name in sorted(named) if not hasattr(manahsm.Service, name)] == []


def test_every_command_that_the_page_names_exists() -> None:
    named = set(re.findall(r"\./(scripts/\w+)", PAGE))

    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_the_drill_runs_as_it_stands(tmp_path: Path) -> None:
    token = SoftHSMToken.create(tmp_path / "var" / "softhsm", label="manahsm-dev")
    build = tmp_path / "scripts" / "build-faults"
    build.parent.mkdir()
    build.write_text(f"#!/bin/sh\nexec '{ROOT}/scripts/build-faults'\n")
    build.chmod(0o755)
    pin = tmp_path / "var" / "pin"
    pin.touch(mode=0o600)
    pin.write_text(token.pin)
    config = tmp_path / "var" / "dev.toml"
    config.write_text(
        f'[hsm]\nvendor = "softhsm"\nlibrary_path = "{token.library}"\ntoken_label = "{token.label}"\n'
        f'pin_file = "pin"\nstate_dir = "state"\nenvironment = {{ SOFTHSM2_CONF = "{token.conf}" }}\n'
        "connection_pool = { size = 2, processes = 1 }\n"
    )

    async def make_key() -> None:
        async with manahsm.open_service(config) as service:
            await service.generate_key("dev-signer", "transaction_signer")

    anyio.run(make_key)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "drill.py").write_text(block)

    done = subprocess.run(
        [sys.executable, "-W", "error", "drill.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    seen = [(line.split()[0], "critical" in line) for line in done.stdout.splitlines()]
    assert seen == [
        ("healthy", False),
        ("unhealthy", True),
        ("healthy", False),
        ("unhealthy", True),
        ("healthy", False),
    ]
