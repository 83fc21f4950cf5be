"""The documentation tells the truth."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from manahsm.config.kinds import Table, Tables
from manahsm.config.load import load_config
from manahsm.config.model import Config
from manahsm.config.options import options_of
from manahsm.config.reference import literal, option_table, pool_table, rows
from manahsm.config.samples import generate_sample_config
from manahsm.config.vendors import Vendor

PAGE = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()


def paths_of(cls: type, path: str) -> set[str]:
    """Every option by its dotted path, found without the code under test."""
    found: set[str] = set()
    for name, setting in options_of(cls).items():
        match setting.kind:
            case Table(cls=nested):
                found |= paths_of(nested, f"{path}.{name}")
            case Tables(cls=nested):
                found |= paths_of(nested, f"{path}.{name}[]")
            case _:
                found.add(f"{path}.{name}")
    return found


def test_the_page_names_every_option_once() -> None:
    documented = re.findall(r"^\| `(hsm\.[^`]+)` \|", PAGE, re.MULTILINE)

    assert sorted(documented) == sorted(paths_of(Config, "hsm"))


def test_the_page_holds_the_generated_tables() -> None:
    assert option_table() in PAGE
    assert pool_table() in PAGE


def test_every_default_on_the_page_is_the_true_one() -> None:
    config = load_config({"enabled": False}, environ={})
    for row in rows():
        if row.option.default_text is None and "[]" not in row.path:
            held: Any = config
            for name in row.path.removeprefix("hsm.").split("."):
                held = getattr(held, name)
            if row.path == "hsm.enabled":
                held = True
            shown = "none" if held is None else f"`{literal(row.kind.show(held))}`"
            assert f"| `{row.path}` | {row.kind.describe()} | {row.kind.unit} | {shown} |" in PAGE


def run_module(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own


def test_the_tables_can_be_printed() -> None:
    assert run_module("manahsm.config.reference") == f"{option_table()}\n{pool_table()}"


def test_the_samples_can_be_written(tmp_path: Path) -> None:
    run_module("manahsm.config.samples", str(tmp_path))

    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert written == {f"{vendor}.toml": generate_sample_config(vendor) for vendor in Vendor}


def test_every_option_of_a_table_class_is_a_setting() -> None:
    assert all(row.option.doc.endswith(".") for row in rows())
    assert all("|" not in row.option.doc + row.kind.describe() for row in rows())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (1, "1"),
        (2.0, "2"),
        (0.5, "0.5"),
        ('a"\\', '"a\\"\\\\"'),
        ([], "[]"),
        (["a", 1], '["a", 1]'),
        ({}, "{}"),
        ({"a": "b"}, '{ a = "b" }'),
    ],
)
def test_values_are_written_as_toml(value: object, text: str) -> None:
    assert literal(value) == text
