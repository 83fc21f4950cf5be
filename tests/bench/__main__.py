"""``scripts/bench``: the measures as a command."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import anyio
from bench.figures import Figure
from bench.machine import describe
from bench.measures import MEASURES
from bench.places import Bench
from bench.profiling import Profiler
from bench.report import Run, as_json, as_markdown, as_text, replaced
from bench.turns import Plan

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "docs/performance.md"
_BACKENDS = ("asyncio", "trio")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; the figures are printed, whatever they are."""
    options = _parser().parse_args(arguments)
    _log_to(options.log)
    backends = [options.backend] if options.backend else list(_BACKENDS)
    with tempfile.TemporaryDirectory(prefix="manahsm-bench-", dir=options.directory) as name:
        figures = {backend: _measure(options, backend, Path(name)) for backend in backends}
    run = Run(machine=describe(), options=_said(options), figures=figures)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(as_json(run), indent=2) + "\n")
    if options.write_docs:
        _PAGE.write_text(replaced(_PAGE.read_text(), as_markdown(run)))
    return 0


def _log_to(path: Path | None) -> None:
    """As in a program that embeds the service and configures no logging: nothing below a warning is put together."""
    ours = logging.getLogger("manahsm")
    ours.setLevel(logging.WARNING)
    ours.propagate = False
    ours.addHandler(logging.FileHandler(path) if path is not None else logging.NullHandler())


def _measure(options: argparse.Namespace, backend: str, directory: Path) -> list[Figure]:
    print(f"\n{backend}", flush=True)  # noqa: T201
    names = [name for name in MEASURES if name in (options.only or MEASURES)]
    found: list[Figure] = []
    place = directory / backend
    place.mkdir()
    bench = Bench(
        directory=place, plan=_plan(options), backend=backend, quick=options.quick, signatures=options.signatures
    )
    for name in names:
        work = MEASURES[name]
        bench.profiler = Profiler(wanted=options.profile == name)
        print(f"\n{name}: {(work.__doc__ or '').strip().splitlines()[0]}", flush=True)  # noqa: T201
        began = monotonic()
        figures = anyio.run(work, bench, backend=backend)
        print(f"{as_text(figures)}\n  ({monotonic() - began:.0f} s)", flush=True)  # noqa: T201
        if bench.profiler.wanted:
            print(f"\n{bench.profiler.report()}", flush=True)  # noqa: T201
        found += figures
    return found


def _plan(options: argparse.Namespace) -> Plan:
    if options.quick:
        return Plan(rounds=options.rounds or 2, seconds=0.05, warm_up=0.05)
    return Plan(rounds=options.rounds or 15, seconds=0.3, warm_up=0.5)


def _said(options: argparse.Namespace) -> dict[str, object]:
    plan = _plan(options)
    return {"rounds": plan.rounds, "seconds a turn": plan.seconds, "signatures": options.signatures}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="How fast it is, beside others, in one run.")
    parser.add_argument("--backend", choices=_BACKENDS, help="event loop (default: one after the other)")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), metavar="NAME", help=", ".join(MEASURES))
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each contestant (default: 15)")
    parser.add_argument("--signatures", type=int, default=200_000, metavar="N", help="of the campaign on memory")
    parser.add_argument("--quick", action="store_true", help="see that everything runs; the figures mean nothing")
    parser.add_argument("--profile", choices=list(MEASURES), metavar="NAME", help="print where the time of one goes")
    parser.add_argument("--json", type=Path, default=_ROOT / "var/bench.json", metavar="FILE")
    parser.add_argument("--log", type=Path, metavar="FILE", help="write the service's warnings there")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where tokens, logs and registries are made")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
