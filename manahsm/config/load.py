"""Makes a :class:`Config` of what users write: a TOML or JSON file, a mapping, the environment, arguments.

Precedence, low to high: defaults, vendor profile, file or mapping, environment, ``overrides``. Everything
that is wrong is reported at once. No library is looked for and no PIN file is opened here; that is
:meth:`Config.resolved_slots`, which runs where the tokens are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manahsm.config.kinds import FilePath
from manahsm.config.layers import Layer, lay_over, read_environment, read_file, settle, table_of
from manahsm.config.model import Config, default_state_dir
from manahsm.config.options import OptionError, read_table
from manahsm.config.rules import broken_rules
from manahsm.config.vendors import Vendor, profile_of
from manahsm.errors import ConfigError, ConfigProblem

__all__ = ["load_config"]


def load_config(
    source: str | Path | Mapping[str, Any] | Config | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Load and check a configuration.

    Args:
        source: path of a ``.toml`` or ``.json`` file; a mapping with the table ``hsm``, or what would be in
            it; a ready :class:`Config`, which is only checked; ``None`` for the file that ``MANAHSM_CONFIG``
            names, if any.
        environ: where ``HSM_*`` and ``MANAHSM_CONFIG`` are looked up; does not touch a ready :class:`Config`.
        overrides: a mapping that wins over everything, e.g. from command line arguments.

    Relative paths count from the file's directory, or from the working directory where there is no file.

    Raises:
        ConfigError: with every problem there is, each with its path. No secret is in it.
    """
    if isinstance(source, Config):
        return _checked(source, overrides)
    problems: list[ConfigProblem] = []
    here = Path.cwd()
    layers = [
        _read(source, environ, problems),
        settle(Config, read_environment(environ, problems), here),
        settle(Config, table_of(overrides or {}, "overrides", problems), here),
    ]
    config: Config = read_table(Config, _stack(layers, environ), "hsm", problems)
    problems.extend(broken_rules(config, problems))
    if problems:
        raise ConfigError(problems)
    return config


def _checked(config: Config, overrides: Mapping[str, Any] | None) -> Config:
    problems = broken_rules(config)
    if overrides:
        problems.append(ConfigProblem("overrides", "cannot be laid over a Config; use attrs.evolve"))
    if problems:
        raise ConfigError(problems)
    return config


def _read(source: object, environ: Mapping[str, str], problems: list[ConfigProblem]) -> Layer:
    """The layer of the file or mapping. A file that can not be read ends it all: the rest would be noise."""
    if source is None:
        source = environ.get("MANAHSM_CONFIG") or {}
    if isinstance(source, Mapping):
        return settle(Config, table_of(source, "configuration", problems), Path.cwd())
    try:
        path: Path = FilePath().parse(source)
    except OptionError as error:
        fault = ConfigProblem("configuration", str(error))
    else:
        return settle(Config, table_of(read_file(path), str(path), problems), path.parent)
    raise ConfigError([fault])


def _stack(layers: list[Layer], environ: Mapping[str, str]) -> Layer:
    """All layers over the defaults that depend on the machine and on the vendor."""
    stacked: Layer = {"state_dir": default_state_dir(environ)}
    for layer in layers:
        stacked = lay_over(Config, stacked, layer)
    profile: Layer = {"connection_pool": dict(profile_of(_vendor_of(stacked)).pool)}
    return lay_over(Config, profile, stacked)


def _vendor_of(layer: Layer) -> Vendor:
    try:
        return Vendor(layer.get("vendor", Vendor.GENERIC))
    except ValueError:
        return Vendor.GENERIC  # reported where the table is read
