"""The key registry: what keys there are, what they are for, and where they live.

Reads are answered from memory, in the event loop, at once. Changes run one after the other on one worker
thread, which decides, makes durable and makes visible in one go: a caller who is cancelled half-way (even by
a bare ``task.cancel()``) leaves no half of a change behind, only one that it did not wait for. Use counters
are kept in memory and written in batches by :meth:`KeyRegistry.flush`.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
from anyio import CancelScope, CapacityLimiter
from anyio.lowlevel import checkpoint
from attrs import evolve

from manahsm.errors import KeyNotFound, RegistryError
from manahsm.keys import changes
from manahsm.keys.changes import SlotChange
from manahsm.keys.index import Change, KeyIndex, KeyKind
from manahsm.keys.labels import describe_reference
from manahsm.keys.store import KeyStore
from manahsm.requests import Backend, KeyInfo, KeyState, Role, Usage
from manahsm.times import utc_now

__all__ = ["KeyRegistry", "SlotChange"]

T = TypeVar("T")

_AT_ONCE = 2_000  # keys that are gone through in one go: about half a millisecond
_TRIES = 3  # to go through all of them while none changes


class KeyRegistry:
    """Open one with :meth:`open`; one process at a time per file."""

    def __init__(self, store: KeyStore, index: KeyIndex, now: Callable[[], datetime]) -> None:
        self._store = store
        self._index = index
        self._now = now
        self._thread = CapacityLimiter(1)
        # The limiter is let go by a native asyncio cancellation while its thread still runs; this is not.
        self._writing = threading.Lock()
        self._closed = False
        # Totals, not differences: writing one twice does no harm. Only the event loop touches these two.
        self._uses: dict[str, tuple[int, datetime]] = {}
        self._unwritten: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, *, now: Callable[[], datetime] = utc_now) -> AsyncIterator[KeyRegistry]:
        """Open the registry at ``path`` for as long as the context lasts, making it where there is none.

        Leaving the context writes the use counters and closes the file, even under cancellation.

        Args:
            path: the SQLite file; its folder is made, and closed to others.
            now: gives the time (UTC) at which discovered keys were first known.

        Raises:
            RegistryError: in use by another process, damaged, of a newer version, or not readable.
        """
        store, index = await anyio.to_thread.run_sync(partial(_load, path))
        registry = cls(store, index, now)
        try:
            yield registry
        finally:
            with CancelScope(shield=True):
                await registry._close()

    def __len__(self) -> int:
        return len(self._index)

    def resolve(self, reference: str) -> KeyInfo:
        """Find the key that a caller names; the way for every signature.

        ``last_used`` and ``use_count`` of the result may be behind; :meth:`get` has them up to date. The
        object is the same one until the key itself changes, so it can key a cache.

        Args:
            reference: key id, label, or 0x address (in one case, or with a correct checksum).

        Raises:
            KeyNotFound: no key is called so. The message shows the reference only where that is safe.
        """
        key = self._index.find(reference) if isinstance(reference, str) else None
        if key is None:
            raise KeyNotFound(
                f"no key is called {describe_reference(reference)}: give a key id, label or 0x address of a "
                "registered key"
            )
        return key

    def get(self, reference: str) -> KeyInfo:
        """Find a key, like :meth:`resolve`, with its counters as they are now."""
        return self._counted(self.resolve(reference))

    def census(self) -> Mapping[KeyKind, int]:
        """Return how many keys there are of each kind; costs the same however many there are."""
        return self._index.census()

    async def in_software(self) -> Sequence[str]:
        """Return the ids of active keys that are in software: those that live there, and those that have a twin.

        Lets others have their turn in between: 100,000 keys in one go would keep the loop for 20 ms.
        """
        for _ in range(_TRIES):
            version, found = self._index.version, []
            for keys in self._index.parts(_AT_ONCE):
                found += _ids_in_software(keys)
                await checkpoint()
            if self._index.version == version:
                return found
        return _ids_in_software(self._index.all())

    def list(
        self,
        *,
        role: Role | str | None = None,
        backend: Backend | str | None = None,
        label: str | None = None,
        usage: Usage | str | None = None,
        state: KeyState | str | None = None,
    ) -> list[KeyInfo]:
        """Return the keys that fit every filter given, oldest registration first.

        Args:
            role: keys with this role.
            backend: keys that live there.
            label: the key with exactly this label.
            usage: keys that may be used for this.
            state: ``active`` or ``retired`` keys; both by default.
        """
        return [
            self._counted(key)
            for key in self._index.all()
            if (role is None or key.role == role)
            and (backend is None or key.backend == backend)
            and (label is None or key.label == label)
            and (usage is None or usage in key.usage)
            and (state is None or key.state == state)
        ]

    def record_use(self, key_id: str, when: datetime) -> None:
        """Count one released signature. Costs no I/O; :meth:`flush` makes it durable.

        A key that was removed meanwhile is passed over: its signature has left, and its row is gone.
        """
        counted = self._uses.get(key_id)
        if counted is None:
            key = self._index.by_id(key_id)
            if key is None:
                return
            counted = (key.use_count, key.last_used or when)
        count, last = counted
        self._uses[key_id] = (count + 1, max(last, when))
        self._unwritten.add(key_id)

    async def flush(self) -> None:
        """Write the use counters that have changed. The service calls this periodically.

        Raises:
            RegistryError: they could not be written; they are kept and written by a later call.
        """
        if not self._unwritten:
            return
        batch, self._unwritten = self._unwritten, set()
        uses = {key_id: self._uses[key_id] for key_id in batch if key_id in self._uses}
        try:
            await self._in_thread(partial(self._store.write_uses, uses))
        except BaseException:
            self._unwritten |= batch
            raise

    async def add(self, key: KeyInfo) -> KeyInfo:
        """Register a key; durable on return. See :func:`manahsm.keys.changes.add`.

        Raises:
            KeyExists: its public key or label is registered already.
            InvalidRequest: the label may not be used.
            RegistryError: it could not be written.
        """
        return await self._change(partial(changes.add, key=key))

    async def set_role(self, key_id: str, role: Role | None) -> KeyInfo:
        """Give a key its role, or take it away; durable on return. The policy is the caller's to check.

        Raises:
            KeyNotFound, RoleDenied: no such key; it is retired.
            RegistryError: it could not be written.
        """
        return await self._change(partial(changes.set_role, key_id=key_id, role=role))

    async def relabel(self, key_id: str, label: str) -> KeyInfo:
        """Call a key by another name; durable on return.

        Raises:
            KeyNotFound, RoleDenied: no such key; it is retired.
            KeyExists, InvalidRequest: the label is taken; it may not be used.
            RegistryError: it could not be written.
        """
        return await self._change(partial(changes.relabel, key_id=key_id, label=label))

    async def set_software_twin(self, key_id: str, *, software_twin: bool) -> KeyInfo:
        """Note whether an encrypted keystore of the key exists; durable on return.

        Raises:
            KeyNotFound: no such key.
            RegistryError: it could not be written.
        """
        return await self._change(partial(changes.set_software_twin, key_id=key_id, software_twin=software_twin))

    async def set_slots(self, slot: str, held: Mapping[bytes, str]) -> SlotChange:
        """Take note of all that a token holds; durable on return. Costs no disk write where nothing changed.

        Args:
            slot: the slot's configured name.
            held: 65-byte public key -> label in the token (may be empty), for every key in the token.

        Raises:
            RegistryError: it could not be written.
        """
        return await self._change(partial(changes.set_slot, slot=slot, held=dict(held), now=self._now()))

    async def rotate(self, old_key_id: str, new: KeyInfo) -> KeyInfo:
        """Retire a key; ``new`` takes its label and role, in one step. Durable on return.

        Returns:
            The new key as registered. The old one is found as ``label@key_id``, by its id and by its address.

        Raises:
            KeyNotFound, RoleDenied: no such key; it is retired already.
            KeyExists: the new key is registered already and in use.
            RegistryError: it could not be written.
        """
        return await self._change(partial(changes.rotate, old_key_id=old_key_id, new=new))

    async def remove(self, key_id: str) -> KeyInfo:
        """Forget a key; durable on return. The key material is not touched: that is the caller's part.

        Returns:
            The key as it was.

        Raises:
            KeyNotFound: no such key.
            RegistryError: it could not be written.
        """
        removed = self._counted(await self._change(partial(changes.remove, key_id=key_id)))
        self._uses.pop(removed.key_id, None)
        return removed

    def _counted(self, key: KeyInfo) -> KeyInfo:
        counted = self._uses.get(key.key_id)
        return key if counted is None else evolve(key, use_count=counted[0], last_used=counted[1])

    async def _change(self, decide: Callable[[KeyIndex], Change[T]]) -> T:
        return await self._in_thread(partial(self._decide_and_do, decide))

    def _decide_and_do(self, decide: Callable[[KeyIndex], Change[T]]) -> T:
        change = decide(self._index)
        if change.put or change.removed:
            self._store.commit(change)
            self._index.apply(change)
        return change.result

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(partial(self._exclusively, work), limiter=self._thread)

    def _exclusively(self, work: Callable[[], T]) -> T:
        with self._writing:
            if self._closed:
                raise RegistryError(f"{self._store.path}: the registry is closed")
            return work()

    async def _close(self) -> None:
        try:
            await self.flush()
        finally:
            await anyio.to_thread.run_sync(self._close_store, limiter=self._thread)

    def _close_store(self) -> None:
        with self._writing:
            self._closed = True
            self._store.close()


def _ids_in_software(keys: Iterable[KeyInfo]) -> list[str]:
    active = (key for key in keys if key.state is KeyState.ACTIVE)
    return [key.key_id for key in active if key.backend is Backend.SOFTWARE or key.software_twin]


def _load(path: Path) -> tuple[KeyStore, KeyIndex]:
    store = KeyStore.open(path)
    try:
        with _uncollected():
            return store, KeyIndex(store.load())
    except BaseException:
        store.close()
        raise


@contextmanager
def _uncollected() -> Iterator[None]:
    """Make many objects that stay: to look for garbage among 100,000 keys takes 0.06 s meanwhile and 0.08 s after."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        if not gc.get_freeze_count():  # what a program has frozen stays frozen
            gc.freeze()
            gc.unfreeze()  # both together make old what is young, so that it is not gone through twice until it is
    finally:
        if was_enabled:
            gc.enable()
