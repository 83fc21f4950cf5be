"""Our side of the prober: what a PKCS#11 library says of itself and its tokens, learned without loading it here.

The one thing to know: a library that crashes or hangs costs the child, and comes back as a :class:`ProbeFailed`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from manahsm.config.slots import SlotConfig
from manahsm.processes.child import child_environment

__all__ = ["Library", "ProbeFailed", "Token", "list_tokens", "try_key"]

_PATIENCE = 60.0  # seconds: some vendors' clients take half a minute to find their devices


@frozen(kw_only=True)
class Token:
    """One token, seen without a login.

    Attributes:
        slot_id: CK_SLOT_ID.
        label, serial, manufacturer, model: from CK_TOKEN_INFO, without padding.
        flags: CKF_* by name without the prefix.
        max_sessions: sessions for one application, or ``None`` where it does not say.
        mechanisms: elliptic curve mechanisms by name.
    """

    slot_id: int
    label: str
    serial: str
    manufacturer: str
    model: str
    flags: tuple[str, ...]
    max_sessions: int | None
    mechanisms: tuple[str, ...]

    @property
    def title(self) -> str:
        """What people tell it by."""
        return f"{self.label!r} (slot {self.slot_id}, serial {self.serial}, {self.manufacturer} {self.model})"


@frozen(kw_only=True)
class Library:
    """A library that loads.

    Attributes:
        path: where it is.
        description: its own words.
        locking: it accepts to be used by several threads.
        tokens: every initialised token.
    """

    path: Path
    description: str
    locking: bool
    tokens: tuple[Token, ...]


class ProbeFailed(Exception):  # noqa: N818 - it becomes a finding
    """The library could not be looked into; the message says why, ``name`` is the outcome's."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def list_tokens(library: Path, environment: Mapping[str, str], *, patience: float = _PATIENCE) -> Library:
    """Load a library in a child process and ask what tokens it has.

    Args:
        library: its path.
        environment: the vendor's variables.
        patience: seconds until it counts as hung.

    Raises:
        ProbeFailed: it can not be used, crashed or hung.
    """
    found = _ask({"library": str(library)}, environment, patience)
    tokens = tuple(
        Token(**{**token, "flags": tuple(token["flags"]), "mechanisms": tuple(token["mechanisms"])})
        for token in found["tokens"]
    )
    return Library(path=library, description=found["description"], locking=found["locking"], tokens=tokens)


def try_key(slot: SlotConfig, *, patience: float = _PATIENCE) -> bool:
    """Have a token make a secp256k1 key and sign with it; the key is removed again.

    Returns:
        Whether it was removed.

    Raises:
        ProbeFailed: no key was made, or what it signed was wrong.
    """
    start = {
        "library_path": str(slot.library_path),
        "slot_id": slot.slot_id,
        "token_label": slot.token_label,
        "serial": None,
        "pin": None if slot.pin is None else slot.pin.reveal(),
        "read_write_sessions": slot.quirks.read_write_sessions,
        "raw_ec_point": slot.quirks.raw_ec_point,
        "max_sessions": slot.quirks.max_sessions,
        "cka_id_bytes": slot.quirks.cka_id_bytes,
        "point_on_private_key": slot.quirks.point_on_private_key,
    }
    return bool(_ask({"start": start}, slot.environment, patience)["removed"])


def _ask(question: dict[str, Any], environment: Mapping[str, str], patience: float) -> dict[str, Any]:
    # -P: whatever lies in the working directory is not imported.
    command = [sys.executable, "-P", "-m", "manahsm.cli.prober", str(os.getpid())]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command,
            input=json.dumps(question).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what the library says there is not ours to show
            env=child_environment(os.environ, environment),
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        message = f"the library did not answer within {patience:g} s"
        raise ProbeFailed("DEADLINE_PASSED", message) from None
    if done.returncode != 0 or not done.stdout:
        raise ProbeFailed("HOST_CRASHED", f"the library ended its process ({_ending(done.returncode)})")
    found: dict[str, Any] = json.loads(done.stdout)
    failure = found.get("failure")
    if failure is not None:
        raise ProbeFailed(failure["name"], failure["detail"] or f"{failure['name']} from {failure['function']}")
    return found


def _ending(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"exit status {returncode}"
