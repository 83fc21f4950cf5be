"""Asking for what is secret, so that it is not shown.

The one thing to know: without a terminal nothing can be hidden, so nothing is asked. What comes in by a pipe is meant
for something else.
"""

from __future__ import annotations

import getpass
import warnings

import click

from manahsm.cli.failures import AnswerNeeded

__all__ = ["ask_secret"]


def ask_secret(question: str, instead: str, *, twice: bool = False, may_be_empty: bool = False) -> str:
    """Ask for a secret, which is not shown as it is typed.

    Args:
        question: what is asked.
        instead: what to do where there is no terminal.
        twice: whether it must be typed again.
        may_be_empty: whether an empty answer is one.

    Raises:
        AnswerNeeded: there is no terminal to ask on.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            answer: str = click.prompt(
                question,
                default="" if may_be_empty else None,
                show_default=False,
                hide_input=True,
                confirmation_prompt=twice,
                err=True,
            )
        except getpass.GetPassWarning:
            raise AnswerNeeded(f"there is no terminal to ask for a secret on: {instead}") from None
    return answer
