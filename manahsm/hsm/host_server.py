"""What a host process does for its client: sessions that sign side by side, and the keeping of keys.

The one thing to know: each session has a thread of its own, so sessions sign in parallel; everything else (finding,
making and importing keys) happens on the anchor session in the administration thread. Where the library refuses
locking there is one thread and one session.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from manahsm.hsm import token_keys
from manahsm.hsm.cryptoki import TokenCallFailed
from manahsm.hsm.host_session import Lane, SigningSession, discards_session, failure_of
from manahsm.hsm.host_token import LoggedInToken, open_token
from manahsm.hsm.protocol import (
    CloseSession,
    Command,
    Done,
    Failed,
    Failure,
    FindKeys,
    GenerateKey,
    ImportKey,
    Info,
    Keys,
    LoggedIn,
    LogInAgain,
    Opened,
    OpenSession,
    Ready,
    RelabelKey,
    Reply,
    Shutdown,
    Sign,
    Signed,
    Start,
    StartFailed,
    TokenInfo,
    read_commands,
)
from manahsm.processes.frames import FrameWriter

__all__ = ["Host", "serve"]

_READ_SIZE = 1 << 16
_KEYS_PER_FRAME = 100
_NO_SESSION = Failure("SESSION_DISCARDED", None, "C_Sign", "the session is closed")


class Host:
    """Serves one client with one token. All methods but the jobs belong to the reading thread."""

    def __init__(self, token: LoggedInToken, write: Callable[[Reply], None]) -> None:
        self._token = token
        self._write = write
        self._generation = 1
        self._sessions: dict[int, SigningSession] = {}
        self._numbers = itertools.count(1)
        self._administration = Lane("administration")
        self._lanes = [self._administration]
        self._jobs: dict[type[Any], Callable[[Any], list[Reply]]] = {
            FindKeys: self._find_keys,
            GenerateKey: self._generate_key,
            ImportKey: self._import_key,
            RelabelKey: self._relabel_key,
            TokenInfo: self._token_info,
            LogInAgain: self._log_in_again,
        }

    @property
    def max_sessions(self) -> int | None:
        """How many sessions this host will open, or ``None`` for no limit of its own."""
        return self._token.module.quirks.max_sessions if self._token.module.locking else 1

    def handle(self, command: Command) -> None:
        """Hand a command to the thread that will answer it."""
        if type(command) is Sign:
            session = self._sessions.get(command.session)
            if session is None:
                self._write(Signed(command.id, [_NO_SESSION] * len(command.items)))
            else:
                session.lane.put(self._sign, (session, command))
        elif type(command) is OpenSession:
            self._begin_session(command)
        elif type(command) is CloseSession:
            self._end_session(command)
        else:
            self._administration.put(self._administer, command)

    def close(self) -> None:
        """Finish what is queued, close every session, log out and finalize."""
        for session in list(self._sessions.values()):
            session.lane.put(SigningSession.close, session)
        for lane in self._lanes:
            lane.finish()
        for lane in self._lanes:
            lane.join()
        # C_Finalize only now: while another thread is in a call it would crash.
        token = self._token
        for step in (token.anchor.logout, token.anchor.close, token.module.cryptoki.finalize):
            with suppress(TokenCallFailed):
                step()

    def info(self) -> Info:
        """Describe this host and its token."""
        token, found = self._token, self._token.info()
        return Info(
            pid=os.getpid(),
            slot_id=token.slot_id,
            token_label=token.label,
            serial=token.serial,
            manufacturer=found.text("manufacturer"),
            model=found.text("model"),
            firmware=f"{found.firmware.major}.{found.firmware.minor}",
            flags=found.flag_names,
            max_sessions=found.max_sessions,
            max_session_threads=self.max_sessions,
            mechanisms=token.mechanism_names(),
            locking=token.module.locking,
            library=token.module.description,
            generation=self._generation,
        )

    # ---- sessions: begun and ended by the reading thread, used by their own ----

    def _begin_session(self, command: OpenSession) -> None:
        limit = self.max_sessions
        if limit is not None and len(self._sessions) >= limit:
            detail = f"this host has all {limit} of its sessions open"
            self._write(Failed(command.id, Failure("HOST_SESSION_LIMIT", None, "C_OpenSession", detail)))
            return
        self._lanes = [lane for lane in self._lanes if lane.is_alive]
        number = next(self._numbers)
        lane = self._administration
        if self._token.module.locking:
            lane = Lane(f"session {number}")
            self._lanes.append(lane)
        self._sessions[number] = session = SigningSession(self._token, lane)
        lane.put(self._open_session, (command, number, session))

    def _end_session(self, command: CloseSession) -> None:
        session = self._sessions.pop(command.session, None)
        if session is None:
            self._write(Done(command.id))
            return
        session.lane.put(self._close_session, (command, session))
        if session.lane is not self._administration:
            session.lane.finish()

    def _open_session(self, job: tuple[OpenSession, int, SigningSession]) -> None:
        command, number, session = job
        generation = self._generation
        try:
            session.open(generation)
        except TokenCallFailed as error:
            # Its client never learns the number, so nothing else can be queued for it.
            self._sessions.pop(number, None)
            if session.lane is not self._administration:
                session.lane.finish()
            self._write(Failed(command.id, error.failure))
        else:
            self._write(Opened(command.id, number, generation))

    def _close_session(self, job: tuple[CloseSession, SigningSession]) -> None:
        command, session = job
        session.close()
        self._write(Done(command.id))

    def _sign(self, job: tuple[SigningSession, Sign]) -> None:
        session, command = job
        self._write(Signed(command.id, session.sign(command, self._generation)))

    # ---- administration: jobs of one thread, on the anchor session ----

    def _administer(self, command: Any) -> None:
        try:
            replies = self._jobs[type(command)](command)
        except Exception as error:  # noqa: BLE001 - a bug in here must not end the sessions that sign
            failure = failure_of(error)
            if discards_session(failure):
                with suppress(TokenCallFailed):
                    self._token.replace_anchor()
            replies = [Failed(command.id, failure)]
        for reply in replies:
            self._write(reply)

    def _find_keys(self, command: FindKeys) -> list[Reply]:
        anchor = self._token.usable_anchor()
        keys = token_keys.find_keys(anchor)
        self._token.check_login(anchor)  # were it gone meanwhile, the token would seem to have lost its keys
        pages = [keys[start : start + _KEYS_PER_FRAME] for start in range(0, len(keys), _KEYS_PER_FRAME)] or [[]]
        return [Keys(command.id, page, page is not pages[-1]) for page in pages]

    def _generate_key(self, command: GenerateKey) -> list[Reply]:
        return [Keys(command.id, [token_keys.generate_key(self._token.usable_anchor(), command.label)])]

    def _import_key(self, command: ImportKey) -> list[Reply]:
        anchor = self._token.usable_anchor()
        key = token_keys.import_key(anchor, command.private_key, command.public_key, command.label)
        return [Keys(command.id, [key])]

    def _relabel_key(self, command: RelabelKey) -> list[Reply]:
        if not token_keys.relabel_key(self._token.usable_anchor(), command.public_key, command.label):
            raise TokenCallFailed.named("KEY_NOT_FOUND", "C_FindObjects", "the token does not hold this key")
        return [Done(command.id)]

    def _token_info(self, command: TokenInfo) -> list[Reply]:
        return [Ready(command.id, self.info())]

    def _log_in_again(self, command: LogInAgain) -> list[Reply]:
        self._token.renew_login(command.pin)
        self._generation += 1
        return [LoggedIn(command.id, self._generation)]


def _commands(descriptor: int) -> Iterator[Command]:
    """Commands from the pipe until it ends or one says so."""
    reader = read_commands()
    while data := os.read(descriptor, _READ_SIZE):
        for command in reader.feed(data):
            if type(command) is Shutdown:
                return
            yield command


def _start(commands: Iterator[Command], write: FrameWriter) -> Host | None:
    start = next(commands, None)
    if not isinstance(start, Start):
        return None
    try:
        host = Host(open_token(start), write)
        write(Ready(0, host.info()))
    except Exception as error:  # noqa: BLE001 - whatever it is, the client has to hear of it
        write(StartFailed(failure_of(error)))
        return None
    return host


def serve(command_pipe: int, reply_pipe: int) -> int:
    """Serve until the client ends the pipe; returns the exit status."""
    commands = _commands(command_pipe)
    # The Start message, and the PIN with it, is forgotten when this returns.
    host = _start(commands, FrameWriter(reply_pipe))
    if host is None:
        return 1
    for command in commands:
        host.handle(command)
    host.close()
    return 0
