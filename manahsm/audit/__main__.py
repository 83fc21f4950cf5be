"""``python -m manahsm.audit``: prove that an audit log holds, and look into it.

The one thing to know: it only reads, needs no key and no configuration, and may run beside the service or on a copy on
another machine. ``verify`` exits with 0 where everything holds and 1 where something does not; 2 is wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from manahsm.audit.lines import one_line, word
from manahsm.audit.records import GENESIS, AuditEvent, AuditOutcome, Head
from manahsm.audit.show import Query, describe, moment, show
from manahsm.audit.verify import Report, verify
from manahsm.ethereum.addresses import checksum_address, decode_address

__all__ = ["main"]

_HOLDS, _FAILS, _USAGE = 0, 1, 2
_T = TypeVar("_T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status: 0 holds, 1 does not hold, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    directory: Path = options.directory
    if not directory.is_dir():
        _complain(
            f"manahsm.audit: {directory}: no such folder. The audit log is in audit.directory of the configuration, "
            "by default the folder audit in state_dir."
        )
        return _USAGE
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough; Python would complain of it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILS
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m manahsm.audit", description="Check and read an audit log.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("verify", help="say what holds and the first record that does not; exit 0 or 1")
    check.set_defaults(run=_verify)
    check.add_argument("directory", metavar="DIR", type=Path, help="the folder of the log")
    check.add_argument(
        "--head",
        metavar="SEQ:HASH",
        type=_argument(Head.parse),
        action="append",
        default=[],
        help="a record that must be in the log, as an earlier run printed it; may be given several times",
    )
    check.add_argument(
        "--address",
        metavar="ADDR",
        type=_argument(_address),
        action="append",
        help="address of the checkpoint key; may be given several times; the log must have a checkpoint by one of them",
    )
    check.add_argument(
        "--after",
        metavar="SEQ:HASH",
        type=_argument(Head.parse),
        default=GENESIS,
        help="the record that the log continues, where older segments are kept elsewhere",
    )

    look = commands.add_parser("show", help="print records, oldest first; nothing is verified")
    look.set_defaults(run=_show)
    look.add_argument("directory", metavar="DIR", type=Path, help="the folder of the log")
    look.add_argument("--key", metavar="K", help="key id or address")
    look.add_argument("--caller", metavar="C")
    look.add_argument("--outcome", choices=[str(word) for word in AuditOutcome])
    look.add_argument("--event", choices=[str(word) for word in AuditEvent])
    look.add_argument("--since", metavar="T", type=_argument(moment), help="not before this time: ISO 8601, UTC")
    look.add_argument("--until", metavar="T", type=_argument(moment), help="before this time: ISO 8601, UTC")
    look.add_argument("--json", action="store_true", help="print whole records as JSON lines")
    return parser


def _argument(read: Callable[[str], _T]) -> Callable[[str], _T]:
    """Let argparse repeat what is wrong with a value."""

    def converted(text: str) -> _T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted


def _address(text: str) -> str:
    return checksum_address(decode_address(text))


def _verify(options: argparse.Namespace) -> int:
    addresses = None if options.address is None else frozenset(options.address)
    report = verify(options.directory, after=options.after, heads=options.head, addresses=addresses)
    for line in _lines(report, checked=addresses is not None):
        _say(line)
    return _HOLDS if report.failure is None else _FAILS


def _lines(report: Report, *, checked: bool) -> Iterator[str]:
    """What ``verify`` prints (pure)."""
    if report.records:
        first = report.head.seq - report.records + 1
        times = f"from {word(report.first)} to {word(report.last)}"
        yield f"{report.records} records hold, {first} to {report.head.seq}, {times}"
        yield f"head {report.head}"
    else:
        yield "0 records hold"
    if report.checkpoints:
        who = " and ".join(report.signers) + ("" if checked else " (give --address to say whose they must be)")
        later = report.head.seq - report.covered
        yield f"{report.checkpoints} checkpoints by {who}; {later} records come after the last that they cover"
    else:
        yield "no checkpoints: who can rewrite the whole log can not be found out, except by a --head kept elsewhere"
    for note in report.notes:
        yield f"note: {note}"
    if report.failure is None:
        yield "OK: the log holds"
    else:
        yield f"FAILED ({report.failure.fault}) at record {report.failure.seq}: {report.failure.text}"


def _show(options: argparse.Namespace) -> int:
    query = Query(
        key=options.key,
        caller=options.caller,
        outcome=options.outcome,
        event=options.event,
        since=options.since,
        until=options.until,
    )
    try:
        for record in show(options.directory, query, warn=lambda text: _complain(f"note: {text}")):
            _say(one_line(record) if options.json else describe(record))
    except BrokenPipeError:
        raise
    except OSError as error:
        _complain(f"manahsm.audit: {error.filename}: {error.strerror}")
        return _FAILS
    return _HOLDS


def _say(text: str) -> None:
    print(text)  # noqa: T201 - its answer


def _complain(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
