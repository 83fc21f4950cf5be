"""The long tests of the audit log; run them with ``scripts/audit-campaign``, which sets the paths.

The one thing to know: each prints its figures and exits with 0 only where every promise was kept. Short forms of
``kill`` and ``edits`` are in the test suite; what takes minutes is here.
"""

from __future__ import annotations

import argparse
import io
import itertools
import logging
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
from attrs import evolve, frozen
from audit_load import killed_under_load, signed_ids
from audit_samples import Files, make_log, segments_of, write_log
from services import config_for, software_config
from softhsm import SoftHSMToken

import manahsm
from manahsm.audit.chain import Chain
from manahsm.audit.reading import Line
from manahsm.audit.records import GENESIS
from manahsm.audit.verify import verify

BYTE_VALUES = 256
SOMEWHERE = Path("segment")
WARM_UP = 5  # turns that do not count


# --- kill -----------------------------------------------------------------------------------------------------------


def kill(options: argparse.Namespace, directory: Path) -> bool:
    """Kill a service under load many times, and look at its log after each; a new log is begun now and then."""
    chance = random.Random(options.seed)  # noqa: S311 - not for cryptography
    signatures = records = segments = checkpoints = torn = failures = unrecorded = 0
    for number in range(1, options.kills + 1):
        if number % options.restarts == 1:
            received: set[str] = set()
            place = directory / str(number)
            audit = place / "state" / "audit"
            limits = {"max_segment_size": 256 * 1024, "checkpoint_key": "load", "checkpoint_interval": 1000}
            config = software_config(place, audit=limits)
        then = chance.uniform(0, 0.3) if number % 5 else chance.uniform(0.9, 1.4)  # some live to make a checkpoint
        received |= killed_under_load(config, after=chance.randrange(1, 50), then=then)
        report = verify(audit)
        torn += any("incomplete last line" in note for note in report.notes)
        lost = len(received - signed_ids(audit))
        if report.failure is not None or lost:
            failures += 1
            unrecorded += lost
            print(f"kill {number}: {report.failure}, {lost} signatures without a record")
        if number % options.restarts == 0 or number == options.kills:
            signatures += len(received)
            records += report.records
            checkpoints += report.checkpoints
            segments += len(list(audit.glob("audit-*.jsonl")))
            print(f"{number} kills, {signatures} signatures received, {records} records", flush=True)
    print(
        f"{options.kills} kills: {signatures} signatures received, {unrecorded} of them without a record; "
        f"{records} records in {segments} segments, {checkpoints} checkpoints; "
        f"{failures} logs that do not hold; {torn} torn tails"
    )
    return not failures


# --- edits ----------------------------------------------------------------------------------------------------------


def edits(options: argparse.Namespace, directory: Path) -> bool:
    """Try every other value for every byte of a log, and count those that are not found.

    What stands before the edited line is untouched and holds, so each edit is judged from there on. That this is what
    the verifier says of the files is checked on a sample of them.
    """
    files = make_log(directory / "true", options.records)
    (name,) = segments_of(files)
    content = files[name]
    chain = Chain(GENESIS)
    chain.expect([verify(directory / "true").head])
    chance = random.Random(options.seed)  # noqa: S311 - not for cryptography
    tried = missed = sampled = 0
    start = 0
    for line in content.splitlines(keepends=True):
        for position in range(len(line)):
            for value in range(BYTE_VALUES):
                if value == line[position]:
                    continue
                edited = line[:position] + bytes([value]) + line[position + 1 :]
                tried += 1
                found = judge(chain, edited, content[start + len(line) :])
                missed += not found
                if chance.random() < options.sample / (len(content) * BYTE_VALUES):
                    sampled += 1
                    harmed = content[:start] + edited + content[start + len(line) :]
                    report = verify(write_log(directory / "harmed", files | {name: harmed}))
                    missed += report.failure is None
        if chain.follow(Line(SOMEWHERE, 1, line, growing=False)) is not None:
            sys.exit("the log does not hold before it is edited")
        start += len(line)
        if chain.head.seq % 100 == 0:
            print(f"{chain.head.seq} records, {tried} edits, {missed} missed", flush=True)
    if chain.end() is not None:
        sys.exit("the log does not hold before it is edited")
    print(f"{options.records} records, {len(content)} bytes: {tried} edits, {missed} missed; {sampled} of them on disk")
    moved = [_moves_missed(kind, moves, files, name, directory / "harmed") for kind, moves in MOVES.items()]
    return not missed and not any(moved)


def _moves_missed(kind: str, moves: Moves, files: Files, name: str, directory: Path) -> int:
    """Try everything that can be done to whole records; how often the verifier finds nothing wrong."""
    lines = files[name].splitlines(keepends=True)
    reports = [verify(write_log(directory, files | {name: b"".join(harmed)})) for harmed in moves(lines)]
    missed = sum(report.failure is None for report in reports)
    print(f"{len(reports)} records {kind}: {missed} missed", flush=True)
    return missed


Moves = Callable[[list[bytes]], Iterator[list[bytes]]]
MOVES: Mapping[str, Moves] = {
    "removed": lambda lines: (lines[:at] + lines[at + 1 :] for at in range(len(lines))),
    "swapped with the next": lambda lines: (
        [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]] for at in range(len(lines) - 1)
    ),
    "appended a second time": lambda lines: ([*lines, line] for line in lines),
}


def judge(chain: Chain, edited: bytes, rest: bytes) -> bool:
    """Whether the chain so far finds that its next line was edited: at once, or at the end of the log.

    A line that does not hold leaves the chain as it was, so that it can be used for the next edit too.
    """
    if edited.endswith(b"\n") and edited.count(b"\n") == 1:
        return chain.follow(Line(SOMEWHERE, 1, edited, growing=False)) is not None
    here = evolve(chain, expected=deque(chain._expected), recent=deque(chain._recent), notes=[])  # noqa: SLF001
    # The line was split in two, or joined with the next.
    for line in io.BytesIO(edited + rest[: rest.find(b"\n") + 1]).readlines():
        if here.follow(Line(SOMEWHERE, 1, line, growing=not line.endswith(b"\n"))) is not None:
            return True
    return not rest and here.end() is not None


# --- bench ----------------------------------------------------------------------------------------------------------


def bench(options: argparse.Namespace, directory: Path) -> bool:
    """Sign with an audit log and without, in turns."""
    anyio.run(_bench, options, directory)
    return True


async def _bench(options: argparse.Namespace, directory: Path) -> None:
    for where in ("software", "token"):
        for what, logged, burst in itertools.product(SIGN, (False, True), (1, 32)):
            place = directory / f"{where}-{what}-{logged}-{burst}"
            pairs = await _alternate(options, place, where, SIGN[what], burst, logged=logged)
            wall, processor = (
                statistics.median(getattr(on, of) / getattr(off, of) for on, off in pairs) for of in TIMES
            )
            with_, without = (min(turn.wall for turn in turns) * 1e6 for turns in zip(*pairs, strict=True))
            print(
                f"{where}, {what}, {'with' if logged else 'without'} log lines, {burst} at once: audit on against off "
                f"{wall:.3f} (processor time of this process {processor:.3f}); best turns {with_:.1f} and "
                f"{without:.1f} us a signature",
                flush=True,
            )


@frozen
class Turn:
    """Seconds that a signature took in one turn: by the clock, and of a processor in this process."""

    wall: float
    processor: float


TIMES = ("wall", "processor")


async def _alternate(
    options: argparse.Namespace, directory: Path, where: str, sign: Sign, burst: int, *, logged: bool
) -> list[tuple[Turn, Turn]]:
    """Turns with an audit log and without, each next to the other, so that a busy machine is busy for both."""
    logger = logging.getLogger("manahsm")
    logger.handlers[:] = [logging.StreamHandler((directory.parent / "lines.log").open("a"))]
    logger.propagate = False
    logger.setLevel(logging.INFO if logged else logging.WARNING)
    unaudited = {"audit": {"enabled": False}, "security_policy": {"audit_all_operations": False}}
    turns: dict[bool, list[Turn]] = {True: [], False: []}
    async with AsyncExitStack() as stack:
        services = {}
        for audited in (True, False):
            config = _config(directory / str(audited), where, {} if audited else unaudited)
            services[audited] = await stack.enter_async_context(manahsm.open_service(config))
            await services[audited].generate_key(
                "bench", "transaction_signer", "hsm" if where == "token" else "software"
            )
        for turn in range(options.turns + WARM_UP):
            for audited in (True, False) if turn % 2 else (False, True):
                turns[audited].append(await _signatures(services[audited], sign, options.signatures, burst))
    return list(zip(turns[True][WARM_UP:], turns[False][WARM_UP:], strict=True))


def _config(directory: Path, where: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    return (
        config_for(SoftHSMToken.create(directory), directory, **changes)
        if where == "token"
        else software_config(directory, **changes)
    )


async def _signatures(service: manahsm.Service, sign: Sign, count: int, burst: int) -> Turn:
    async def some() -> None:
        for number in range(count // burst):
            await sign(service, number)

    wall, processor = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(burst):
            tasks.start_soon(some)
    return Turn((time.perf_counter() - wall) / count, (time.process_time() - processor) / count)


async def _sign_digest(service: manahsm.Service, number: int) -> None:
    await service.sign_hash((number + 1).to_bytes(32, "big"), "bench", caller="bench")


async def _sign_transaction(service: manahsm.Service, number: int) -> None:
    await service.sign_transaction({**TRANSACTION, "nonce": number}, "bench", caller="bench")


Sign = Callable[[manahsm.Service, int], Awaitable[None]]
SIGN: Mapping[str, Sign] = {"transaction": _sign_transaction, "digest": _sign_digest}
TRANSACTION = {
    "chainId": 1,
    "to": "0x" + "12" * 20,
    "value": 10**18,
    "gas": 21_000,
    "maxFeePerGas": 30 * 10**9,
    "maxPriorityFeePerGas": 10**9,
}


# --- the command ----------------------------------------------------------------------------------------------------


def main() -> int:
    """Run one of them; exit 0 where every promise was kept."""
    parser = argparse.ArgumentParser(prog="scripts/audit-campaign", description="The long tests of the audit log.")
    parser.add_argument("--seed", type=int, default=1)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for work in (kill, edits, bench):
        command = commands.add_parser(work.__name__, help=(work.__doc__ or "").partition("\n")[0])
        command.set_defaults(work=work)
        for name, usual in OPTIONS[work]:
            command.add_argument(f"--{name}", type=int, default=usual, metavar="N", help=f"default: {usual}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="audit-campaign-") as directory:
        return 0 if options.work(options, Path(directory)) else 1


Work = Callable[[argparse.Namespace, Path], bool]
OPTIONS: Mapping[Work, tuple[tuple[str, int], ...]] = {
    kill: (("kills", 200), ("restarts", 20)),
    edits: (("records", 1000), ("sample", 500)),
    bench: (("turns", 100), ("signatures", 128)),
}


if __name__ == "__main__":
    sys.exit(main())
