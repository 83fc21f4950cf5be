"""The text of a first configuration: the tokens that were chosen, and where to read of everything else (pure).

The one thing to know: a text is only returned after it was read back and found to say what was meant.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from manahsm.cli.configuration import toml_lines
from manahsm.cli.discovery import Candidate
from manahsm.config.load import load_config
from manahsm.config.vendors import Vendor
from manahsm.errors import ConfigError

__all__ = ["Setup", "configuration_text"]


@frozen(kw_only=True)
class Setup:
    """What is to be set up.

    Attributes:
        token: the first token, with the file of its PIN; ``None`` for software keys alone.
        backups: those that stand in for it, likewise, in order.
        passphrase_file: of software keys; ``None`` for none.
        state_dir: where keys and the audit log are kept; ``None`` for the default.
    """

    token: tuple[Candidate, Path] | None
    backups: tuple[tuple[Candidate, Path], ...] = ()
    passphrase_file: Path | None = None
    state_dir: Path | None = None


def configuration_text(setup: Setup, candidates: Sequence[Candidate], environ: Mapping[str, str]) -> str:
    """Write the configuration of a setup.

    Args:
        setup: what is to be set up.
        candidates: all tokens that there are: a label that two have does not name one.
        environ: the vendor's variables in it are written down, for a service that is started elsewhere.

    Raises:
        click.UsageError: what was found can not be written down.
    """
    table = _table(setup, candidates, environ)
    text = "\n".join([*_head(setup), "", *toml_lines(table, "hsm"), ""])
    try:
        read_back = tomllib.loads(text)["hsm"]
        load_config({"hsm": read_back}, environ={})
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise click.UsageError(f"this token can not be written down: {error}") from None
    if read_back != table:
        raise click.UsageError("this token's label can not be written down: name it with --slot-id")
    return text


def _head(setup: Setup) -> Iterator[str]:
    profiles = list(dict.fromkeys(one.profile for one, _ in _tokens(setup)))
    with_what = " and ".join(profile.title for profile in profiles) or "software keys"
    yield from _comment(
        f"manahsm with {with_what}. Times are in milliseconds, paths absolute or relative to this file."
    )
    vendor = profiles[0].vendor if profiles else Vendor.GENERIC
    yield from _comment(f"Every option with its default: manahsm config sample {vendor}")
    for profile in profiles:
        for note in profile.notes:
            yield from _comment(note)


def _tokens(setup: Setup) -> tuple[tuple[Candidate, Path], ...]:
    return () if setup.token is None else (setup.token, *setup.backups)


def _table(setup: Setup, candidates: Sequence[Candidate], environ: Mapping[str, str]) -> dict[str, Any]:
    table: dict[str, Any] = {"enabled": False}
    if setup.token is not None:
        first, pin_file = setup.token
        table = {"vendor": first.profile.vendor.value, "library_path": str(first.library)}
        which = _which(first, candidates)
        table |= {"pin_file": str(pin_file)} if setup.backups else {**which, "pin_file": str(pin_file)}
    if setup.state_dir is not None:
        table["state_dir"] = str(setup.state_dir.absolute())
    if setup.token is None:
        table["security_policy"] = {"key_generation_policy": {"default_backend": "software"}}
    elif variables := _variables(setup.token[0], environ):
        table["environment"] = variables
    if setup.passphrase_file is not None:
        table["keystore"] = {"passphrase_file": str(setup.passphrase_file)}
    if setup.backups:
        table["slots"] = [_slot(setup, number, candidates, environ) for number in range(len(setup.backups) + 1)]
    return table


def _slot(setup: Setup, number: int, candidates: Sequence[Candidate], environ: Mapping[str, str]) -> dict[str, Any]:
    """One of several tokens, and where it differs from the first."""
    tokens = _tokens(setup)
    one, pin_file = tokens[number]
    first = tokens[0][0]
    slot = _which(one, candidates)
    if sum(other.token.label == one.token.label for other, _ in tokens) > 1:
        slot = {"name": f"{one.token.label or 'slot'}-{number + 1}", **slot}
    slot["priority"] = "backup" if number else "primary"
    if number:
        slot["pin_file"] = str(pin_file)
    if (one.profile, one.library) != (first.profile, first.library):
        slot |= {"vendor": one.profile.vendor.value, "library_path": str(one.library)}
        if variables := _variables(one, environ):
            slot["environment"] = variables
    return slot


def _which(one: Candidate, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """What names a token in its library."""
    token = one.token
    namesakes = [other for other in candidates if (other.library, other.token.label) == (one.library, token.label)]
    named: dict[str, Any] = {"token_label": token.label} if token.label else {}
    return {**named, "slot_id": token.slot_id} if len(namesakes) > 1 or not token.label else named


def _variables(one: Candidate, environ: Mapping[str, str]) -> dict[str, str]:
    return {each.name: environ[each.name] for each in one.profile.variables if each.name in environ}


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 98, break_on_hyphens=False)]
