"""``manahsm init``: find a token, keep its PIN in a file of its own, write a configuration that works.

The one thing to know: libraries are looked into by a child process, never loaded here, and the PIN comes from a prompt
or is in its file already.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manahsm.cli.failures import Exit, NotConfirmed
from manahsm.cli.options import Command, Options, common
from manahsm.cli.output import complain, printable, write_json
from manahsm.config.vendors import Vendor

if TYPE_CHECKING:
    from manahsm.cli.discovery import Candidate

__all__ = ["init"]

_FILE = Path("manahsm.toml")


@click.command(cls=Command)
@click.option("--vendor", type=click.Choice([vendor.value for vendor in Vendor]), help="Whose library it is.")
@click.option("--library", type=click.Path(path_type=Path), metavar="FILE", help="The PKCS#11 library.")
@click.option("--token-label", metavar="LABEL", help="The token.")
@click.option("--slot-id", type=click.IntRange(min=0), metavar="N", help="Its slot, where several have that label.")
@click.option(
    "--pin-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with its PIN; where there is none, it is asked for and written there (default: hsm.pin, beside it).",
)
@click.option(
    "--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where keys and the audit log are kept."
)
@click.option("--yes", is_flag=True, help="Ask nothing; what is not clear is an error.")
@click.option("--force", is_flag=True, help="Overwrite a configuration that is there.")
@click.option("--no-try", "untried", is_flag=True, help="Do not log in to the token once the file is written.")
@common
def init(
    options: Options,
    *,
    vendor: str | None,
    library: Path | None,
    token_label: str | None,
    slot_id: int | None,
    pin_file: Path | None,
    state_dir: Path | None,
    yes: bool,
    force: bool,
    untried: bool,
) -> Exit:
    """Find a token and write a configuration for it.

    Looks for libraries and tokens, and asks what is not clear. --config names the file to write (default:
    manahsm.toml). The token is then logged in to once, as `manahsm doctor` does.
    """
    from manahsm.cli.discovery import discover, fitting  # noqa: PLC0415 - `--help` does not need it
    from manahsm.cli.first_config import configuration_text  # noqa: PLC0415 - as above

    target = (options.config or _FILE).absolute()
    if target.exists() and not force:
        raise click.UsageError(f"{target} is there already: --force overwrites it, --config names another file")
    candidates, notes = discover(vendor, library, os.environ)
    for note in notes:
        complain(f"note: {note}")
    chosen = _choose(fitting(candidates, token_label, slot_id), candidates, yes=yes)
    pin = (pin_file or target.with_name("hsm.pin")).absolute()
    text = configuration_text(chosen, candidates, pin_file=pin, state_dir=state_dir, environ=os.environ)
    if not yes and not click.confirm(f"Write {target}?", default=True, err=True):
        raise NotConfirmed("nothing was written")
    _see_to_pin(pin, yes=yes)
    _write(target, text)
    return _report(options, target, pin, untried=untried)


def _choose(fitting: Sequence[Candidate], all_of_them: Sequence[Candidate], *, yes: bool) -> Candidate:
    if not fitting:
        there = "; ".join(f"{one.title}" for one in all_of_them) or "none"
        raise click.UsageError(
            f"no such token; found: {printable(there)}. Initialise one with the vendor's tool, name its library with "
            "--library, and see that the library's own configuration is found (for SoftHSM: SOFTHSM2_CONF)"
        )
    if len(fitting) == 1:
        complain(f"token: {fitting[0].title}")
        return fitting[0]
    if yes:
        raise click.UsageError(
            "several tokens: name one with --vendor, --token-label or --slot-id; found: "
            + printable("; ".join(one.title for one in fitting))
        )
    for number, one in enumerate(fitting, start=1):
        complain(f"{number}. {one.title}")
    number = click.prompt("Which token?", type=click.IntRange(1, len(fitting)), err=True)
    return fitting[number - 1]


def _see_to_pin(path: Path, *, yes: bool) -> None:
    """See that the PIN is in its file: look at the one that is there, or ask and write it."""
    from manahsm.cli.private import write_private  # noqa: PLC0415 - as above
    from manahsm.config.secret_files import read_secret_file  # noqa: PLC0415 - as above

    if path.exists():
        try:
            read_secret_file(path)
        except ValueError as error:
            raise click.UsageError(f"--pin-file: {error}") from None
        return
    if yes:
        raise click.UsageError(f"{path} is not there: write the PIN into it (chmod 600), or leave out --yes")
    pin = click.prompt("User PIN of the token (not shown)", hide_input=True, confirmation_prompt=True, err=True)
    write_private(path, pin + "\n")
    complain(f"the PIN is in {path}, for you alone")


def _write(target: Path, text: str) -> None:
    from manahsm.files import write_atomically  # noqa: PLC0415 - as above

    try:
        write_atomically(target, text.encode())
    except OSError as error:
        raise click.UsageError(f"can not write {target}: {error.strerror}") from None


def _report(options: Options, target: Path, pin: Path, *, untried: bool) -> Exit:
    from manahsm.cli.doctor import findings_as_json, print_findings  # noqa: PLC0415 - as above
    from manahsm.cli.examine import examine  # noqa: PLC0415 - as above
    from manahsm.cli.findings import Verdict, worst_of  # noqa: PLC0415 - as above

    findings = [] if untried else list(examine(target, _without_file(os.environ)))
    if options.json:
        write_json({"config": str(target), "pin_file": str(pin), **findings_as_json(findings)})
    else:
        print_findings(findings)
        click.echo(f"\nwritten: {target}")
        click.echo(f"next: manahsm keys generate LABEL --role transaction_signer --config {target}")
    return Exit.FOUND if worst_of(findings) is Verdict.FAIL else Exit.OK


def _without_file(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment without the variables that would win over the file that was just written."""
    return {name: value for name, value in environ.items() if not name.startswith(("HSM_", "MANAHSM_CONFIG"))}
