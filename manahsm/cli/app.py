"""The command ``manahsm`` as a whole: its commands, and how any of them ends.

The one thing to know: whatever goes wrong ends here, in one place: as a line on standard error or, with ``--json``, as
a document on standard output, and as an exit status. A fault of ours alone keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from manahsm import __version__
from manahsm.cli.alerts import alerts
from manahsm.cli.audit import audit
from manahsm.cli.bearer import token
from manahsm.cli.breaker import breaker, unlatch
from manahsm.cli.check import check
from manahsm.cli.configuration import config
from manahsm.cli.doctor import doctor
from manahsm.cli.failures import AnswerNeeded, Exit, Explained, explain
from manahsm.cli.init import init
from manahsm.cli.keys import keys
from manahsm.cli.options import Section
from manahsm.cli.output import complain, write_json
from manahsm.cli.serve import serve
from manahsm.cli.sign import sign
from manahsm.cli.status import status
from manahsm.cli.top import top

__all__ = ["Application", "application"]

_NAME = "manahsm"
_LOST = frozenset({errno.EPIPE, errno.EBADF, errno.ENOSPC, errno.EIO})


class Application(Section):
    """A group of commands that ends by our rules."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and exit with its status; without ``standalone_mode`` return it."""
        _replace_closed_streams()
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            ended = super().main(arguments, prog_name or _NAME, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
            status = Exit(ended or Exit.OK)
        except BaseException as error:  # noqa: BLE001 - what is a fault of ours is raised again in there
            status = _end_badly(error, as_json="--json" in arguments)
        if standalone_mode:
            sys.exit(status)
        return status


def _replace_closed_streams() -> None:
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from manahsm.stdio import replace_closed_streams  # noqa: PLC0415 - loads an event loop, and is seldom needed

        replace_closed_streams()


def _unanswered(error: BaseException) -> BaseException:
    """Tell a question that met the end of the input from an interruption."""
    if isinstance(error, click.Abort) and isinstance(error.__cause__ or error.__context__, EOFError):
        return AnswerNeeded("standard input has ended, and there is a question: see --help for the option that answers")
    return error


def _end_badly(error: BaseException, *, as_json: bool) -> Exit:
    """Say what went wrong and return the status, or raise again what is a fault of ours."""
    if _is_of_output(error):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would complain of it at its end
        reason = _lost(error)[0]
        if reason.errno != errno.EPIPE:  # whoever read a pipe has seen enough
            complain(f"manahsm: the output was lost: {reason.strerror}")
        return Exit.FAILED
    explained = explain(_unanswered(error))
    if explained is None:
        raise error
    _show(explained, as_json=as_json)
    return explained.status


def _is_of_output(error: BaseException) -> bool:
    """Whether writing the result failed, and where tasks did it, nothing else did."""
    return bool(_lost(error)) and all(_is_a_loss(one) or _is_left_over(one) for one in _leaves(error))


def _lost(error: BaseException) -> list[OSError]:
    return [one for one in _leaves(error) if isinstance(one, OSError) and _is_a_loss(one)]


def _is_a_loss(error: BaseException) -> bool:
    """Such an error names no file, unlike those of files that we open."""
    return isinstance(error, OSError) and error.filename is None and error.errno in _LOST


def _is_left_over(error: BaseException) -> bool:
    """What a task meets that would hand on more to one that could not write."""
    from anyio import BrokenResourceError  # noqa: PLC0415 - loads an event loop, and is seldom needed

    return isinstance(error, BrokenResourceError)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _show(explained: Explained, *, as_json: bool) -> None:
    if as_json:
        write_json(explained.to_json())
    else:
        complain("manahsm: " + "\n".join(explained.lines or (explained.message,)))


@click.group(
    _NAME,
    cls=Application,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Supervised Ethereum signing with keys in hardware security modules.\n\n"
    "Begin with `manahsm init`, then `manahsm doctor`. `manahsm COMMAND --help` says more.",
)
@click.version_option(__version__, package_name="manahsm")
@click.pass_context
def application(ctx: click.Context) -> Exit:
    """Take the arguments apart; without any, say what there is."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
    return Exit.USAGE  # a command that is named replaces it by its own


for each in (init, check, doctor, keys, sign, status, top, alerts, breaker, unlatch, audit, config, token, serve):
    application.add_command(each)
