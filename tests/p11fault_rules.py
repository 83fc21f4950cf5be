"""What the fault module can be told to do (tests/faults/p11fault.c): a frozen value for each line of its control file.

The one thing to know: a :class:`Rule` is about calls of one function, or of any, and says when and how often; every
other :class:`Directive` is about the whole token. :class:`p11fault.FaultModule` hands them to the module.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from attrs import Attribute, field, frozen

from manahsm.hsm.return_codes import CKR

__all__ = [
    "FUNCTIONS",
    "SOURCE",
    "CantLock",
    "Crash",
    "CrashSignal",
    "Delay",
    "DeviceSessions",
    "Directive",
    "Exit",
    "Gone",
    "Hang",
    "HiddenUntilFinalize",
    "Idle",
    "Logout",
    "NoECDSA",
    "Poison",
    "Print",
    "Quirk",
    "QuirkName",
    "Recall",
    "Replugged",
    "Return",
    "Rule",
    "Seed",
    "Sessions",
    "SlotOffset",
    "Spoil",
    "Spoiled",
    "TokenFlags",
    "TokenLabel",
    "TokenMaxSessions",
    "TokenSerial",
    "Unnamed",
]

SOURCE = Path(__file__).parent / "faults" / "p11fault.c"
"""The module's source, and the documentation of its control language."""

FUNCTIONS = tuple(f"C_{name}" for name in re.findall(r"\bX\((\w+), (?:0|FIRST_\w+),", SOURCE.read_text()))
"""Every function of PKCS#11 v2.40, in the order in which the module counts them."""


@frozen
class Directive:
    """Something that the module shall do."""

    def line(self) -> str:
        """Its line in the control file."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.line()


def _known_function(_: object, attribute: Attribute[str], value: str) -> None:
    if value != "*" and value not in FUNCTIONS:
        raise ValueError(f"{attribute.name}: PKCS#11 has no function {value!r}")


def _code(value: int | str) -> int:
    return CKR[value] if isinstance(value, str) else value


@frozen
class Rule(Directive):
    """Something that happens to calls of one function, or of any (``*``).

    Attributes:
        when_after: after the real module has done its work, instead of before.
        after: not before so many calls have come by.
        every: then only at every so many-th.
        probability: then with this chance, by the dice of :class:`Seed`.
        count: then so many times and no more.
    """

    when_after: bool = field(default=False, kw_only=True)
    after: int = field(default=0, kw_only=True)
    every: int = field(default=1, kw_only=True)
    probability: float | None = field(default=None, kw_only=True)
    count: int | None = field(default=None, kw_only=True)

    def verb(self) -> str:
        """What follows the function's name."""
        raise NotImplementedError

    def line(self) -> str:
        """Its line without an id."""
        conditions = [
            ("when=after", self.when_after),
            (f"after={self.after}", self.after),
            (f"every={self.every}", self.every != 1),
            (f"p={self.probability}", self.probability is not None),
            (f"count={self.count}", self.count is not None),
        ]
        function = getattr(self, "function", "C_Sign")
        return " ".join([function, self.verb(), *(text for text, given in conditions if given)])


@frozen
class _FunctionRule(Rule):
    function: str = field(validator=_known_function)


@frozen
class Return(_FunctionRule):
    """Fail with a return code, by number or name. With ``when_after`` the token has done it all the same."""

    code: int = field(converter=_code)

    def verb(self) -> str:
        return f"return {self.code:#x}"


@frozen
class Delay(_FunctionRule):
    """Take so many milliseconds longer, and up to ``jitter`` more."""

    ms: float
    jitter: float = 0.0

    def verb(self) -> str:
        return f"delay {self.ms} jitter {self.jitter}"


@frozen
class Hang(_FunctionRule):
    """Do not go on before this rule is lifted."""

    def verb(self) -> str:
        return "hang"


class CrashSignal(StrEnum):
    """How a process dies."""

    ABORT = "abort"
    SEGV = "segv"
    KILL = "kill"


@frozen
class Crash(_FunctionRule):
    """End the process by a signal."""

    how: CrashSignal = CrashSignal.ABORT

    def verb(self) -> str:
        return f"crash {self.how}"


@frozen
class Exit(_FunctionRule):
    """End the process with an exit status."""

    status: int = 0

    def verb(self) -> str:
        return f"exit {self.status}"


@frozen
class Print(_FunctionRule):
    """Write to standard output."""

    def verb(self) -> str:
        return "print"


@frozen
class Logout(_FunctionRule):
    """Log the whole process out first."""

    def verb(self) -> str:
        return "logout"


@frozen
class Unnamed(Rule):
    """C_GetTokenInfo tells neither label nor serial number, as SoftHSM does while another process logs in."""

    function: ClassVar[str] = "C_GetTokenInfo"

    def verb(self) -> str:
        return "unnamed"


@frozen
class Poison(Rule):
    """C_Sign fails, and its session answers CKR_OPERATION_ACTIVE for ever."""

    code: int = field(default=CKR["CKR_DEVICE_ERROR"], converter=_code)

    def verb(self) -> str:
        return f"poison {self.code:#x}"


class Spoiled(StrEnum):
    """What is wrong with a signature."""

    CORRUPT = "corrupt"
    """One bit changed."""
    TRUNCATE = "truncate"
    """63 bytes."""
    ZERO = "zero"
    """64 zeros."""
    HIGH_S = "high_s"
    """Nothing but a high s."""
    OTHER_KEY = "other_key"
    """Valid, and by another key."""


@frozen
class Spoil(Rule):
    """C_Sign gives a signature that is not what it should be."""

    how: Spoiled

    def verb(self) -> str:
        return self.how.value


@frozen
class _Flag(Directive):
    WORD: ClassVar[str]

    def line(self) -> str:
        return self.WORD


@frozen
class Gone(_Flag):
    """The token was pulled out."""

    WORD = "gone"


@frozen
class CantLock(_Flag):
    """C_Initialize refuses to be used by threads."""

    WORD = "cant-lock"


@frozen
class HiddenUntilFinalize(_Flag):
    """The token shows itself only after C_Finalize was called once."""

    WORD = "hidden-until-finalize"


@frozen
class NoECDSA(_Flag):
    """The token does not offer CKM_ECDSA."""

    WORD = "no-ecdsa"


@frozen
class Recall(_Flag):
    """A digest that a key has signed before gets the same signature, which costs this machine no time."""

    WORD = "recall"


@frozen
class _Setting(Directive):
    WORD: ClassVar[str]
    value: int

    def line(self) -> str:
        return f"{self.WORD} {self.value}"


@frozen
class Seed(_Setting):
    """For the dice of probabilities and jitter."""

    WORD = "seed"


@frozen
class Sessions(_Setting):
    """Sessions that one process may have open."""

    WORD = "sessions"


@frozen
class DeviceSessions(_Setting):
    """Sessions that all processes together may have open."""

    WORD = "device-sessions"


@frozen
class Idle(_Setting):
    """Milliseconds after which an unused session is closed."""

    WORD = "idle"


@frozen
class Replugged(_Setting):
    """The token was out and in again since the last number."""

    WORD = "replugged"


@frozen
class SlotOffset(_Setting):
    """All slot ids are higher by this."""

    WORD = "slot-offset"


@frozen
class TokenMaxSessions(_Setting):
    """What the token says of how many sessions it allows."""

    WORD = "token-max-sessions"


@frozen
class TokenFlags(Directive):
    """CKF_* of CK_TOKEN_INFO to set and to clear."""

    set: int = 0
    clear: int = 0

    def line(self) -> str:
        return f"token-flags {self.set:#x} {self.clear:#x}"


@frozen
class TokenLabel(Directive):
    """Another label in CK_TOKEN_INFO."""

    text: str

    def line(self) -> str:
        return f"token-label {self.text}"


@frozen
class TokenSerial(Directive):
    """Another serial number in CK_TOKEN_INFO."""

    text: str

    def line(self) -> str:
        return f"token-serial {self.text}"


class QuirkName(StrEnum):
    """How vendors' modules leave the standard, or SoftHSM; explained in p11fault.c."""

    RAW_EC_POINT = "raw-ec-point"
    BARE_EC_POINT = "bare-ec-point"
    RW_SESSIONS_ONLY = "rw-sessions-only"
    HANDLES_PER_SESSION = "handles-per-session"
    PIN_CU_USER = "pin-cu-user"
    PIN_AUTH_KEY = "pin-auth-key"
    CKA_ID_2 = "cka-id-2"
    CKA_ID_2_REFUSED = "cka-id-2-refused"
    SESSIONS_16 = "sessions-16"
    POINT_ON_PRIVATE_KEY = "point-on-private-key"
    NO_POINT_ON_PRIVATE_KEY = "no-point-on-private-key"
    NO_POINT_ON_PUBLIC_KEY = "no-point-on-public-key"
    LOGOUT_DROPS_SESSIONS = "logout-drops-sessions"
    GONE_UNTIL_INITIALIZE = "gone-until-initialize"


@frozen
class Quirk(Directive):
    """Behave like a vendor's module."""

    name: QuirkName

    def line(self) -> str:
        return f"quirk {self.name}"
