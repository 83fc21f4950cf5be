"""From a Start frame to a logged-in token: load, choose, look at the flags, log in once. Host process only.

The one thing to know: a wrong PIN uses up one of few tries and the last one locks the token, so there is exactly one
C_Login for each Start or LogInAgain frame, and none where the token says that it would be the last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from attrs import field, mutable

from manahsm.hsm.cryptoki import TokenCallFailed, TokenInfoStructure
from manahsm.hsm.login_turn import login_turn
from manahsm.hsm.module import Module, TokenSession
from manahsm.hsm.outcomes import Action, outcome_of
from manahsm.hsm.protocol import Start
from manahsm.hsm.return_codes import CKR
from manahsm.hsm.throttle import Throttle

__all__ = ["LoggedInToken", "choose_token", "open_token"]

_MECHANISMS = {0x1040: "CKM_EC_KEY_PAIR_GEN", 0x1041: "CKM_ECDSA"}
# Two SoftHSM processes that start at the same instant can make one of them see no token.
_LOOK_AGAIN_AFTER = (0.02, 0.1, 0.3)

_NOT_LOGGED_IN = CKR["CKR_USER_NOT_LOGGED_IN"]
_SESSION_GONE = frozenset({CKR["CKR_SESSION_HANDLE_INVALID"], CKR["CKR_SESSION_CLOSED"]})

TokenList = Sequence[tuple[int, TokenInfoStructure]]


@mutable(eq=False)
class LoggedInToken:
    """A token with its anchor session, which keeps the login alive as long as the host lives."""

    module: Module
    slot_id: int
    label: str
    serial: str
    anchor: TokenSession = field(init=False)
    login_lock: threading.Lock = field(init=False, factory=threading.Lock)
    """Held while the login is renewed, and while a session looks for a key and for the reason that it sees none."""
    throttle: Throttle = field(init=False)

    @throttle.default
    def _new_throttle(self) -> Throttle:
        return Throttle(possible=self.module.quirks.device_error_throttles)

    def info(self) -> TokenInfoStructure:
        """Ask the token how it is, and whether it still is the same one.

        Raises:
            TokenCallFailed: what C_GetTokenInfo returned; CKR_TOKEN_NOT_PRESENT where another one took its place.
        """
        names = self.label, self.serial
        info = self.module.token_info(self.slot_id, names)
        if info.names != names:
            raise TokenCallFailed.named("TOKEN_NOT_FOUND", "C_GetTokenInfo", "another token took its place")
        return info

    def mechanism_names(self) -> list[str]:
        """The mechanisms that matter here, by name."""
        offered = self.module.cryptoki.mechanisms(self.slot_id)
        return [name for number, name in _MECHANISMS.items() if number in offered]

    def open_session(self) -> TokenSession:
        """Open a session to sign on; it starts logged in."""
        return self.module.open_session(self.slot_id)

    def open_anchor(self) -> TokenSession:
        """Open a session that may also change the token, unless that is write-protected."""
        return self.module.open_session(self.slot_id, read_write="WRITE_PROTECTED" not in self.info().flag_names)

    def replace_anchor(self) -> None:
        """Put a fresh session in the anchor's place, without ever being without one: the last to close logs out."""
        spent = self.anchor
        try:
            self.anchor = self.open_anchor()
        except TokenCallFailed as error:
            if error.failure.rv != CKR["CKR_SESSION_COUNT"]:
                raise
            with suppress(TokenCallFailed):
                spent.close()  # there is no room for two
            self.anchor = self.open_anchor()
        else:
            with suppress(TokenCallFailed):
                spent.close()

    def usable_anchor(self) -> TokenSession:
        """The anchor, or a new one where the device has closed it, before anything is done on it.

        Raises:
            TokenCallFailed: CKR_USER_NOT_LOGGED_IN from C_GetSessionInfo: nothing was done. Without a login a token
                shows no private keys, which would look as if it held none.
        """
        try:
            self.check_login(self.anchor)
        except TokenCallFailed as error:
            if error.failure.rv not in _SESSION_GONE:
                raise
            self.replace_anchor()
            self.check_login(self.anchor)
        return self.anchor

    def check_login(self, session: TokenSession) -> None:
        """Look whether a session has the rights that it needs.

        Raises:
            TokenCallFailed: CKR_USER_NOT_LOGGED_IN, or what the token answered.
        """
        if not session.is_logged_in and "LOGIN_REQUIRED" in self.info().flag_names:
            raise TokenCallFailed.code(_NOT_LOGGED_IN, "C_GetSessionInfo", "the token has logged this host out")

    def renew_login(self, pin: str) -> None:
        """Log in once more, on a fresh anchor: the old one may be what was lost."""
        with self.login_lock, login_turn(self.module.path):
            self.replace_anchor()
            self.log_in(pin)

    def log_in(self, pin: str | None) -> None:
        """Log in on the anchor session, once.

        Raises:
            TokenCallFailed: PIN_MISSING, PIN_FINAL_TRY, CKR_PIN_LOCKED, or what C_Login returned.
        """
        flags = self.info().flag_names
        if "LOGIN_REQUIRED" not in flags and pin is None:
            return
        if pin is None:
            raise TokenCallFailed.named(
                "PIN_MISSING", "C_Login", "this token needs a login: set hsm.pin_file or HSM_PIN_FILE"
            )
        if "USER_PIN_LOCKED" in flags:
            raise TokenCallFailed.code(0xA4, "C_Login", "failed to log in: the PIN is locked; reset it with the SO PIN")
        if "USER_PIN_FINAL_TRY" in flags:
            raise TokenCallFailed.named(
                "PIN_FINAL_TRY",
                "C_Login",
                "failed to log in: one more wrong PIN would lock the token, so it was not tried; log in once with the "
                "vendor's tool to clear this",
            )
        try:
            self.anchor.login(pin)
        except TokenCallFailed as error:
            raise _explained(error, flags) from None


def open_token(start: Start) -> LoggedInToken:
    """Load the library, find the token and log in.

    Raises:
        TokenCallFailed: why not, in words that say what to do.
    """
    with login_turn(start.library_path):
        module = Module(start.library_path, start.quirks)
        slot_id, info = _find(module, start)
        if not all(info.names):
            info = module.token_info(slot_id)
        token = LoggedInToken(module, slot_id, *info.names)
        if "CKM_ECDSA" not in token.mechanism_names():
            raise TokenCallFailed.named(
                "TOKEN_UNSUITABLE", "C_GetMechanismList", f"token {token.label!r} does not offer CKM_ECDSA"
            )
        token.anchor = token.open_anchor()
        token.log_in(start.pin)
    return token


def _find(module: Module, start: Start) -> tuple[int, TokenInfoStructure]:
    for delay in _LOOK_AGAIN_AFTER:
        try:
            return choose_token(list(module.tokens()), start)
        except TokenCallFailed as error:
            if error.failure.name != "TOKEN_NOT_FOUND":
                raise
        time.sleep(delay)
        module.look_again()
    return choose_token(list(module.tokens()), start)


def choose_token(tokens: TokenList, start: Start) -> tuple[int, TokenInfoStructure]:
    """The one token that matches all that is asked for.

    Raises:
        TokenCallFailed: TOKEN_NOT_FOUND or TOKEN_AMBIGUOUS, naming what is there.
    """
    matching = [
        (slot_id, info)
        for slot_id, info in tokens
        if start.slot_id in (None, slot_id)
        and start.token_label in (None, info.text("label"))
        and start.serial in (None, info.text("serial"))
    ]
    if len(matching) == 1:
        return matching[0]
    wanted = " ".join(
        part
        for part, given in (
            (f"labelled {start.token_label!r}", start.token_label is not None),
            (f"in slot {start.slot_id}", start.slot_id is not None),
            (f"with serial {start.serial!r}", start.serial is not None),
        )
        if given
    )
    there = ", ".join(f"{info.text('label')!r} (slot {slot_id})" for slot_id, info in tokens) or "none"
    if matching:
        raise TokenCallFailed.named(
            "TOKEN_AMBIGUOUS", "C_GetSlotList", f"several tokens {wanted}; found: {there}; set hsm.slot_id as well"
        )
    raise TokenCallFailed.named(
        "TOKEN_NOT_FOUND",
        "C_GetSlotList",
        f"no token {wanted}; found: {there}; check hsm.token_label and the library's own configuration "
        "(for SoftHSM the variable SOFTHSM2_CONF)",
    )


def _explained(error: TokenCallFailed, flags: list[str]) -> TokenCallFailed:
    failure = error.failure
    if failure.name == "CKR_USER_PIN_NOT_INITIALIZED" and "USER_PIN_INITIALIZED" in flags:
        # The token contradicts itself, and there was no PIN that ours could have been compared with.
        return TokenCallFailed.named("LOGIN_DISTURBED", "C_Login", "another program was logging in at the same time")
    if failure.rv is None or outcome_of(failure.rv, failure.function).action is not Action.LATCH:
        return error
    wrong = (
        "wrong PIN, or not in the form that this vendor wants"
        if failure.name == "CKR_PIN_INCORRECT"
        else "the token refused the PIN"
    )
    return TokenCallFailed.code(
        failure.rv,
        failure.function,
        f"failed to log in: {wrong} ({failure.name}); it will not be tried again until an operator acts, so that the "
        "token does not lock",
    )
