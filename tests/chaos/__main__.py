"""``scripts/chaos``: a run of chaos, or the drills, as a command."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import tempfile
from pathlib import Path

import anyio
from chaos import drill_report, report
from chaos.drills import drills
from chaos.storm import storm


def main() -> int:
    """Run what the command line asks for; 1 where a promise was broken."""
    options = _options()
    _log_to(options.log or Path(os.devnull))
    with tempfile.TemporaryDirectory(prefix="manahsm-chaos-") as name:
        directory = Path(name)
        if options.drills:
            reports = anyio.run(drills, directory, backend=options.backend)
            broken = any(each.faults for each in reports)
            text, numbers = (
                drill_report.as_text(reports, options.backend),
                drill_report.as_json(reports, options.backend),
            )
        else:
            found = anyio.run(storm, directory, options.seed, options.seconds, backend=options.backend)
            broken = bool(found.broken)
            text, numbers = report.as_text(found), report.as_json(found)
    print(text)  # noqa: T201
    if options.json is not None:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="Let faults happen while callers sign.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults happen (default: 60)")
    parser.add_argument("--seed", type=int, help="of the schedule; a random one by default, printed")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--drills", action="store_true", help="one fault at a time instead, against the claims")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    parser.add_argument("--log", type=Path, metavar="FILE", help="write the service's log there")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    return options


def _log_to(path: Path) -> None:
    """Send the service's log, and what hosts and the libraries in them write to standard error, to a file."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)  # ours stays what it was
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)-8s %(name)s %(message)s", "%H:%M:%S"))
    ours = logging.getLogger("manahsm")
    ours.propagate = False
    ours.addHandler(handler)
    ours.setLevel(logging.INFO if path != Path(os.devnull) else logging.CRITICAL)
    logging.getLogger("manahsm.audit").setLevel(logging.WARNING)  # it has a line or two for each request


if __name__ == "__main__":
    sys.exit(main())
