"""The fault module itself: its control language, and that each rule does what it says, over processes and threads."""

from __future__ import annotations

import signal
import time

import pytest
from coincurve import PublicKey
from coincurve.ecdsa import cdata_to_der, deserialize_compact
from p11fault import FaultModule
from p11fault_applications import DIGEST, LOGGED_IN, OK, Ready, Spawn, slot_of
from p11fault_rules import (
    FUNCTIONS,
    CantLock,
    Crash,
    CrashSignal,
    Delay,
    DeviceSessions,
    Directive,
    Exit,
    Gone,
    Hang,
    HiddenUntilFinalize,
    Idle,
    Logout,
    NoECDSA,
    Poison,
    Print,
    Quirk,
    QuirkName,
    Recall,
    Replugged,
    Return,
    Rule,
    Seed,
    Sessions,
    SlotOffset,
    Spoil,
    Spoiled,
    TokenFlags,
    TokenLabel,
    TokenMaxSessions,
    TokenSerial,
    Unnamed,
)
from raw_client import RawClient

from manahsm.hsm.return_codes import CKR

FAILED = CKR["CKR_FUNCTION_FAILED"]
NOT_UNDERSTOOD = 0x8000FA17
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def wait_for_hanging(module: FaultModule, calls: int) -> None:
    give_up = time.monotonic() + 20
    while module.hanging() != calls:
        assert time.monotonic() < give_up, f"{module.hanging()} calls hang"


# ---- The control language ----


def test_without_rules_it_is_the_real_module(ready: Ready, p11fault: FaultModule) -> None:
    rv, signature = ready.client.sign(ready.session, ready.key, DIGEST)
    assert (rv, verifies(signature, ready.point)) == (OK, True)
    assert (p11fault.calls("C_SignInit"), p11fault.calls("C_Sign"), p11fault.calls("C_Login")) == (1, 1, 1)


EVERY_DIRECTIVE: list[Directive] = [
    Return("*", "CKR_OK", after=10**6), Delay("C_Sign", 1.5, jitter=2), Hang("C_Sign"), Exit("C_Sign", 3),
    Print("C_Sign"), Logout("C_Sign"), Unnamed(), Poison(), Seed(1), Sessions(1), DeviceSessions(1), Idle(1), Gone(),
    Replugged(1), SlotOffset(1), CantLock(), HiddenUntilFinalize(), NoECDSA(), Recall(), TokenFlags(set=1, clear=2),
    TokenLabel("two words"), TokenSerial("x"), TokenMaxSessions(1),
    *(Crash("C_Sign", how) for how in CrashSignal),
    *(Spoil(how, when_after=True, after=1, every=2, probability=0.5, count=3) for how in Spoiled),
    *(Quirk(name) for name in QuirkName),
]  # fmt: skip


def test_everything_that_can_be_asked_for_is_understood(client: RawClient, p11fault: FaultModule) -> None:
    answers = {}
    for directive in EVERY_DIRECTIVE:
        p11fault.set(directive)
        answers[directive.line()] = client.info()[0]
    assert set(answers.values()) == {OK}


@pytest.mark.parametrize(
    "line",
    [
        "C_Sing return 5", "C_Sign", "C_Sign break", "C_Sign return", "C_Sign return CKR_NONSENSE", "C_Sign delay",
        "C_Sign delay soon", "C_Sign return 5 count=many", "C_Sign return 5 every=0", "C_Sign hang for=ever",
        "C_Sign crash gently", "C_Login corrupt", "C_Sign unnamed", "quirk unheard-of", "sessions", "sessions few",
        "vanish", "token-flags 1", "token-serial longer than sixteen",
    ],
)  # fmt: skip
def test_a_line_that_is_not_understood_fails_every_call(client: RawClient, p11fault: FaultModule, line: str) -> None:
    p11fault.control.write_text(f"# a comment\n\n{line}\n")
    assert client.info()[0] == NOT_UNDERSTOOD
    p11fault.clear()
    assert client.info()[0] == OK


def test_a_control_file_can_be_written_by_hand(client: RawClient, p11fault: FaultModule) -> None:
    p11fault.control.write_text("  C_GetInfo return CKR_DEVICE_ERROR count=1  # once\nC_GetInfo return 0x80000001\n")
    assert [client.info()[0] for _ in range(2)] == [CKR["CKR_DEVICE_ERROR"], 0x80000001]


def test_a_control_file_that_is_not_there_asks_for_nothing(client: RawClient, p11fault: FaultModule) -> None:
    p11fault.control.unlink()
    assert client.info()[0] == OK


def codes_of(client: RawClient, calls: int) -> list[bool]:
    """Which of so many calls failed."""
    return [client.info()[0] == FAILED for _ in range(calls)]


@pytest.mark.parametrize(
    ("rule", "pattern"),
    [
        (Return("C_GetInfo", FAILED), "xxxxxxxx"),
        (Return("*", FAILED), "xxxxxxxx"),
        (Return("C_Sign", FAILED), "........"),
        (Return("C_GetInfo", FAILED, count=3), "xxx....."),
        (Return("C_GetInfo", FAILED, after=2), "..xxxxxx"),
        (Return("C_GetInfo", FAILED, every=3), "..x..x.."),
        (Return("C_GetInfo", FAILED, after=1, every=2, count=2), "..x.x..."),
        (Return("C_GetInfo", FAILED, probability=0.0), "........"),
        (Return("C_GetInfo", FAILED, probability=1.0), "xxxxxxxx"),
    ],
    ids=str,
)
def test_a_rule_says_which_calls_it_is_about(
    client: RawClient, p11fault: FaultModule, rule: Rule, pattern: str
) -> None:
    p11fault.set(rule)
    assert "".join(".x"[failed] for failed in codes_of(client, 8)) == pattern
    assert p11fault.fired(rule) == pattern.count("x")


def test_a_chance_is_thrown_by_the_seed(client: RawClient, p11fault: FaultModule) -> None:
    thrown = []
    for seed in (1, 1, 2):
        line = "C_GetInfo return CKR_FUNCTION_FAILED p=0.3 id="
        p11fault.set(Seed(seed))
        p11fault.control.write_text(f"seed {seed}\n{line}7\n")
        p11fault._shared.rules[7].seen = 0
        thrown.append(codes_of(client, 100))
    assert thrown[0] == thrown[1] != thrown[2]
    assert all(15 < sum(each) < 45 for each in thrown)


def test_a_count_is_exact_over_processes_and_threads(spawn: Spawn, p11fault: FaultModule) -> None:
    clients = [spawn(), spawn()]
    rule = Return("C_GetInfo", FAILED, after=100, count=20_333)
    p11fault.set(rule)
    for client in clients:
        client.send("repeat", 5000, 4, "info")
    codes = [code for client in clients for code in client.receive()[1]]
    assert codes.count(FAILED) == 20_333
    assert (p11fault.seen(rule), p11fault.fired(rule), p11fault.calls("C_GetInfo")) == (40000, 20_333, 40000)


def test_rules_that_stay_go_on_counting_and_rules_that_are_set_begin_anew(
    client: RawClient, p11fault: FaultModule
) -> None:
    rule, other = Return("C_GetInfo", FAILED, count=3), Print("C_Sign")
    p11fault.set(rule)
    assert codes_of(client, 1) == [True]
    p11fault.add(other)
    assert codes_of(client, 1) == [True]
    p11fault.lift(other)
    assert codes_of(client, 2) == [True, False]
    p11fault.set(rule)
    assert codes_of(client, 1) == [True]
    assert p11fault.fired(rule) == 1


def test_the_driver_knows_every_function(client: RawClient) -> None:
    assert (len(FUNCTIONS), FUNCTIONS[0], FUNCTIONS[-1]) == (68, "C_Initialize", "C_WaitForSlotEvent")
    with pytest.raises(ValueError, match="C_Sing"):
        Return("C_Sing", FAILED)
    assert client.info()[0] == OK


# ---- Rules ----


def test_a_call_that_is_said_to_have_failed_afterwards_has_happened(ready: Ready, p11fault: FaultModule) -> None:
    for when_after, opened in ((False, 1), (True, 2)):
        p11fault.set(Return("C_OpenSession", FAILED, when_after=when_after))
        assert ready.client.open(ready.slot)[0] == FAILED
        assert p11fault.open_sessions() == opened


def test_a_delay_takes_at_least_its_time(client: RawClient, p11fault: FaultModule) -> None:
    p11fault.set(Delay("C_GetInfo", 30))
    assert client.timed("info")[1] >= 0.030
    p11fault.set(Seed(1), Delay("C_GetInfo", 0, jitter=20))
    assert sum(client.timed("info")[1] for _ in range(10)) >= 0.020
    p11fault.set(Delay("C_GetInfo", 30, when_after=True))
    assert client.timed("info")[1] >= 0.030


def test_a_call_hangs_until_it_is_lifted(spawn: Spawn, p11fault: FaultModule) -> None:
    stuck, free = spawn(), spawn()
    rule = Hang("C_GetInfo", count=1)
    p11fault.set(rule)
    stuck.send("info")
    wait_for_hanging(p11fault, 1)
    assert free.info()[0] == OK
    p11fault.add(Print("C_Sign"))
    assert free.info()[0] == OK
    assert p11fault.hanging() == 1
    p11fault.lift(rule)
    assert stuck.receive()[0] == OK
    assert p11fault.hanging() == 0


def test_what_a_killed_process_had_does_not_count(spawn: Spawn, p11fault: FaultModule) -> None:
    doomed, other = spawn(), spawn()
    slot = slot_of(doomed)
    assert [doomed.open(slot)[0], doomed.open(slot)[0], other.open(slot)[0]] == [OK] * 3
    p11fault.set(Hang("C_GetInfo"), DeviceSessions(3))
    doomed.send("info")
    wait_for_hanging(p11fault, 1)
    assert other.open(slot)[0] == CKR["CKR_SESSION_COUNT"]
    assert (p11fault.open_sessions(), p11fault.open_sessions(doomed.pid)) == (3, 2)
    doomed.kill()
    assert (p11fault.open_sessions(), p11fault.hanging()) == (1, 0)
    assert [other.open(slot)[0] for _ in range(3)] == [OK, OK, CKR["CKR_SESSION_COUNT"]]


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        (Crash("C_GetInfo"), -signal.SIGABRT),
        (Crash("C_GetInfo", CrashSignal.SEGV), -signal.SIGSEGV),
        (Crash("C_GetInfo", CrashSignal.KILL), -signal.SIGKILL),
        (Exit("C_GetInfo", 7), 7),
    ],
    ids=str,
)
def test_a_process_can_be_ended(client: RawClient, p11fault: FaultModule, rule: Rule, status: int) -> None:
    p11fault.set(rule)
    with pytest.raises(EOFError):
        client.info()
    assert client.wait() == status
    assert p11fault.fired(rule) == 1


def test_a_logout_is_of_the_whole_process(ready: Ready, p11fault: FaultModule) -> None:
    p11fault.set(Logout("C_SignInit"))
    assert ready.client.session(ready.session)[1][1] == LOGGED_IN
    assert ready.client.sign(ready.session, ready.key, DIGEST)[0] == CKR["CKR_OBJECT_HANDLE_INVALID"]
    assert ready.client.session(ready.session)[1][1] != LOGGED_IN


def test_a_poisoned_session_stays_so_for_ever(ready: Ready, p11fault: FaultModule) -> None:
    client, session, key = ready.client, ready.session, ready.key
    _, other = client.open(ready.slot)
    p11fault.set(Poison("CKR_DEVICE_MEMORY", count=1))
    assert client.sign_init(session, key)[0] == OK
    assert client.sign_only(session, DIGEST)[0] == CKR["CKR_DEVICE_MEMORY"]
    p11fault.clear()
    active = CKR["CKR_OPERATION_ACTIVE"]
    assert [client.sign_init(session, key)[0], client.sign_only(session, DIGEST)[0]] == [active, active]
    assert [client.find(session)[0], client.sign_init(session, key)[0]] == [active, active]
    assert client.sign(other, key, DIGEST)[0] == OK
    assert [client.session(session)[0], client.close(session)[0]] == [OK, OK]


def test_sessions_that_are_used_after_a_failure_are_counted(ready: Ready, p11fault: FaultModule) -> None:
    client, session, key = ready.client, ready.session, ready.key
    p11fault.set(Return("C_Sign", FAILED, count=1))
    client.sign(session, key, DIGEST)
    assert p11fault.reused_after_failure == 0
    client.sign(session, key, DIGEST)
    assert p11fault.reused_after_failure == 1  # C_SignInit was refused: the operation was still open
    _, fresh = client.open(ready.slot)
    client.sign(fresh, key, DIGEST)
    assert p11fault.reused_after_failure == 1


# ---- Signatures ----


def verifies(signature: bytes, point: bytes) -> bool:
    """Whether 64 bytes r || s are a signature of DIGEST by this key, whatever half s is in."""
    s = int.from_bytes(signature[32:], "big")
    low = signature[:32] + min(s, ORDER - s).to_bytes(32, "big")
    try:
        return PublicKey(point).verify(cdata_to_der(deserialize_compact(low)), DIGEST, hasher=None)
    except ValueError:
        return False


@pytest.mark.parametrize("how", Spoiled)
def test_a_signature_is_spoiled_in_the_way_that_was_asked_for(
    ready: Ready, p11fault: FaultModule, how: Spoiled
) -> None:
    objects = len(ready.client.find(ready.session)[1])
    p11fault.set(Spoil(how))
    for _ in range(4):
        rv, signature = ready.client.sign(ready.session, ready.key, DIGEST)
        looks = {
            "length": len(signature),
            "zero": not any(signature),
            "high": int.from_bytes(signature[32:], "big") > ORDER // 2,
            "verifies": len(signature) == 64 and any(signature) and verifies(signature, ready.point),
        }
        expected = {
            Spoiled.CORRUPT: {"length": 64, "zero": False, "verifies": False},
            Spoiled.TRUNCATE: {"length": 63, "zero": False},
            Spoiled.ZERO: {"length": 64, "zero": True},
            Spoiled.HIGH_S: {"length": 64, "high": True, "verifies": True},
            Spoiled.OTHER_KEY: {"length": 64, "zero": False, "verifies": False},
        }[how]
        assert (rv, {**looks, **expected}) == (OK, looks)
    assert len(ready.client.find(ready.session)[1]) == objects


def test_a_signature_that_failed_is_not_spoiled(ready: Ready, p11fault: FaultModule) -> None:
    rule = Spoil(Spoiled.ZERO)
    p11fault.set(rule)
    assert ready.client.sign_only(ready.session, DIGEST)[0] == CKR["CKR_OPERATION_NOT_INITIALIZED"]
    assert p11fault.fired(rule) == 0
