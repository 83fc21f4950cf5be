"""The text of a first configuration: the token that was chosen, and where to read of everything else (pure).

The one thing to know: a text is only returned after it was read back and found to say what was meant.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from manahsm.cli.configuration import toml_lines
from manahsm.cli.discovery import Candidate
from manahsm.config.load import load_config
from manahsm.errors import ConfigError

__all__ = ["configuration_text"]


def configuration_text(
    chosen: Candidate,
    candidates: Sequence[Candidate],
    *,
    pin_file: Path,
    state_dir: Path | None,
    environ: Mapping[str, str],
) -> str:
    """Write the configuration for a token.

    Args:
        chosen: the token.
        candidates: all that there are: a label that two have does not name one.
        pin_file: file with its PIN.
        state_dir: where keys and the audit log are kept, or ``None`` for the default.
        environ: the vendor's variables in it are written down, for a service that is started elsewhere.

    Raises:
        click.UsageError: what was found can not be written down.
    """
    table = _table(chosen, candidates, pin_file, state_dir, environ)
    title = chosen.profile.title
    text = "\n".join(
        [
            *_comment(f"manahsm with {title}. Times are in milliseconds, paths absolute or relative to this file."),
            *_comment(f"Every option with its default: manahsm config sample {chosen.profile.vendor}"),
            *(line for note in chosen.profile.notes for line in _comment(note)),
            "",
            *toml_lines(table, "hsm"),
            "",
        ]
    )
    try:
        read_back = tomllib.loads(text)["hsm"]
        load_config({"hsm": read_back}, environ={})
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise click.UsageError(f"this token can not be written down: {error}") from None
    if read_back != table:
        raise click.UsageError("this token's label can not be written down: name it with --slot-id")
    return text


def _table(
    chosen: Candidate,
    candidates: Sequence[Candidate],
    pin_file: Path,
    state_dir: Path | None,
    environ: Mapping[str, str],
) -> dict[str, Any]:
    token = chosen.token
    namesakes = [one for one in candidates if (one.library, one.token.label) == (chosen.library, token.label)]
    table: dict[str, Any] = {"vendor": chosen.profile.vendor.value, "library_path": str(chosen.library)}
    if token.label:
        table["token_label"] = token.label
    if len(namesakes) > 1 or not token.label:
        table["slot_id"] = token.slot_id
    table["pin_file"] = str(pin_file)
    if state_dir is not None:
        table["state_dir"] = str(state_dir.absolute())
    variables = {each.name: environ[each.name] for each in chosen.profile.variables if each.name in environ}
    if variables:
        table["environment"] = variables
    return table


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 98, break_on_hyphens=False)]
