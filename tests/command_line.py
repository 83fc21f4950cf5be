"""Running ``manahsm`` in tests: in this process, with what it wrote and how it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import frozen
from click.testing import CliRunner

from manahsm.cli.app import application

__all__ = ["Ended", "manahsm"]


@frozen
class Ended:
    """A command that has ended.

    Attributes:
        status: its exit status.
        output: what it wrote to standard output.
        errors: what it wrote to standard error.
    """

    status: int
    output: str
    errors: str

    @property
    def document(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.output)

    @property
    def error(self) -> dict[str, str]:
        """The error that ``--json`` reports."""
        error: dict[str, str] = self.document["error"]
        return error

    @property
    def everything(self) -> str:
        """All that it wrote."""
        return self.output + self.errors

    @property
    def width(self) -> int:
        """The longest line on standard output."""
        return max(map(len, self.output.splitlines()), default=0)


def manahsm(*arguments: str | Path, text: str = "", **environment: str | None) -> Ended:
    """Run a command on a terminal of 80 columns that is none.

    Args:
        arguments: of the command.
        text: standard input.
        environment: variables to set, or with ``None`` to take away.
    """
    usual = {"COLUMNS": "80", "MANAHSM_CONFIG": None}
    result = CliRunner(env={**usual, **environment}).invoke(application, [str(word) for word in arguments], input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)
