"""``manahsm doctor``: look at everything, and say what to do about each finding.

The one thing to know: it goes on where something is wrong, and where a service is running it looks beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from manahsm.cli.failures import Exit
from manahsm.cli.options import Command, Options, common
from manahsm.cli.output import console, printable, write_json

if TYPE_CHECKING:
    from manahsm.cli.findings import Finding

__all__ = ["doctor", "findings_as_json", "print_findings"]

_MARKS = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "bold red"}
_SUBJECT_WIDTH = 13
_MARK_WIDTH = 4


@click.command(cls=Command)
@click.option(
    "--try-key", "trial", is_flag=True, help="Have a token without keys make one, sign with it, and remove it again."
)
@common
def doctor(options: Options, trial: bool) -> Exit:
    """Look at everything, and say what to do about each finding.

    Library, locking, token, login (one try), mechanism, curve, sessions, a real signature, PIN counters, folders. Works
    with a faulty configuration too, as far as it goes. Exits with 3 where something fails.
    """
    from manahsm.cli.examine import examine  # noqa: PLC0415 - slow to import, and `--help` does not need it
    from manahsm.cli.findings import Verdict, worst_of  # noqa: PLC0415 - as above

    findings: list[Finding] = []
    looking = examine(options.config, os.environ, trial=trial)
    if options.json:
        findings.extend(looking)
        write_json(findings_as_json(findings))
    else:
        for finding in looking:
            findings.append(finding)
            print_findings([finding], after=findings[-2:-1])
        click.echo()
        click.echo(_summary(findings))
    return Exit.FOUND if worst_of(findings) is Verdict.FAIL else Exit.OK


def findings_as_json(findings: Sequence[Finding]) -> dict[str, object]:
    """Findings for programs (pure)."""
    from manahsm.cli.findings import worst_of  # noqa: PLC0415 - as above
    from manahsm.wire import plain  # noqa: PLC0415 - as above

    return {"verdict": worst_of(findings).value, "findings": plain(list(findings))}


def print_findings(findings: Iterable[Finding], *, after: Iterable[Finding] = ()) -> None:
    """Print findings for people, a heading where another slot begins than that of the finding ``after``."""
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    out = console()
    slot = next((finding.slot for finding in after), None)
    for finding in findings:
        if finding.slot != slot and finding.slot is not None:
            out.print(Text(f"\nslot {printable(finding.slot)}", style="bold"))
        slot = finding.slot
        row = Table.grid(padding=(0, 2))
        row.add_column(width=_MARK_WIDTH)
        row.add_column(width=_SUBJECT_WIDTH)
        row.add_column(overflow="fold")
        said = Text(printable(finding.text))
        if finding.remedy:
            said.append(f"\n-> {printable(finding.remedy)}", style="italic")
        row.add_row(Text(finding.verdict, style=_MARKS[finding.verdict]), finding.subject, said)
        out.print(row)


def _summary(findings: Sequence[Finding]) -> str:
    counts = {word: sum(finding.verdict == word for finding in findings) for word in _MARKS}
    if counts["fail"]:
        return f"{counts['fail']} of {len(findings)} findings have to be put right."
    if counts["warn"]:
        return f"It works; {counts['warn']} of {len(findings)} findings should be looked at."
    return "All is well."
