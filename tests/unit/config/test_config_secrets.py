"""Secrets come from closed files only and are never shown."""

from __future__ import annotations

import copy
import json
import os
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

from manahsm.config.load import load_config
from manahsm.config.model import Config
from manahsm.config.secret import Secret
from manahsm.config.secret_files import read_secret_file
from manahsm.errors import ConfigError

PIN = "correct-horse-9271"


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "secret"),
        [
            (b"1234", "1234"),
            (b"1234\n", "1234"),
            (b"1234\r\n", "1234"),
            (b"1234\n\n", "1234\n"),
            (b" 1234 \n", " 1234 "),
            ("pässwörd\n".encode(), "pässwörd"),
            (b"x" * 4096, "x" * 4096),
        ],
    )
    def test_one_newline_at_the_end_is_not_part_of_the_secret(
        self, tmp_path: Path, content: bytes, secret: str
    ) -> None:
        assert read_secret_file(write(tmp_path / "pin", content)).reveal() == secret

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777])
    def test_a_file_that_is_open_to_others_is_refused(self, tmp_path: Path, mode: int) -> None:
        file = write(tmp_path / "pin", PIN.encode(), mode)

        with pytest.raises(ValueError, match=rf"open to group or others \(mode {mode:04o}\); chmod 600"):
            read_secret_file(file)

    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
    def test_a_file_of_our_own_is_read(self, tmp_path: Path, mode: int) -> None:
        assert read_secret_file(write(tmp_path / "pin", PIN.encode(), mode)) == Secret(PIN)

    def test_a_credential_of_systemd_may_show_the_mask_of_its_access_list(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

        assert read_secret_file(write(tmp_path / "pin", PIN.encode(), 0o440)) == Secret(PIN)

    @pytest.mark.parametrize("mode", [0o460, 0o404, 0o450])
    def test_a_credential_that_is_open_to_others_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
    ) -> None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

        with pytest.raises(ValueError, match="open to group or others"):
            read_secret_file(write(tmp_path / "pin", PIN.encode(), mode))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"\n", "is empty"),
            (b"\r\n", "is empty"),
            (b"\xff" + PIN.encode(), "not UTF-8"),
            (PIN.encode() + b"\0", "not UTF-8"),
            (PIN.encode() * 1000, "longer than 4096"),
        ],
    )
    def test_a_file_without_a_secret_is_refused(self, tmp_path: Path, content: bytes, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            read_secret_file(write(tmp_path / "pin", content))

        assert PIN not in "".join(traceback.format_exception(caught.value))

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"none: No such file"):
            read_secret_file(tmp_path / "none")

    def test_a_path_that_is_none_is_refused(self) -> None:
        with pytest.raises(ValueError, match="not a path"):
            read_secret_file(Path("a\0b"))

    def test_a_directory_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not a regular file"):
            read_secret_file(tmp_path)

    def test_a_pipe_that_nobody_writes_to_is_refused_at_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe", 0o600)

        with pytest.raises(ValueError, match="not a regular file"):
            read_secret_file(tmp_path / "pipe")

    def test_a_link_is_judged_by_the_file_behind_it(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(write(tmp_path / "pin", PIN.encode(), 0o644))

        with pytest.raises(ValueError, match="open to group or others"):
            read_secret_file(tmp_path / "link")


class TestPassphrases:
    def test_a_passphrase_is_read_from_its_file(self, tmp_path: Path) -> None:
        file = write(tmp_path / "pass", b"phrase\n")
        config = load_config({"enabled": False, "keystore": {"passphrase_file": file}}, environ={})

        assert config.passphrase() == Secret("phrase")

    def test_no_file_is_no_passphrase(self) -> None:
        assert Config().passphrase() is None

    def test_a_fault_names_the_option(self, tmp_path: Path) -> None:
        file = write(tmp_path / "pass", b"phrase\n", 0o644)
        config = load_config({"enabled": False, "keystore": {"passphrase_file": file}}, environ={})
        with pytest.raises(ConfigError) as caught:
            config.passphrase()

        assert [problem.path for problem in caught.value.problems] == ["hsm.keystore.passphrase_file"]


class TestNeverShown:
    @pytest.fixture
    def config(self) -> Config:
        return load_config({"vendor": "softhsm", "token_label": "dev", "pin": PIN}, environ={})

    def test_the_pin_is_there(self, config: Config) -> None:
        assert config.pin is not None
        assert config.pin.reveal() == PIN

    def test_a_config_hides_its_pin(self, config: Config) -> None:
        shown = f"{config} {config!r} {config.describe()} {json.dumps(config.describe())}"

        assert PIN not in shown
        assert config.describe()["pin"] == "***"

    def test_a_slot_hides_its_pin(self, tmp_path: Path) -> None:
        library = tmp_path / "p11.so"
        library.touch()
        config = Config(vendor="softhsm", slot_id=1, library_path=library, pin=PIN)
        [slot] = config.resolved_slots({})

        assert slot.pin == Secret(PIN)
        assert PIN not in f"{slot} {slot!r}"

    @pytest.mark.parametrize("show", [str, repr, "{}".format, "{:>20}".format, "%s".__mod__, "%r".__mod__])
    def test_a_secret_hides_itself(self, show: Any) -> None:
        assert show(Secret(PIN)).strip() == "Secret('***')"

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_a_secret_can_not_be_pickled(self, config: Config, protocol: int) -> None:
        for holder in (Secret(PIN), config):
            with pytest.raises(TypeError) as caught:
                pickle.dumps(holder, protocol)
            assert PIN not in str(caught.value)

    def test_a_secret_can_not_be_copied_by_accident(self) -> None:
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copy.deepcopy(Secret(PIN))

    def test_secrets_are_equal_by_value(self) -> None:
        assert Secret(PIN) == Secret(PIN)
        assert Secret(PIN) != Secret("other")
        assert hash(Secret(PIN)) == hash(Secret(PIN))
        assert Secret("\udcff") != Secret(PIN)

    def test_a_secret_is_not_equal_to_its_text(self) -> None:
        assert Secret(PIN) != PIN

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("c.toml", f'pin = "{PIN}\n'),
            ("c.toml", f'pin = "{PIN}"\npin = "{PIN}"'),
            ("c.toml", f'pin = "{PIN}" trailing'),
            ("c.json", f'{{"pin": "{PIN}", }}'),
            ("c.json", f'{{"pin": "{PIN}", "pin": "{PIN}"}}'),
            ("c.json", f'["{PIN}"]'),
            ("c.toml", f'pin = ["{PIN}"]'),
            ("c.toml", f'pin = "{PIN}"\npin_file = "x"\nslot_id = "{PIN}"\n[fallback]\nenabled = "{PIN}"'),
        ],
    )
    def test_a_broken_file_does_not_give_its_pin_away(self, tmp_path: Path, name: str, content: str) -> None:
        file = tmp_path / name
        file.write_text(content)
        with pytest.raises(ConfigError) as caught:
            load_config(file, environ={})

        assert PIN not in "".join(traceback.format_exception(caught.value))
        assert _chain(caught.value) == [caught.value]

    def test_a_pin_that_is_not_utf_8_is_not_given_away(self) -> None:
        with pytest.raises(ConfigError, match="must be UTF-8") as caught:
            load_config({"vendor": "softhsm", "slot_id": 1}, environ={"HSM_PIN": PIN + "\udcff"})

        assert PIN not in str(caught.value)

    def test_a_traceback_with_variables_does_not_show_the_pin(self, tmp_path: Path) -> None:
        file = tmp_path / "c.toml"
        file.write_text(f'pin = "{PIN}"\nvendor = "softhsm"\nsurprise = 1')
        with pytest.raises(ConfigError) as caught:
            load_config(file, environ={})
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())

        assert "surprise" in shown
        assert PIN not in shown

    def test_a_wrong_form_does_not_give_the_pin_away(self, tmp_path: Path) -> None:
        library = tmp_path / "p11.so"
        library.touch()
        config = Config(vendor="yubihsm", slot_id=1, library_path=library, pin=PIN)
        with pytest.raises(ConfigError) as caught:
            config.resolved_slots({})

        assert PIN not in "".join(traceback.format_exception(caught.value))
        assert _chain(caught.value) == [caught.value]


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and all that hangs on it: a debugger or an error reporter would show those too."""
    if error is None:
        return []
    return [error, *_chain(error.__cause__), *_chain(error.__context__)]
