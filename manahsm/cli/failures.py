"""How a command ends: its exit status, and what an error says on the terminal and in JSON.

The one thing to know: the exit statuses are part of the interface, see ``docs/cli.md``. Nothing here ever shows more of
an error than its own message, and those of ours hold no secret.
"""

from __future__ import annotations

from enum import IntEnum

import click
from attrs import frozen

from manahsm.errors import ConfigError, ManaHSMError

__all__ = ["EXIT_STATUSES", "AnswerNeeded", "Exit", "Explained", "NotConfirmed", "ServiceRunning", "explain"]


class Exit(IntEnum):
    """Exit statuses."""

    OK = 0
    FAILED = 1
    USAGE = 2
    FOUND = 3
    INTERRUPTED = 130


EXIT_STATUSES = (
    "Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 done and found something wrong, 130 interrupted."
)


class ServiceRunning(ManaHSMError):  # noqa: N818 - reads as a state
    """A service of this configuration is running already, and only one may."""

    code = "service_running"


class NotConfirmed(ManaHSMError):  # noqa: N818 - reads as a state
    """Whoever was asked did not say yes; nothing was done."""

    code = "not_confirmed"


class AnswerNeeded(click.UsageError):
    """A question was to be asked, and nobody is there to answer it."""


@frozen
class Explained:
    """An error as it is shown.

    Attributes:
        status: how the command ends.
        code: for programs.
        message: for programs and people, in one line.
        lines: for people, where the message has parts.
    """

    status: Exit
    code: str
    message: str
    lines: tuple[str, ...] = ()

    def to_json(self) -> dict[str, dict[str, str]]:
        """What ``--json`` prints."""
        return {"error": {"code": self.code, "message": self.message}}


def explain(error: BaseException) -> Explained | None:
    """Say how an error is shown (pure); ``None`` for a fault of ours, which is to keep its traceback."""
    explained: Explained | None = None
    match error:
        case ConfigError():
            lines = ("the configuration can not be used:", *(f"  {problem}" for problem in error.problems))
            explained = Explained(Exit.USAGE, error.code, str(error), lines)
        case ManaHSMError():
            explained = Explained(Exit.FAILED, error.code, str(error))
        case click.UsageError():
            explained = Explained(Exit.USAGE, "usage", _usage(error))
        case click.ClickException():
            explained = Explained(Exit.FAILED, "failed", error.format_message())
        case click.Abort() | KeyboardInterrupt():
            explained = Explained(Exit.INTERRUPTED, "interrupted", "interrupted")
        case BaseExceptionGroup():
            known = [explain(one) for one in error.exceptions]
            explained = known[0] if all(known) else None
        case _:
            explained = _of_the_supervision_kit(error)
    return explained


def _usage(error: click.UsageError) -> str:
    """What is wrong, in one line, and where to read how it is right."""
    message = " ".join(error.format_message().split())
    return message if error.ctx is None else f"{message.removesuffix('.')} (see {error.ctx.command_path} --help)"


def _of_the_supervision_kit(error: BaseException) -> Explained | None:
    from supervisors import SupervisorError  # noqa: PLC0415 - loads an event loop, and is seldom needed

    return Explained(Exit.FAILED, "service_failed", str(error)) if isinstance(error, SupervisorError) else None
