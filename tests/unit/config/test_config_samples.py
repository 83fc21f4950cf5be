"""Vendor profiles, and the sample files that are made of them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from manahsm.config.load import load_config
from manahsm.config.model import Config, pool_of
from manahsm.config.reference import rows
from manahsm.config.samples import generate_sample_config
from manahsm.config.vendors import PROFILES, Vendor, profile_of
from manahsm.errors import ConfigError

CONFIG_DIRECTORY = Path(__file__).parents[3] / "config"

every_vendor = pytest.mark.parametrize("vendor", list(Vendor))


def test_each_vendor_has_a_profile() -> None:
    assert {vendor: profile.vendor for vendor, profile in PROFILES.items()} == {v: v for v in Vendor}


@every_vendor
def test_each_profile_has_a_pool_that_can_be_read(vendor: Vendor) -> None:
    assert Config(vendor=vendor).connection_pool == pool_of(vendor)


@pytest.mark.parametrize(
    ("vendor", "pool"),
    [
        ("thales", (5, 10, 30.0, 60.0)),
        ("aws_cloudhsm", (10, 20, 15.0, 30.0)),
        ("safenet_luna", (8, 16, 20.0, 45.0)),
        ("utimaco", (6, 12, 25.0, 50.0)),
        ("softhsm", (4, 8, 5.0, 15.0)),
        ("yubihsm", (2, 0, 10.0, 20.0)),  # 3/6 in the original: the device wins
    ],
)
def test_pools_are_those_of_the_original_unless_the_device_says_no(
    vendor: str, pool: tuple[int, int, float, float]
) -> None:
    held = pool_of(Vendor(vendor))

    assert (held.size, held.max_overflow, held.timeout, held.idle_timeout) == pool


def test_a_luna_call_outlasts_the_clients_own_receive_timeout() -> None:
    assert pool_of(Vendor.SAFENET_LUNA).call_timeout > 20


def test_quirks_are_those_of_the_vendors() -> None:
    assert profile_of(Vendor.AWS_CLOUDHSM).quirks.read_write_sessions
    assert profile_of(Vendor.AWS_CLOUDHSM).quirks.point_on_private_key
    assert profile_of(Vendor.UTIMACO).quirks.raw_ec_point
    assert (
        profile_of(Vendor.YUBIHSM).quirks.max_sessions,
        profile_of(Vendor.YUBIHSM).quirks.cka_id_bytes,
    ) == (16, 2)


@every_vendor
def test_the_committed_sample_is_the_generated_one(vendor: Vendor) -> None:
    assert (CONFIG_DIRECTORY / f"{vendor}.toml").read_text() == generate_sample_config(vendor)


@every_vendor
def test_each_sample_loads(vendor: Vendor) -> None:
    config = load_config(CONFIG_DIRECTORY / f"{vendor}.toml", environ={})

    assert (config.vendor, config.token_label) == (vendor, "manahsm")
    assert config.connection_pool == pool_of(vendor)


@every_vendor
def test_each_sample_shows_every_option(vendor: Vendor) -> None:
    sample = generate_sample_config(vendor)
    missing = [row.path for row in rows() if "[]" not in row.path and f"{row.option.name} = " not in sample]

    assert missing == []


@every_vendor
def test_a_commented_default_changes_nothing_when_it_is_taken_in(vendor: Vendor) -> None:
    uncommented = [
        line[2:] if line.startswith("# ") and " = " in line and "..." not in line else line
        for line in generate_sample_config(vendor).partition("# Several tokens")[0].splitlines()
    ]
    document = tomllib.loads("\n".join(uncommented))

    assert load_config(document, environ={}) == load_config(tomllib.loads(generate_sample_config(vendor)), environ={})


@every_vendor
def test_the_slots_example_loads_in_place_of_the_token(vendor: Vendor) -> None:
    sample = generate_sample_config(vendor).replace('\ntoken_label = "manahsm"', "")
    head, title, example = sample.partition("# Several tokens")
    _, _, tables = example.partition("#\n")
    slots = "\n".join(line.removeprefix("#").strip() for line in tables.splitlines())
    config = load_config(tomllib.loads(f"{head}{title}\n{slots}"), environ={})

    assert [slot.token_label for slot in config.slots] == ["manahsm", "manahsm-spare"]


@every_vendor
def test_a_sample_names_the_usual_places_and_variables(vendor: Vendor) -> None:
    sample = generate_sample_config(vendor)
    profile = profile_of(vendor)

    assert all(str(path) in sample for path in profile.libraries)
    assert all(variable.name in sample for variable in profile.variables)


def test_an_unknown_vendor_names_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'softhsm'"):
        generate_sample_config("softhsm2")
