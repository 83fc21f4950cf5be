"""Every option of the model as one row; the tables in docs/configuration.md are made of them.

``python -m manahsm.config.reference`` prints both tables, and a test compares them with the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from manahsm.config.kinds import Table, Tables
from manahsm.config.model import Config, ConnectionPool, pool_of
from manahsm.config.options import Kind, Option, join_path, options_of
from manahsm.config.vendors import Vendor

__all__ = ["Row", "literal", "option_table", "pool_table", "rows"]


@attrs.frozen
class Row:
    """One option.

    Attributes:
        path: dotted path; entries of a list are written ``[]``.
        option: its kind and meaning.
        default: file form of the default, ``None`` where there is none.
    """

    path: str
    option: Option
    default: object

    @property
    def kind(self) -> Kind:
        """What values it takes."""
        return self.option.kind

    @property
    def default_text(self) -> str:
        """The default as the table shows it."""
        return self.option.default_text or ("none" if self.default is None else f"`{literal(self.default)}`")

    def to_markdown(self) -> str:
        """A line of the table."""
        cells = (
            f"`{self.path}`",
            self.kind.describe(),
            self.kind.unit,
            self.default_text,
            self.option.doc,
        )
        return f"| {' | '.join(cells)} |"


def rows(cls: type = Config, path: str = "hsm") -> Iterator[Row]:
    """Every option that holds a value, in the order of the model; tables give way to what is in them."""
    usual = cls()
    for name, setting in options_of(cls).items():
        here = join_path(path, name)
        match setting.kind:
            case Table(cls=nested):
                yield from rows(nested, here)
            case Tables(cls=nested):
                yield from rows(nested, f"{here}[]")
            case kind:
                held = getattr(usual, name)
                yield Row(here, setting, None if held is None else kind.show(held))


def literal(value: Any) -> str:
    """A value in file form as TOML writes it."""
    match value:
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return str(int(value))
        case int() | float():
            return str(value)
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case Mapping():
            pairs = ", ".join(f"{key} = {literal(item)}" for key, item in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case _:
            return "[" + ", ".join(literal(item) for item in value) + "]"


def option_table() -> str:
    """All options in Markdown, with a newline at its end."""
    head = "| option | type | unit | default | meaning |\n|---|---|---|---|---|\n"
    return head + "".join(f"{row.to_markdown()}\n" for row in rows())


def pool_table() -> str:
    """The vendors' defaults of ``connection_pool`` in Markdown, in file form, with a newline at its end."""
    names = list(options_of(ConnectionPool))
    head = f"| vendor | {' | '.join(names)} |\n{'|---' * (len(names) + 1)}|\n"
    pools = ((vendor, Table(ConnectionPool).show(pool_of(vendor))) for vendor in Vendor)
    return head + "".join(
        f"| `{vendor}` | {' | '.join(literal(pool[name]) for name in names)} |\n" for vendor, pool in pools
    )


if __name__ == "__main__":
    sys.stdout.write(f"{option_table()}\n{pool_table()}")
