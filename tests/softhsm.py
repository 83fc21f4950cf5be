"""Private SoftHSM tokens for tests: each in a directory of its own, with its own SOFTHSM2_CONF, label and PIN.

Import the fixtures into a conftest or a test module: ``from softhsm import softhsm_token``. Nothing here touches the
token directory of the machine, so tests run side by side and leave nothing behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from manahsm.config.secret import Secret
from manahsm.hsm.settings import HostSettings

__all__ = ["SoftHSMToken", "find_softhsm", "make_softhsm_token", "softhsm_token"]

_LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
)


def find_softhsm() -> Path:
    """Where SoftHSM's PKCS#11 library is on this machine; the test fails where it is not installed."""
    for candidate in _LIBRARIES:
        if Path(candidate).exists():
            return Path(candidate)
    pytest.fail("SoftHSM is not installed: apt-get install softhsm2")


@frozen
class SoftHSMToken:
    """One initialised token and how to reach it.

    Attributes:
        directory: holds ``softhsm2.conf`` and ``tokens/``.
        library: path of the PKCS#11 library.
        label: the token's label.
        pin: user PIN.
        so_pin: security officer PIN.
    """

    directory: Path
    library: Path
    label: str
    pin: str
    so_pin: str

    @classmethod
    def create(
        cls, directory: Path, *, label: str = "manahsm-test", pin: str = "73914", so_pin: str = "5561208"
    ) -> SoftHSMToken:
        """Initialise a token below ``directory``, which is created; call again for a second token beside it."""
        token = cls(directory, find_softhsm(), label, pin, so_pin)
        (directory / "tokens").mkdir(parents=True, exist_ok=True)
        token.conf.write_text(
            f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        token.run_tool("softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", so_pin)
        return token

    @property
    def conf(self) -> Path:
        """The file for SOFTHSM2_CONF."""
        return self.directory / "softhsm2.conf"

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that SoftHSM needs to find this token."""
        return {"SOFTHSM2_CONF": str(self.conf)}

    def host_settings(self, **changes: Any) -> HostSettings:
        """Settings of a host process for this token; ``changes`` replace single fields."""
        fields: dict[str, Any] = {
            "name": self.label,
            "library_path": str(self.library),
            "token_label": self.label,
            "pin": Secret(self.pin),
            "environment": self.environment,
        }
        return HostSettings(**{**fields, **changes})

    def run_tool(self, *command: str) -> str:
        """Run softhsm2-util or pkcs11-tool against this token; returns what it printed."""
        executable = shutil.which(command[0])
        if executable is None:
            pytest.fail(f"{command[0]} is not installed")
        done = subprocess.run(  # noqa: S603 - the commands are literals in tests
            [executable, *command[1:]],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
        return done.stdout

    def flags(self) -> str:
        """The token's flags as pkcs11-tool prints them, e.g. ``login required, rng, token initialized``."""
        listing = self.run_tool("pkcs11-tool", "--module", str(self.library), "--list-token-slots")
        lines = [line.split(":", 1)[1].strip() for line in listing.splitlines() if "token flags" in line]
        return lines[0]

    def hide(self) -> None:
        """Take the token away, as if it had been pulled out."""
        (self.directory / "tokens").rename(self.directory / "tokens.hidden")

    def show(self) -> None:
        """Bring a hidden token back."""
        (self.directory / "tokens.hidden").rename(self.directory / "tokens")


@pytest.fixture
def make_softhsm_token(tmp_path: Path) -> Any:
    """A function that makes tokens, each in its own directory: ``make_softhsm_token("backup", label="b")``."""

    def make(name: str = "softhsm", **options: str) -> SoftHSMToken:
        return SoftHSMToken.create(tmp_path / name, **options)

    return make


@pytest.fixture
def softhsm_token(tmp_path: Path) -> SoftHSMToken:
    """One fresh token without keys."""
    return SoftHSMToken.create(tmp_path / "softhsm")
