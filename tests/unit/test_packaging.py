"""What the unit and the image are made of; scripts/try-unit and scripts/try-image run them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def pinned(lock: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Version and hashes of each package in a lock file."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for requirement in (ROOT / lock).read_text().replace("\\\n", " ").splitlines():
        name, _, rest = requirement.partition("==")
        words = rest.split()
        found[name] = (words[0], frozenset(word for word in words if word.startswith("--hash=")))
    return found


def test_what_is_installed_to_run_is_what_was_tested() -> None:
    run, tested = pinned("requirements-run.lock"), pinned("requirements.lock")

    assert "hatchling" in run
    assert "pytest" not in run
    assert all(hashes for _, hashes in run.values())
    assert run == {name: tested.get(name) for name in run}


def test_an_image_gets_what_it_copies_and_nothing_else_of_a_checkout() -> None:
    instructions = (ROOT / "config" / "docker" / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in instructions if line.startswith("COPY ") and "--from=" not in line]
    copied = {name for names in copies for name in names}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
