"""``init`` with real tokens: what it writes passes ``check``, and secrets are in files for their owner alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from command_line import Ended, manahsm
from softhsm import SoftHSMToken


def private_file(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def is_private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == 0o600


def second_token(beside: SoftHSMToken, label: str = "other", pin: str = "4321") -> None:
    words = ("--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", "5561208")
    beside.run_tool("softhsm2-util", *words)


def test_init_writes_a_configuration_that_passes_check(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    pin = private_file(tmp_path / "pin", softhsm_token.pin)
    config = tmp_path / "new.toml"
    words = ["--config", config, "--pin-file", pin, "--state-dir", tmp_path / "state", "--vendor", "softhsm", "--yes"]
    made = manahsm("init", *words, **softhsm_token.environment)
    assert made.status == 0
    assert made.width <= 80 + len(str(tmp_path))  # but for the lines that name the file
    assert softhsm_token.pin not in made.everything + config.read_text()
    checked = manahsm("check", "--config", config, SOFTHSM2_CONF=None)
    assert checked.status == 0
    assert f"token: {softhsm_token.label}" in checked.output
    assert manahsm("init", *words, **softhsm_token.environment).status == 2
    assert manahsm("init", *words, "--force", "--no-try", "--json", **softhsm_token.environment).document == {
        "config": str(config),
        "pin_file": str(pin),
        "backup_pin_files": [],
        "passphrase_file": None,
        "verdict": "ok",
        "findings": [],
    }


def test_init_asks_for_the_pin_and_writes_it_for_its_owner_alone(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    answers = f"n\ny\n{softhsm_token.pin}\n{softhsm_token.pin}\n"
    words = ["--config", tmp_path / "new.toml", "--vendor", "softhsm", "--no-try"]
    made = manahsm("init", *words, text=answers, **softhsm_token.environment)
    assert made.status == 0
    pin = tmp_path / "hsm.pin"
    assert (pin.read_text(), stat.S_IMODE(pin.stat().st_mode)) == (softhsm_token.pin + "\n", 0o600)
    assert softhsm_token.pin not in made.everything


def test_init_lets_choose_between_tokens(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    softhsm_token.run_tool(
        "softhsm2-util", "--init-token", "--free", "--label", "other", "--pin", "1234", "--so-pin", "5561208"
    )
    pin = private_file(tmp_path / "pin", "1234")
    words = ["init", "--config", tmp_path / "new.toml", "--vendor", "softhsm", "--pin-file", pin, "--no-try"]
    unclear = manahsm(*words, "--yes", **softhsm_token.environment)
    assert unclear.status == 2
    assert "several tokens" in unclear.errors
    asked = manahsm(*words, text="2\n\nn\nn\n", **softhsm_token.environment)
    assert (asked.status, (tmp_path / "new.toml").exists()) == (1, False)
    assert "nothing was written" in asked.errors
    named = manahsm(*words, "--token-label", "other", "--yes", **softhsm_token.environment)
    assert named.status == 0
    assert 'token_label = "other"' in (tmp_path / "new.toml").read_text()


def test_init_without_a_token_says_what_to_do(tmp_path: Path) -> None:
    conf = tmp_path / "softhsm2.conf"
    (tmp_path / "tokens").mkdir()
    conf.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    refused = manahsm("init", "--config", tmp_path / "new.toml", "--vendor", "softhsm", SOFTHSM2_CONF=str(conf))
    assert refused.status == 2
    assert "no initialised token" in refused.errors
    assert "Initialise one" in refused.errors


# ---- software keys ----


def test_init_makes_up_a_passphrase_and_software_keys_can_be_made(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    pin, config = private_file(tmp_path / "pin", softhsm_token.pin), tmp_path / "new.toml"
    words = ["--config", config, "--pin-file", pin, "--state-dir", tmp_path / "state", "--vendor", "softhsm", "--yes"]
    made = manahsm("init", *words, "--software-keys", "--json", **softhsm_token.environment)
    assert made.status == 0
    passphrase = Path(made.document["passphrase_file"])
    assert (passphrase, is_private(passphrase)) == (tmp_path / "keystore.passphrase", True)
    assert len(passphrase.read_text()) == 65
    assert passphrase.read_text().strip() not in made.everything + config.read_text()
    key = ("keys", "generate", "soft", "--role", "transaction_signer", "--backend", "software", "--config", config)
    assert manahsm(*key).status == 0
    assert manahsm("check", "--config", config).status == 0


@pytest.mark.parametrize(("answer", "length"), [("correct horse\ncorrect horse\n", 14), ("\n\n", 65)])
def test_init_asks_for_the_passphrase(softhsm_token: SoftHSMToken, tmp_path: Path, answer: str, length: int) -> None:
    pin, config = private_file(tmp_path / "pin", softhsm_token.pin), tmp_path / "new.toml"
    words = ["init", "--config", config, "--pin-file", pin, "--vendor", "softhsm", "--no-try"]
    made = manahsm(*words, text="y\ny\n" + answer, **softhsm_token.environment)
    assert made.status == 0, made.errors
    passphrase = tmp_path / "keystore.passphrase"
    assert is_private(passphrase)
    assert len(passphrase.read_text()) == length
    assert "horse" not in made.everything + config.read_text()


def test_init_takes_the_passphrase_that_is_there(tmp_path: Path) -> None:
    passphrase, config = private_file(tmp_path / "mine", "correct horse"), tmp_path / "new.toml"
    words = ("init", "--no-token", "--passphrase-file", passphrase, "--state-dir", tmp_path / "state", "--yes")
    made = manahsm(*words, "--config", config)
    assert made.status == 0
    assert passphrase.read_text() == "correct horse"
    key = manahsm("keys", "generate", "soft", "--role", "transaction_signer", "--config", config, "--json")
    assert (key.status, key.document["backend"]) == (0, "software")
    assert manahsm("check", "--config", config).status == 0


def test_init_refuses_a_passphrase_file_that_others_can_read(tmp_path: Path) -> None:
    passphrase = tmp_path / "mine"
    passphrase.write_text("correct horse")
    passphrase.chmod(0o644)
    words = ("init", "--no-token", "--passphrase-file", passphrase, "--yes", "--config", tmp_path / "new.toml")
    refused = manahsm(*words)
    assert refused.status == 2
    assert "--passphrase-file" in refused.errors
    assert "chmod 600" in refused.errors
    assert not (tmp_path / "new.toml").exists()


@pytest.mark.parametrize(
    "option", [("--vendor", "softhsm"), ("--backup", "x"), ("--backup-pin-file", "x"), ("--slot-id", "0")]
)
def test_init_without_a_token_takes_nothing_that_names_one(tmp_path: Path, option: tuple[str, str]) -> None:
    refused = manahsm("init", "--no-token", *option, "--yes", "--config", tmp_path / "new.toml")
    assert refused.status == 2
    assert f"{option[0]} means nothing with --no-token" in refused.errors


# ---- backup tokens ----


def with_backup(token: SoftHSMToken, directory: Path, *more: str | Path, text: str = "") -> Ended:
    words = ["init", "--config", directory / "new.toml", "--vendor", "softhsm", "--state-dir", directory / "state"]
    return manahsm(*words, *more, text=text, **token.environment)


def test_init_sets_up_a_backup_token_and_both_are_logged_in_to(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    second_token(softhsm_token)
    pins = private_file(tmp_path / "pin", softhsm_token.pin), private_file(tmp_path / "pin-2", "4321")
    named = ("--token-label", softhsm_token.label, "--pin-file", pins[0], "--backup", "other")
    made = with_backup(softhsm_token, tmp_path, *named, "--backup-pin-file", pins[1], "--yes")
    assert made.status == 0
    assert made.output.count("the PIN is right") == 2
    checked = manahsm("check", "--config", tmp_path / "new.toml", SOFTHSM2_CONF=None)
    assert checked.status == 0
    assert checked.output.index(f"token: {softhsm_token.label}") < checked.output.index("token: other")
    shown = manahsm("config", "show", "--config", tmp_path / "new.toml", "--json").document["hsm"]
    assert [slot["priority"] for slot in shown["slots"]] == ["primary", "backup"]


def test_init_asks_for_backup_tokens_and_their_pins(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    second_token(softhsm_token)
    first = f"{softhsm_token.pin}\n" * 2
    asked = with_backup(
        softhsm_token,
        tmp_path,
        *("--token-label", softhsm_token.label, "--no-try", "--json"),
        text=f"x\n2\n1\nn\ny\n{first}4321\n4321\n",
    )
    assert asked.status == 0, asked.errors
    assert asked.errors.count("give numbers from 1 to 1") == 2
    assert asked.document["backup_pin_files"] == [str(tmp_path / "hsm-backup-1.pin")]
    assert (tmp_path / "hsm-backup-1.pin").read_text() == "4321\n"
    assert is_private(tmp_path / "hsm-backup-1.pin")
    assert "4321" not in asked.everything.replace("hsm-backup", "")


def test_init_tells_tokens_of_one_label_apart_by_serial_and_slot(softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
    second_token(softhsm_token, softhsm_token.label, softhsm_token.pin)
    pin = private_file(tmp_path / "pin", softhsm_token.pin)
    files = ("--pin-file", pin, "--backup-pin-file", pin, "--yes")
    unclear = with_backup(softhsm_token, tmp_path, *files)
    there = [part.split(",")[0] for part in unclear.errors.replace("\n", " ").split("serial ")[1:]]
    slots = [part.split(",")[0] for part in unclear.errors.replace("\n", " ").split("(slot ")[1:]]
    named = with_backup(softhsm_token, tmp_path, *files, "--slot-id", slots[0], "--backup", softhsm_token.label)
    assert named.status == 0, named.errors
    again = with_backup(softhsm_token, tmp_path, *files, "--force", "--slot-id", slots[1], "--backup", there[0])
    assert again.status == 0, again.errors
    checked = manahsm("check", "--config", tmp_path / "new.toml")
    assert checked.status == 0
    assert all(serial in checked.output for serial in there)


@pytest.mark.parametrize(
    ("backups", "problem"),
    [
        (["nobody"], "no other token has it"),
        (["manahsm-test"], "no other token has it"),
        (["other", "other"], "a token is named twice"),
        (["twin"], "several tokens have that label"),
    ],
)
def test_init_refuses_a_backup_that_is_not_clear(
    softhsm_token: SoftHSMToken, tmp_path: Path, backups: list[str], problem: str
) -> None:
    for label in ("other", "twin", "twin"):
        second_token(softhsm_token, label)
    words = [word for backup in backups for word in ("--backup", backup)]
    refused = with_backup(softhsm_token, tmp_path, "--token-label", softhsm_token.label, *words, "--yes")
    assert refused.status == 2
    assert problem in refused.errors
    assert not (tmp_path / "new.toml").exists()


def test_init_finds_out_before_it_asks_that_the_file_can_not_be_written(tmp_path: Path) -> None:
    refused = manahsm("init", "--config", tmp_path / "nowhere" / "new.toml")
    assert refused.status == 2
    assert "no folder that you may write to" in refused.errors
    assert "token" not in refused.errors
