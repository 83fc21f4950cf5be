"""The configuration as the program holds it: :class:`Config` and its tables, frozen, with times in seconds.

Build one with :func:`manahsm.config.load.load_config`, or directly (``Config(vendor="softhsm", ...)``), in
which case each value is checked where it stands, and the contradictions between options when the service
loads it.
"""

# ruff: noqa: RUF009 - option() returns attrs.field(), which makes no shared value

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Factory, frozen

from manahsm.config.api_tables import Api
from manahsm.config.kinds import Choice, FilePath, Flag, Integer, SecretText, Table, Tables, Text, Variables
from manahsm.config.options import option
from manahsm.config.secret import Secret
from manahsm.config.secret_files import read_configured_secret
from manahsm.config.slots import SlotConfig, resolve_slots
from manahsm.config.tables import (
    NO_VARIABLES,
    Audit,
    CircuitBreaker,
    ConnectionPool,
    Fallback,
    Fsync,
    Kdf,
    KeyGenerationPolicy,
    KeystoreOptions,
    Monitoring,
    Priority,
    SecurityPolicy,
    ServiceOptions,
    SlotOptions,
)
from manahsm.config.vendors import Vendor, profile_of

__all__ = [
    "Api",
    "Audit",
    "CircuitBreaker",
    "Config",
    "ConnectionPool",
    "Fallback",
    "Fsync",
    "Kdf",
    "KeyGenerationPolicy",
    "KeystoreOptions",
    "Monitoring",
    "Priority",
    "SecurityPolicy",
    "ServiceOptions",
    "SlotConfig",
    "SlotOptions",
    "default_state_dir",
    "pool_of",
]


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """``manahsm`` in the user's state directory, as the XDG base directory specification has it."""
    home: Path = FilePath().parse(environ.get("XDG_STATE_HOME") or "~/.local/state")
    return home / "manahsm"


def pool_of(vendor: Vendor) -> ConnectionPool:
    """The vendor profile's pool."""
    pool: ConnectionPool = Table(ConnectionPool).parse(profile_of(vendor).pool)
    return pool


@frozen(kw_only=True)
class Config:
    """Everything that can be configured; the table ``[hsm]`` of a file."""

    enabled: bool = option(
        Flag(),
        default=True,
        doc="Use tokens. With false there are software keys only, and no library is needed.",
    )
    vendor: Vendor = option(Choice(Vendor), Vendor.GENERIC, "Whose PKCS#11 library it is.")
    library_path: Path | None = option(
        FilePath(), None, "The PKCS#11 library.", default_text="where the vendor installs it"
    )
    slot_id: int | None = option(Integer(0, 2**64 - 1), None, "PKCS#11 slot number of the token.")
    token_label: str | None = option(
        Text(32),
        None,
        "Label of the token; survives a change of slot numbers. With slot_id, both must fit.",
    )
    pin: Secret | None = option(SecretText(), None, "The user PIN. Better kept in a file of its own.")
    pin_file: Path | None = option(
        FilePath(),
        None,
        "File with the user PIN; one newline at its end is ignored. Refused if group or others can read it.",
    )
    debug: bool = option(Flag(), default=False, doc="Log in detail. Secrets stay out of it.")
    environment: Mapping[str, str] = option(
        Variables(),
        NO_VARIABLES,
        "Variables for the processes that load the library, over those they inherit, e.g. SOFTHSM2_CONF.",
    )
    slots: tuple[SlotOptions, ...] = option(
        Tables(SlotOptions), (), "Several tokens, instead of slot_id and token_label."
    )
    connection_pool: ConnectionPool = option(
        Table(ConnectionPool),
        Factory(lambda self: pool_of(self.vendor), takes_self=True),
        "Sessions with a token.",
    )
    security_policy: SecurityPolicy = option(
        Table(SecurityPolicy), SecurityPolicy(), "What may be signed, where, and how often."
    )
    fallback: Fallback = option(Table(Fallback), Fallback(), "When a software twin stands in for a token.")
    circuit_breaker: CircuitBreaker = option(
        Table(CircuitBreaker), CircuitBreaker(), "When a slot is left alone for a while."
    )
    monitoring: Monitoring = option(Table(Monitoring), Monitoring(), "Health checks and alerts.")
    keystore: KeystoreOptions = option(Table(KeystoreOptions), KeystoreOptions(), "Files of software keys.")
    audit: Audit = option(Table(Audit), Audit(), "The record of everything that was signed or refused.")
    api: Api = option(Table(Api), Api(), "The HTTP interface, which `python -m manahsm.run` serves.")
    service: ServiceOptions = option(Table(ServiceOptions), ServiceOptions(), "Limits of the service as a whole.")
    state_dir: Path = option(
        FilePath(),
        Factory(lambda: default_state_dir(os.environ)),
        "Directory of the key registry and, if not placed elsewhere, of keystores and the audit log.",
        default_text="$XDG_STATE_HOME/manahsm or ~/.local/state/manahsm",
    )

    @property
    def keystore_directory(self) -> Path:
        """``keystore.directory``, or its default in ``state_dir``."""
        return self.keystore.directory or self.state_dir / "keystore"

    @property
    def audit_directory(self) -> Path:
        """``audit.directory``, or its default in ``state_dir``."""
        return self.audit.directory or self.state_dir / "audit"

    def resolved_slots(self, environ: Mapping[str, str] = os.environ) -> tuple[SlotConfig, ...]:
        """The tokens to use, with libraries found and PINs read. Reads files; empty when not ``enabled``.

        Args:
            environ: where the vendors' own variables are looked up.

        Raises:
            ConfigError: everything that is wrong with any of them, at once.
        """
        return resolve_slots(self, environ)

    def secret_files(self) -> tuple[tuple[str, Path], ...]:
        """Every file with a PIN or a passphrase, with the option that names it."""
        slots = [(f"hsm.slots[{index}].pin_file", slot.pin_file) for index, slot in enumerate(self.slots)]
        of_tokens = [("hsm.pin_file", self.pin_file), *slots] if self.enabled else []
        named = [*of_tokens, ("hsm.keystore.passphrase_file", self.keystore.passphrase_file)]
        return tuple((option, path) for option, path in named if path is not None)

    def passphrase(self) -> Secret | None:
        """Read ``keystore.passphrase_file``; ``None`` when none is configured.

        Raises:
            ConfigError: the file is missing, empty, not UTF-8, or readable by others.
        """
        return read_configured_secret(self.keystore.passphrase_file, "hsm.keystore.passphrase_file")

    def describe(self) -> dict[str, Any]:
        """Everything in file form (times in milliseconds), secrets as ``***``; fit for logs and JSON."""
        shown: dict[str, Any] = Table(Config).show(self)
        return shown
