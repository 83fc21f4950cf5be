"""Prepare development on this machine: ``dev_setup.py DIRECTORY hsm|software [LIBRARY]``.

Makes a SoftHSM token (where there is a library), a passphrase for software keys, the configuration ``dev.toml`` and
the keys ``dev-signer`` and ``dev-validator``, all under DIRECTORY. Run again, it makes only what is missing.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import anyio
import softhsm_token

import manahsm
from manahsm.logs import configure_logging

TOKEN_LABEL = "manahsm-dev"  # noqa: S105 - a name, not a secret
SOCKET = "api.sock"
KEYS = {"dev-signer": "transaction_signer", "dev-validator": "validator"}

HSM_TABLE = """\
vendor = "softhsm"
library_path = "{library}"
token_label = "{label}"
pin_file = "softhsm/pin"
environment = {{ SOFTHSM2_CONF = "softhsm/softhsm2.conf" }}
"""
SOFTWARE_TABLE = """\
enabled = false  # SoftHSM was not there: software keys only
security_policy = { require_hsm_for_roles = [], key_generation_policy = { default_backend = "software" } }
"""
COMMON_TABLE = """\
state_dir = "state-{backend}"
keystore = {{ passphrase_file = "passphrase" }}
"""
# Whoever is on this machine may have things signed; whoever runs this may manage, at a Unix socket.
API_TABLE = """
[hsm.api]
socket = "{socket}"

[[hsm.api.callers]]
name = "anybody"
anonymous = true

[[hsm.api.callers]]
name = "developer"
uid = {uid}
admin = true
blind_signing = true
"""
LONGEST_SOCKET = 100  # characters; unix(7) allows 107


def write_config(directory: Path, backend: str, library: str) -> Path:
    """Write ``dev.toml``; paths in it are relative to the file."""
    table = HSM_TABLE.format(library=library, label=TOKEN_LABEL) if backend == "hsm" else SOFTWARE_TABLE
    path = directory / "dev.toml"
    path.write_text(
        "# Made by scripts/run for development on this machine.\n\n[hsm]\n"
        + table
        + COMMON_TABLE.format(backend=backend)
        + (API_TABLE.format(socket=SOCKET, uid=os.getuid()) if len(str(directory / SOCKET)) < LONGEST_SOCKET else "")
    )
    return path


async def make_keys(config: Path) -> None:
    """Make the keys that are missing."""
    async with manahsm.open_service(config) as service:
        for slot in (await service.status()).slots:
            if slot.reason is not None:
                raise SystemExit(f"dev_setup: slot {slot.name} is {slot.phase.value}: {slot.reason}")
        known = {key.label for key in await service.list_keys()}
        for label, role in KEYS.items():
            if label not in known:
                key = await service.generate_key(label, role)
                print(f"manahsm: made {label}, {key.address} ({key.backend.value})", file=sys.stderr)


def main(directory: Path, backend: str, library: str = "") -> None:
    """Make everything."""
    configure_logging(debug=False)
    if backend == "hsm":
        softhsm_token.main([str(directory / "softhsm"), TOKEN_LABEL, library])
    passphrase = directory / "passphrase"
    if not passphrase.exists():
        softhsm_token.write_private(passphrase, secrets.token_hex(32) + "\n")
    anyio.run(make_keys, write_config(directory, backend, library))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), *sys.argv[2:])
