"""Which tokens ``manahsm init`` sets up: those that options name, or those that are chosen from a list.

The one thing to know: with ``--yes`` nothing is asked, so what is not clear is an error that names the option for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from manahsm.cli.output import complain, printable

if TYPE_CHECKING:
    from manahsm.cli.discovery import Candidate

__all__ = ["choose", "choose_backups", "numbers_in"]

_SEPARATORS = re.compile(r"[\s,]+")


def choose(fitting: Sequence[Candidate], all_of_them: Sequence[Candidate], *, yes: bool) -> Candidate:
    """The one token that fits, or the one that is chosen.

    Raises:
        click.UsageError: there is none, or it is not clear which.
    """
    if not fitting:
        there = "; ".join(one.title for one in all_of_them) or "none"
        raise click.UsageError(
            f"no such token; found: {printable(there)}. Initialise one with the vendor's tool, name its library with "
            "--library, and see that the library's own configuration is found (for SoftHSM: SOFTHSM2_CONF). "
            "--no-token sets up software keys alone"
        )
    if len(fitting) == 1:
        complain(f"token: {fitting[0].title}")
        return fitting[0]
    if yes:
        raise click.UsageError(
            "several tokens: name one with --vendor, --token-label or --slot-id; found: "
            + printable("; ".join(one.title for one in fitting))
        )
    _show(fitting)
    number = click.prompt("Which token?", type=click.IntRange(1, len(fitting)), err=True)
    return fitting[number - 1]


def choose_backups(others: Sequence[Candidate], names: Sequence[str], *, yes: bool) -> list[Candidate]:
    """The tokens that stand in for the first one, in the order in which they were named.

    Args:
        others: all but the first one.
        names: labels or serial numbers that were given.
        yes: whether nothing may be asked.

    Raises:
        click.UsageError: a name fits no other token, or several, or one that was named already.
    """
    if names:
        chosen = [_named(others, name) for name in names]
        if len(set(chosen)) < len(chosen):
            raise click.UsageError("--backup: a token is named twice")
        return chosen
    if yes or not others:
        return []
    _show(others)
    asked = click.prompt(
        "Backup tokens? (numbers, in order; none by default)",
        default="",
        show_default=False,
        err=True,
        value_proc=lambda text: numbers_in(text, len(others)),
    )
    return [others[number - 1] for number in asked]


def numbers_in(text: str, most: int) -> list[int]:
    """The numbers in an answer: each from 1 to ``most``, and none twice (pure).

    Raises:
        click.UsageError: there is something else.
    """
    words = [word for word in _SEPARATORS.split(text) if word]
    numbers = [int(word) for word in words if word.isascii() and word.isdecimal() and len(word) < 6]  # noqa: PLR2004
    if len(numbers) < len(words) or any(not 1 <= number <= most for number in numbers):
        raise click.UsageError(f"give numbers from 1 to {most}, separated by commas, or nothing")
    if len(set(numbers)) < len(numbers):
        raise click.UsageError("a number stands there twice")
    return numbers


def _named(others: Sequence[Candidate], name: str) -> Candidate:
    fitting = [one for one in others if name in {one.token.label, one.token.serial}]
    if len(fitting) == 1:
        return fitting[0]
    problem = "several tokens have that label: name one by its serial number" if fitting else "no other token has it"
    there = "; ".join(one.title for one in fitting or others) or "none"
    raise click.UsageError(f"--backup {printable(name)}: {problem}; found: {printable(there)}")


def _show(tokens: Sequence[Candidate]) -> None:
    for number, one in enumerate(tokens, start=1):
        complain(f"{number}. {one.title}")
