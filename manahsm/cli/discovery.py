"""Which tokens there are on this machine: every vendor's library at its usual place, looked into by a child process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from manahsm.cli.probe import ProbeFailed, Token, list_tokens
from manahsm.config.vendors import PROFILES, Vendor, VendorProfile, profile_of

__all__ = ["Candidate", "discover", "fitting", "vendor_variables"]


@frozen
class Candidate:
    """A token that can be configured."""

    profile: VendorProfile
    library: Path
    token: Token

    @property
    def title(self) -> str:
        """What people tell it by."""
        return f"{self.profile.title}: {self.token.title}"


def discover(vendor: str | None, library: Path | None, environ: Mapping[str, str]) -> tuple[list[Candidate], list[str]]:
    """Find tokens.

    Args:
        vendor: look for this vendor's alone.
        library: look into this library alone.
        environ: where vendors' variables are.

    Returns:
        The tokens, and what should be said of libraries that could not be used.
    """
    found: list[Candidate] = []
    notes: list[str] = []
    for profile, path in _libraries(vendor, library):
        try:
            tokens = list_tokens(path, vendor_variables(profile, environ)).tokens
        except ProbeFailed as failed:
            notes.append(f"{profile.title} ({path}): {failed}")
            continue
        found += [Candidate(profile, path, token) for token in tokens]
        if not tokens:
            notes.append(f"{profile.title} ({path}): no initialised token")
    return found, notes


def _libraries(vendor: str | None, library: Path | None) -> list[tuple[VendorProfile, Path]]:
    if library is not None:
        whose = Vendor(vendor) if vendor is not None else _vendor_of(library)
        return [(profile_of(whose), library.absolute())]
    profiles = PROFILES.values() if vendor is None else (profile_of(Vendor(vendor)),)
    places = ((profile, next((path for path in profile.libraries if path.is_file()), None)) for profile in profiles)
    return [(profile, path) for profile, path in places if path is not None]


def _vendor_of(library: Path) -> Vendor:
    """The vendor whose library has this file name; ``generic`` for any other (pure)."""
    named = (
        profile.vendor for profile in PROFILES.values() if library.name in {path.name for path in profile.libraries}
    )
    return next(named, Vendor.GENERIC)


def fitting(candidates: Sequence[Candidate], label: str | None, slot_id: int | None) -> list[Candidate]:
    """Those that have this label and slot (pure)."""
    return [one for one in candidates if label in (None, one.token.label) and slot_id in (None, one.token.slot_id)]


def vendor_variables(profile: VendorProfile, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a vendor's library that are set, or that its profile sets (pure)."""
    usual = {each.name: each.default for each in profile.variables if each.default is not None}
    return {**usual, **{each.name: environ[each.name] for each in profile.variables if each.name in environ}}
