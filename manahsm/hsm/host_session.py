"""One signing session inside a host: its key handles, and what becomes of it after a failure. Host process only.

The one thing to know: handles are good for one session and one generation (after a re-login an old handle was seen to
sign with another key), and a session whose C_Sign failed is never used again: what is still queued for it is refused
and can be signed elsewhere.
"""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from manahsm.hsm.cryptoki import TokenCallFailed
from manahsm.hsm.host_token import LoggedInToken
from manahsm.hsm.module import TokenSession
from manahsm.hsm.outcomes import outcome_named, outcome_of
from manahsm.hsm.protocol import Failure, Sign
from manahsm.hsm.token_keys import find_private

__all__ = ["Lane", "SigningSession", "discards_session", "failure_of"]

_DIGEST_SIZE = 32
_EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
_STALE = Failure("STALE_GENERATION", None, "C_Sign", "the host has logged in anew since this session was opened")
_DISCARDED = Failure("SESSION_DISCARDED", None, "C_Sign", "an earlier call on this session failed")
_DIGEST_LENGTH = Failure("DIGEST_LENGTH", None, "C_Sign", "a digest has 32 bytes")


class Lane:
    """A thread that does one thing after another. A library without locking gets one for everything."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[Any], None], Any] | None] = queue.SimpleQueue()
        # A daemon: a call that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Callable[[Any], None], argument: Any) -> None:
        """Queue ``job(argument)``; it must not raise."""
        self._jobs.put((job, argument))

    def finish(self) -> None:
        """End after what is queued."""
        self._jobs.put(None)

    @property
    def is_alive(self) -> bool:
        """Whether it may still be in a call."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def _run(self) -> None:
        while (queued := self._jobs.get()) is not None:
            job, argument = queued
            try:
                job(argument)
            except BaseException:  # noqa: BLE001 - a thread that died silently would look like a hang
                traceback.print_exc()
                os._exit(_EXIT_BUG)


class SigningSession:
    """A session, the thread that uses it, and the handles it has found."""

    def __init__(self, token: LoggedInToken, lane: Lane) -> None:
        self.lane = lane
        self._token = token
        self._session: TokenSession | None = None
        self._generation = 0
        self._handles: dict[bytes, int] = {}
        self._discarded = False

    def open(self, generation: int) -> None:
        """Open the session.

        Raises:
            TokenCallFailed: what C_OpenSession returned.
        """
        self._session = self._token.open_session()
        self._generation = generation

    def sign(self, command: Sign, generation: int) -> list[bytes | Failure]:
        """Sign every item in order: 64 bytes ``r || s`` or why not.

        Args:
            command: what to sign, and in which generation the caller believes to be.
            generation: the host's own.
        """
        if not command.generation == generation == self._generation:
            return [_STALE] * len(command.items)
        return [self._sign_one(public_key, digest) for public_key, digest in command.items]

    def _sign_one(self, public_key: bytes, digest: bytes) -> bytes | Failure:
        session = self._session
        if session is None or self._discarded:
            return _DISCARDED
        if len(digest) != _DIGEST_SIZE:
            # SoftHSM would sign any length.
            return _DIGEST_LENGTH
        try:
            handle = self._handles.get(public_key)
            if handle is None:
                handle = self._handles[public_key] = self._find(session, public_key)
            signature = session.sign(handle, digest)
        except Exception as error:  # noqa: BLE001 - the binding raises more than its own exceptions
            failure = self._token.throttle.explain(failure_of(error))
            self._discarded = discards_session(failure)
            return failure
        self._token.throttle.signed()
        return signature

    def _find(self, session: TokenSession, public_key: bytes) -> int:
        # Were the login renewed between the two looks, a key that is there would be reported as missing.
        with self._token.login_lock:
            private = find_private(session, public_key)
            if private is not None:
                return private.handle
            # Keys hide from a session without a login, and a token that was pulled out shows none.
            self._token.info()
            self._token.check_login(session)
        raise TokenCallFailed.named(
            "KEY_NOT_FOUND", "C_FindObjects", f"token {self._token.label!r} does not hold this key"
        )

    def close(self) -> None:
        """Close the session; a failure to do so is of no interest any more."""
        self._discarded = True
        if self._session is not None:
            with suppress(TokenCallFailed):
                self._session.close()


def failure_of(error: Exception) -> Failure:
    """What to tell the client about an exception; of an unexpected one only its class, as texts can hold anything."""
    if isinstance(error, TokenCallFailed):
        return error.failure
    return Failure("HOST_ERROR", None, "host", f"unexpected {type(error).__name__}")


def discards_session(failure: Failure) -> bool:
    """Whether the session on which this happened must not be used again."""
    if failure.rv is None:
        return outcome_named(failure.name, failure.function).discard_session
    return outcome_of(failure.rv, failure.function).discard_session
