"""The example in the documentation runs, on both event loops, and does what it says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.anyio


async def test_the_demo_loses_no_question(capsys: pytest.CaptureFixture[str]) -> None:
    demo = runpy.run_path(str(ROOT / "examples" / "supervisors_demo.py"))
    answers = await demo["main"]()
    assert answers.pop(demo["POISON"]) == "poison"
    assert answers == {question: question * question for question in range(30) if question != demo["POISON"]}
    output = capsys.readouterr().out
    assert "30 answers, 29 of them right, poison: 13; 6 returned" in output
    assert "the breaker is closed" in output


def test_every_public_name_is_in_the_documentation() -> None:
    import supervisors  # noqa: PLC0415 - only this test looks at the whole of it

    page = (ROOT / "docs" / "supervisors.md").read_text()
    assert [name for name in supervisors.__all__ if not re.search(rf"\b{name}\b", page)] == []
