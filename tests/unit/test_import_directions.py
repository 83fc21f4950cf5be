"""Imports run one way: from the ways in, down through the service, to the ground floor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the ground up. A room imports from floors below it and from itself, never from a neighbour.
FLOORS = (
    {"at_once", "errors", "files", "hsm.quirks", "http_body", "logs", "nesting", "processes", "stdio", "times"},
    {"ethereum", "keys.labels", "notify", "requests", "strict_json"},
    {"access", "config"},
    {"audit", "hsm", "keys", "software"},
    {"signing"},
    {"channel", "events", "keyring", "status", "tree"},
    {"monitoring"},
    {"operators"},
    {"assembly"},
    {"service"},
    {"check", "jsonl", "wire"},
    {"api", "connection"},
    {"client"},
    {"compat"},
    {"run"},
    {"cli"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for folder in ("manahsm", "supervisors") for path in (ROOT / folder).rglob("*.py")}


def imports_of(module: str, *, for_type_checkers: bool = True) -> Iterator[str]:
    """Every module that this one imports, at its top or in a function."""
    tree = ast.parse(MODULES[module].read_text())
    if not for_type_checkers:
        tree.body = [node for node in tree.body if not is_for_type_checkers(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else str(node.module)


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def room_of(module: str) -> str:
    """The room of a module of manahsm: a package, a module beside them, or one that stands for itself."""
    inside = module.removeprefix("manahsm.")
    return inside if inside in FLOOR_OF else inside.split(".")[0]


def importers_of(package: str) -> set[str]:
    return {module for module in MODULES if any(imported.split(".")[0] == package for imported in imports_of(module))}


OURS = sorted(module for module in MODULES if module.startswith("manahsm."))


@pytest.mark.parametrize("module", OURS)
def test_a_module_has_a_floor(module: str) -> None:
    assert room_of(module) in FLOOR_OF


@pytest.mark.parametrize("module", OURS)
def test_a_module_imports_only_from_below(module: str) -> None:
    room = room_of(module)
    used = {room_of(name) for name in imports_of(module) if name.startswith("manahsm.")} - {room}
    assert {other for other in used if FLOOR_OF[other] >= FLOOR_OF[room]} == set()


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: set(imports_of(module, for_type_checkers=False)) & MODULES.keys() - {module} for module in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_the_supervision_kit_knows_nothing_of_the_signer() -> None:
    assert {module for module in importers_of("manahsm") if module.startswith("supervisors")} == set()


def test_one_module_alone_imports_pkcs11() -> None:
    assert importers_of("pkcs11") == {"manahsm.hsm.module"}


def test_values_and_encodings_need_no_event_loop() -> None:
    looping = importers_of("anyio") | importers_of("asyncio") | importers_of("trio") | importers_of("supervisors")
    assert {module for module in looping if room_of(module) in {"config", "errors", "ethereum", "requests"}} == set()
