"""Commands that only read and write documents: tokens for callers, configurations, audit logs."""

from __future__ import annotations

import hashlib
import json
import stat
import tomllib
from pathlib import Path

import pytest
from audit_samples import make_log, read_log, segments_of, write_log
from command_line import manahsm

from manahsm.cli.configuration import toml_lines
from manahsm.config.load import load_config
from manahsm.config.samples import generate_sample_config
from manahsm.config.vendors import Vendor

PIN = "4031-unlikely"

# ---- token ----


def test_a_bearer_token_has_256_bits_and_its_digest_goes_into_the_configuration() -> None:
    token, line = manahsm("token").output.splitlines()
    assert len(bytes.fromhex(token)) == 32
    assert line == f'token_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"'
    load_config({"enabled": False, "api": {"callers": [{"name": "bot", **tomllib.loads(line)}]}}, environ={})


def test_every_bearer_token_is_another_one() -> None:
    assert manahsm("token", "--json").document["token"] != manahsm("token", "--json").document["token"]


def test_a_bearer_token_in_a_file_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "bot.token"
    made = manahsm("token", "--output", path, "--json")
    token = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token not in made.everything
    assert made.document == {"token_file": str(path), "token_sha256": hashlib.sha256(token.encode()).hexdigest()}


def test_a_bearer_token_replaces_no_file(tmp_path: Path) -> None:
    path = tmp_path / "bot.token"
    path.write_text("the old one")
    assert manahsm("token", "--output", path).status == 2
    assert path.read_text() == "the old one"


# ---- config ----


@pytest.mark.parametrize("vendor", Vendor)
def test_a_sample_is_the_one_of_the_vendor(vendor: Vendor) -> None:
    assert manahsm("config", "sample", vendor).output == generate_sample_config(vendor)
    assert manahsm("config", "sample", vendor, "--json").document["toml"] == generate_sample_config(vendor)


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    path = tmp_path / "manahsm.toml"
    path.write_text(
        f'[hsm]\nvendor = "softhsm"\ntoken_label = "one"\npin = "{PIN}"\n[hsm.fallback]\nmax_fallback_operations = 7\n'
    )
    return path


def test_a_shown_configuration_has_stars_for_secrets(configured: Path) -> None:
    for words in ((), ("--json",)):
        shown = manahsm("config", "show", "--config", configured, *words)
        assert PIN not in shown.everything
        assert "***" in shown.output


def test_a_shown_configuration_is_one_again(configured: Path) -> None:
    shown = manahsm("config", "show", "--config", configured, HSM_TOKEN_LABEL="two").output
    again = load_config(tomllib.loads(shown), environ={})
    assert (again.token_label, again.fallback.max_fallback_operations, again.vendor) == ("two", 7, Vendor.SOFTHSM)
    assert "\n".join(toml_lines(again.describe(), "hsm")) == shown.rstrip("\n")


def test_a_good_configuration_is_good(configured: Path) -> None:
    checked = manahsm("config", "check", "--config", configured, "--json")
    assert (checked.status, checked.document["ok"]) == (0, True)


# ---- audit ----


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("log") / "audit"
    make_log(directory, 5)
    return directory


@pytest.fixture
def edited(log: Path, tmp_path: Path) -> Path:
    """A copy in which somebody has changed a record."""
    directory = tmp_path / "edited"
    files = read_log(log)
    first = segments_of(files)[0]
    write_log(directory, {**files, first: files[first].replace(b"caller 2", b"caller 0")})
    return directory


def test_a_log_that_holds_verifies(log: Path) -> None:
    verified = manahsm("audit", "verify", log)
    assert verified.status == 0
    assert "OK: the log holds" in verified.output
    assert manahsm("audit", "verify", log, "--json").document["holds"] is True


def test_a_log_that_was_edited_is_found_out(edited: Path) -> None:
    assert manahsm("audit", "verify", edited).status == 3
    found = manahsm("audit", "verify", edited, "--json")
    assert (found.status, found.document["holds"], found.document["failure"]["seq"]) == (3, False, 2)


def test_a_head_that_is_not_in_the_log_is_found_out(log: Path) -> None:
    for words in ((), ("--json",)):
        assert manahsm("audit", "verify", log, "--head", "9:" + "0" * 64, *words).status == 3


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_head_that_is_none_is_wrong_usage(log: Path, words: tuple[str, ...]) -> None:
    assert manahsm("audit", "verify", log, "--head", "nine", *words).status == 2


def test_records_are_shown_whole_in_json(log: Path) -> None:
    shown = manahsm("audit", "show", log, "--caller", "caller 1", "--json")
    assert shown.status == 0
    assert {json.loads(line)["caller"] for line in shown.output.splitlines()} == {"caller 1"}


def test_the_folder_is_that_of_the_configuration(tmp_path: Path, log: Path) -> None:
    config = tmp_path / "manahsm.toml"
    config.write_text(f'[hsm]\nenabled = false\n[hsm.audit]\ndirectory = "{log}"\n')
    assert manahsm("audit", "verify", "--config", config).status == 0
