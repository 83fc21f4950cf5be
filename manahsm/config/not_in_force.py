"""Options that this release accepts, checks, and does not act on yet.

A setting that is silently ignored is worse than one that is refused, so the service warns of each that was
changed. When a feature arrives, its line leaves this table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from manahsm.config.kinds import Table, Tables
from manahsm.config.options import join_path, options_of

if TYPE_CHECKING:
    from manahsm.config.model import Config

__all__ = ["NOT_YET_IN_FORCE", "is_in_force", "not_in_force"]

_HTTP = "the HTTP interface comes with a later release"

#: Dotted path of an option or of a whole table (entries of a list written ``[]``) -> why it has no effect.
NOT_YET_IN_FORCE: Mapping[str, str] = MappingProxyType(
    {
        "hsm.api": _HTTP,
    }
)


def is_in_force(path: str) -> bool:
    """Whether the option at ``path`` (list entries written ``[]``) is acted on."""
    return _reason(path) is None


def _reason(path: str) -> str | None:
    covering = (reason for known, reason in NOT_YET_IN_FORCE.items() if f"{path}.".startswith(f"{known}."))
    return next(covering, None)


def not_in_force(config: Config) -> tuple[str, ...]:
    """One sentence for each option that differs from its default and has no effect."""
    usual = type(config)(vendor=config.vendor)
    return tuple(
        f"{path} is set but not acted on yet: {reason}"
        for path, kept in _changed(config, usual, "hsm")
        if (reason := _reason(kept)) is not None
    )


def _changed(table: Any, usual: Any, path: str, kept: str | None = None) -> Iterator[tuple[str, str]]:
    """Each option that differs: its path, and its path as :data:`NOT_YET_IN_FORCE` writes it."""
    for name, setting in options_of(type(table)).items():
        given, default = getattr(table, name), getattr(usual, name)
        here, known = join_path(path, name), join_path(kept or path, name)
        match setting.kind:
            case Table():
                yield from _changed(given, default, here, known)
            case Tables(cls=cls):
                for index, item in enumerate(given):
                    yield from _changed(item, cls(), f"{here}[{index}]", f"{known}[]")
            case _ if given != default:
                yield here, known
