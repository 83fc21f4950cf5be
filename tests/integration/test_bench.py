"""The benchmark runs from end to end. Its figures mean nothing here: they only have to be there."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.measures import MEASURES

TESTS = Path(__file__).parents[1]
UNITS = {"x", "/s", "ms", "us", "s", "MB", "%", "bytes"}
MAY_BE_NEGATIVE = ("one signature - C call", "growth", "memory added")


@pytest.mark.alone
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("unmeasured")
def test_every_measure_has_sane_figures_with_their_units(anyio_backend: str, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "bench", "--quick", "--backend", anyio_backend, "--json", file, "--directory", tmp_path],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert {each["measure"] for each in found["figures"]} == set(MEASURES)
    names = [(each["measure"], each["name"]) for each in found["figures"]]
    assert len(names) == len(set(names))
    for each in found["figures"]:
        assert each["backend"] == anyio_backend
        assert each["unit"] in UNITS, each
        assert (each["reached"] is None) == (each["target"] is None), each
        assert each["range"][0] <= each["median"] <= each["range"][1], each
        assert math.isfinite(each["value"]), each
        assert each["value"] > 0 or each["name"].startswith(MAY_BE_NEGATIVE) or "longer among" in each["name"], each
    assert all(each["name"] in done.stdout for each in found["figures"])
    assert not list(tmp_path.glob("manahsm-bench-*"))
