"""Does a log hold? The chain from its first record to its last, and all that is known of it from outside.

The one thing to know: a chain that holds proves that nothing in it was edited, removed, added or put in another order
*since its last hash was noted*. Who noted it, and where, is what the proof is worth: the note beside the log is against
accidents; a head that was kept on another machine (``heads``) and the checkpoints of a key that the forger does not
have (``addresses``) are against forgers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from manahsm.audit.chain import Chain, Failure, Fault
from manahsm.audit.noted import HEAD_FILE, noted_head
from manahsm.audit.reading import read_lines
from manahsm.audit.records import GENESIS, Head

__all__ = ["Report", "verify"]


@frozen(kw_only=True)
class Report:
    """What is known of a log.

    Attributes:
        records: how many records hold, from the first on.
        first, last: when the first and the last of them were written, ISO 8601 in UTC; ``None`` without any.
        head: the last that holds; nothing is said of what comes after it.
        failure: the first thing that does not hold, ``None`` where all does.
        checkpoints: how many were checked.
        signers: EIP-55 addresses that signed them, in order of appearance.
        covered: the last record that a checkpoint covers, 0 for none.
        notes: what else an auditor should know, a sentence each.
    """

    records: int
    first: str | None
    last: str | None
    head: Head
    failure: Failure | None
    checkpoints: int
    signers: tuple[str, ...]
    covered: int
    notes: tuple[str, ...]


def verify(
    directory: Path,
    *,
    after: Head = GENESIS,
    heads: Sequence[Head] = (),
    addresses: frozenset[str] | None = None,
) -> Report:
    """Check a log from its first record on, up to the first that does not hold. Reads while a service writes.

    Args:
        directory: where the log is.
        after: the record that the first one follows, where older segments are kept elsewhere.
        heads: records that must be in the log, as noted outside.
        addresses: EIP-55 addresses that may have signed checkpoints, one of which must be there; ``None`` for any.
    """
    chain = Chain(after, addresses)
    failure = chain.expect([*heads, *_noted(directory, chain)])  # noted before the log is read: it only grows
    try:
        lines = read_lines(directory)
        while failure is None and (line := next(lines, None)) is not None:
            failure = chain.follow(line)
    except OSError as error:
        text = f"{error.filename or directory} can not be read: {error.strerror or error}"
        failure = Failure(Fault.UNREADABLE, chain.head.seq + 1, text)
    return Report(
        records=chain.records,
        first=chain.first,
        last=chain.last,
        head=chain.head,
        failure=failure or chain.end(),
        checkpoints=chain.checkpoints,
        signers=tuple(chain.signers),
        covered=chain.covered,
        notes=chain.notes(),
    )


def _noted(directory: Path, chain: Chain) -> list[Head]:
    """The note beside the log, where there is one that can be read."""
    try:
        noted = noted_head(directory)
    except ValueError as error:
        chain.note(f"{error}: whether the last records are missing can not be told from it")
        return []
    except OSError as error:
        chain.note(
            f"{HEAD_FILE} can not be read ({error.strerror}): whether the last records are missing can not be told"
        )
        return []
    if noted is None:
        chain.note(f"there is no {HEAD_FILE}: whether the last records are missing can not be told from it")
        return []
    return [noted]
