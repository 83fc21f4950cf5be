"""A commented sample configuration for each vendor, made of the model and the vendor's profile.

The same texts are kept as config/<vendor>.toml; ``python -m manahsm.config.samples DIRECTORY`` writes them.
What has to be decided by whoever installs it is set; every other option is a comment with its default.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from manahsm.config.kinds import Table, Tables
from manahsm.config.model import Config, ConnectionPool, SlotOptions, pool_of
from manahsm.config.options import Option, join_path, nearest, options_of
from manahsm.config.reference import literal
from manahsm.config.vendors import Variable, Vendor, VendorProfile, profile_of
from manahsm.errors import ConfigError, ConfigProblem

__all__ = ["generate_sample_config"]

_WIDTH = 100
_LIBRARY_OF_YOUR_OWN = "/usr/local/lib/your-pkcs11-module.so"


def generate_sample_config(vendor: str) -> str:
    """The sample for a vendor: TOML that :func:`manahsm.config.load.load_config` takes as it is.

    Args:
        vendor: one of ``thales aws_cloudhsm safenet_luna utimaco yubihsm softhsm generic``.

    Raises:
        ConfigError: there is no such vendor.
    """
    if vendor not in list(Vendor):
        fault = ConfigProblem("vendor", "unknown vendor; " + nearest(str(vendor), Vendor))
        raise ConfigError([fault])
    profile = profile_of(Vendor(vendor))
    return "\n".join(_lines(profile)) + "\n"


def _lines(profile: VendorProfile) -> Iterator[str]:
    usual = Config(vendor=profile.vendor)
    yield from _comment(f"manahsm with {profile.title}.")
    yield from _comment(
        "Times are in milliseconds. Paths are absolute, or relative to this file. What is commented out "
        "shows the default. HSM_* environment variables win over this file. See docs/configuration.md."
    )
    for note in profile.notes:
        yield "#"
        yield from _comment(note)
    yield ""
    yield "[hsm]"
    yield from _table(usual, "hsm", _Sample.of(profile))
    yield from _slots_example()


@frozen
class _Sample:
    """What a vendor's sample says beside the model.

    Attributes:
        choices: options that it sets, by path, in file form; the others are shown as comments.
        remarks: more comment lines for an option, by path.
    """

    choices: Mapping[str, object]
    remarks: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, profile: VendorProfile) -> _Sample:
        """The sample for one vendor."""
        pool = Table(ConnectionPool).show(pool_of(profile.vendor))
        choices: dict[str, object] = {
            "hsm.enabled": True,
            "hsm.vendor": str(profile.vendor),
            "hsm.token_label": "manahsm",
            "hsm.pin_file": "/etc/manahsm/hsm.pin",
            **{join_path("hsm.connection_pool", name): value for name, value in pool.items()},
        }
        if not profile.libraries:
            choices["hsm.library_path"] = _LIBRARY_OF_YOUR_OWN
        return cls(
            choices,
            {
                "hsm.library_path": [f"# Usual place: {path}" for path in profile.libraries],
                "hsm.environment": [line for each in profile.variables for line in _comment(_variable(each))],
            },
        )


def _variable(variable: Variable) -> str:
    usual = "" if variable.default is None else f" (set to {variable.default} unless you set it)"
    return f"Known here: {variable.name}, {variable.doc}{usual}"


def _table(table: Any, path: str, sample: _Sample) -> Iterator[str]:
    """The options of a table, then its nested tables: TOML wants them in this order."""
    nested: list[tuple[str, Any]] = []
    for name, setting in options_of(type(table)).items():
        here, held = join_path(path, name), getattr(table, name)
        match setting.kind:
            case Table():
                nested.append((here, held))
            case Tables():
                continue
            case _:
                yield from _option(here, setting, held, sample)
    for here, held in nested:
        yield ""
        yield from _comment((inspect.getdoc(type(held)) or "").partition("\n")[0])
        yield f"[{here}]"
        yield from _table(held, here, sample)


def _option(path: str, setting: Option, held: object, sample: _Sample) -> Iterator[str]:
    yield ""
    yield from _comment(setting.doc)
    yield from sample.remarks.get(path, ())
    if path in sample.choices:
        yield f"{setting.name} = {literal(sample.choices[path])}"
    elif held is None or setting.default_text is not None:
        yield f"# {setting.name} = ...  # default: {setting.default_text or 'none'}"
    else:
        yield f"# {setting.name} = {literal(setting.kind.show(held))}"


def _slots_example() -> Iterator[str]:
    yield ""
    yield from _comment(
        "Several tokens, instead of token_label and slot_id at the top. They may differ in vendor, "
        "library_path, pin_file and environment too:"
    )
    options = options_of(SlotOptions)
    for label, priority in (("manahsm", "primary"), ("manahsm-spare", "backup")):
        yield "#"
        yield "# [[hsm.slots]]"
        yield f"# {options['token_label'].name} = {literal(label)}"
        yield f"# {options['priority'].name} = {literal(priority)}"


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2, break_on_hyphens=False))


if __name__ == "__main__":
    for each in Vendor:
        Path(sys.argv[1], f"{each}.toml").write_text(generate_sample_config(each))
