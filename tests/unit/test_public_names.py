"""The public names of the package, and what importing them costs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import manahsm
from manahsm import errors

HEAVY = ("asyncio", "coincurve", "eth_account", "pkcs11", "rlp", "trio")


def names_for_type_checkers() -> dict[str, str]:
    """Each name in the ``if TYPE_CHECKING`` block, with the module that it comes from."""
    tree = ast.parse(Path(manahsm.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def loaded_after(statement: str) -> set[str]:
    """Every module that a fresh interpreter has loaded after ``statement``."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(  # noqa: S603 - our own statements
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_type_checkers_see_what_is_served() -> None:
    assert names_for_type_checkers() == manahsm._HOME_OF


def test_all_is_what_is_served() -> None:
    assert sorted(manahsm.__all__) == sorted(manahsm._HOME_OF)


@pytest.mark.parametrize("name", manahsm.__all__)
def test_a_public_name_is_the_one_of_its_module(name: str) -> None:
    home = manahsm._HOME_OF[name]
    served = getattr(manahsm, name)
    assert served is getattr(import_module(home), name)
    assert served.__module__ == home


def test_every_error_is_public() -> None:
    defined = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert defined - set(manahsm.__all__) == set()


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [
        value.code
        for value in map(manahsm.__getattr__, manahsm.__all__)
        if inspect.isclass(value) and issubclass(value, errors.ManaHSMError)
    ]
    assert sorted(codes) == sorted(set(codes))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'manahsm' has no attribute 'open_servce'"):
        manahsm.__getattr__("open_servce")


def test_dir_lists_the_public_names() -> None:
    assert set(manahsm.__all__) <= set(dir(manahsm))


def test_importing_the_package_loads_none_of_its_modules() -> None:
    loaded = loaded_after("import manahsm")
    assert {name for name in loaded if name.startswith("manahsm.")} == set()
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["manahsm.service", "manahsm.run"])
def test_the_service_loads_slow_libraries_when_it_uses_them(module: str) -> None:
    loaded = loaded_after(f"import {module}")
    assert loaded.isdisjoint({"eth_account", "eth_keyfile", "ckzg", "trio"})


@pytest.mark.parametrize("module", ["manahsm.service", "manahsm.run"])
def test_no_pkcs11_in_the_process_of_the_caller(module: str) -> None:
    loaded = loaded_after(f"import {module}")
    assert {name for name in loaded if name.split(".")[0] == "pkcs11"} == set()


@pytest.mark.parametrize("host", ["manahsm.hsm.host", "manahsm.software.host"])
def test_a_host_process_loads_nothing_of_the_service(host: str) -> None:
    loaded = loaded_after(f"import {host}")
    ours = (host.rpartition(".")[0], "manahsm.processes")
    assert {name for name in loaded if name.startswith("manahsm.") and not name.startswith(ours)} == set()
    assert loaded.isdisjoint({"anyio", "asyncio", "eth_account", "structlog", "supervisors", "trio"})
