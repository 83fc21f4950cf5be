"""CKR_DEVICE_ERROR: of a device that throttles, of one that is broken, and of a vendor that never throttles."""

from __future__ import annotations

from manahsm.hsm.protocol import Failure
from manahsm.hsm.return_codes import CKR
from manahsm.hsm.throttle import MOST_IN_A_ROW, Throttle

DEVICE_ERROR = Failure("CKR_DEVICE_ERROR", CKR["CKR_DEVICE_ERROR"], "C_Sign")


def test_a_device_that_may_throttle_is_taken_to_do_so() -> None:
    explained = Throttle(possible=True).explain(DEVICE_ERROR)

    assert (explained.name, explained.rv, explained.function) == ("DEVICE_THROTTLED", None, "C_Sign")


def test_another_vendors_device_is_broken() -> None:
    assert Throttle(possible=False).explain(DEVICE_ERROR) is DEVICE_ERROR


def test_other_failures_are_what_they_are() -> None:
    failed = Failure("CKR_GENERAL_ERROR", CKR["CKR_GENERAL_ERROR"], "C_Sign")

    assert Throttle(possible=True).explain(failed) is failed


def test_a_device_that_signs_nothing_any_more_is_broken_until_it_signs() -> None:
    throttle = Throttle(possible=True)
    names = [throttle.explain(DEVICE_ERROR).name for _ in range(MOST_IN_A_ROW + 1)]
    throttle.signed()

    assert names == ["DEVICE_THROTTLED"] * MOST_IN_A_ROW + ["CKR_DEVICE_ERROR"]
    assert throttle.explain(DEVICE_ERROR).name == "DEVICE_THROTTLED"
