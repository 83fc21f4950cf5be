"""From options to tokens: which slots there are, which library each loads, and with which PIN.

This is the part of the configuration that touches the file system, so it runs when the service starts and
not when a file is loaded: a sample for a vendor whose library is not installed here still loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from manahsm.config.options import join_path
from manahsm.config.secret import Secret
from manahsm.config.secret_files import read_configured_secret
from manahsm.config.tables import ConnectionPool, Priority, SlotOptions
from manahsm.config.vendors import Vendor, VendorProfile, profile_of
from manahsm.errors import ConfigError, ConfigProblem
from manahsm.hsm.quirks import Quirks

if TYPE_CHECKING:
    from manahsm.config.model import Config

__all__ = ["SlotConfig", "declared_slots", "read_pin_again", "resolve_slots", "slot_name"]


@attrs.frozen(kw_only=True)
class SlotConfig:
    """One token to use, with everything that its host processes need.

    Attributes:
        name: unique among the slots; in logs, metrics and ``KeyInfo.slots``.
        profile: what is known of the vendor.
        library_path: absolute path of the PKCS#11 library; it exists.
        slot_id: PKCS#11 slot number, or ``None`` to go by label.
        token_label: label of the token, or ``None`` to go by number. Where both are given, both must fit.
        pin: the user PIN, or ``None`` for tokens that need no login.
        priority: primary or backup.
        environment: variables of the vendor's for the host processes.
        connection_pool: sizes and times, narrowed to what the vendor's device allows.
    """

    name: str
    profile: VendorProfile
    library_path: Path
    slot_id: int | None
    token_label: str | None
    pin: Secret | None
    priority: Priority
    environment: Mapping[str, str] = attrs.field(hash=False)
    connection_pool: ConnectionPool

    @property
    def vendor(self) -> Vendor:
        """The vendor of ``profile``."""
        return self.profile.vendor

    @property
    def quirks(self) -> Quirks:
        """The quirks of ``profile``."""
        return self.profile.quirks


def declared_slots(config: Config) -> tuple[tuple[str, SlotOptions], ...]:
    """Every slot as ``(dotted path, options)``, the top level's own included, with all inheritance done."""
    if config.slots:
        return tuple((f"hsm.slots[{i}]", _inherit(config, slot)) for i, slot in enumerate(config.slots))
    if config.slot_id is None and config.token_label is None:
        return ()
    top = SlotOptions(slot_id=config.slot_id, token_label=config.token_label)
    return (("hsm", _inherit(config, top)),)


def _inherit(config: Config, slot: SlotOptions) -> SlotOptions:
    vendor = slot.vendor or config.vendor
    # A library belongs to its vendor: a slot of another vendor does not inherit it.
    inherited = config.library_path if vendor is config.vendor else None
    return attrs.evolve(
        slot,
        vendor=vendor,
        library_path=slot.library_path or inherited,
        environment={**config.environment, **slot.environment},
    )


def slot_name(slot: SlotOptions) -> str:
    """The given name, else the token label, else ``slot-<id>``."""
    return slot.name or slot.token_label or f"slot-{slot.slot_id}"


def resolve_slots(config: Config, environ: Mapping[str, str]) -> tuple[SlotConfig, ...]:
    """Find libraries and read PINs for all slots.

    Raises:
        ConfigError: everything that is wrong with any of them.
    """
    if not config.enabled:
        return ()
    problems: list[ConfigProblem] = []
    resolved = [_resolve(config, slot, path, environ, problems) for path, slot in declared_slots(config)]
    if problems:
        raise ConfigError(problems)
    return tuple(resolved)


def _resolve(
    config: Config, slot: SlotOptions, path: str, environ: Mapping[str, str], problems: list[ConfigProblem]
) -> SlotConfig:
    profile = profile_of(slot.vendor or config.vendor)
    return SlotConfig(
        name=slot_name(slot),
        profile=profile,
        library_path=_find_library(slot, profile, path, problems),
        slot_id=slot.slot_id,
        token_label=slot.token_label,
        pin=_read_pin(config, slot, profile, path, problems),
        priority=slot.priority,
        environment=_environment(slot, profile, environ),
        connection_pool=fit_pool(config.connection_pool, profile),
    )


def _find_library(slot: SlotOptions, profile: VendorProfile, path: str, problems: list[ConfigProblem]) -> Path:
    places = (slot.library_path,) if slot.library_path else profile.libraries
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(str(place) for place in places) or "nowhere: this vendor has no usual place"
    remedy = f"install the PKCS#11 library of {profile.title}, or set library_path to where it is"
    problems.append(
        ConfigProblem(join_path(path, "library_path"), f"library not found (looked for {looked}); {remedy}")
    )
    return Path()


def _read_pin(
    config: Config, slot: SlotOptions, profile: VendorProfile, path: str, problems: list[ConfigProblem]
) -> Secret | None:
    file = slot.pin_file or config.pin_file
    option = join_path(path, "pin_file") if slot.pin_file else "hsm.pin_file" if file else "hsm.pin"
    try:
        pin = config.pin if file is None else read_configured_secret(file, option)
    except ConfigError as error:
        # Slots that share one PIN file share its fault.
        problems.extend(problem for problem in error.problems if problem not in problems)
        return None
    if pin is not None and profile.pin_form is not None and not profile.pin_form.fits(pin.reveal()):
        problems.append(ConfigProblem(option, f"a PIN of {profile.title} has the form {profile.pin_form.doc}"))
    return pin


def _environment(slot: SlotOptions, profile: VendorProfile, environ: Mapping[str, str]) -> Mapping[str, str]:
    defaults = {v.name: v.default for v in profile.variables if v.default is not None}
    inherited = {v.name: environ[v.name] for v in profile.variables if v.name in environ}
    return MappingProxyType({**defaults, **inherited, **slot.environment})


def fit_pool(pool: ConnectionPool, profile: VendorProfile) -> ConnectionPool:
    """Narrow a pool to what the device allows: ``size`` first, ``max_overflow`` with what is left."""
    device = profile.quirks.max_sessions
    if device is None:
        return pool
    most = max(1, device - min(pool.processes, pool.size))  # each host keeps a session of its own as its anchor
    if pool.size + pool.max_overflow <= most:
        return pool
    size = min(pool.size, most)
    return attrs.evolve(pool, size=size, max_overflow=most - size)


def read_pin_again(config: Config, name: str) -> Secret | None:
    """Read the PIN of the slot called ``name`` anew: an operator may have corrected its file.

    Raises:
        ConfigError: the file can not be read, others can read it, or what it holds is no PIN of this vendor.
    """
    path, slot = next(found for found in declared_slots(config) if slot_name(found[1]) == name)
    problems: list[ConfigProblem] = []
    pin = _read_pin(config, slot, profile_of(slot.vendor or config.vendor), path, problems)
    if problems:
        raise ConfigError(problems)
    return pin
