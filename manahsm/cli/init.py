"""``manahsm init``: find tokens, keep their PINs in files of their own, write a configuration that works.

The one thing to know: libraries are looked into by a child process, never loaded here, and PINs and passphrases come
from a prompt or are in their files already.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manahsm.cli.choosing import choose, choose_backups
from manahsm.cli.failures import Exit, NotConfirmed
from manahsm.cli.options import Command, Options, common
from manahsm.cli.output import complain, printable, write_json
from manahsm.cli.private import see_to_passphrase, see_to_pin
from manahsm.config.vendors import Vendor

if TYPE_CHECKING:
    from manahsm.cli.discovery import Candidate
    from manahsm.cli.first_config import Setup

__all__ = ["init"]

_FILE = Path("manahsm.toml")
_PATH = click.Path(path_type=Path)


@click.command(cls=Command)
@click.option("--vendor", type=click.Choice([vendor.value for vendor in Vendor]), help="Whose library it is.")
@click.option("--library", type=_PATH, metavar="FILE", help="The PKCS#11 library.")
@click.option("--token-label", metavar="LABEL", help="The token.")
@click.option("--slot-id", type=click.IntRange(min=0), metavar="N", help="Its slot, where several have that label.")
@click.option(
    "--pin-file",
    type=_PATH,
    metavar="FILE",
    help="File with its PIN; where there is none, it is asked for and written there (default: hsm.pin, beside the "
    "configuration).",
)
@click.option(
    "--backup",
    "backups",
    multiple=True,
    metavar="LABEL",
    help="Another token, by label or serial number, that stands in for the first; repeatable.",
)
@click.option(
    "--backup-pin-file",
    "backup_pins",
    type=_PATH,
    multiple=True,
    metavar="FILE",
    help="File with the PIN of a backup token, in their order (default: hsm-backup-1.pin ...).",
)
@click.option("--no-token", is_flag=True, help="Software keys alone.")
@click.option("--software-keys", is_flag=True, help="Software keys too, encrypted with a passphrase in a file.")
@click.option(
    "--passphrase-file",
    type=_PATH,
    metavar="FILE",
    help="That file, for software keys; where there is none, it is made, the passphrase asked for or (with --yes) made "
    "up (default: keystore.passphrase).",
)
@click.option("--state-dir", type=_PATH, metavar="DIR", help="Where keys and the audit log are kept.")
@click.option("--yes", is_flag=True, help="Ask nothing; what is not clear is an error.")
@click.option("--force", is_flag=True, help="Overwrite a configuration that is there.")
@click.option("--no-try", "untried", is_flag=True, help="Do not log in to the tokens once the file is written.")
@common
def init(options: Options, *, yes: bool, force: bool, untried: bool, **asked_for: Any) -> Exit:
    """Find tokens and write a configuration for them.

    Looks for libraries and tokens, and asks what is not clear. --config names the file to write (default:
    manahsm.toml). Each token is then logged in to once, as `manahsm doctor` does.
    """
    from manahsm.cli.first_config import configuration_text  # noqa: PLC0415 - `--help` does not need it

    target = (options.config or _FILE).absolute()
    _insist_on_a_place(target, force=force)
    candidates = _tokens_there(asked_for)
    setup = _setup(target, candidates, asked_for, yes=yes)
    text = configuration_text(setup, candidates, os.environ)
    if not yes and not click.confirm(f"Write {target}?", default=True, err=True):
        raise NotConfirmed("nothing was written")
    _see_to_secrets(setup, yes=yes)
    _write(target, text)
    return _report(options, target, setup, untried=untried)


def _insist_on_a_place(target: Path, *, force: bool) -> None:
    """Find out before anything is asked whether the file can be written."""
    if target.exists() and not force:
        raise click.UsageError(f"{target} is there already: --force overwrites it, --config names another file")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK | os.X_OK):
        raise click.UsageError(f"can not write {target}: {target.parent} is no folder that you may write to")


def _tokens_there(asked_for: Mapping[str, Any]) -> list[Candidate]:
    if asked_for["no_token"]:
        named = ("vendor", "library", "token_label", "slot_id", "pin_file", "backups", "backup_pins")
        if given := [name for name in named if asked_for[name] not in (None, ())]:
            option = given[0].removesuffix("s").replace("backup_pin", "backup-pin-file").replace("_", "-")
            raise click.UsageError(f"--{option} means nothing with --no-token")
        return []
    from manahsm.cli.discovery import discover  # noqa: PLC0415 - as above

    candidates, notes = discover(asked_for["vendor"], asked_for["library"], os.environ)
    for note in notes:
        complain(f"note: {note}")
    return candidates


def _setup(target: Path, candidates: list[Candidate], asked_for: Mapping[str, Any], *, yes: bool) -> Setup:
    """What is to be set up, by the options and by what is asked for what they leave open."""
    from manahsm.cli.first_config import Setup  # noqa: PLC0415 - as above

    state_dir = asked_for["state_dir"]
    if asked_for["no_token"]:
        return Setup(token=None, passphrase_file=_passphrase_file(target, asked_for), state_dir=state_dir)
    from manahsm.cli.discovery import fitting  # noqa: PLC0415 - as above

    chosen = choose(fitting(candidates, asked_for["token_label"], asked_for["slot_id"]), candidates, yes=yes)
    others = [one for one in candidates if one is not chosen]
    backups = choose_backups(others, asked_for["backups"], yes=yes)
    pins = [path.absolute() for path in asked_for["backup_pins"]]
    if len(pins) > len(backups):
        raise click.UsageError(f"--backup-pin-file: {len(pins)} files for {len(backups)} backup tokens")
    pins += [target.with_name(f"hsm-backup-{number}.pin") for number in range(len(pins) + 1, len(backups) + 1)]
    software = asked_for["software_keys"] or asked_for["passphrase_file"] is not None
    if not (yes or software):
        software = click.confirm("Software keys too?", default=False, err=True)
    return Setup(
        token=(chosen, (asked_for["pin_file"] or target.with_name("hsm.pin")).absolute()),
        backups=tuple(zip(backups, pins, strict=True)),
        passphrase_file=_passphrase_file(target, asked_for) if software else None,
        state_dir=state_dir,
    )


def _passphrase_file(target: Path, asked_for: Mapping[str, Any]) -> Path:
    path: Path = asked_for["passphrase_file"] or target.with_name("keystore.passphrase")
    return path.absolute()


def _see_to_secrets(setup: Setup, *, yes: bool) -> None:
    if setup.token is not None:
        for number, (one, path) in enumerate((setup.token, *setup.backups)):
            option = "--backup-pin-file" if number else "--pin-file"
            see_to_pin(path, printable(repr(one.token.label)), option=option, yes=yes)
    if setup.passphrase_file is not None:
        see_to_passphrase(setup.passphrase_file, yes=yes)


def _write(target: Path, text: str) -> None:
    from manahsm.files import write_atomically  # noqa: PLC0415 - as above

    try:
        write_atomically(target, text.encode())
    except OSError as error:
        raise click.UsageError(f"can not write {target}: {error.strerror}") from None


def _report(options: Options, target: Path, setup: Setup, *, untried: bool) -> Exit:
    from manahsm.cli.doctor import findings_as_json, print_findings  # noqa: PLC0415 - as above
    from manahsm.cli.examine import examine  # noqa: PLC0415 - as above
    from manahsm.cli.findings import Verdict, worst_of  # noqa: PLC0415 - as above

    findings = [] if untried else list(examine(target, _without_file(os.environ)))
    if options.json:
        written = {
            "config": str(target),
            "pin_file": None if setup.token is None else str(setup.token[1]),
            "backup_pin_files": [str(path) for _, path in setup.backups],
            "passphrase_file": None if setup.passphrase_file is None else str(setup.passphrase_file),
        }
        write_json({**written, **findings_as_json(findings)})
    else:
        print_findings(findings)
        click.echo(f"\nwritten: {target}")
        click.echo(f"next: manahsm keys generate LABEL --role transaction_signer --config {target}")
    return Exit.FOUND if worst_of(findings) is Verdict.FAIL else Exit.OK


def _without_file(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment without the variables that would win over the file that was just written."""
    return {name: value for name, value in environ.items() if not name.startswith(("HSM_", "MANAHSM_CONFIG"))}
