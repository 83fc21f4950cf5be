"""Running services in tests: configurations, keys, and looks from outside at what a service leaves behind.

The one thing to know: every service here is real. Its token is a SoftHSM token of its own, its hosts are processes,
and its audit log and registry are files under the test's ``tmp_path``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
from coincurve import PublicKey
from softhsm import SoftHSMToken

from manahsm.audit.log import AuditLog
from manahsm.ethereum.signatures import address_of
from manahsm.requests import Signature, SignedAuthorization, SignedTransaction

__all__ = [
    "A_PRIVATE_KEY",
    "A_TRANSACTION",
    "PASSPHRASE",
    "audit_records",
    "children_of",
    "config_for",
    "digest_of",
    "eventually",
    "fill_the_disk_under",
    "host_pids",
    "recovered_address",
    "software_config",
    "write_config_file",
]

PASSPHRASE = "open sesame 0451"
A_PRIVATE_KEY = bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
A_TRANSACTION: Mapping[str, Any] = {
    "type": 2,
    "chainId": 31337,
    "nonce": 7,
    "maxPriorityFeePerGas": 10**9,
    "maxFeePerGas": 2 * 10**9,
    "gas": 21000,
    "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "value": 10**15,
}


def software_config(directory: Path, **changes: Any) -> dict[str, Any]:
    """A configuration without tokens, with a cheap keystore; tables in ``changes`` are laid over, not replaced."""
    directory.mkdir(parents=True, exist_ok=True)
    passphrase = _private_file(directory / "passphrase", PASSPHRASE)
    table: dict[str, Any] = {
        "enabled": False,
        "state_dir": str(directory / "state"),
        "keystore": {"passphrase_file": str(passphrase), "kdf": "pbkdf2", "iterations": 1024},
        "service": {"shutdown_grace": 3000},
    }
    return {"hsm": _laid_over(table, changes)}


def config_for(token: SoftHSMToken, directory: Path, **changes: Any) -> dict[str, Any]:
    """A configuration with one slot for ``token``: 4 sessions in 2 hosts."""
    pin = _private_file(token.directory / "pin", token.pin)
    table: dict[str, Any] = {
        "enabled": True,
        "vendor": "softhsm",
        "library_path": str(token.library),
        "token_label": token.label,
        "pin_file": str(pin),
        "environment": dict(token.environment),
        "connection_pool": {"size": 4, "processes": 2},
    }
    return software_config(directory, **_laid_over(table, changes))


def write_config_file(path: Path, config: Mapping[str, Any]) -> Path:
    """Write a configuration as the JSON file that ``--config`` takes."""
    path.write_text(json.dumps(config))
    return path


def _private_file(path: Path, text: str) -> Path:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(text + "\n")
    return path


def _laid_over(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for name, value in changes.items():
        below = merged.get(name)
        merged[name] = _laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


async def eventually(condition: Callable[[], object], *, within: float = 20.0) -> None:
    """Look at ``condition`` until it holds; the test fails where it does not hold in time.

    For what no task can announce: processes, files, counters of the kernel.
    """
    with anyio.move_on_after(within):
        while not condition():  # noqa: ASYNC110 - nobody sets an event in another process
            await anyio.sleep(0.005)
        return
    raise AssertionError(f"not within {within:g} s: {condition}")


def children_of(pid: int) -> set[int]:
    """Every living descendant of a process, zombies left out."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended while we looked
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def host_pids(of: int | None = None) -> set[int]:
    """Host processes of this process, or of another one. Other children are none: ctypes, for one, asks ldconfig."""
    return {pid for pid in children_of(of or os.getpid()) if b"manahsm.hsm.host" in _cmdline(pid)}


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def audit_records(directory: Path) -> list[dict[str, Any]]:
    """Every audit record of the service whose configuration was made for ``directory``, oldest first."""
    return [json.loads(line) for line in _audit_lines(directory / "state" / "audit")]


def _audit_lines(directory: Path) -> Iterator[str]:
    for path in sorted(directory.glob("*.jsonl")):
        yield from (line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n"))  # not torn


def digest_of(number: int) -> bytes:
    """A 32-byte digest of its own for each number."""
    return number.to_bytes(32, "big")


def recovered_address(signature: Signature | SignedTransaction | SignedAuthorization, digest: bytes) -> str:
    """The address whose key made a signature, as an Ethereum node finds it."""
    parity = signature.y_parity if not isinstance(signature, SignedTransaction) else _parity(signature.v)
    compact = signature.r.to_bytes(32, "big") + signature.s.to_bytes(32, "big") + bytes([parity])
    return address_of(PublicKey.from_signature_and_message(compact, digest, hasher=None).format(compressed=False))


def _parity(v: int) -> int:
    """The y parity in any form of v (EIP-155, 27/28, or the parity itself)."""
    return v if v in (0, 1) else (v - 27) % 2 if v in (27, 28) else (v - 35) % 2


def fill_the_disk_under(log: AuditLog) -> None:
    """From now on the kernel answers writes to the log's file with ENOSPC."""
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), log._output._descriptor, inheritable=False)
