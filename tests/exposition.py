"""Metrics as text, read back by a parser that is not ours, and judged by promtool."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Samples", "lint", "promtool", "samples_of"]

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""Value of each series, by its name and labels."""


def samples_of(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of an exposition; no series stands there twice."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = (sample.name, frozenset(sample.labels.items()))
            assert series not in found, f"{series} stands there twice"
            found[series] = sample.value
    return found


def promtool() -> str:
    """The program, from Debian's package prometheus."""
    program = shutil.which("promtool")
    if program is None:
        pytest.fail("promtool is not installed: scripts/test does it, or apt-get install prometheus")
    return program


def lint(text: str) -> str:
    """What ``promtool check metrics`` has to say; nothing, where all is well."""
    done = subprocess.run(  # noqa: S603 - a tool that we install
        [promtool(), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    return said or (f"exit status {done.returncode}" if done.returncode else "")
