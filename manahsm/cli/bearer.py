"""``manahsm token``: a bearer token for a caller of the HTTP interface, and the line for the configuration.

The one thing to know: the service keeps the token's SHA-256 alone, so a token that is lost can only be replaced.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import click

from manahsm.cli.failures import Exit
from manahsm.cli.options import Command, Options, common
from manahsm.cli.output import say, write_json
from manahsm.cli.private import write_private

__all__ = ["token"]

_BYTES = 32


@click.command(cls=Command)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the token into a new file of mode 0600, fit for --token-file, instead of showing it.",
)
@common
def token(options: Options, output: Path | None) -> Exit:
    """Make a bearer token of 256 bits for a caller in hsm.api.callers.

    Shows it once. The configuration gets its SHA-256.
    """
    made = secrets.token_hex(_BYTES)
    digest = hashlib.sha256(made.encode()).hexdigest()
    if output is not None:
        write_private(output, made + "\n")
    if options.json:
        kept = {"token": made} if output is None else {"token_file": str(output)}
        write_json({**kept, "token_sha256": digest})
    else:
        say(made if output is None else f"the token is in {output}")
        say(f'token_sha256 = "{digest}"')
    return Exit.OK
