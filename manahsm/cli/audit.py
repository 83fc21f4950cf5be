"""``manahsm audit``: ``python -m manahsm.audit`` for the audit log of the configuration.

The one thing to know: it only reads, and may run beside the service, or on a copy of a log on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from manahsm.cli.failures import Exit
from manahsm.cli.options import Options, Section, common
from manahsm.cli.output import write_json

__all__ = ["audit"]

_directory = click.argument("directory", required=False, type=click.Path(path_type=Path), metavar="[DIR]")


@click.group(cls=Section)
def audit() -> None:
    """Prove that an audit log holds, and look into it.

    DIR is the folder of the log, by default that of the configuration.
    """


@audit.command()
@_directory
@click.option("--head", "heads", multiple=True, metavar="SEQ:HASH", help="A record that must be there; repeatable.")
@click.option(
    "--address", "addresses", multiple=True, metavar="ADDR", help="Address of the checkpoint key; repeatable."
)
@click.option("--after", metavar="SEQ:HASH", help="The record that the log continues.")
@common
def verify(
    options: Options, directory: Path | None, heads: tuple[str, ...], addresses: tuple[str, ...], after: str | None
) -> Exit:
    """Say what holds and the first record that does not. Exits with 3 where something does not hold."""
    folder = _folder(options, directory)
    wanted = _wanted(heads, addresses, after)
    if options.json:
        return _verify_as_json(folder, wanted)
    words = [part for head in heads for part in ("--head", head)]
    words += [part for address in addresses for part in ("--address", address)]
    words += [] if after is None else ["--after", after]
    return Exit.OK if _audit("verify", str(folder), *words) is Exit.OK else Exit.FOUND


@audit.command()
@_directory
@click.option("--key", metavar="K", help="Key id or address.")
@click.option("--caller", metavar="C")
@click.option("--outcome", metavar="WORD", help="signed, refused, failed, done ...")
@click.option("--event", metavar="WORD", help="sign, generate_key, operator, start ...")
@click.option("--since", metavar="T", help="Not before this time: ISO 8601, UTC.")
@click.option("--until", metavar="T", help="Before this time: ISO 8601, UTC.")
@common
def show(options: Options, directory: Path | None, **query: str | None) -> Exit:
    """Print records, oldest first; with --json whole ones, one a line. Nothing is verified."""
    folder = _folder(options, directory)
    _check(query)
    words = [part for name, value in query.items() if value is not None for part in (f"--{name}", value)]
    return _audit("show", str(folder), *words, *(["--json"] if options.json else []))


def _folder(options: Options, directory: Path | None) -> Path:
    from manahsm.cli.opened import configuration  # noqa: PLC0415 - `--help` does not need it

    folder = directory or configuration(options).audit_directory
    if not folder.is_dir():
        raise click.UsageError(f"{folder}: no such folder; name that of the log, or --config FILE")
    return folder


def _audit(*arguments: str) -> Exit:
    from manahsm.audit.__main__ import main  # noqa: PLC0415 - as above

    try:
        return Exit(main(arguments))
    except SystemExit as ended:  # it has said what is wrong with its arguments
        raise click.exceptions.Exit(int(ended.code or 0)) from None


def _check(query: Mapping[str, str | None]) -> None:
    """Refuse what no record can fit, before the log is read."""
    from manahsm.audit.records import AuditEvent, AuditOutcome  # noqa: PLC0415 - as above
    from manahsm.audit.show import moment  # noqa: PLC0415 - as above

    for name, words in (("event", [*AuditEvent]), ("outcome", [*AuditOutcome])):
        if query[name] is not None and query[name] not in words:
            raise click.UsageError(f"--{name}: must be one of {', '.join(words)}")
    for name in ("since", "until"):
        given = query[name]
        try:
            moment(given or "2000-01-01")
        except ValueError:
            example = "2026-01-31 or 2026-01-31T12:00:00Z"
            raise click.UsageError(f"--{name}: give a time as ISO 8601 has it, such as {example}") from None


def _wanted(heads: Sequence[str], addresses: Sequence[str], after: str | None) -> dict[str, Any]:
    """What a log is to be verified against."""
    from manahsm.audit.records import GENESIS, Head  # noqa: PLC0415 - as above
    from manahsm.ethereum.addresses import checksum_address, decode_address  # noqa: PLC0415 - as above

    try:
        return {
            "heads": [Head.parse(head) for head in heads],
            "addresses": frozenset(checksum_address(decode_address(one)) for one in addresses) or None,
            "after": GENESIS if after is None else Head.parse(after),
        }
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _verify_as_json(folder: Path, wanted: Mapping[str, Any]) -> Exit:
    from manahsm.audit.verify import verify as look  # noqa: PLC0415 - as above
    from manahsm.wire import plain  # noqa: PLC0415 - as above

    report = look(folder, **wanted)
    write_json({"holds": report.failure is None, **plain(report)})
    return Exit.OK if report.failure is None else Exit.FOUND
