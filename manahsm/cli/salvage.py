"""What can be saved of a configuration with faults: everything but the options that are faulty.

The one thing to know: this is for looking only. No service ever runs on a salvaged configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from manahsm.config.layers import read_file, settle, table_of
from manahsm.config.load import load_config
from manahsm.config.model import Config
from manahsm.errors import ConfigError

__all__ = ["salvaged", "without"]

_ROUNDS = 5  # a fault can hide behind another one
_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def salvaged(source: Path | None, environ: Mapping[str, str]) -> Config | None:
    """Load a configuration without what is wrong in it; ``None`` where nothing of use remains."""
    named = source or environ.get("MANAHSM_CONFIG")
    if not named:
        return None
    path = Path(named).expanduser().absolute()
    try:
        table: Any = settle(Config, table_of(read_file(path), str(path), []), path.parent)
    except ConfigError:
        return None
    for _ in range(_ROUNDS):
        try:
            return load_config({"hsm": table}, environ=environ)
        except ConfigError as error:
            lesser = without(table, (problem.path for problem in error.problems))
        if lesser == table:
            return None
        table = lesser
    return None


def without(table: Any, paths: Iterable[str]) -> Any:
    """A copy of the table ``hsm`` that lacks the options at these dotted paths (pure)."""
    for path in paths:
        steps = [name or int(number) for name, number in _PART.findall(path.removeprefix("hsm"))]
        table = _pruned(table, steps) if steps else table
    return table


def _pruned(value: Any, steps: list[str | int]) -> Any:
    step, *rest = steps
    match value:
        case Mapping() if step in value:
            kept = {name: item for name, item in value.items() if name != step}
            return {**kept, step: _pruned(value[step], rest)} if rest else kept
        case list() if isinstance(step, int) and step < len(value):
            return [*value[:step], *([_pruned(value[step], rest)] if rest else []), *value[step + 1 :]]
        case _:
            return value
