"""What every command takes: ``--config`` and ``--json``, and where a running service can be asked, ``--url``.

The one thing to know: secrets are no options. A bearer token is named by its file; PINs and passphrases are asked for
or read from files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import evolve, frozen

from manahsm.cli.failures import EXIT_STATUSES

__all__ = ["Command", "Options", "Section", "common", "reachable"]

R = TypeVar("R")

_FILE = click.Path(path_type=Path)


@frozen(kw_only=True)
class Options:
    """What every command is told.

    Attributes:
        config: the configuration file; ``None`` for what ``MANAHSM_CONFIG`` names, else the defaults.
        json: whether the result is JSON.
        verbose: whether the log of a service that is opened here is shown.
        url: the running service to ask; ``None`` to open that of the configuration.
        token_file: file with the bearer token for it.
        ca: PEM file of the authority that signed its certificate; ``None`` for those of the system.
        certificate: PEM files with our certificate and its key, where it knows us by them.
    """

    config: Path | None = None
    json: bool = False
    verbose: bool = False
    url: str | None = None
    token_file: Path | None = None
    ca: Path | None = None
    certificate: tuple[Path, Path] | None = None


class Command(click.Command):
    """A command whose help ends with the exit statuses."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write them."""
        formatter.write_paragraph()
        formatter.write_text(EXIT_STATUSES)


class Section(click.Group):
    """A command that has commands."""

    command_class = Command

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **{"no_args_is_help": False, **attributes})

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order in which they were added: first things first."""
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the exit statuses."""
        formatter.write_paragraph()
        formatter.write_text(EXIT_STATUSES)


def common(run: Callable[..., R]) -> Callable[..., R]:
    """Let a command take ``--config`` and ``--json``; it gets :class:`Options` as its first argument."""

    @click.option("-v", "--verbose", is_flag=True, help="Show the log of the service, on standard error.")
    @click.option("--json", "as_json", is_flag=True, help="Write the result, and errors, as JSON.")
    @click.option(
        "--config",
        type=_FILE,
        metavar="FILE",
        help="TOML or JSON file (default: $MANAHSM_CONFIG, else defaults).",
    )
    @wraps(run)
    def told(config: Path | None, as_json: bool, verbose: bool, **rest: Any) -> R:
        return run(Options(config=config, json=as_json, verbose=verbose), **rest)

    return told


def reachable(run: Callable[..., R]) -> Callable[..., R]:
    """Like :func:`common`, for a command that can also ask a running service."""

    @click.option(
        "--certificate", type=(_FILE, _FILE), metavar="CERT KEY", help="Our own, PEM, where that knows us by it."
    )
    @click.option("--ca", type=_FILE, metavar="FILE", help="PEM of the authority behind its certificate, with --url.")
    @click.option("--token-file", type=_FILE, metavar="FILE", help="File with the bearer token for --url.")
    @click.option("--url", metavar="URL", help="Ask the service that runs there: http://127.0.0.1:9000, unix:/path ...")
    @common
    @wraps(run)
    def told(options: Options, url: str | None, **rest: Any) -> R:
        way = {name: rest.pop(name) for name in ("token_file", "ca", "certificate")}
        if url is None and (given := [name for name, value in way.items() if value is not None]):
            raise click.UsageError(f"--{given[0].replace('_', '-')} goes with --url")
        return run(evolve(options, url=url, **way), **rest)

    return told
