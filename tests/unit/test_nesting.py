from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manahsm.nesting import MAX_DEPTH, recursion_limit_kept, too_deep


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_the_deepest_that_is_allowed_passes() -> None:
    assert not too_deep(nested(MAX_DEPTH))


def test_one_level_more_does_not() -> None:
    assert too_deep(nested(MAX_DEPTH + 1))


def test_many_flat_lists_are_not_deep() -> None:
    assert not too_deep(b"[" + b"[],{}," * 1000 + b"[]]")


def test_brackets_inside_strings_do_not_count() -> None:
    assert not too_deep(json.dumps({"text": "[" * 1000 + '"{' * 1000}).encode())


def test_a_string_that_never_ends_hides_nothing() -> None:
    assert too_deep(b'"' + nested(MAX_DEPTH + 1))


JSON = st.recursive(
    st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


def depth_of(value: object) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


@given(JSON, st.integers(0, 2 * MAX_DEPTH))
def test_depth_is_what_a_parser_would_find(value: object, more: int) -> None:
    for _ in range(more):
        value = [value]
    assert too_deep(json.dumps(value).encode()) == (depth_of(value) > MAX_DEPTH)


def test_an_import_that_raises_the_recursion_limit_is_undone() -> None:
    before = sys.getrecursionlimit()
    with recursion_limit_kept():
        sys.setrecursionlimit(before + 1000)
    assert sys.getrecursionlimit() == before


TYPED_DATA = """
from manahsm.ethereum import typed_data_digest
types = {"A": [{"name": "x", "type": "uint8"}]}
typed_data_digest({"types": types, "primaryType": "A", "domain": {"name": "d"}, "message": {"x": 1}})
"""
KEYSTORE = """
from manahsm.config.model import Kdf
from manahsm.config.secret import Secret
from manahsm.keys.keyfile import encrypt
encrypt(b"1" * 32, Secret("p"), kdf=Kdf.PBKDF2, iterations=1024, name=None)
"""


@pytest.mark.parametrize("use", [TYPED_DATA, KEYSTORE], ids=["typed data", "keystore"])
def test_what_we_load_later_leaves_the_limit_alone(use: str) -> None:
    """py_ecc, which eth-account and eth-keyfile load, sets it to 100,000 for the whole process."""
    code = f"import sys\nbefore = sys.getrecursionlimit()\n{use}\nassert sys.getrecursionlimit() == before"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
