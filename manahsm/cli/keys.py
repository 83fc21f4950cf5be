"""``manahsm keys``: every change to keys, and looking at them.

The one thing to know: a private key comes in on standard input, from a prompt or in a keystore file, never as an
argument, which every user of the machine could read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manahsm.cli.failures import Exit, NotConfirmed
from manahsm.cli.options import Options, Section, reachable
from manahsm.cli.output import complain, console, grid, printable, say, write_json
from manahsm.requests import Backend, KeyState, Role, Usage

if TYPE_CHECKING:
    from manahsm.requests import KeyInfo
    from manahsm.service import Service

__all__ = ["keys"]

_ROLES = click.Choice([role.value for role in Role])
_BACKENDS = click.Choice([backend.value for backend in Backend])
_NO_ROLE = "none"


@click.group(cls=Section)
def keys() -> None:
    """List, make, import and manage keys.

    A KEY is a key id, a label or a 0x address.
    """


@keys.command("list")
@click.option("--role", type=_ROLES)
@click.option("--backend", type=_BACKENDS)
@click.option("--label", metavar="LABEL")
@reachable
def list_keys(options: Options, role: str | None, backend: str | None, label: str | None) -> Exit:
    """List keys, oldest first, retired ones and those without a role too."""
    found = _with(options, lambda service: service.list_keys(role=role, backend=backend, label=label))
    if options.json:
        _write(found)
    elif found:
        table = grid(
            [("KEY ID", "LABEL, ADDRESS", "ROLE, WHERE"), *((key.key_id, _names(key), _place(key)) for key in found)],
            {"KEY ID": "bold", "LABEL, ADDRESS": "bold", "ROLE, WHERE": "bold"},
            whole=1,
        )
        console().print(table)
    else:
        complain("no keys: `manahsm keys generate` makes one")
    return Exit.OK


@keys.command()
@click.argument("key")
@reachable
def show(options: Options, key: str) -> Exit:
    """Show everything that is known of a key."""
    return _print(options, _with(options, lambda service: service.get_key(key)))


@keys.command()
@click.argument("label")
@click.option("--role", type=_ROLES, required=True, help="What the key is for.")
@click.option("--backend", type=_BACKENDS, help="Where it is made (default: the policy decides).")
@reachable
def generate(options: Options, label: str, role: str, backend: str | None) -> Exit:
    """Generate a key, in a token or as an encrypted keystore file."""
    usage = (Usage.SIGNING,)
    return _print(options, _with(options, lambda service: service.generate_key(label, role, backend, usage)))


@keys.command("import")
@click.argument("label")
@click.option("--role", type=_ROLES, required=True, help="What the key is for.")
@click.option("--backend", type=_BACKENDS, default=Backend.HSM.value, show_default=True, help="Where it goes.")
@click.option("--keep-software-twin", is_flag=True, help="Keep an encrypted keystore file of a key in a token.")
@click.option("--keystore", type=click.Path(path_type=Path), metavar="FILE", help="A v3 keystore file to import.")
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the passphrase of --keystore (default: it is asked for).",
)
@reachable
def import_key(
    options: Options,
    label: str,
    *,
    role: str,
    backend: str,
    keep_software_twin: bool,
    keystore: Path | None,
    passphrase_file: Path | None,
) -> Exit:
    """Import a private key: 64 hex digits on standard input, or a v3 keystore file.

    Its address stays what it was. The key in the token can not be taken out again.
    """
    from manahsm.cli.key_input import read_key  # noqa: PLC0415 - `--help` does not need it

    if passphrase_file is not None and keystore is None:
        raise click.UsageError("--passphrase-file goes with --keystore")
    secret = read_key(keystore, passphrase_file)
    return _print(
        options,
        _with(
            options,
            lambda service: service.import_key(secret, label, role, backend, keep_software_twin=keep_software_twin),
        ),
    )


@keys.command()
@click.argument("key")
@click.argument("role", type=click.Choice([*(role.value for role in Role), _NO_ROLE]))
@reachable
def assign(options: Options, key: str, role: str) -> Exit:
    """Give a key a role; with 'none' it has no role, and signs nothing."""
    wanted = None if role == _NO_ROLE else role
    return _print(options, _with(options, lambda service: service.assign_role(key, wanted)))


@keys.command()
@click.argument("key")
@reachable
def rotate(options: Options, key: str) -> Exit:
    """Generate a key that takes over label and role; the old one is retired.

    The new key has a new address: nothing on chain moves by itself.
    """
    return _print(options, _with(options, lambda service: service.rotate_key(key)))


@keys.command()
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reachable
def delete(options: Options, key: str, yes: bool) -> Exit:
    """Delete a software key for ever. Keys in tokens are refused."""
    if not yes:
        meant = _with(options, lambda service: service.get_key(key))
        question = f"Delete {printable(meant.label)} ({meant.address}) for ever?"
        if not click.confirm(question, err=True):
            raise NotConfirmed("nothing was deleted")
        key = meant.key_id  # what was shown, whatever a label means by now
    return _print(options, _with(options, lambda service: service.delete_key(key)), "deleted ")


def _with(options: Options, work: Callable[[Service], Awaitable[Any]]) -> Any:
    from manahsm.cli.opened import with_service  # noqa: PLC0415 - as above

    return with_service(options, work)


def _write(value: Any) -> None:
    from manahsm.wire import plain  # noqa: PLC0415 - as above

    write_json(plain(value))


def _print(options: Options, key: KeyInfo, done: str = "") -> Exit:
    if options.json:
        _write(key)
    else:
        say(f"{done}{key.label}")
        rows = [
            ("key id", key.key_id),
            ("address", key.address),
            ("public key", "0x" + key.public_key.hex()),
            ("role", key.role.value if key.role else "none: it signs nothing"),
            ("where", _where(key)),
            ("software twin", "yes" if key.software_twin else "no"),
            ("state", key.state.value),
            ("created", f"{key.created_at:%Y-%m-%d %H:%M:%S} UTC"),
            (
                "used",
                f"{key.use_count} times" + (f", last {key.last_used:%Y-%m-%d %H:%M:%S} UTC" if key.last_used else ""),
            ),
        ]
        console().print(grid((("", *row) for row in rows), {}, last=2))
    return Exit.OK


def _names(key: KeyInfo) -> str:
    """Label and address; a long label in pieces, because an address must be one that can be copied."""
    label, width = printable(key.label), len(key.address)
    pieces = [label[start : start + width] for start in range(0, len(label), width)]
    return "\n".join([*pieces, key.address])


def _place(key: KeyInfo) -> str:
    retired = "retired, " if key.state is KeyState.RETIRED else ""
    return f"{key.role.value if key.role else 'no role'}\n{retired}{_where(key)}"


def _where(key: KeyInfo) -> str:
    return f"{key.backend.value}: {', '.join(key.slots)}" if key.slots else key.backend.value
