"""The fault module itself: tokens that are full, gone or otherwise than they were, and the quirks of vendors."""

from __future__ import annotations

import pytest
from p11fault import FaultModule
from p11fault_applications import DIGEST, LOGGED_IN, OK, Ready, Spawn, slot_of
from p11fault_rules import (
    CantLock,
    Delay,
    DeviceSessions,
    Gone,
    HiddenUntilFinalize,
    Idle,
    NoECDSA,
    Quirk,
    QuirkName,
    Recall,
    Replugged,
    Sessions,
    SlotOffset,
    TokenFlags,
    TokenLabel,
    TokenMaxSessions,
    TokenSerial,
    Unnamed,
)
from raw_client import CKA, RawClient

from manahsm.hsm.return_codes import CKR

# ---- The whole token ----


def test_an_application_may_have_so_many_sessions_open(spawn: Spawn, p11fault: FaultModule) -> None:
    first, second = spawn(), spawn()
    slot = slot_of(first)
    p11fault.set(Sessions(2))
    for client in (first, second):
        opened = [client.open(slot) for _ in range(3)]
        assert [rv for rv, _ in opened] == [OK, OK, CKR["CKR_SESSION_COUNT"]]
        client.close(opened[0][1])
        assert [client.open(slot)[0], client.open(slot)[0]] == [OK, CKR["CKR_SESSION_COUNT"]]
    assert first.close_all(slot)[0] == OK
    assert (p11fault.open_sessions(first.pid), p11fault.open_sessions()) == (0, 2)
    assert second.finalize()[0] == OK
    assert p11fault.open_sessions() == 0


def test_a_session_that_could_not_be_opened_takes_no_place(client: RawClient, p11fault: FaultModule) -> None:
    slot = slot_of(client)
    p11fault.set(Sessions(1))
    assert client.open(slot + 12345)[0] == CKR["CKR_SLOT_ID_INVALID"]
    assert client.open(slot)[0] == OK


def test_the_sessions_of_the_device_are_counted_exactly(spawn: Spawn, p11fault: FaultModule) -> None:
    clients = [spawn(), spawn()]
    slot = slot_of(clients[0])
    p11fault.set(DeviceSessions(7))
    for _ in range(20):
        for client in clients:
            client.send("repeat", 5, 4, "open", slot)
        codes = [code for client in clients for code in client.receive()[1]]
        assert (codes.count(OK), codes.count(CKR["CKR_SESSION_COUNT"])) == (7, 33)
        assert p11fault.open_sessions() == 7
        for client in clients:
            client.close_all(slot)


def assert_lost_its_session_and_login(ready: Ready, p11fault: FaultModule) -> None:
    client = ready.client
    assert client.sign_init(ready.session, ready.key)[0] == CKR["CKR_SESSION_HANDLE_INVALID"]
    assert p11fault.open_sessions() == 0
    _, session = client.open(ready.slot)
    assert client.session(session)[1][1] != LOGGED_IN
    assert client.login(session, p11fault.token.pin)[0] == OK
    _, (key,) = client.find(session, [(CKA.CLASS, CKA.PRIVATE_KEY)])
    assert client.sign(session, key, DIGEST)[0] == OK


def test_a_token_that_is_pulled_out_is_in_no_slot_and_comes_back_logged_out(
    ready: Ready, p11fault: FaultModule
) -> None:
    client, slot = ready.client, ready.slot
    p11fault.set(Gone())
    assert client.slots(present=True) == (OK, [])
    assert slot in client.slots(present=False)[1]
    assert client.slot_flags(slot)[1] & 1 == 0
    absent = CKR["CKR_TOKEN_NOT_PRESENT"]
    assert [client.token(slot)[0], client.open(slot)[0], client.mechanisms(slot)[0]] == [absent] * 3
    assert client.sign(ready.session, ready.key, DIGEST)[0] == CKR["CKR_DEVICE_REMOVED"]
    assert client.session(ready.session)[0] == CKR["CKR_DEVICE_REMOVED"]
    p11fault.clear()
    assert_lost_its_session_and_login(ready, p11fault)


def test_a_token_that_was_out_while_nobody_looked_has_lost_its_sessions_too(
    ready: Ready, p11fault: FaultModule
) -> None:
    p11fault.set(Replugged(1))
    assert_lost_its_session_and_login(ready, p11fault)


def test_some_modules_find_a_lost_token_only_when_they_are_initialised_again(
    ready: Ready, p11fault: FaultModule
) -> None:
    client, slot, quirk = ready.client, ready.slot, Quirk(QuirkName.GONE_UNTIL_INITIALIZE)
    p11fault.set(Gone(), quirk)
    assert client.token(slot)[0] == CKR["CKR_TOKEN_NOT_PRESENT"]
    p11fault.set(quirk)
    assert client.token(slot)[0] == CKR["CKR_TOKEN_NOT_PRESENT"]
    assert [client.finalize()[0], client.initialize()[0], client.token(slot)[0]] == [OK, OK, OK]


def test_a_token_can_come_back_in_another_slot(ready: Ready, p11fault: FaultModule) -> None:
    client, slot = ready.client, ready.slot
    label = client.token(slot)[1][0]
    p11fault.set(SlotOffset(100))
    assert slot + 100 in client.slots()[1]
    assert client.token(slot + 100)[1][0] == label
    assert client.open(slot)[0] == CKR["CKR_SLOT_ID_INVALID"]
    rv, session = client.open(slot + 100)
    assert (rv, client.session(session)[1]) == (OK, (slot + 100, LOGGED_IN))
    assert [client.close_all(slot + 100)[0], p11fault.open_sessions()] == [OK, 0]


def test_a_session_that_lay_idle_is_closed(ready: Ready, p11fault: FaultModule) -> None:
    p11fault.set(Idle(10), Delay("C_GetInfo", 15))
    ready.client.info()
    assert ready.client.sign_init(ready.session, ready.key)[0] == CKR["CKR_SESSION_HANDLE_INVALID"]
    assert p11fault.open_sessions() == 0


def test_a_library_can_refuse_to_lock(client: RawClient, p11fault: FaultModule) -> None:
    client.finalize()
    p11fault.set(CantLock())
    assert client.initialize()[0] == CKR["CKR_CANT_LOCK"]
    assert client.initialize(locking=False)[0] == OK


def test_a_token_can_describe_itself_otherwise(client: RawClient, p11fault: FaultModule) -> None:
    slot = slot_of(client)
    label, serial, flags, _ = client.token(slot)[1]
    p11fault.set(TokenLabel("two words"), TokenSerial("4711"), TokenFlags(0x20000, 0x4), TokenMaxSessions(9))
    assert client.token(slot) == (OK, ("two words", "4711", (flags | 0x20000) & ~0x4, 9))
    p11fault.clear()
    assert client.token(slot)[1][:2] == (label, serial)


def test_a_token_can_forget_its_name_for_a_moment(client: RawClient, p11fault: FaultModule) -> None:
    slot = slot_of(client)
    label, serial, *_ = client.token(slot)[1]
    p11fault.set(Unnamed(count=1))
    assert [client.token(slot)[1][:2] for _ in range(2)] == [("", ""), (label, serial)]


def test_a_token_can_hide_and_can_lack_ecdsa(client: RawClient, p11fault: FaultModule) -> None:
    slot = slot_of(client)
    assert 0x1041 in client.mechanisms(slot)[1]
    p11fault.set(NoECDSA(), HiddenUntilFinalize())
    assert 0x1041 not in client.mechanisms(slot)[1]
    assert client.token(slot)[0] == CKR["CKR_TOKEN_NOT_PRESENT"]
    assert [client.finalize()[0], client.initialize()[0], client.token(slot)[0]] == [OK, OK, OK]


# ---- A processor of its own ----


def test_what_was_signed_before_is_recalled_for_the_same_key_and_digest_alone(
    ready: Ready, p11fault: FaultModule
) -> None:
    client, session = ready.client, ready.session
    _, (_, other) = client.generate(session, b"\x03\x04")
    p11fault.set(Recall())
    first = client.sign(session, ready.key, DIGEST)
    assert first[0] == OK
    assert client.sign(session, ready.key, DIGEST) == first
    others = [client.sign(session, other, DIGEST), client.sign(session, ready.key, bytes(32))]
    assert [rv for rv, _ in others] == [OK, OK]
    assert len({signature for _, signature in [first, *others]}) == 3


def test_a_session_that_recalls_answers_as_the_real_module_does(ready: Ready, p11fault: FaultModule) -> None:
    client, session = ready.client, ready.session
    p11fault.set(Recall())
    assert client.sign_only(session, DIGEST)[0] == CKR["CKR_OPERATION_NOT_INITIALIZED"]
    client.sign(session, ready.key, DIGEST)
    assert client.sign_only(session, DIGEST)[0] == CKR["CKR_OPERATION_NOT_INITIALIZED"]
    client.sign_init(session, ready.key)
    p11fault.clear()
    assert client.sign_only(session, DIGEST)[0] == OK


# ---- Quirks ----


@pytest.mark.parametrize(("quirk", "left_out"), [(QuirkName.RAW_EC_POINT, 2), (QuirkName.BARE_EC_POINT, 3)])
def test_a_point_can_be_without_its_der(ready: Ready, p11fault: FaultModule, quirk: QuirkName, left_out: int) -> None:
    client, session, public = ready.client, ready.session, ready.public
    _, der = client.attribute(session, public, CKA.EC_POINT)
    raw = der[left_out:]
    p11fault.set(Quirk(quirk))
    assert client.attribute(session, public, CKA.EC_POINT) == (OK, raw)
    assert client.attribute(session, public, CKA.EC_POINT, None) == (OK, len(raw))
    assert client.attribute(session, public, CKA.EC_POINT, len(raw)) == (OK, raw)
    assert client.attribute(session, public, CKA.EC_POINT, len(raw) - 1)[0] == CKR["CKR_BUFFER_TOO_SMALL"]
    assert client.attribute(session, public, CKA.ID) == (OK, b"\x01\x02")
    assert client.find(session, [(CKA.EC_POINT, raw)]) == (OK, [public])
    assert client.find(session, [(CKA.EC_POINT, der)]) == (OK, [])


def test_a_private_key_can_carry_its_point(ready: Ready, p11fault: FaultModule) -> None:
    client, session = ready.client, ready.session
    client.generate(session, b"\x03")
    _, der = client.attribute(session, ready.public, CKA.EC_POINT)
    search = [(CKA.CLASS, CKA.PRIVATE_KEY), (CKA.EC_POINT, der)]
    p11fault.set(Quirk(QuirkName.NO_POINT_ON_PRIVATE_KEY))
    assert client.attribute(session, ready.key, CKA.EC_POINT)[0] == CKR["CKR_ATTRIBUTE_TYPE_INVALID"]
    assert client.find(session, search) == (OK, [])
    p11fault.set(Quirk(QuirkName.POINT_ON_PRIVATE_KEY), Quirk(QuirkName.NO_POINT_ON_PUBLIC_KEY))
    assert client.attribute(session, ready.key, CKA.EC_POINT) == (OK, der)
    assert client.find(session, search) == (OK, [ready.key])
    assert client.attribute(session, ready.public, CKA.EC_POINT)[0] == CKR["CKR_ATTRIBUTE_TYPE_INVALID"]
    assert client.find(session, [(CKA.CLASS, CKA.PUBLIC_KEY), (CKA.EC_POINT, der)]) == (OK, [])
    assert p11fault.open_sessions() == 1


def test_a_private_key_can_be_stored_with_its_point(ready: Ready, p11fault: FaultModule) -> None:
    p11fault.set(Quirk(QuirkName.POINT_ON_PRIVATE_KEY))
    template = [
        (CKA.CLASS, CKA.PRIVATE_KEY), (CKA.KEY_TYPE, CKA.EC), (CKA.TOKEN, CKA.YES), (CKA.PRIVATE, CKA.YES),
        (CKA.EC_PARAMS, bytes.fromhex("06052b8104000a")), (CKA.VALUE, bytes(31) + b"\x05"),
        (CKA.EC_POINT, b"\x04\x41\x04" + bytes(64)), (CKA.SIGN, CKA.YES),
    ]  # fmt: skip
    rv, key = ready.client.create(ready.session, template)
    assert rv == OK
    assert ready.client.sign(ready.session, key, DIGEST)[0] == OK


def test_read_only_sessions_can_be_unknown(client: RawClient, p11fault: FaultModule) -> None:
    p11fault.set(Quirk(QuirkName.RW_SESSIONS_ONLY))
    slot = slot_of(client)
    assert client.open(slot, write=False)[0] == CKR["CKR_SESSION_READ_ONLY"]
    assert client.open(slot, write=True)[0] == OK


def test_handles_can_belong_to_the_session_that_found_them(ready: Ready, p11fault: FaultModule) -> None:
    client, search = ready.client, [(CKA.CLASS, CKA.PRIVATE_KEY)]
    p11fault.set(Quirk(QuirkName.HANDLES_PER_SESSION))
    _, other = client.open(ready.slot)
    _, (mine,) = client.find(ready.session, search)
    _, (theirs,) = client.find(other, search)
    assert mine != theirs
    assert client.sign(other, mine, DIGEST)[0] == CKR["CKR_KEY_HANDLE_INVALID"]
    assert client.attribute(other, mine, CKA.ID)[0] == CKR["CKR_OBJECT_HANDLE_INVALID"]
    assert [client.sign(ready.session, mine, DIGEST)[0], client.sign(other, theirs, DIGEST)[0]] == [OK, OK]
    _, (public, private) = client.generate(other, b"\x09")
    assert [client.attribute(other, public, CKA.ID)[1], client.sign(other, private, DIGEST)[0]] == [b"\x09", OK]


@pytest.mark.parametrize(
    ("quirk", "form", "wrong"),
    [(QuirkName.PIN_CU_USER, "alice:{}", ["{}", ":{}"]), (QuirkName.PIN_AUTH_KEY, "00fF{}", ["wxyz{}", "12"])],
)
def test_a_pin_can_have_a_form_of_its_own(
    client: RawClient, p11fault: FaultModule, quirk: QuirkName, form: str, wrong: list[str]
) -> None:
    pin = p11fault.token.pin
    p11fault.set(Quirk(quirk))
    _, session = client.open(slot_of(client))
    for each in wrong:
        assert client.login(session, each.format(pin))[0] == CKR["CKR_PIN_INCORRECT"]
    assert "count low" not in p11fault.token.flags()
    assert client.login(session, form.format(pin))[0] == OK


def test_a_long_id_can_be_cut_or_refused(ready: Ready, p11fault: FaultModule) -> None:
    client, session, long_id = ready.client, ready.session, b"\x07\x08\x09"
    p11fault.set(Quirk(QuirkName.CKA_ID_2))
    _, (public, _) = client.generate(session, long_id)
    assert client.attribute(session, public, CKA.ID) == (OK, b"\x07\x08")
    assert public in client.find(session, [(CKA.ID, long_id)])[1]
    p11fault.set(Quirk(QuirkName.CKA_ID_2_REFUSED))
    invalid = CKR["CKR_ATTRIBUTE_VALUE_INVALID"]
    assert [client.generate(session, long_id)[0], client.find(session, [(CKA.ID, long_id)])[0]] == [invalid, invalid]
    assert client.generate(session, b"\x0a\x0b")[0] == OK


def test_a_device_can_have_sixteen_sessions(client: RawClient, p11fault: FaultModule) -> None:
    p11fault.set(Quirk(QuirkName.SESSIONS_16))
    codes = client.repeat(20, 1, "open", slot_of(client))[1]
    assert codes == [OK] * 16 + [CKR["CKR_SESSION_COUNT"]] * 4


def test_a_logout_can_cost_the_sessions(ready: Ready, p11fault: FaultModule) -> None:
    p11fault.set(Quirk(QuirkName.LOGOUT_DROPS_SESSIONS))
    assert ready.client.logout(ready.session)[0] == OK
    assert_lost_its_session_and_login(ready, p11fault)
