"""From a seed to a schedule of faults (pure).

The one thing to know: kinds are dealt like cards, so that each comes once before any comes twice. Mostly one fault is
on at a time, sometimes two, of one slot or of both. A seed fixes all of this, and what the callers ask for; it does not
fix how tasks, threads and processes interleave.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from attrs import frozen
from chaos.faults import KINDS, Fault, Maker
from chaos.sorts import BACKUP, PRIMARY

__all__ = ["Planned", "schedule"]

_LENGTHS = (0.1, 2.5)  # seconds
_PAUSES = (0.1, 1.5)
_TOGETHER = 0.2  # share of the faults that begin while another one is on
_OF_THE_PRIMARY = 0.7


@frozen
class Planned:
    """A fault and its time.

    Attributes:
        at: seconds after the beginning.
        length: seconds until it is lifted.
        slot: whose it is.
        fault: what happens.
    """

    at: float
    length: float
    slot: str
    fault: Fault


def schedule(seed: int, seconds: float) -> tuple[Planned, ...]:
    """Plan the faults of a run that is ``seconds`` long, in order; each is lifted before the end."""
    rng = random.Random(f"schedule {seed}")  # noqa: S311 - a test's dice
    kinds = _deal(rng)
    planned: list[Planned] = []
    now = rng.uniform(*_PAUSES)
    while True:
        length = rng.uniform(*_LENGTHS)
        if now + length >= seconds:
            return tuple(planned)
        planned.append(_plan(now, length, next(kinds), rng))
        if rng.random() < _TOGETHER:
            later, rest = now + rng.uniform(0.0, length), rng.uniform(*_LENGTHS)
            if later + rest < seconds:
                planned.append(_plan(later, rest, next(kinds), rng))
                length = max(length, later + rest - now)
        now += length + rng.uniform(*_PAUSES)


def _plan(at: float, length: float, kind: Maker, rng: random.Random) -> Planned:
    slot = PRIMARY if rng.random() < _OF_THE_PRIMARY else BACKUP
    return Planned(round(at, 3), round(length, 3), slot, kind(rng))


def _deal(rng: random.Random) -> Iterator[Maker]:
    while True:
        yield from rng.sample(KINDS, len(KINDS))
