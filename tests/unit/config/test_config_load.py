"""Files, mappings and arguments become a configuration, or tell everything that is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from manahsm.config.load import load_config
from manahsm.config.model import Config, ConnectionPool, Fsync, Kdf, Priority, SlotOptions
from manahsm.config.vendors import Vendor
from manahsm.errors import ConfigError
from manahsm.requests import Backend, Role

TOML = """
[hsm]
vendor = "softhsm"
token_label = "dev"

[hsm.connection_pool]
size = 7
timeout = 250
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "c.toml", TOML), environ={})

    assert (config.vendor, config.token_label, config.connection_pool.size) == (Vendor.SOFTHSM, "dev", 7)


def test_a_json_file_says_the_same_as_a_toml_file(tmp_path: Path) -> None:
    document = {"hsm": {"vendor": "softhsm", "token_label": "dev", "connection_pool": {"size": 7, "timeout": 250}}}
    from_json = load_config(str(write(tmp_path / "c.json", json.dumps(document))), environ={})

    assert from_json == load_config(write(tmp_path / "c.toml", TOML), environ={})


def test_a_mapping_may_leave_the_outer_table_out(minimal: dict[str, Any]) -> None:
    assert load_config(minimal, environ={}) == load_config({"hsm": minimal}, environ={})


def test_null_means_not_set(minimal: dict[str, Any]) -> None:
    written = {**minimal, "slot_id": None, "debug": None, "connection_pool": None}

    assert load_config(written, environ={}) == load_config(minimal, environ={})


def test_times_are_milliseconds_outside_and_seconds_inside(minimal: dict[str, Any]) -> None:
    config = load_config({**minimal, "connection_pool": {"timeout": 250, "idle_timeout": 0.5 * 3000}}, environ={})

    assert (config.connection_pool.timeout, config.connection_pool.idle_timeout) == (0.25, 1.5)


def test_a_partial_table_keeps_the_defaults_of_the_vendor(minimal: dict[str, Any]) -> None:
    pool = load_config({**minimal, "connection_pool": {"size": 9}}, environ={}).connection_pool

    assert pool == ConnectionPool(size=9, max_overflow=8, timeout=5.0, idle_timeout=15.0)


def test_words_become_enums(minimal: dict[str, Any]) -> None:
    config = load_config(
        {
            **minimal,
            "keystore": {"kdf": "pbkdf2", "iterations": 3000},
            "audit": {"fsync": "always"},
            "security_policy": {
                "require_hsm_for_roles": ["admin", "validator", "admin"],
                "key_generation_policy": {"default_backend": "software"},
            },
        },
        environ={},
    )

    assert config.keystore.kdf is Kdf.PBKDF2
    assert config.audit.fsync is Fsync.ALWAYS
    assert config.security_policy.require_hsm_for_roles == (Role.VALIDATOR, Role.ADMIN)
    assert config.security_policy.key_generation_policy.default_backend is Backend.SOFTWARE


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    monkeypatch.chdir(tmp_path)
    file = write(
        tmp_path / "etc" / "c.toml",
        """
        pin_file = "pin"
        state_dir = "../state"
        library_path = "/lib/p11.so"
        [environment]
        SOFTHSM2_CONF = "softhsm2.conf"
        OTHER = "not/a/path"
        [keystore]
        directory = "keys"
        [[slots]]
        token_label = "a"
        pin_file = "a.pin"
        """,
    )
    config = load_config(file, environ={})

    assert config.pin_file == tmp_path / "etc" / "pin"
    assert config.state_dir == tmp_path / "state"
    assert config.library_path == Path("/lib/p11.so")
    assert config.keystore.directory == tmp_path / "etc" / "keys"
    assert config.slots[0].pin_file == tmp_path / "etc" / "a.pin"
    assert config.environment == {
        "SOFTHSM2_CONF": str(tmp_path / "etc" / "softhsm2.conf"),
        "OTHER": "not/a/path",
    }


def test_relative_paths_of_mappings_and_arguments_count_from_the_working_directory(
    minimal: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config({**minimal, "pin_file": "pin"}, environ={}, overrides={"state_dir": Path("state")})

    assert (config.pin_file, config.state_dir) == (tmp_path / "pin", tmp_path / "state")


def test_the_home_directory_is_found(minimal: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert load_config({**minimal, "pin_file": "~/pin"}, environ={}).pin_file == tmp_path / "pin"


def test_state_goes_where_xdg_says(minimal: dict[str, Any], tmp_path: Path) -> None:
    config = load_config(minimal, environ={"XDG_STATE_HOME": str(tmp_path)})

    assert config.state_dir == tmp_path / "manahsm"
    assert config.keystore_directory == tmp_path / "manahsm" / "keystore"
    assert config.audit_directory == tmp_path / "manahsm" / "audit"


def test_state_goes_home_without_xdg(minimal: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert load_config(minimal, environ={}).state_dir == tmp_path / ".local" / "state" / "manahsm"


def test_directories_that_are_set_are_kept(minimal: dict[str, Any]) -> None:
    config = load_config({**minimal, "keystore": {"directory": "/k"}, "audit": {"directory": "/a"}}, environ={})

    assert (config.keystore_directory, config.audit_directory) == (Path("/k"), Path("/a"))


def test_a_ready_config_passes_through(minimal: dict[str, Any]) -> None:
    config = load_config(minimal, environ={})

    assert load_config(config, environ={"HSM_TOKEN_LABEL": "other"}) is config


def test_a_ready_config_is_checked(faults_of: Any) -> None:
    assert "no token is named" in faults_of(Config(vendor="softhsm"))["hsm.token_label"]


def test_a_ready_config_takes_no_overrides(minimal: dict[str, Any], faults_of: Any) -> None:
    assert "attrs.evolve" in faults_of(load_config(minimal, environ={}), overrides={"debug": True})["overrides"]


def test_a_config_built_in_code_checks_each_value() -> None:
    with pytest.raises(ConfigError) as caught:
        ConnectionPool(size=0)

    assert [problem.path for problem in caught.value.problems] == ["ConnectionPool.size"]


def test_a_config_built_in_code_has_its_times_in_seconds() -> None:
    assert ConnectionPool(timeout=0.25).timeout == 0.25
    with pytest.raises(ConfigError, match=r"0\.001 to 3600"):
        ConnectionPool(timeout=250_000)


def test_a_config_built_in_code_takes_words_and_lists() -> None:
    config = Config(vendor="yubihsm", slots=[SlotOptions(slot_id=0, priority="backup")], state_dir="/s")

    assert config.vendor is Vendor.YUBIHSM
    assert config.slots == (SlotOptions(slot_id=0, priority=Priority.BACKUP),)
    assert config.connection_pool.size == 2
    assert config.state_dir == Path("/s")


@pytest.mark.parametrize(
    "wrong", [{"connection_pool": {"size": 1}}, {"slots": [{"slot_id": 1}]}, {"slots": 5}, {"slots": None}]
)
def test_a_config_built_in_code_takes_no_tables_in_file_form(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**wrong)


def test_a_config_can_not_be_changed_but_evolved(minimal: dict[str, Any]) -> None:
    config = load_config(minimal, environ={})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.debug = True  # type: ignore[misc]

    assert attrs.evolve(config, debug=True).debug is True


def test_equal_configs_have_equal_hashes(minimal: dict[str, Any]) -> None:
    written = {**minimal, "environment": {"A": "b"}}

    assert hash(load_config(written, environ={})) == hash(load_config(written, environ={}))


def test_what_describe_shows_loads_again(minimal: dict[str, Any]) -> None:
    config = load_config(
        {
            **minimal,
            "environment": {"A": "b"},
            "connection_pool": {"timeout": 1100, "call_timeout": 4350},
            "pin_file": "/p",
        },
        environ={},
    )

    assert load_config(json.loads(json.dumps(config.describe())), environ={}) == config


def test_describe_writes_whole_milliseconds() -> None:
    shown = Config(connection_pool=ConnectionPool(timeout=4.35, call_timeout=0.0015)).describe()

    assert json.dumps(shown["connection_pool"]["timeout"]) == "4350"
    assert shown["connection_pool"]["call_timeout"] == 1.5


class TestFaults:
    def test_everything_is_reported_at_once(self, faults_of: Any) -> None:
        faults = faults_of(
            {
                "vendor": "softhsn",
                "slot_id": "one",
                "surprise": 1,
                "connection_pool": {"size": 0, "sze": 3, "timeout": "5s"},
                "security_policy": {"key_generation_policy": {"curve": "p256"}},
                "circuit_breaker": {"open_for": 5000, "max_open_for": 1000},
            },
            environ={"HSM_ENABLED": "perhaps"},
        )

        assert set(faults) == {
            "hsm.enabled",
            "hsm.vendor",
            "hsm.slot_id",
            "hsm.surprise",
            "hsm.connection_pool.size",
            "hsm.connection_pool.sze",
            "hsm.connection_pool.timeout",
            "hsm.security_policy.key_generation_policy.curve",
            "hsm.circuit_breaker.max_open_for",
        }

    def test_an_unknown_key_names_the_nearest_known_one(self, minimal: dict[str, Any], faults_of: Any) -> None:
        faults = faults_of({**minimal, "connection_pol": {}, "audit": {"fsinc": "never"}})

        assert "'connection_pool'" in faults["hsm.connection_pol"]
        assert "'fsync'" in faults["hsm.audit.fsinc"]

    def test_an_unknown_key_like_no_other_gets_the_list(self, minimal: dict[str, Any], faults_of: Any) -> None:
        assert "known are: enabled, directory" in faults_of({**minimal, "audit": {"qqqq": 1}})["hsm.audit.qqqq"]

    def test_an_unknown_word_names_the_nearest_known_one(self, faults_of: Any) -> None:
        assert "did you mean 'yubihsm'" in faults_of({"vendor": "YubiHSM2"})["hsm.vendor"]

    def test_a_key_that_is_no_string_is_refused(self, minimal: dict[Any, Any], faults_of: Any) -> None:
        assert "must be strings" in faults_of({**minimal, 5: 1})["hsm"]

    def test_a_monstrous_key_is_shown_in_one_short_line(self, minimal: dict[str, Any], faults_of: Any) -> None:
        [path] = faults_of({**minimal, "x\n" * 500: 1})

        assert "\n" not in path
        assert len(path) < 60

    def test_faults_in_slots_tell_which(self, faults_of: Any) -> None:
        faults = faults_of({"vendor": "softhsm", "slots": [{"slot_id": 1}, {"slot_id": -1}, {"lable": "x"}, 7]})

        assert set(faults) == {"hsm.slots[1].slot_id", "hsm.slots[2].lable", "hsm.slots[3]"}

    @pytest.mark.parametrize(
        ("written", "path", "message"),
        [
            ({"enabled": "true"}, "hsm.enabled", "expected true or false, got a string"),
            ({"enabled": 1}, "hsm.enabled", "expected true or false, got an integer"),
            ({"slot_id": True}, "hsm.slot_id", "expected a whole number, got a boolean"),
            ({"slot_id": 1.0}, "hsm.slot_id", "expected a whole number, got a number with a fraction"),
            ({"slot_id": 2**64}, "hsm.slot_id", "must be from 0 to 18446744073709551615"),
            ({"slot_id": 10**400}, "hsm.slot_id", "must be from 0 to 18446744073709551615"),
            ({"token_label": 5}, "hsm.token_label", "expected a string, got an integer"),
            ({"token_label": "é" * 17}, "hsm.token_label", "at most 32 bytes"),
            ({"token_label": " dev"}, "hsm.token_label", "without blanks"),
            ({"token_label": "d\0v"}, "hsm.token_label", "printable"),
            ({"token_label": ""}, "hsm.token_label", "not empty"),
            ({"vendor": ["softhsm"]}, "hsm.vendor", "expected one of thales"),
            ({"library_path": ""}, "hsm.library_path", "not empty"),
            ({"library_path": 3}, "hsm.library_path", "expected a path, got an integer"),
            ({"library_path": "a\0b"}, "hsm.library_path", "printable"),
            ({"pin": 1234}, "hsm.pin", "in quotes"),
            ({"pin": True}, "hsm.pin", "expected a string, got a boolean"),
            ({"pin": ""}, "hsm.pin", "not empty"),
            ({"environment": []}, "hsm.environment", "expected a table, got a list"),
            ({"environment": {"A-B": "x"}}, "hsm.environment.A-B", "no name of an environment variable"),
            ({"environment": {"A": 1}}, "hsm.environment.A", "expected a string, got an integer"),
            ({"environment": {"A": "\0"}}, "hsm.environment.A", "printable"),
            ({"environment": {"HSM_PIN": "1"}}, "hsm.environment.HSM_PIN", "use pin_file"),
            ({"environment": {"Db_Password": "1"}}, "hsm.environment.Db_Password", "use pin_file"),
            ({"slots": {"slot_id": 1}}, "hsm.slots", "expected a list of tables, got a table"),
            ({"connection_pool": 5}, "hsm.connection_pool", "expected a table, got an integer"),
            ({"connection_pool": {"timeout": 0}}, "hsm.connection_pool.timeout", "from 1 to 3600000"),
            ({"connection_pool": {"timeout": float("nan")}}, "hsm.connection_pool.timeout", "from 1 to"),
            ({"connection_pool": {"timeout": float("inf")}}, "hsm.connection_pool.timeout", "from 1 to"),
            ({"connection_pool": {"timeout": 10**400}}, "hsm.connection_pool.timeout", "from 1 to"),
            ({"connection_pool": {"timeout": True}}, "hsm.connection_pool.timeout", "expected a number"),
            ({"connection_pool": {"timeout": "1"}}, "hsm.connection_pool.timeout", "expected a number"),
            ({"circuit_breaker": {"failure_rate": 0}}, "hsm.circuit_breaker.failure_rate", "from 0.01 to 1"),
            (
                {"security_policy": {"require_hsm_for_roles": "admin"}},
                "hsm.security_policy.require_hsm_for_roles",
                "expected a list, got a string",
            ),
            (
                {"security_policy": {"require_hsm_for_roles": ["admn"]}},
                "hsm.security_policy.require_hsm_for_roles",
                "did you mean 'admin'",
            ),
            (
                {"security_policy": {"require_hsm_for_roles": [["admin"]]}},
                "hsm.security_policy.require_hsm_for_roles",
                "got a list",
            ),
            (
                {"security_policy": {"key_generation_policy": {"extractable_keys": True}}},
                "hsm.security_policy.key_generation_policy.extractable_keys",
                "must be false: keys made in a token never leave it",
            ),
            (
                {"security_policy": {"key_generation_policy": {"sensitive_keys": False}}},
                "hsm.security_policy.key_generation_policy.sensitive_keys",
                "must be true",
            ),
            (
                {"security_policy": {"key_generation_policy": {"key_size": 384}}},
                "hsm.security_policy.key_generation_policy.key_size",
                "must be 256",
            ),
            (
                {"security_policy": {"key_generation_policy": {"curve": 1}}},
                "hsm.security_policy.key_generation_policy.curve",
                "must be secp256k1",
            ),
        ],
    )
    def test_a_value_that_can_not_be_used_says_why(
        self, minimal: dict[str, Any], faults_of: Any, written: dict[str, Any], path: str, message: str
    ) -> None:
        faults = faults_of({**minimal, **written})

        assert set(faults) == {path}
        assert message in faults[path]

    def test_the_error_lists_everything_in_its_text(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load_config({"vendor": 1, "debug": 2}, environ={})

        assert "hsm.vendor: " in str(caught.value)
        assert "hsm.debug: " in str(caught.value)


class TestSources:
    def test_a_missing_file_is_named(self, tmp_path: Path, faults_of: Any) -> None:
        file = tmp_path / "none.toml"

        assert faults_of(file) == {str(file): "can not be read: No such file or directory"}

    def test_a_directory_is_no_file(self, tmp_path: Path, faults_of: Any) -> None:
        assert "can not be read" in faults_of(tmp_path)[str(tmp_path)]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("c.toml", b"vendor = ", "not valid TOML"),
            ("c.toml", b"\xff", "not UTF-8"),
            ("c.toml", b"a = " + b"[" * 100_000, "nested too deeply"),
            ("c.json", b'{"vendor": ', "not valid JSON"),
            ("c.json", b'{"a": 1, "a": 2}', "sets 'a' twice"),
            ("c.json", b'{"a": ' + b"9" * 5000 + b"}", "holds a number"),
            ("c.json", b"\xff{}", "not UTF-8"),
            ("c.json", b"[" * 100_000, "nested too deeply"),
        ],
    )
    def test_a_broken_file_says_what_is_wrong(
        self, tmp_path: Path, faults_of: Any, name: str, content: bytes, message: str
    ) -> None:
        file = tmp_path / name
        file.write_bytes(content)

        assert message in faults_of(file)[str(file)]

    def test_a_json_list_is_no_table(self, tmp_path: Path, faults_of: Any) -> None:
        assert faults_of(write(tmp_path / "c.json", "[1]")) == {"hsm": "expected a table, got a list"}

    @pytest.mark.parametrize("table", [5, None, "x", 2.5, object()])
    def test_the_outer_table_must_be_one(self, faults_of: Any, table: object) -> None:
        assert "expected a table, got" in faults_of({"hsm": table})["hsm"]

    def test_tables_beside_the_outer_one_are_refused(self, minimal: dict[str, Any], faults_of: Any) -> None:
        faults = faults_of({"hsm": {**minimal, "debug": 1}, "hms": {}})

        assert "'hms' is outside of [hsm]" in faults["configuration"]
        assert "hsm.debug" in faults

    @pytest.mark.parametrize("source", [5, b"c.toml", ["c.toml"], "", "a\0b"])
    def test_other_sources_are_refused(self, faults_of: Any, source: object) -> None:
        assert "path" in faults_of(source)["configuration"]

    def test_arguments_must_be_a_table_too(self, minimal: dict[str, Any], faults_of: Any) -> None:
        assert "expected a table" in faults_of(minimal, overrides=[("debug", True)])["hsm"]
