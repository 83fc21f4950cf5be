"""Embedding: an event loop that signs with a token still runs everything else in time.

The one thing to know: what is asserted is how long the *service* kept the loop. The machine may be busy with other
things, so the time that threads of the process waited for a processor (the kernel counts it) is taken off each gap
between two heartbeats. What is left is work of the loop's own thread, waiting for the GIL, and blocking calls: all of
those would be the service's fault.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from services import config_for
from softhsm import SoftHSMToken

PROGRAM = Path(__file__).parent / "heartbeat_program.py"
LONGEST = 0.020  # seconds: the promise

pytestmark = pytest.mark.alone  # it measures; the unmeasured time of another test (a busy disk, say) would count


def test_the_loop_is_never_kept_for_long_while_a_token_signs(
    softhsm_token: SoftHSMToken, tmp_path: Path, anyio_backend: str
) -> None:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(PROGRAM), anyio_backend],
        input=json.dumps(config_for(softhsm_token, tmp_path)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    parts = json.loads(done.stdout.splitlines()[-1])

    print(f"\nheartbeat, {anyio_backend}: milliseconds kept (gap) by part")  # noqa: T201 - figures, for pytest -s
    for name, part in parts.items():
        print(f"  {name}: {part['kept'] * 1e3:.1f} ({part['gap'] * 1e3:.1f}) in {part['seconds']:.2f} s")  # noqa: T201
    assert {name: part["kept"] for name, part in parts.items() if part["kept"] > LONGEST} == {}
