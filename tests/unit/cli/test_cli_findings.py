"""What is made of what a library and its tokens say: pure decisions, and values that are written down."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from manahsm.cli.choosing import numbers_in
from manahsm.cli.discovery import Candidate, fitting
from manahsm.cli.findings import (
    Finding,
    Verdict,
    choose,
    library_found,
    login_is_safe,
    mechanisms_found,
    pin_state,
    sessions_allowed_by,
    worst_of,
)
from manahsm.cli.first_config import Setup, configuration_text
from manahsm.cli.output import printable
from manahsm.cli.probe import Library, Token
from manahsm.cli.salvage import without
from manahsm.cli.view import duration
from manahsm.config.load import load_config
from manahsm.config.model import Priority
from manahsm.config.slots import SlotConfig, declared_slots
from manahsm.config.tables import ConnectionPool
from manahsm.config.vendors import Vendor, profile_of

USUAL_FLAGS = ("RNG", "LOGIN_REQUIRED", "USER_PIN_INITIALIZED", "TOKEN_INITIALIZED")
TOKEN = Token(
    slot_id=7,
    label="main",
    serial="0123",
    manufacturer="Acme",
    model="HSM 1",
    flags=USUAL_FLAGS,
    max_sessions=None,
    mechanisms=("CKM_EC_KEY_PAIR_GEN", "CKM_ECDSA"),
)


def verdicts(findings: Any) -> dict[str, Verdict]:
    return {finding.subject: finding.verdict for finding in findings}


@pytest.mark.parametrize(
    ("flags", "verdict", "safe"),
    [
        ((), Verdict.OK, True),
        (("USER_PIN_COUNT_LOW",), Verdict.WARN, True),
        (("USER_PIN_TO_BE_CHANGED",), Verdict.WARN, True),
        (("USER_PIN_COUNT_LOW", "USER_PIN_FINAL_TRY"), Verdict.FAIL, False),
        (("USER_PIN_COUNT_LOW", "USER_PIN_LOCKED"), Verdict.FAIL, False),
    ],
)
def test_the_flags_of_a_pin_say_whether_to_log_in(flags: tuple[str, ...], verdict: Verdict, safe: bool) -> None:
    found = pin_state((*USUAL_FLAGS, *flags), "main")
    assert (found.verdict, login_is_safe((*USUAL_FLAGS, *flags))) == (verdict, safe)
    assert bool(found.remedy) == (verdict is not Verdict.OK)


def test_a_token_without_a_pin_fails() -> None:
    assert pin_state(("LOGIN_REQUIRED", "TOKEN_INITIALIZED"), None).verdict is Verdict.FAIL


def test_a_token_that_needs_no_login_needs_no_pin() -> None:
    assert pin_state(("TOKEN_INITIALIZED",), None).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("mechanisms", "verdict"),
    [
        (("CKM_EC_KEY_PAIR_GEN", "CKM_ECDSA"), Verdict.OK),
        (("CKM_ECDSA",), Verdict.WARN),
        (("CKM_EC_KEY_PAIR_GEN",), Verdict.FAIL),
        ((), Verdict.FAIL),
    ],
)
def test_a_token_must_offer_ecdsa(mechanisms: tuple[str, ...], verdict: Verdict) -> None:
    assert [one.verdict for one in mechanisms_found(evolve(TOKEN, mechanisms=mechanisms), None)] == [verdict]


def test_a_library_without_locking_is_slow() -> None:
    library = Library(path=Path("/lib.so"), description="Acme", locking=False, tokens=())
    assert verdicts(library_found(library, None)) == {"library": Verdict.OK, "locking": Verdict.WARN}


@pytest.mark.parametrize(
    ("label", "slot_id", "chosen"),
    [("main", None, 7), (None, 8, 8), ("spare", 8, 8), ("main", 8, None), ("twin", None, None), ("nope", None, None)],
)
def test_a_slot_names_exactly_one_token(label: str | None, slot_id: int | None, chosen: int | None) -> None:
    tokens = [
        TOKEN,
        evolve(TOKEN, slot_id=8, label="spare"),
        evolve(TOKEN, slot_id=9, label="twin"),
        evolve(TOKEN, slot_id=10, label="twin"),
    ]
    token, found = choose(tokens, label, slot_id, None)
    assert (token.slot_id if token else None) == chosen
    assert found.verdict is (Verdict.FAIL if chosen is None else Verdict.OK)
    assert bool(found.remedy) == (chosen is None)


def slot_with(pool: ConnectionPool, vendor: Vendor = Vendor.SOFTHSM) -> SlotConfig:
    return SlotConfig(
        name="main",
        profile=profile_of(vendor),
        library_path=Path("/lib.so"),
        slot_id=None,
        token_label="main",
        pin=None,
        priority=Priority.PRIMARY,
        environment={},
        connection_pool=pool,
    )


@pytest.mark.parametrize(("limit", "verdict"), [(None, Verdict.OK), (7, Verdict.OK), (6, Verdict.WARN)])
def test_the_limit_of_a_token_must_hold_a_host_and_its_anchor(limit: int | None, verdict: Verdict) -> None:
    pool = ConnectionPool(size=8, max_overflow=4, processes=2)  # 12 sessions in 2 hosts, and an anchor each
    assert sessions_allowed_by(evolve(TOKEN, max_sessions=limit), pool, slot_with(pool)).verdict is verdict


def test_the_worst_verdict_counts() -> None:
    findings = [Finding("a", verdict, "") for verdict in (Verdict.OK, Verdict.FAIL, Verdict.WARN, Verdict.NOTE)]
    assert worst_of(findings) is Verdict.FAIL
    assert worst_of(findings[2:]) is Verdict.WARN
    assert worst_of([]) is Verdict.OK


# ---- a first configuration ----


@given(st.text(max_size=32), st.booleans())
def test_a_first_configuration_says_what_was_meant_or_is_refused(label: str, namesake: bool) -> None:
    softhsm = profile_of(Vendor.SOFTHSM)
    chosen = Candidate(softhsm, Path("/usr/lib/softhsm/libsofthsm2.so"), evolve(TOKEN, label=label))
    candidates = [chosen, evolve(chosen, token=evolve(chosen.token, slot_id=8))] if namesake else [chosen]
    try:
        setup = Setup(token=(chosen, Path("/etc/manahsm/hsm.pin")), state_dir=Path("/var/lib/manahsm"))
        text = configuration_text(setup, candidates, {"SOFTHSM2_CONF": '/etc/"soft\\hsm".conf', "HOME": "/root"})
    except click.UsageError:
        return
    config = load_config(tomllib.loads(text), environ={})
    assert config.token_label == (label or None)
    assert config.slot_id == (7 if namesake or not label else None)
    assert config.environment == {"SOFTHSM2_CONF": '/etc/"soft\\hsm".conf'}
    assert fitting(candidates, config.token_label, config.slot_id) == [chosen]


def test_a_usual_label_is_not_refused() -> None:
    chosen = Candidate(profile_of(Vendor.GENERIC), Path("/lib.so"), evolve(TOKEN, label='my "first" token'))
    text = configuration_text(Setup(token=(chosen, Path("/pin"))), [chosen], {})
    assert load_config(tomllib.loads(text), environ={}).token_label == 'my "first" token'


@given(st.lists(st.tuples(st.sampled_from(["main", "other", ""]), st.booleans()), min_size=2, max_size=4))
def test_backup_tokens_are_those_that_were_meant_whatever_their_labels(tokens: list[tuple[str, bool]]) -> None:
    vendors = [Vendor.THALES if of_thales else Vendor.SOFTHSM for _, of_thales in tokens]
    there = [
        Candidate(profile_of(vendor), Path(f"/{vendor}.so"), evolve(TOKEN, label=label, slot_id=number))
        for number, (vendor, (label, _)) in enumerate(zip(vendors, tokens, strict=True))
    ]
    (first, *others) = [(one, Path(f"/{number}.pin")) for number, one in enumerate(there)]
    setup = Setup(token=first, backups=tuple(others))
    text = configuration_text(setup, there, {"SOFTHSM2_CONF": "/conf", "NFAST_KMLOCAL": "/local"})
    slots = [slot for _, slot in declared_slots(load_config(tomllib.loads(text), environ={}))]
    found = [
        fitting([one for one in there if one.library == slot.library_path], slot.token_label, slot.slot_id)
        for slot in slots
    ]
    assert found == [[one] for one in there]
    assert [slot.vendor for slot in slots] == vendors
    assert [slot.pin_file for slot in slots] == [None, *(path for _, path in others)]
    assert [slot.priority for slot in slots] == [Priority.PRIMARY, *[Priority.BACKUP] * len(others)]


@pytest.mark.parametrize(("text", "numbers"), [("", []), ("2", [2]), (" 3, 1 ", [3, 1]), ("1 2", [1, 2])])
def test_numbers_are_taken_in_their_order(text: str, numbers: list[int]) -> None:
    assert numbers_in(text, 3) == numbers


@pytest.mark.parametrize("text", ["0", "4", "1,1", "x", "-1", "²", "1" * 5000, "1;2"])
def test_what_is_no_list_of_those_numbers_is_asked_for_again(text: str) -> None:
    with pytest.raises(click.UsageError):
        numbers_in(text, 3)


# ---- what can be saved of a faulty configuration ----


def test_a_faulty_option_is_left_out_and_its_neighbours_stay() -> None:
    table = {"a": 1, "pool": {"size": 0, "timeout": 5}, "slots": [{"x": 1}, {"y": 2, "z": 3}]}
    assert without(table, ["hsm.pool.size", "hsm.slots[1].y", "hsm.nope", "hsm.a.b"]) == {
        "a": 1,
        "pool": {"timeout": 5},
        "slots": [{"x": 1}, {"z": 3}],
    }
    assert without(table, ["hsm.slots[0]"])["slots"] == [{"y": 2, "z": 3}]


@given(
    st.recursive(
        st.integers(), lambda inner: st.dictionaries(st.text(max_size=3), inner) | st.lists(inner), max_leaves=5
    ),
    st.text(max_size=12),
)
def test_leaving_out_never_fails_and_never_adds(table: Any, path: str) -> None:
    left = without(table, [path])
    assert len(json.dumps(left)) <= len(json.dumps(table))


# ---- words and numbers ----


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (59.9, "59s"), (60, "1m 00s"), (3661, "1h 01m"), (90000, "1d 1h")]
)
def test_a_length_of_time_has_two_units_at_most(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@given(st.text())
def test_nothing_printed_speaks_to_the_terminal(text: str) -> None:
    assert all(character.isprintable() or character == "\n" for character in printable(text))
    assert len(printable(text)) == len(text)
