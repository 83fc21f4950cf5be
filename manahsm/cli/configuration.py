"""``manahsm config``: samples, what is in force, and whether a file can be used.

The one thing to know: nothing here touches a token; ``manahsm doctor`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from manahsm.cli.failures import Exit
from manahsm.cli.options import Options, Section, common
from manahsm.cli.output import say, write_json
from manahsm.config.vendors import Vendor

__all__ = ["config", "toml_lines"]


@click.group(cls=Section)
def config() -> None:
    """Write a sample configuration, or look at one."""


@config.command()
@click.argument("vendor", type=click.Choice([vendor.value for vendor in Vendor]))
@common
def sample(options: Options, vendor: str) -> Exit:
    """Print a commented sample for a vendor, with every option and its default."""
    from manahsm.config.samples import generate_sample_config  # noqa: PLC0415 - `--help` does not need it

    text = generate_sample_config(vendor)
    if options.json:
        write_json({"vendor": vendor, "toml": text})
    else:
        click.echo(text, nl=False)
    return Exit.OK


@config.command()
@common
def show(options: Options) -> Exit:
    """Print every option as it is in force: defaults, vendor profile, file and environment. Secrets are stars."""
    described = _load(options).describe()
    if options.json:
        write_json({"hsm": described})
    else:
        for line in toml_lines(described, "hsm"):
            say(line)
    return Exit.OK


@config.command()
@common
def check(options: Options) -> Exit:
    """Say whether a configuration can be used; every fault at once. Exits with 2 where it can not."""
    _load(options)
    if options.json:
        write_json({"ok": True})
    else:
        say("the configuration can be used; `manahsm doctor` looks at what it names")
    return Exit.OK


def _load(options: Options) -> Any:
    from manahsm.cli.opened import configuration  # noqa: PLC0415 - as above

    return configuration(options)


def toml_lines(table: Mapping[str, Any], path: str, *, one_of_several: bool = False) -> Iterator[str]:
    """A table in file form as TOML, its own options first (pure). What is not set is left out."""
    from manahsm.config.reference import literal  # noqa: PLC0415 - as above

    nested = {name: value for name, value in table.items() if _is_table(value) or _is_tables(value)}
    yield f"[[{path}]]" if one_of_several else f"[{path}]"
    for name, value in table.items():
        if name not in nested and value is not None:
            yield f"{name} = {literal(value)}"
    for name, value in nested.items():
        for each in (value,) if _is_table(value) else value:
            yield ""
            yield from toml_lines(each, f"{path}.{name}", one_of_several=not _is_table(value))


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _is_tables(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Mapping) for one in value)
