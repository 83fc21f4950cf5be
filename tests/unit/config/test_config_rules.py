"""Options that contradict each other are refused, with one message for one mistake."""

from __future__ import annotations

from typing import Any

import pytest

from manahsm.config.load import load_config
from manahsm.config.model import Audit, Config, KeystoreOptions
from manahsm.config.options import read_table
from manahsm.config.rules import RULES, broken_rules
from manahsm.errors import ConfigProblem

CERTIFICATE = {"certificate": "/c", "key": "/k", "client_ca": "/ca"}
CONTRADICTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"token_label": "t", "pin": "1234", "pin_file": "/pin"}, "hsm.pin", "keep pin_file alone"),
    ({"token_label": "t", "slots": [{"slot_id": 1}]}, "hsm.slots", "both set; keep one"),
    ({"slot_id": 0, "slots": [{"slot_id": 1}]}, "hsm.slots", "both set; keep one"),
    ({}, "hsm.token_label", "enabled = false for software keys only"),
    ({"slots": [{"priority": "primary"}]}, "hsm.slots[0]", "names no token"),
    ({"slots": [{"slot_id": 1, "name": "a"}, {"token_label": "a"}]}, "hsm.slots[1].name", "'a' too"),
    ({"slots": [{"slot_id": 1, "priority": "backup"}]}, "hsm.slots", "at least one primary"),
    ({"vendor": "generic", "slot_id": 1}, "hsm.library_path", "vendor 'generic' has no usual place"),
    ({"slots": [{"slot_id": 1, "vendor": "generic"}]}, "hsm.slots[0].library_path", "'generic'"),
    (
        {"vendor": "yubihsm", "slot_id": 0, "connection_pool": {"size": 10, "max_overflow": 7}},
        "hsm.connection_pool.size",
        "make 19, but the device has 16",
    ),
    (
        {"slot_id": 0, "circuit_breaker": {"open_for": 9000, "max_open_for": 8999}},
        "hsm.circuit_breaker.max_open_for",
        "must not be less than open_for",
    ),
    ({"slot_id": 0, "keystore": {"iterations": 3000}}, "hsm.keystore.iterations", "a power of two"),
    *(
        (
            {"slot_id": 0, "monitoring": {"thresholds": {f"{measure}_warning": more, f"{measure}_critical": less}}},
            f"hsm.monitoring.thresholds.{measure}_warning",
            f"must not be more than {measure}_critical",
        )
        for measure, more, less in [
            ("response_time", 6000, 5999),
            ("error_rate", 0.3, 0.2),
            ("queue", 101, 100),
            ("pool_use", 0.96, 0.95),
        ]
    ),
    ({"slot_id": 0, "audit": {"enabled": False}}, "hsm.audit.enabled", "if you mean it"),
    *(
        ({"slot_id": 0, "api": api}, f"hsm.api.{path}", message)
        for api, path, message in [
            ({"listeners": [{}]}, "listeners[0].port", "exactly one"),
            ({"listeners": [{"port": 1, "socket": "/s"}]}, "listeners[0].port", "exactly one"),
            ({"listeners": [{"port": 1, "dialects": []}]}, "listeners[0].dialects", "is empty"),
            ({"host": "node7"}, "host", "must be an IP address"),
            ({"host": "192.0.2.7"}, "host", "set hsm.api.tls.certificate and key"),
            ({"host": "::", "tls": CERTIFICATE}, "host", "name hsm.api.callers"),
            ({"host": "::", "tls": CERTIFICATE, "callers": [{"name": "a", "anonymous": True}]}, "host", "name hsm.api"),
            ({"tls": {"certificate": "/c"}}, "tls.key", "needed together"),
            ({"tls": {"key": "/k", "client_ca": "/ca"}}, "tls.certificate", "needed together"),
            ({"tls": {"client_ca": "/ca"}}, "tls.client_ca", "has no effect"),
            ({"callers": [{"anonymous": True}]}, "callers[0].name", "is missing"),
            ({"callers": [{"name": "a"}]}, "callers[0].name", "no way to be known"),
            ({"callers": [{"name": "a", "token_sha256": "AB" * 32}]}, "callers[0].token_sha256", "64 lower-case hex"),
            ({"callers": [{"name": "a", "certificate": "a.example"}]}, "callers[0].certificate", "needs hsm.api.tls"),
            ({"callers": [{"name": "a", "uid": 1}]}, "callers[0].uid", "needs a Unix socket"),
            ({"callers": [{"name": "a", "anonymous": True, "admin": True}]}, "callers[0].admin", "must be known"),
            (
                {"callers": [{"name": "a", "anonymous": True, "dialect": "op_signer"}]},
                "callers[0].dialect",
                "known by their certificate",
            ),
            (
                {"callers": [{"name": "a", "token_sha256": 32 * digits} for digits in ("ab", "cd")]},
                "callers",
                "same name: a",
            ),
            (
                {"callers": [{"name": name, "anonymous": True} for name in "ab"]},
                "callers",
                "more than one caller is anonymous",
            ),
            (
                {"callers": [{"name": name, "token_sha256": "ab" * 32} for name in "ab"]},
                "callers",
                "two callers have the same token_sha256",
            ),
            ({"cors_origins": ["*"]}, "cors_origins", "must be origins"),
            ({"cors_origins": ["https://a.example/x"]}, "cors_origins", "must be origins"),
        ]
    ),
    (
        {"slot_id": 0, "monitoring": {"metrics": {"host": "192.0.2.7"}}},
        "hsm.monitoring.metrics.host",
        "set allow_remote = true",
    ),
    ({"slot_id": 0, "monitoring": {"metrics": {"host": "::"}}}, "hsm.monitoring.metrics.host", "use 127.0.0.1"),
    (
        {"slot_id": 0, "monitoring": {"metrics": {"host": "node7", "allow_remote": True}}},
        "hsm.monitoring.metrics.host",
        "must be an IP address",
    ),
]


@pytest.mark.parametrize(("written", "path", "message"), CONTRADICTIONS)
def test_a_contradiction_is_refused(faults_of: Any, written: dict[str, Any], path: str, message: str) -> None:
    faults = faults_of({"vendor": "softhsm", **written})

    assert message in faults[path]


def test_every_rule_is_broken_by_some_example() -> None:
    examples = [read_table(Config, {"vendor": "softhsm", **written}, "hsm", []) for written, _, _ in CONTRADICTIONS]

    assert [rule for rule in RULES if not any(list(rule.faults(config)) for config in examples)] == []


@pytest.mark.parametrize(
    "written",
    [
        {"enabled": False},
        {"enabled": False, "vendor": "generic", "slot_id": 1},
        {"enabled": False, "vendor": "yubihsm", "connection_pool": {"size": 17}},
        {"vendor": "yubihsm", "slot_id": 0, "connection_pool": {"size": 10, "max_overflow": 4}},
        {"vendor": "generic", "slot_id": 0, "library_path": "/x.so"},
        {"vendor": "generic", "library_path": "/x.so", "slots": [{"slot_id": 0}, {"token_label": "b"}]},
        {"vendor": "softhsm", "slot_id": 0, "token_label": "both"},
        {"vendor": "softhsm", "slot_id": 0, "keystore": {"kdf": "pbkdf2", "iterations": 3000}},
        {"vendor": "softhsm", "slot_id": 0, "circuit_breaker": {"open_for": 60000, "max_open_for": 60000}},
        {
            "vendor": "softhsm",
            "slot_id": 0,
            "audit": {"enabled": False},
            "security_policy": {"audit_all_operations": False},
        },
        {"vendor": "softhsm", "slots": [{"slot_id": 1, "priority": "backup"}, {"slot_id": 2}]},
        {"enabled": False, "monitoring": {"thresholds": {"error_rate_warning": 0.2, "error_rate_critical": 0.2}}},
        {"enabled": False, "monitoring": {"metrics": {"host": "192.0.2.7", "allow_remote": True}}},
        {"enabled": False, "monitoring": {"metrics": {"host": "127.8.0.1"}}},
        {"enabled": False, "monitoring": {"metrics": {"host": "::1"}}},
        {"enabled": False, "api": {"socket": "/s", "callers": [{"name": "a", "uid": 0}, {"name": "b", "uid": 1}]}},
        {"enabled": False, "api": {"listeners": [{"port": 0}, {"socket": "/s", "dialects": ["clef"]}]}},
        {"enabled": False, "api": {"cors_origins": ["https://wallet.example", "http://localhost:3000"]}},
        {
            "enabled": False,
            "api": {
                "host": "0.0.0.0",  # noqa: S104 - with all that it needs
                "tls": CERTIFICATE,
                "callers": [{"name": "a", "certificate": "a.example", "admin": True, "dialect": "op_signer"}],
            },
        },
        {"enabled": False, "monitoring": {"metrics": {"host": "localhost"}}},
    ],
)
def test_what_fits_together_is_taken(written: dict[str, Any]) -> None:
    assert broken_rules(load_config(written, environ={})) == []


def test_a_faulty_option_gives_one_message_and_no_consequences(faults_of: Any) -> None:
    assert set(faults_of({"vendor": "softhsm", "token_label": 5})) == {"hsm.token_label"}
    assert set(faults_of({"vendor": "softhsm", "slots": [{"token_label": 5}]})) == {"hsm.slots[0].token_label"}
    assert set(faults_of({"hsm": 5})) == {"hsm"}


@pytest.mark.parametrize(
    ("faulty", "left"),
    [
        ("hsm.keystore", ["hsm.audit.enabled"]),
        ("hsm.keystore.kdf", ["hsm.audit.enabled"]),
        ("hsm.audit.enabled", ["hsm.keystore.iterations"]),
        ("hsm.audit", ["hsm.keystore.iterations"]),
        ("hsm.audit.fsync", ["hsm.keystore.iterations", "hsm.audit.enabled"]),
        ("hsm.keys", ["hsm.keystore.iterations", "hsm.audit.enabled"]),
        ("hsm", []),
    ],
)
def test_a_rule_is_skipped_where_its_options_are_faulty(faulty: str, left: list[str]) -> None:
    config = Config(
        enabled=False, keystore=KeystoreOptions(iterations=3000), audit=Audit(enabled=False), state_dir="/s"
    )

    assert [problem.path for problem in broken_rules(config, [ConfigProblem(faulty, "")])] == left


def test_similar_names_are_not_the_same_option(faults_of: Any) -> None:
    # hsm.slot_id and hsm.slots share their first letters, and no more.
    faults = faults_of({"vendor": "softhsm", "slot_id": 1, "slots": [{"slot_id": 1}], "pin": "1234", "pin_file": ""})

    assert set(faults) == {"hsm.slots", "hsm.pin_file"}
