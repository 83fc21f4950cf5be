"""Making, importing, assigning, rotating and deleting keys, wherever they live.

The one thing to know: changes run one at a time, and the registry is written last, so that a crash in between
leaves at worst a key that is found in its token later, without a role, and signs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from manahsm.audit.journal import Journal
from manahsm.audit.records import AuditEvent, AuditOutcome, AuditRecord
from manahsm.config.model import Priority, SecurityPolicy
from manahsm.errors import (
    HSMUnavailable,
    KeyExists,
    KeyNotFound,
    ManaHSMError,
    PolicyDenied,
)
from manahsm.ethereum.signatures import key_id_of, public_key_of
from manahsm.hsm.client import HostProcess
from manahsm.hsm.failures import HostEnded, HSMFailure
from manahsm.hsm.info import TokenKey
from manahsm.keys.changes import new_key
from manahsm.keys.keystore import Keystore, required
from manahsm.keys.labels import retired_label, validate_label
from manahsm.keys.registry import KeyRegistry
from manahsm.keys.roles import backend_for_new_key, check_import, check_role_change
from manahsm.logs import get_logger
from manahsm.requests import Backend, KeyInfo, KeyState, Role, Usage
from manahsm.signing.slot import Slot, SlotPhase
from manahsm.times import utc_now

__all__ = ["Keyring"]

_log = get_logger("manahsm.keys")


class Keyring:
    """Every change to keys.

    Args:
        registry: what keys there are.
        keystore: software keys; ``None`` where no passphrase is configured.
        slots: every configured slot.
        policy: the security policy.
        journal: where discovered keys are recorded; the service records the other changes.
    """

    def __init__(
        self,
        registry: KeyRegistry,
        keystore: Keystore | None,
        slots: Sequence[Slot],
        policy: SecurityPolicy,
        journal: Journal,
    ) -> None:
        self._registry = registry
        self._keystore = keystore
        self._slots = tuple(slots)
        self._policy = policy
        self._journal = journal
        self._turn = anyio.Lock()

    async def record_token(self, slot: Slot, keys: Sequence[TokenKey]) -> None:
        """Take note of what a token holds; unknown keys are registered without a role."""
        held = {key.public_key: key.label for key in keys if key.can_sign}
        slot.holds(frozenset(held))
        async with self._turn:
            try:
                change = await self._registry.set_slots(slot.name, held)
            except ManaHSMError as error:  # the keys that are registered already can sign all the same
                _log.error("discovered keys not registered", slot=slot.name, error=str(error))
                return
        for key in change.discovered:
            _log.warning("key without a role found", slot=slot.name, key_id=key.key_id, label=key.label)
            await self._journal.note(
                AuditRecord(
                    event=AuditEvent.DISCOVER_KEY,
                    key_id=key.key_id,
                    address=key.address,
                    slot=slot.name,
                    outcome=AuditOutcome.DONE,
                )
            )

    async def generate(self, label: str, role: Role, backend: Backend | None, usage: tuple[Usage, ...]) -> KeyInfo:
        """Generate a key and register it.

        Raises:
            KeyExists, InvalidRequest: the label is taken; it may not be used.
            PolicyDenied: the role does not admit the backend.
            HSMUnavailable, KeystoreError: the key could not be made.
        """
        where = backend_for_new_key(role, backend, self._policy)
        async with self._turn:
            self._check_new_label(label)
            public_key, slots = await self._make(label, where)
            return await self._registry.add(_key(public_key, label, role, where, slots=slots, usage=usage))

    async def import_key(
        self, private_key: bytes, label: str, role: Role, backend: Backend, *, keep_software_twin: bool
    ) -> KeyInfo:
        """Bring a private key in; its address stays what it was.

        Into tokens it goes wherever a slot is up, so that backup slots can stand in for each other.

        Raises:
            KeyExists, InvalidRequest: the key or the label is registered; the label may not be used.
            PolicyDenied: the role does not admit the backend or the twin.
            HSMUnavailable, KeystoreError: the key could not be stored.
        """
        check_import(role, backend, self._policy, keep_software_twin=keep_software_twin)
        public_key = public_key_of(private_key)
        async with self._turn:
            self._check_new_label(label)
            known = self._find(key_id_of(public_key))
            if known is not None:
                raise KeyExists(f"this private key is registered already, as {known.label} ({known.key_id})")
            slots: tuple[str, ...] = ()
            if backend is Backend.HSM:
                self._ready_slots()
            if backend is Backend.SOFTWARE or keep_software_twin:
                await required(self._keystore).store(private_key, label)
            if backend is Backend.HSM:
                try:
                    slots = await self._import_into_tokens(private_key, label)
                except BaseException:
                    if keep_software_twin:
                        with anyio.CancelScope(shield=True):
                            await required(self._keystore).delete(key_id_of(public_key))
                    raise
            return await self._registry.add(
                _key(public_key, label, role, backend, slots=slots, software_twin=keep_software_twin)
            )

    async def assign_role(self, reference: str, role: Role | None) -> KeyInfo:
        """Give a key a role, or take it away (``None``): without one it signs nothing.

        Raises:
            KeyNotFound, RoleDenied: no such key; it is retired.
            PolicyDenied: the role is bound to tokens, and the key is, or has a twin, in software.
        """
        async with self._turn:
            key = self._registry.resolve(reference)
            check_role_change(key, role, self._policy)
            return await self._registry.set_role(key.key_id, role)

    async def rotate(self, reference: str) -> KeyInfo:
        """Generate a new key that takes the label and role of an old one; the old one is retired.

        Returns:
            The new key. Its address is another one: funds and permissions do not move by themselves.

        Raises:
            KeyNotFound: no such key.
            PolicyDenied: it is retired already, has no role, or is a software key whose role is bound to tokens.
            HSMUnavailable, KeystoreError: no new key could be made; nothing has changed.
        """
        async with self._turn:
            old = self._registry.resolve(reference)
            if old.state is KeyState.RETIRED or old.role is None:
                what = "is retired already" if old.state is KeyState.RETIRED else "has no role"
                raise PolicyDenied(f"key {old.key_id} {what}: only active keys with a role are rotated")
            backend = backend_for_new_key(old.role, old.backend, self._policy)
            public_key, slots = await self._make(old.label, backend)
            new = await self._registry.rotate(
                old.key_id,
                _key(public_key, old.label, old.role, backend, slots=slots, usage=old.usage),
            )
            if old.backend is Backend.HSM:
                await self._relabel_in_tokens(old)
            return new

    async def delete(self, reference: str) -> KeyInfo:
        """Delete a software key: its file, and the key's place in the registry. There is no way back.

        Raises:
            KeyNotFound: no such key.
            PolicyDenied: the key is in a token: only the vendor's own tools destroy keys there.
            KeystoreError: the file could not be removed.
        """
        async with self._turn:
            key = self._registry.resolve(reference)
            if key.backend is Backend.HSM:
                raise PolicyDenied(
                    f"key {key.key_id} lives in a token: manahsm never destroys those. Retire it with rotate_key, or "
                    "use the vendor's own tools"
                )
            await required(self._keystore).delete(key.key_id)
            return await self._registry.remove(key.key_id)

    # ---- inside ----

    def _find(self, reference: str) -> KeyInfo | None:
        try:
            return self._registry.resolve(reference)
        except KeyNotFound:
            return None

    def _check_new_label(self, label: str) -> None:
        validate_label(label)
        if self._find(label) is not None:
            raise KeyExists(f"a key is called {label!r} already: choose another label, or rotate that key")

    async def _make(self, label: str, backend: Backend) -> tuple[bytes, tuple[str, ...]]:
        """Make a key and return its public key and the slots that hold it."""
        if backend is Backend.SOFTWARE:
            return await required(self._keystore).create(label), ()
        slot, host = self._ready_slots()[0]
        try:
            key = await host.generate_key(label)
        except (HSMFailure, HostEnded) as failure:
            raise _not_made(failure, "generated", slot) from failure
        slot.holds(slot.public_keys | {key.public_key})
        return key.public_key, (slot.name,)

    async def _import_into_tokens(self, private_key: bytes, label: str) -> tuple[str, ...]:
        stored: list[str] = []
        failed: HSMUnavailable | None = None
        for slot, host in self._ready_slots():
            try:
                key = await host.import_key(private_key, label)
            except (HSMFailure, HostEnded) as failure:
                failed = _not_made(failure, "imported", slot)
                _log.error("key not imported", slot=slot.name, error=str(failure))
            else:
                slot.holds(slot.public_keys | {key.public_key})
                stored.append(slot.name)
        if failed is not None and not stored:
            raise failed
        return tuple(stored)

    async def _relabel_in_tokens(self, old: KeyInfo) -> None:
        """Let the tokens show, too, that a key is retired. The registry alone decides, so a refusal is harmless."""
        for slot in self._slots:
            host = slot.serving_host
            if host is not None and old.public_key in slot.public_keys:
                try:
                    await host.relabel_key(old.public_key, retired_label(old.label, old.key_id))
                except (HSMFailure, HostEnded) as failure:
                    _log.warning("retired key not relabelled", slot=slot.name, error=str(failure))

    def _ready_slots(self) -> list[tuple[Slot, HostProcess]]:
        """Slots that can make keys, primary ones first, each with one of its hosts."""
        if not self._slots:
            raise HSMUnavailable(
                "no slot is configured: set hsm.token_label or hsm.slots, or ask for backend 'software'"
            )
        hosts = ((slot, slot.serving_host) for slot in self._slots if slot.phase is SlotPhase.UP)
        ready = [(slot, host) for slot, host in hosts if host is not None]
        if not ready:
            raise self._slots[0].unavailable()
        ready.sort(key=lambda found: found[0].config.priority is not Priority.PRIMARY)
        return ready


def _key(public_key: bytes, label: str, role: Role, backend: Backend, **more: Any) -> KeyInfo:
    return new_key(public_key, label, role=role, backend=backend, created_at=utc_now(), **more)


def _not_made(failure: HSMFailure | HostEnded, what: str, slot: Slot) -> HSMUnavailable:
    advice = (
        "whether it was is unknown: look at the keys without a role before trying again"
        if failure.outcome.unknown
        else "no key was made"
    )
    return HSMUnavailable(f"the key could not be {what} in slot {slot.name}: {failure}; {advice}")
