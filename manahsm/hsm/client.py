"""A host process and its sessions, as the rest of the signer sees them.

The one thing to know: :meth:`HostProcess.run` is the body of a supervised child. It spawns the process, serves until
that ends and then raises why, having reaped it; the supervisor restarts it, and each incarnation has a new
*generation*, so that sessions of an earlier one are refused instead of signing with handles that mean something else.
Nothing in here retries, with one exception: work on keys that the host refused to begin, because the token had logged
it out, is begun again after one new login; a PIN that is refused then ends the host, so that nobody tries it again.

Cost: a signature is one write to a pipe in the caller's task and one event when the reply arrives.
"""

# ruff: noqa: ASYNC109 - a timeout here is the device's and costs the host; callers who lose patience cancel

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio
from attrs import evolve

from manahsm.ethereum.signatures import public_key_of
from manahsm.hsm.calls import Call
from manahsm.hsm.failures import HostStartFailed, HSMFailure
from manahsm.hsm.info import HostInfo, TokenKey
from manahsm.hsm.link import HostLink, failure_to_error
from manahsm.hsm.outcomes import Action, outcome_named
from manahsm.hsm.protocol import (
    MAX_ITEMS,
    CloseSession,
    Command,
    Failure,
    FindKeys,
    GenerateKey,
    ImportKey,
    Info,
    KeyRecord,
    LogInAgain,
    OpenSession,
    RelabelKey,
    Sign,
    Start,
    TokenInfo,
)
from manahsm.hsm.settings import HostSettings
from manahsm.processes.child import ChildProcess
from supervisors.clock import SYSTEM_CLOCK, Clock

__all__ = ["HostProcess", "HostSession"]

_HOST = "manahsm.hsm.host"
_PRIVATE_KEY_SIZE = 32


class HostProcess:
    """One host process at a time, and what can be asked of it.

    Every method but :meth:`run` and :meth:`stop` raises :class:`~manahsm.hsm.failures.HSMFailure`, and
    takes ``timeout`` in seconds (``None``: ``settings.call_timeout``). A timeout is how long the *device* may
    take, not the patience of a caller: when it passes, the host is killed and everything outstanding fails. To stop
    waiting earlier, cancel; the host is left in peace then.

    Args:
        settings: of the host.
        clock: the time of deadlines.
        after_read: called each time when what has arrived from the host together has been passed on.
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        clock: Clock = SYSTEM_CLOCK,
        after_read: Callable[[], object] = lambda: None,
    ) -> None:
        self.settings = settings
        self._after_read = after_read
        self._clock = clock
        self._link: HostLink | None = None
        self._gone = anyio.Event()
        self._generation = 0
        self._login = anyio.Lock()
        self.info: HostInfo | None = None
        """The host and its token while it is ready, else ``None``."""

    @property
    def generation(self) -> int:
        """Counts incarnations and logins. What was opened in an earlier generation is of no use any more."""
        return self._generation

    @property
    def serving(self) -> bool:
        """Whether calls are taken: it is ready, and has neither ended nor been asked to."""
        return self.info is not None and self._link is not None and self._link.is_open

    # ---- life ----

    async def run(self, started: Callable[[HostInfo], object]) -> None:
        """Run one host process until it ends. May be called again after that, not before.

        Args:
            started: called once, when the host has logged in and serves.

        Returns:
            After :meth:`stop`. Cancellation also closes the host cleanly (or kills it after ``stop_grace``).

        Raises:
            HostStartFailed: it could not load the library, find the token or log in; see its outcome.
            HostCrashed: the process died.
            HostWedged: a call outlived its deadline, so the process was killed.
        """
        if self._link is not None:
            raise RuntimeError(f"host {self.settings.name} is running already")
        start = self._start_command()
        try:
            child = ChildProcess(_HOST, self.settings.environment)
        except OSError as error:
            message = f"host {self.settings.name} can not be started: {error.strerror}"
            raise HostStartFailed(outcome_named("SPAWN_FAILED", "spawn"), message) from error
        self._link = link = HostLink(child, self.settings.name, self._clock, self._after_read)
        self._gone = anyio.Event()
        self._generation += 1
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(link.serve)
                await self._introduce(link, start, started)
        finally:
            await link.close(self.settings.stop_grace)
            self.info = None
            self._link = None
            self._gone.set()
        if link.ending is not None:
            raise link.ending

    async def stop(self, grace: float | None = None) -> None:
        """Let the host finish what it has, log out and end; :meth:`run` then returns. Returns when it is gone.

        Args:
            grace: seconds (of real time, as the process is real) until it is killed; default ``stop_grace``.
        """
        link, gone = self._link, self._gone
        if link is None:
            return
        link.stop()
        with anyio.move_on_after(self.settings.stop_grace if grace is None else grace):
            await gone.wait()
            return
        link.kill()
        await gone.wait()

    def _start_command(self) -> Start:
        settings = self.settings
        quirks = settings.quirks
        return Start(
            library_path=settings.library_path,
            slot_id=settings.slot_id,
            token_label=settings.token_label,
            serial=settings.serial,
            pin=settings.reveal_pin(),
            read_write_sessions=quirks.read_write_sessions,
            raw_ec_point=quirks.raw_ec_point,
            max_sessions=quirks.max_sessions,
            cka_id_bytes=quirks.cka_id_bytes,
            point_on_private_key=quirks.point_on_private_key,
            device_error_throttles=quirks.device_error_throttles,
        )

    async def _introduce(self, link: HostLink, start: Start, started: Callable[[HostInfo], object]) -> None:
        try:
            call = link.begin("start", self.settings.start_timeout)
            link.send(call, start)
            ready = await call.wait()
        except HSMFailure:
            # The link knows better why, and is ending.
            return
        self.info = self._describe(ready.info)
        started(self.info)

    # ---- sessions ----

    async def open_session(self, *, timeout: float | None = None) -> HostSession:
        """Open a session in the host, with a thread of its own where the library can be used by threads.

        Raises:
            HSMFailure: CKR_SESSION_COUNT, HOST_SESSION_LIMIT (see ``info.max_session_threads``), HOST_NOT_RUNNING ...
        """
        link, reply = await self._ask("open_session", timeout, lambda call: OpenSession(call.id))
        return HostSession(self, link, reply.session, reply.generation, self._generation)

    async def log_in_again(self, seen_generation: int, *, timeout: float | None = None) -> int:
        """Renew a login that the token has dropped (CKR_USER_NOT_LOGGED_IN); returns the generation that began.

        Logs in at most once for each generation, however many ask at a time: one that saw an earlier generation than
        the present one gets the present one. Sessions of earlier generations must be closed and opened anew.

        Args:
            seen_generation: ``generation`` of the session that failed.
            timeout: seconds, see the class.
        """
        async with self._login:
            if seen_generation == self._generation:
                pin = self.settings.reveal_pin() or ""
                await self._ask("log_in_again", timeout, lambda call: LogInAgain(call.id, pin))
                self._generation += 1
                if self.info is not None:
                    self.info = evolve(self.info, generation=self._generation)
            return self._generation

    # ---- keys ----

    async def find_keys(self, *, timeout: float | None = None) -> list[TokenKey]:
        """Every secp256k1 key pair in the token, whatever made it."""
        return await self._ask_for_keys("find_keys", timeout, lambda call: FindKeys(call.id))

    async def generate_key(self, label: str, *, timeout: float | None = None) -> TokenKey:
        """Make a key pair in the token: sensitive, not extractable, proven by a signature.

        Raises:
            HSMFailure: with ``outcome.unknown`` the token may have made it all the same: look with :meth:`find_keys`
                and never just repeat.
        """
        return (await self._ask_for_keys("generate_key", timeout, lambda call: GenerateKey(call.id, label)))[0]

    async def import_key(self, private_key: bytes, label: str, *, timeout: float | None = None) -> TokenKey:
        """Store a private key of 32 bytes in the token, sensitive and not extractable from then on.

        Raises:
            HSMFailure: KEY_EXISTS when the token holds it already.
            ValueError: not a private key.
        """
        if len(private_key) != _PRIVATE_KEY_SIZE:
            raise ValueError(f"a private key has {_PRIVATE_KEY_SIZE} bytes, not {len(private_key)}")
        public_key = public_key_of(private_key)

        def command(call: Call) -> Command:
            return ImportKey(call.id, private_key, public_key, label)

        return (await self._ask_for_keys("import_key", timeout, command))[0]

    async def relabel_key(self, public_key: bytes, label: str, *, timeout: float | None = None) -> None:
        """Change CKA_LABEL of both halves of a key.

        Raises:
            HSMFailure: KEY_NOT_FOUND.
        """
        await self._ask_on_anchor("relabel_key", timeout, lambda call: RelabelKey(call.id, public_key, label))

    async def token_info(self, *, timeout: float | None = None) -> HostInfo:
        """Ask the token anew who and how it is; the cheapest call that reaches it."""
        _, reply = await self._ask("token_info", timeout, lambda call: TokenInfo(call.id))
        return self._describe(reply.info)

    # ---- calls ----

    async def _ask(self, name: str, timeout: float | None, command: Callable[[Call], Command]) -> tuple[HostLink, Any]:
        link, call = self._begin(name, timeout)
        link.send(call, command(call))
        return link, await call.wait()

    async def _ask_for_keys(
        self, name: str, timeout: float | None, command: Callable[[Call], Command]
    ) -> list[TokenKey]:
        call, last = await self._ask_on_anchor(name, timeout, command)
        return [_token_key(record) for record in (*call.pages, *last.keys)]

    async def _ask_on_anchor(
        self, name: str, timeout: float | None, command: Callable[[Call], Command]
    ) -> tuple[Call, Any]:
        for again in (False, True):
            generation = self._generation
            link, call = self._begin(name, timeout)
            link.send(call, command(call))
            try:
                return call, await call.wait()
            except HSMFailure as failure:
                if again or not _never_begun(failure):
                    raise
            await self._log_in_for_keys(link, generation)
        raise AssertionError("unreachable")

    async def _log_in_for_keys(self, link: HostLink, generation: int) -> None:
        try:
            await self.log_in_again(generation)
        except HSMFailure as failure:
            if failure.outcome.action is Action.LATCH:
                link.give_up(
                    HostStartFailed(failure.outcome, f"host {self.settings.name}: {failure.detail or failure}")
                )
            raise

    def _begin(self, name: str, timeout: float | None) -> tuple[HostLink, Call]:
        link = self._link
        if link is None or self.info is None:
            raise HSMFailure(outcome_named("HOST_NOT_RUNNING", name), f"host {self.settings.name} is not ready")
        return link, link.begin(name, self.settings.call_timeout if timeout is None else timeout)

    def _describe(self, info: Info) -> HostInfo:
        return HostInfo(
            pid=info.pid,
            slot_id=info.slot_id,
            token_label=info.token_label,
            serial=info.serial,
            manufacturer=info.manufacturer,
            model=info.model,
            firmware=info.firmware,
            flags=tuple(info.flags),
            max_sessions=info.max_sessions,
            max_session_threads=info.max_session_threads,
            mechanisms=tuple(info.mechanisms),
            locking=info.locking,
            library=info.library,
            generation=self._generation,
        )


class HostSession:
    """One session of a host; from :meth:`HostProcess.open_session`.

    Calls to :meth:`sign` may overlap: the host signs them in order, and the next one then waits in the host rather
    than here. After a failure that discards the session, or the end of its host, :attr:`usable` is false and
    the session is only good for :meth:`close`.
    """

    def __init__(
        self, host: HostProcess, link: HostLink, session_id: int, host_generation: int, generation: int
    ) -> None:
        self.id = session_id
        self.generation = generation
        """The :attr:`HostProcess.generation` in which it was opened."""
        self._host = host
        self._link = link
        self._host_generation = host_generation
        self._discarded = False

    @property
    def usable(self) -> bool:
        """Whether it may be asked to sign."""
        # A link that is open is its host's: what the host opens next comes after the end of this one.
        return not self._discarded and self._link.is_open and self._host.generation == self.generation

    async def sign(
        self, items: Sequence[tuple[bytes, bytes]], *, timeout: float | None = None
    ) -> list[bytes | HSMFailure]:
        """Sign digests, in order, in one call.

        Args:
            items: pairs of a 65-byte public key and a 32-byte digest, at most ``MAX_ITEMS`` (4096).
            timeout: seconds that the host may take for all of them together, see :class:`HostProcess`.

        Returns:
            See :meth:`signed`.

        Raises:
            HSMFailure: nothing is known of any item: the session is not usable, or the host ended meanwhile.
        """
        if not self.usable:
            raise self._refusal()
        if len(items) > MAX_ITEMS:
            detail = f"at most {MAX_ITEMS} digests in one call"
            raise HSMFailure(outcome_named("REQUEST_TOO_LARGE", "sign"), detail)
        call = self._link.begin("sign", self._host.settings.call_timeout if timeout is None else timeout)
        self._link.send(call, Sign(call.id, self.id, self._host_generation, items))
        await call.wait()
        return self.signed(call)

    def begin_each(self, items: Sequence[tuple[bytes, bytes]], *, behind: int = 0) -> list[Call]:
        """Send digests as calls of their own, each answered as soon as it is signed; in one write.

        Each has the device's timeout for itself and for each of those that it waits behind: say with :meth:`its_turn`
        when they have ended.

        Args:
            items: as for :meth:`sign`, a few.
            behind: calls on this session that have not ended. Digests that wait anyway are written a moment later,
                together with those of other sessions.

        Raises:
            HSMFailure: nothing was sent: the session is not usable, or the host does not keep up.
        """
        if not self.usable:
            raise self._refusal()
        timeout = self._host.settings.call_timeout
        calls = [self._link.begin("sign", timeout * (behind + number)) for number in range(1, len(items) + 1)]
        commands = (
            Sign(call.id, self.id, self._host_generation, (item,)) for call, item in zip(calls, items, strict=True)
        )
        self._link.send_all(calls, commands, at_once=not behind)
        return calls

    def its_turn(self, call: Call) -> None:
        """All that was sent before ``call`` has ended: from now on it has the device's timeout for itself."""
        self._link.due_in(call, self._host.settings.call_timeout)

    def signed(self, call: Call) -> list[bytes | HSMFailure]:
        """Return what a call for signatures has come to, once it has ended.

        Returns:
            For each item 64 bytes ``r || s``, not verified and perhaps with a high s, or the failure of that item.
            After a failure that discards the session the rest were not tried (SESSION_DISCARDED).

        Raises:
            HSMFailure: nothing is known of any item: the host ended meanwhile.
        """
        return [result if type(result) is bytes else self._failed(result) for result in call.result().results]

    async def close(self, *, timeout: float | None = None) -> None:
        """Close it once it has signed what it was asked to; the others stay logged in. Harmless when it is gone."""
        self._discarded = True
        link = self._link
        if link.is_open:
            try:
                call = link.begin("close_session", self._host.settings.call_timeout if timeout is None else timeout)
                link.send(call, CloseSession(call.id, self.id))
                await call.wait()
            except HSMFailure:
                # Its host ended, and the session with it.
                return

    def _refusal(self) -> HSMFailure:
        if not self._link.is_open:
            name = "HOST_NOT_RUNNING"
        else:
            name = "SESSION_DISCARDED" if self._discarded else "STALE_GENERATION"
        return HSMFailure(outcome_named(name, "sign"), f"session {self.id} of host {self._host.settings.name}")

    def _failed(self, failure: Failure) -> HSMFailure:
        error = failure_to_error(failure)
        if error.outcome.discard_session:
            self._discarded = True
        return error


def _never_begun(failure: HSMFailure) -> bool:
    """Whether the host looked at its login first, and that was gone: nothing has happened in the token."""
    return (failure.outcome.name, failure.outcome.function) == ("CKR_USER_NOT_LOGGED_IN", "C_GetSessionInfo")


def _token_key(record: KeyRecord) -> TokenKey:
    return TokenKey(
        public_key=record.public_key,
        label=record.label,
        cka_id=record.cka_id,
        can_sign=record.can_sign,
        sensitive=record.sensitive,
        extractable=record.extractable,
    )
