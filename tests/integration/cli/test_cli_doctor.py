"""``doctor`` with real tokens: every finding helps, nothing secret is shown, all of it fits 80 columns."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Ended, manahsm
from p11fault import FaultModule
from p11fault_rules import (
    CantLock,
    Crash,
    Directive,
    Gone,
    NoECDSA,
    Return,
    Sessions,
    Spoil,
    Spoiled,
    TokenFlags,
)
from services import write_config_file
from softhsm import SoftHSMToken

from manahsm.cli.probe import ProbeFailed, list_tokens
from manahsm.cli.surroundings import is_locked
from manahsm.files import lock_exclusively

WRONG_PIN = "90210-wrong"


def private_file(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def changed(config: Path, **changes: Any) -> Path:
    """A copy of a configuration with other options at its top."""
    table = json.loads(config.read_text())["hsm"]
    return write_config_file(config.with_name("changed.json"), {"hsm": {**table, **changes}})


def findings(ended: Ended) -> dict[str, dict[str, Any]]:
    """The worst finding on each subject."""
    order = ["ok", "note", "warn", "fail"]
    found: dict[str, dict[str, Any]] = {}
    for one in ended.document["findings"]:
        if one["subject"] not in found or order.index(one["verdict"]) > order.index(found[one["subject"]]["verdict"]):
            found[one["subject"]] = one
    return found


def failures(ended: Ended) -> dict[str, str]:
    """What fails, and what to do about it, by subject."""
    found: dict[str, str] = {}
    for one in ended.document["findings"]:
        if one["verdict"] == "fail":
            found[one["subject"]] = f"{found.get(one['subject'], '')} {one['text']} -> {one['remedy']}"
    return found


def test_a_good_token_is_good_down_to_a_signature(used: Path, used_token: SoftHSMToken) -> None:
    seen = manahsm("doctor", "--config", used)
    assert seen.status == 0
    assert seen.output.endswith("All is well.\n")
    assert "secp256k1: 1 keys" in seen.output
    assert "key 'hot' signed for" in seen.output
    assert seen.width <= 80
    assert used_token.pin not in seen.everything


def test_a_wrong_pin_is_tried_once_and_leaves_a_warning(
    softhsm_token: SoftHSMToken, used: Path, tmp_path: Path
) -> None:
    config = changed(
        used,
        token_label=softhsm_token.label,
        environment=dict(softhsm_token.environment),
        pin_file=str(private_file(tmp_path / "wrong", WRONG_PIN)),
    )
    wrong = manahsm("doctor", "--config", config, "--json")
    assert wrong.status == 3
    assert set(failures(wrong)) == {"login"}
    assert "wrong PIN" in failures(wrong)["login"]
    assert "put the right PIN into the PIN file" in failures(wrong)["login"]
    assert WRONG_PIN not in wrong.everything
    assert "user PIN count low" in softhsm_token.flags()

    config = changed(config, pin_file=str(private_file(tmp_path / "right", softhsm_token.pin)))
    right = manahsm("doctor", "--config", config, "--json", "--try-key")
    assert right.status == 0
    assert findings(right)["pin"]["verdict"] == "warn"
    assert "a key was made, signed with and removed again" in findings(right)["curve"]["text"]
    assert "count low" not in softhsm_token.flags()
    listing = softhsm_token.run_tool(
        "pkcs11-tool", "--module", str(softhsm_token.library), "--login", "--pin", softhsm_token.pin, "--list-objects"
    )
    assert "manahsm-doctor-trial" not in listing


def missing_library(config: Path, _tmp: Path) -> Path:
    return changed(config, library_path="/nowhere/libnone.so")


def no_library(config: Path, tmp_path: Path) -> Path:
    (tmp_path / "text.so").write_text("no library")
    return changed(config, library_path=str(tmp_path / "text.so"))


def no_such_token(config: Path, _tmp: Path) -> Path:
    return changed(config, token_label="elsewhere")


def open_pin_file(config: Path, tmp_path: Path) -> Path:
    path = private_file(tmp_path / "pin", "73914")
    path.chmod(0o640)
    return changed(config, pin_file=str(path))


def no_pin_file(config: Path, _tmp: Path) -> Path:
    return changed(config, pin_file="/nowhere/pin")


def open_pin_file_of_a_slot(config: Path, tmp_path: Path) -> Path:
    path = private_file(tmp_path / "pin", "73914")
    path.chmod(0o604)
    slots = [{"token_label": "manahsm-test", "pin_file": str(path)}]
    return changed(config, token_label=None, slots=slots)


def faulty_options(config: Path, _tmp: Path) -> Path:
    return changed(config, enabeld=True, fallback={"max_fallback_operations": "many"})


@pytest.mark.parametrize(
    ("spoiled", "subject", "words"),
    [
        (missing_library, "library", ["libnone.so", "install the PKCS#11 library"]),
        (no_library, "library", ["text.so", "set library_path to the PKCS#11 library itself"]),
        (no_such_token, "token", ["no token labelled 'elsewhere'", "'manahsm-test'", "SOFTHSM2_CONF"]),
        (open_pin_file, "pin file", ["mode 0640", "chmod 600"]),
        (open_pin_file_of_a_slot, "pin file", ["mode 0604", "chmod 600"]),
        (no_pin_file, "pin file", ["can not open /nowhere/pin", "make a file"]),
        (faulty_options, "configuration", ["unknown key; did you mean 'enabled'?", "max_fallback_operations"]),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    spoiled: Callable[[Path, Path], Path], subject: str, words: list[str], used: Path, tmp_path: Path
) -> None:
    seen = manahsm("doctor", "--config", spoiled(used, tmp_path), "--json")
    assert seen.status == 3
    assert set(failures(seen)) == {subject}
    assert [word for word in words if word not in failures(seen)[subject]] == []
    assert "73914" not in seen.everything
    if subject == "pin file":
        assert findings(seen)["token"]["verdict"] == "ok"


@pytest.fixture
def faulty(used_token: SoftHSMToken, tmp_path: Path) -> Iterator[FaultModule]:
    """The misbehaving module over the token with the key ``hot``."""
    with FaultModule.over(used_token, tmp_path / "control") as module:
        yield module


USER_PIN_FINAL_TRY, USER_PIN_LOCKED = 0x20000, 0x40000


@pytest.mark.parametrize(
    ("fault", "subject", "verdict", "words"),
    [
        (Crash("C_Initialize"), "library", "fail", ["ended its process (SIGABRT)", "crashes when it is loaded"]),
        (CantLock(), "locking", "warn", ["one session", "raise connection_pool.processes"]),
        (CantLock(), "sessions", "warn", ["may have 1 at once"]),
        (NoECDSA(), "mechanism", "fail", ["does not offer CKM_ECDSA", "use another token"]),
        (Gone(), "token", "fail", ["there are: none"]),
        (TokenFlags(set=USER_PIN_FINAL_TRY), "pin", "fail", ["one more wrong PIN locks", "vendor's tool"]),
        (TokenFlags(set=USER_PIN_LOCKED), "pin", "fail", ["is locked", "security officer"]),
        (Sessions(2), "sessions", "warn", ["only 1 could be opened", "lower connection_pool.size"]),
        (Return("C_Sign", "CKR_DEVICE_ERROR"), "signature", "fail", ["CKR_DEVICE_ERROR"]),
        (Spoil(Spoiled.OTHER_KEY), "signature", "fail", ["did not make", "do not use this token"]),
    ],
    ids=str,
)
def test_a_token_that_misbehaves_is_found_out(
    *, fault: Directive, subject: str, verdict: str, words: list[str], faulty: FaultModule, used: Path
) -> None:
    faulty.set(fault)
    seen = manahsm("doctor", "--config", changed(used, **faulty.config_changes()), "--json")
    found = findings(seen)[subject]
    assert found["verdict"] == verdict
    assert [word for word in words if word not in f"{found['text']} {found['remedy']}"] == []
    assert seen.status == (3 if verdict == "fail" else 0)
    if subject == "pin":
        assert faulty.calls("C_Login") == 0
        assert findings(seen)["login"]["verdict"] == "note"


def test_faulty_options_do_not_keep_from_the_token(used: Path, tmp_path: Path) -> None:
    seen = manahsm("doctor", "--config", faulty_options(used, tmp_path), "--json")
    assert findings(seen)["signature"]["verdict"] == "ok"


def test_without_a_configuration_the_tokens_of_the_machine_are_named(used_token: SoftHSMToken, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("not toml")
    seen = manahsm("doctor", "--config", path, "--json", **used_token.environment)
    assert seen.status == 3
    assert "is not valid TOML" in failures(seen)["configuration"]
    assert used_token.label in findings(seen)["library"]["text"]


def test_a_service_that_runs_is_noticed(used: Path) -> None:
    lock = used.parent / "state" / "registry.sqlite3.lock"
    descriptor = lock_exclusively(lock)
    try:
        assert is_locked(lock)
        seen = manahsm("doctor", "--config", used)
    finally:
        os.close(descriptor)
    assert not is_locked(lock)
    assert "is running with this configuration" in seen.output
    assert "key 'hot' signed for" in seen.output


def test_a_library_that_hangs_is_left() -> None:
    with pytest.raises(ProbeFailed, match="did not answer"):
        list_tokens(Path("/nowhere.so"), {}, patience=0.001)  # no process starts that fast
