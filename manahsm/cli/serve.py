"""``manahsm serve``: ``python -m manahsm.run`` by another name.

The one thing to know: its options are those of ``python -m manahsm.run`` and go there as they are.
"""

from __future__ import annotations

import click

from manahsm.cli.failures import Exit
from manahsm.cli.options import Command, Options, common

__all__ = ["serve"]


@click.command(cls=Command)
@click.option("--backend", type=click.Choice(["asyncio", "trio"]), help="Event loop (default: asyncio).")
@click.option("--stdio", is_flag=True, help="Sign JSON lines from standard input, answer on standard output.")
@common
def serve(options: Options, backend: str | None, stdio: bool) -> Exit:
    """Run the service, as `python -m manahsm.run` does. SIGTERM and SIGINT stop it in order."""
    from manahsm.run import main  # noqa: PLC0415 - `--help` does not need it

    if options.json:
        from manahsm.config.load import load_config  # noqa: PLC0415 - as above

        load_config(options.config)  # so that its faults come as JSON
    words = [] if options.config is None else ["--config", str(options.config)]
    words += [] if backend is None else ["--backend", backend]
    words += ["--stdio"] if stdio else []
    return Exit(main(words))
