"""From options to tokens: libraries are found, PINs are read, vendors' variables are collected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from manahsm.config.load import load_config
from manahsm.config.model import Config, ConnectionPool, Priority
from manahsm.config.secret import Secret
from manahsm.config.slots import SlotConfig, fit_pool
from manahsm.config.vendors import Vendor, profile_of
from manahsm.errors import ConfigError


@pytest.fixture
def library(tmp_path: Path) -> Path:
    file = tmp_path / "p11.so"
    file.touch()
    return file


def private(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


def resolve(written: dict[str, Any], environ: dict[str, str] | None = None) -> tuple[SlotConfig, ...]:
    return load_config(written, environ={}).resolved_slots(environ or {})


def faults_of_slots(written: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        resolve(written)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_the_top_level_is_one_slot(library: Path, tmp_path: Path) -> None:
    pin = private(tmp_path / "pin", "1234\n")
    [slot] = resolve({"vendor": "softhsm", "token_label": "dev", "library_path": str(library), "pin_file": str(pin)})

    assert slot == SlotConfig(
        name="dev",
        profile=profile_of(Vendor.SOFTHSM),
        library_path=library,
        slot_id=None,
        token_label="dev",
        pin=Secret("1234"),
        priority=Priority.PRIMARY,
        environment={},
        connection_pool=ConnectionPool(size=4, max_overflow=8, timeout=5.0, idle_timeout=15.0),
    )
    assert (slot.vendor, slot.quirks) == (Vendor.SOFTHSM, profile_of(Vendor.SOFTHSM).quirks)


def test_a_slot_without_a_label_is_named_after_its_number(library: Path) -> None:
    [slot] = resolve({"slot_id": 12, "library_path": str(library)})

    assert (slot.name, slot.slot_id) == ("slot-12", 12)


def test_a_token_may_need_no_pin(library: Path) -> None:
    assert resolve({"slot_id": 1, "library_path": str(library)})[0].pin is None


def test_a_disabled_configuration_has_no_slots() -> None:
    assert resolve({"enabled": False, "token_label": "dev", "library_path": "/nowhere.so"}) == ()


def test_slots_take_from_the_top_level_what_they_leave_open(library: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    other.touch()
    own = private(tmp_path / "own", "own")
    slots = resolve(
        {
            "vendor": "softhsm",
            "library_path": str(library),
            "pin": "shared",
            "environment": {"A": "1", "B": "1"},
            "slots": [
                {"token_label": "a"},
                {
                    "token_label": "b",
                    "name": "spare",
                    "priority": "backup",
                    "library_path": str(other),
                    "pin_file": str(own),
                    "environment": {"B": "2"},
                },
            ],
        }
    )

    assert [slot.name for slot in slots] == ["a", "spare"]
    assert [slot.priority for slot in slots] == [Priority.PRIMARY, Priority.BACKUP]
    assert [slot.library_path for slot in slots] == [library, other]
    assert [slot.pin for slot in slots] == [Secret("shared"), Secret("own")]
    assert [dict(slot.environment) for slot in slots] == [{"A": "1", "B": "1"}, {"A": "1", "B": "2"}]


def test_a_slot_of_another_vendor_does_not_take_the_library(library: Path) -> None:
    faults = faults_of_slots(
        {
            "vendor": "softhsm",
            "library_path": str(library),
            "slots": [{"slot_id": 1}, {"slot_id": 2, "vendor": "utimaco"}],
        }
    )

    assert list(faults) == ["hsm.slots[1].library_path"]
    assert "/opt/utimaco/lib/libcs_pkcs11_R2.so" in faults["hsm.slots[1].library_path"]


def test_the_first_usual_place_that_exists_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / name for name in ("missing.so", "second.so", "third.so")]
    for place in places[1:]:
        place.touch()
    profile = attrs.evolve(profile_of(Vendor.SOFTHSM), libraries=places)
    monkeypatch.setattr("manahsm.config.slots.profile_of", lambda _: profile)

    assert resolve({"vendor": "softhsm", "slot_id": 1})[0].library_path == places[1]


def test_a_missing_library_tells_where_it_was_looked_for() -> None:
    faults = faults_of_slots({"vendor": "thales", "token_label": "t"})

    assert faults == {
        "hsm.library_path": "library not found (looked for /opt/nfast/toolkits/pkcs11/libcknfast.so); "
        "install the PKCS#11 library of Thales (Entrust) nShield, or set library_path to where it is"
    }


def test_a_configured_library_is_not_replaced_by_a_usual_place(tmp_path: Path) -> None:
    faults = faults_of_slots({"vendor": "softhsm", "slot_id": 1, "library_path": str(tmp_path)})

    assert f"(looked for {tmp_path})" in faults["hsm.library_path"]


def test_faults_of_all_slots_are_reported_at_once(tmp_path: Path) -> None:
    faults = faults_of_slots(
        {
            "vendor": "thales",
            "pin_file": str(tmp_path / "none"),
            "slots": [{"slot_id": 1}, {"slot_id": 2, "pin_file": str(tmp_path / "nothing")}, {"slot_id": 3}],
        }
    )

    assert set(faults) == {
        "hsm.pin_file",
        "hsm.slots[0].library_path",
        "hsm.slots[1].library_path",
        "hsm.slots[1].pin_file",
        "hsm.slots[2].library_path",
    }


def test_a_fault_of_a_shared_pin_file_is_reported_once(library: Path, tmp_path: Path) -> None:
    config = load_config(
        {
            "library_path": str(library),
            "pin_file": str(tmp_path / "none"),
            "slots": [{"slot_id": 1}, {"slot_id": 2}],
        },
        environ={},
    )
    with pytest.raises(ConfigError) as caught:
        config.resolved_slots({})

    assert len(caught.value.problems) == 1


class TestPinForms:
    @pytest.mark.parametrize(
        ("vendor", "pin"),
        [
            ("aws_cloudhsm", "user:pass:word"),
            ("yubihsm", "0001password"),
            ("yubihsm", "BEEFpass word"),
            ("softhsm", "anything at all"),
        ],
    )
    def test_a_pin_that_may_be_right_is_taken(self, library: Path, vendor: str, pin: str) -> None:
        [slot] = resolve({"vendor": vendor, "slot_id": 1, "library_path": str(library), "pin": pin})

        assert slot.pin == Secret(pin)

    @pytest.mark.parametrize(
        ("vendor", "pin", "form"),
        [
            ("aws_cloudhsm", "password", "CU_user:password"),
            ("aws_cloudhsm", ":password", "CU_user:password"),
            ("yubihsm", "password", "four hex digits"),
            ("yubihsm", "0001", "four hex digits"),
        ],
    )
    def test_a_pin_that_can_not_be_right_never_reaches_the_token(
        self, library: Path, vendor: str, pin: str, form: str
    ) -> None:
        faults = faults_of_slots({"vendor": vendor, "slot_id": 1, "library_path": str(library), "pin": pin})

        assert form in faults["hsm.pin"]

    def test_the_file_with_the_wrong_pin_is_named(self, library: Path, tmp_path: Path) -> None:
        common, own = private(tmp_path / "common", "bad"), private(tmp_path / "own", "bad")
        faults = faults_of_slots(
            {
                "vendor": "yubihsm",
                "library_path": str(library),
                "pin_file": str(common),
                "slots": [{"slot_id": 0}, {"slot_id": 1, "pin_file": str(own)}],
            }
        )

        assert set(faults) == {"hsm.pin_file", "hsm.slots[1].pin_file"}


class TestVariables:
    def test_the_profile_then_the_environment_then_the_configuration(self, library: Path) -> None:
        written = {"vendor": "thales", "slot_id": 1, "library_path": str(library)}

        def loadsharing(environ: dict[str, str], table: dict[str, str]) -> str:
            [slot] = resolve({**written, "environment": table}, environ)
            return slot.environment["CKNFAST_LOADSHARING"]

        assert loadsharing({}, {}) == "1"
        assert loadsharing({"CKNFAST_LOADSHARING": "0"}, {}) == "0"
        assert loadsharing({"CKNFAST_LOADSHARING": "0"}, {"CKNFAST_LOADSHARING": "2"}) == "2"

    def test_only_the_variables_of_the_vendor_are_passed_on(self, library: Path) -> None:
        environ = {"SOFTHSM2_CONF": "/s", "YUBIHSM_PKCS11_CONF": "/y", "HSM_PIN": "1234", "HOME": "/h"}
        [slot] = resolve({"vendor": "softhsm", "slot_id": 1, "library_path": str(library)}, environ)

        assert slot.environment == {"SOFTHSM2_CONF": "/s"}

    def test_they_can_not_be_changed(self, library: Path) -> None:
        [slot] = resolve({"slot_id": 1, "library_path": str(library)})

        with pytest.raises(TypeError):
            slot.environment["A"] = "b"  # type: ignore[index]


class TestPools:
    @pytest.mark.parametrize(
        ("size", "overflow", "expected"),
        [(10, 4, (10, 4)), (10, 20, (10, 4)), (14, 1, (14, 0)), (40, 40, (14, 0)), (1, 15, (1, 14))],
    )
    def test_a_pool_is_narrowed_to_the_device(self, size: int, overflow: int, expected: tuple[int, int]) -> None:
        pool = fit_pool(ConnectionPool(size=size, max_overflow=overflow), profile_of(Vendor.YUBIHSM))

        assert (pool.size, pool.max_overflow) == expected

    def test_a_device_without_a_limit_narrows_nothing(self) -> None:
        pool = ConnectionPool(size=1024, max_overflow=1024)

        assert fit_pool(pool, profile_of(Vendor.SOFTHSM)) is pool

    def test_a_backup_of_another_vendor_gets_a_smaller_pool(self, library: Path) -> None:
        slots = resolve(
            {
                "vendor": "safenet_luna",
                "library_path": str(library),
                "slots": [
                    {"slot_id": 1},
                    {"slot_id": 2, "vendor": "yubihsm", "library_path": str(library), "priority": "backup"},
                ],
            }
        )

        assert [(slot.connection_pool.size, slot.connection_pool.max_overflow) for slot in slots] == [
            (8, 16),
            (8, 6),
        ]


def test_resolving_reads_the_environment_of_the_process_by_default(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", "/from/process")
    config = Config(vendor="softhsm", slot_id=1, library_path=library)

    assert config.resolved_slots()[0].environment == {"SOFTHSM2_CONF": "/from/process"}
