"""``manahsm sign``: one signature, or one for each line of a file.

The one thing to know: what is printed without ``--json`` is the hex alone, fit for a pipe into whatever sends it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import IO, TYPE_CHECKING, Any

import click

from manahsm.cli.failures import Exit
from manahsm.cli.options import Options, Section, reachable
from manahsm.cli.output import say, write_json
from manahsm.requests import Role

if TYPE_CHECKING:
    from manahsm.service import Service

__all__ = ["sign"]

_MOST_BYTES = 8 * 1024 * 1024  # six blobs as hex need 1.6 million

_key = click.option("--key", metavar="KEY", required=True, help="Key id, label or 0x address.")
_chain = click.option("--chain-id", type=click.IntRange(min=0), metavar="N", help="Must agree with what is signed.")
_file = click.argument("file", type=click.File("rb"), default="-")


@click.group(cls=Section)
def sign() -> None:
    """Sign transactions, messages and typed data.

    FILE is standard input where it is not given, or is -.
    """


@sign.command("tx")
@_file
@click.option("--key", metavar="KEY", help="Key id, label or 0x address.")
@click.option("--role", type=click.Choice([role.value for role in Role]), help="The one key with this role.")
@_chain
@reachable
def sign_transaction(
    options: Options, file: IO[bytes], key: str | None, role: str | None, chain_id: int | None
) -> Exit:
    """Sign a transaction, a JSON object as JSON-RPC has it; print it raw."""
    if (key is None) == (role is None):
        raise click.UsageError("exactly one of --key and --role is needed")
    transaction = _document(file)

    def work(service: Service) -> Awaitable[Any]:
        if role is not None:
            return service.sign_transaction_with_role(transaction, role, chain_id, **_caller(options))
        return service.sign_transaction(transaction, _reference(key), chain_id, **_caller(options))

    return _print(options, work, lambda signed: "0x" + signed.raw_transaction.hex())


@sign.command("message")
@click.argument("text", required=False)
@click.option(
    "--file", type=click.File("rb"), help="Sign the bytes of this file, instead of TEXT; - is standard input."
)
@click.option("--hex", "as_hex", is_flag=True, help="TEXT is 0x hex of the bytes to sign.")
@_key
@reachable
def sign_message(options: Options, text: str | None, file: IO[bytes] | None, as_hex: bool, key: str) -> Exit:
    """Sign a message as personal_sign does (EIP-191); print 65 bytes as hex."""
    if (text is None) == (file is None):
        raise click.UsageError("exactly one of TEXT and --file is needed")
    message = _read(file) if file is not None else _bytes_of(text or "", as_hex=as_hex)
    reference = _reference(key)
    return _print(
        options,
        lambda service: service.sign_message(message, reference, **_caller(options)),
        lambda signed: "0x" + signed.to_bytes().hex(),
    )


@sign.command("typed-data")
@_file
@_key
@_chain
@reachable
def sign_typed_data(options: Options, file: IO[bytes], key: str, chain_id: int | None) -> Exit:
    """Sign typed data (EIP-712), a JSON object as eth_signTypedData_v4 has it; print 65 bytes as hex."""
    typed, reference = _document(file), _reference(key)
    return _print(
        options,
        lambda service: service.sign_typed_data(typed, reference, chain_id, **_caller(options)),
        lambda signed: "0x" + signed.to_bytes().hex(),
    )


@sign.command("batch")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), default="-")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@reachable
def sign_batch(options: Options, file: str, quiet: bool) -> Exit:
    """Sign JSON lines; write one JSON line for each, in order.

    Lines are those of `serve --stdio`: {"id", "key", "chain_id", "tx"}, or message, typed_data, authorization or hash
    in place of tx. A line that can not be signed gets an error line and stops nothing. Exits with 1 where there was
    one.
    """
    from manahsm.cli.batch import sign_lines  # noqa: PLC0415 - `--help` does not need it

    return sign_lines(options, file, quiet=quiet)


def _print(options: Options, work: Callable[[Service], Awaitable[Any]], text: Callable[[Any], str]) -> Exit:
    from manahsm.cli.opened import with_service  # noqa: PLC0415 - as above
    from manahsm.wire import plain  # noqa: PLC0415 - as above

    signed = with_service(options, work)
    if options.json:
        write_json(plain(signed))
    else:
        say(text(signed))
    return Exit.OK


def _caller(options: Options) -> Any:
    from manahsm.cli.opened import asked_here  # noqa: PLC0415 - as above

    return asked_here(options)


def _reference(key: str | None) -> str:
    """A key as a reference: a private key is taken nowhere on a command line (pure)."""
    from manahsm.keys.labels import is_reference  # noqa: PLC0415 - as above

    if not is_reference(key):
        raise click.UsageError(
            "--key takes a key id, a label or an address. That was a private key: do not use it again"
        )
    return key


def _read(file: IO[bytes]) -> bytes:
    content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise click.UsageError(f"more than {_MOST_BYTES} bytes to sign")
    return content


def _bytes_of(text: str, *, as_hex: bool) -> bytes:
    try:
        if not as_hex:
            return text.encode()
        return bytes.fromhex(text.removeprefix("0x"))
    except UnicodeEncodeError:
        raise click.UsageError("TEXT is not UTF-8: give its bytes as --hex, or in a file as --file") from None
    except ValueError:
        raise click.UsageError("TEXT is not hex") from None


def _document(file: IO[bytes]) -> dict[str, Any]:
    """The one JSON object in a file, read strictly: what is signed must not depend on who reads it."""
    from manahsm.strict_json import NotStrict, read_json  # noqa: PLC0415 - as above

    name = getattr(file, "name", "standard input")
    try:
        document = read_json(_read(file))
    except NotStrict as error:
        raise click.UsageError(f"{name}: {error}") from None
    if not isinstance(document, dict):
        raise click.UsageError(f"{name}: not a JSON object")
    return document
