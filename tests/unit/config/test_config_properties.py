"""Whatever is written, it loads or it is refused with a ConfigError, and no PIN is ever shown."""

from __future__ import annotations

import json
import traceback
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from manahsm.config.kinds import Milliseconds, Table, Tables
from manahsm.config.load import load_config
from manahsm.config.model import Config
from manahsm.config.options import options_of
from manahsm.errors import ConfigError

PIN = "correct-horse-9271"

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=20),
    st.binary(max_size=5),
    st.sampled_from(["softhsm", "yubihsm", "backup", "admin", "hsm", "pbkdf2", "never", "dev", "/x", "~nobody/x"]),
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.one_of(st.text(max_size=5), st.integers(), st.none()), inner, max_size=3)
    ),
    max_leaves=10,
)


def tables(cls: type) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings with the names of a table and values that are often wrong."""
    values: dict[str, st.SearchStrategy[Any]] = {}
    for name, setting in options_of(cls).items():
        match setting.kind:
            case Table(cls=nested):
                values[name] = tables(nested) | anything
            case Tables(cls=nested):
                values[name] = st.lists(tables(nested), max_size=3) | anything
            case kind:
                values[name] = _values_near(kind)
    return st.fixed_dictionaries({}, optional=values)


def _values_near(kind: Any) -> st.SearchStrategy[Any]:
    if hasattr(kind, "words"):
        word = st.sampled_from([str(word) for word in kind.words])
        return word | st.lists(word, max_size=4) | scalars
    if hasattr(kind, "least"):
        return st.integers(int(kind.least), int(kind.most)) | scalars
    return anything


variables = st.dictionaries(
    st.sampled_from(
        ["HSM_ENABLED", "HSM_VENDOR", "HSM_LIBRARY_PATH", "HSM_SLOT_ID", "HSM_PIN_FILE", "HSM_TOKEN_LABEL"]
    ),
    st.text(st.characters(), max_size=10) | st.sampled_from(["true", "softhsm", "0x10", "12"]),
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(written=tables(Config) | anything, environ=variables, overrides=tables(Config))
def test_anything_loads_or_is_refused_and_shows_no_pin(
    written: Any, environ: dict[str, str], overrides: dict[str, Any]
) -> None:
    source = {**written, "pin": PIN} if isinstance(written, dict) else {"hsm": written}
    try:
        config = load_config(source, environ=environ, overrides=overrides)
    except ConfigError as caught:
        faults = caught
    else:
        assert PIN not in f"{config!r}{config.describe()}"
        return

    assert faults.problems
    assert all(problem.message and str(problem).isprintable() for problem in faults.problems)
    assert PIN not in "".join(traceback.format_exception(faults)) + repr(faults.problems)


#: Every option that can be set on its own while there are software keys only.
independent = tables(Config).map(
    lambda written: {"enabled": False} | {name: value for name, value in written.items() if _loads(name, value)}
)


def _loads(name: str, value: Any) -> bool:
    try:
        load_config({"enabled": False, name: value}, environ={})
    except ConfigError:
        return False
    return name not in {"enabled", "pin", "slots"}


@settings(max_examples=200, deadline=None)
@given(written=independent)
def test_what_is_described_loads_again(written: dict[str, Any]) -> None:
    config = load_config(written, environ={})

    assert load_config(json.loads(json.dumps(config.describe())), environ={}).describe() == config.describe()


@given(st.integers(1, 3_600_000))
def test_whole_milliseconds_come_back_as_they_went_in(milliseconds: int) -> None:
    kind = Milliseconds(1, 3_600_000)

    assert kind.show(kind.parse(milliseconds)) == milliseconds
    assert isinstance(kind.show(kind.parse(milliseconds)), int)


@given(st.floats(0.001, 3600))
def test_any_length_of_time_survives_being_shown(seconds: float) -> None:
    kind = Milliseconds(1, 3_600_000)

    assert abs(kind.parse(kind.show(kind.check(seconds))) - seconds) < 1e-8
