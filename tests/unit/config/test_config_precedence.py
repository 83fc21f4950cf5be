"""Defaults < vendor profile < file < environment < arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manahsm.config.layers import variable_names
from manahsm.config.load import load_config
from manahsm.config.secret import Secret
from manahsm.config.vendors import Vendor


def test_each_source_wins_over_the_one_before(minimal: dict[str, Any]) -> None:
    def label(**sources: Any) -> str | None:
        return load_config(minimal, **{"environ": {}, **sources}).token_label

    environ = {"HSM_TOKEN_LABEL": "from-environment"}

    assert label() == "dev"
    assert label(environ=environ) == "from-environment"
    assert label(environ=environ, overrides={"token_label": "from-arguments"}) == "from-arguments"


def test_a_vendor_from_the_environment_brings_its_own_pool(minimal: dict[str, Any]) -> None:
    config = load_config(minimal, environ={"HSM_VENDOR": "thales"})

    assert (config.vendor, config.connection_pool.size) == (Vendor.THALES, 5)


def test_the_file_wins_over_the_vendor_profile_option_by_option(minimal: dict[str, Any]) -> None:
    pool = load_config({**minimal, "connection_pool": {"size": 1}}, environ={}).connection_pool

    assert (pool.size, pool.max_overflow) == (1, 8)


def test_every_variable_is_read(tmp_path: Path) -> None:
    environ = {
        "HSM_ENABLED": "yes",
        "HSM_VENDOR": "utimaco",
        "HSM_LIBRARY_PATH": "/lib/p11.so",
        "HSM_SLOT_ID": "0x2A",
        "HSM_TOKEN_LABEL": "label",
        "HSM_PIN": "1234",
    }
    config = load_config({}, environ=environ)

    assert set(variable_names()) == {*environ, "HSM_PIN_FILE"}
    assert (config.enabled, config.vendor, config.slot_id, config.token_label) == (
        True,
        "utimaco",
        42,
        "label",
    )
    assert (config.library_path, config.pin) == (Path("/lib/p11.so"), Secret("1234"))
    assert load_config({}, environ={**environ, "HSM_PIN_FILE": str(tmp_path)}).pin_file == tmp_path


def test_without_a_source_the_environment_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('vendor = "softhsm"\ntoken_label = "from-file"')

    assert load_config(environ={"MANAHSM_CONFIG": str(file)}).token_label == "from-file"


def test_a_source_wins_over_the_file_that_the_environment_names(minimal: dict[str, Any]) -> None:
    assert load_config(minimal, environ={"MANAHSM_CONFIG": "/nowhere.toml"}).token_label == "dev"


def test_without_anything_software_keys_are_one_variable_away() -> None:
    assert load_config(environ={"HSM_ENABLED": "false"}).enabled is False


def test_empty_variables_count_as_unset(minimal: dict[str, Any]) -> None:
    environ = dict.fromkeys([*variable_names(), "MANAHSM_CONFIG", "XDG_STATE_HOME"], "")

    assert load_config(minimal, environ=environ) == load_config(minimal, environ={})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1", True),
        ("TRUE", True),
        ("on", True),
        ("0", False),
        ("no", False),
        ("Off", False),
        (" false ", False),
    ],
)
def test_flags_in_the_environment(minimal: dict[str, Any], word: str, value: bool) -> None:
    assert load_config(minimal, environ={"HSM_ENABLED": word}).enabled is value


@pytest.mark.parametrize(
    ("variable", "written", "path", "message"),
    [
        ("HSM_ENABLED", "maybe", "hsm.enabled", "HSM_ENABLED: expected true or false"),
        ("HSM_SLOT_ID", "first", "hsm.slot_id", "HSM_SLOT_ID: expected a slot number"),
        ("HSM_SLOT_ID", "-1", "hsm.slot_id", "must be from 0"),
        ("HSM_VENDOR", "luna", "hsm.vendor", "did you mean 'safenet_luna'"),
        ("HSM_TOKEN_LABEL", "x" * 33, "hsm.token_label", "at most 32"),
        ("HSM_PIN", "\udcff", "hsm.pin", "must be UTF-8"),
    ],
)
def test_a_variable_that_can_not_be_used_says_why(
    faults_of: Any, variable: str, written: str, path: str, message: str
) -> None:
    assert message in faults_of({}, environ={variable: written})[path]


def test_a_pin_file_in_the_environment_wins_over_a_pin_there(minimal: dict[str, Any]) -> None:
    config = load_config(minimal, environ={"HSM_PIN": "1234", "HSM_PIN_FILE": "/pin"})

    assert (config.pin, config.pin_file) == (None, Path("/pin"))


def test_a_pin_in_the_environment_wins_over_a_pin_file_in_the_file(minimal: dict[str, Any]) -> None:
    config = load_config({**minimal, "pin_file": "/pin"}, environ={"HSM_PIN": "1234"})

    assert (config.pin, config.pin_file) == (Secret("1234"), None)


def test_a_token_in_the_environment_replaces_the_token_of_the_file() -> None:
    config = load_config({"vendor": "softhsm", "slot_id": 7}, environ={"HSM_TOKEN_LABEL": "other"})

    assert (config.slot_id, config.token_label) == (None, "other")


def test_arguments_left_open_change_nothing(minimal: dict[str, Any]) -> None:
    config = load_config(minimal, environ={}, overrides={"hsm": {"token_label": None, "debug": None}})

    assert config == load_config(minimal, environ={})


def test_variables_for_libraries_are_merged_name_by_name(minimal: dict[str, Any]) -> None:
    config = load_config(
        {**minimal, "environment": {"A": "1", "B": "1"}}, environ={}, overrides={"environment": {"B": "2"}}
    )

    assert config.environment == {"A": "1", "B": "2"}


def test_lists_are_replaced_whole() -> None:
    written = {"vendor": "softhsm", "slots": [{"token_label": "a"}, {"token_label": "b"}]}
    config = load_config(written, environ={}, overrides={"slots": [{"token_label": "c"}]})

    assert [slot.token_label for slot in config.slots] == ["c"]


def test_a_table_does_not_merge_with_something_else(minimal: dict[str, Any], faults_of: Any) -> None:
    faults = faults_of({**minimal, "connection_pool": {"size": 3}}, overrides={"connection_pool": 4})

    assert set(faults) == {"hsm.connection_pool"}
