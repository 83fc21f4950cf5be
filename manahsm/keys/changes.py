"""What each operation does to the registry: pure decisions from the keys there are to a :class:`Change`.

The registry runs one of these, makes its change durable and then visible, one at a time. None of them looks
at a clock or a disk, and each refuses before anything is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from attrs import evolve, frozen

from manahsm.errors import InvalidRequest, KeyExists, KeyNotFound, RoleDenied
from manahsm.ethereum.signatures import address_of, key_id_of
from manahsm.keys.index import Change, KeyIndex
from manahsm.keys.labels import describe_reference, label_for_token_key, retired_label, validate_label
from manahsm.requests import Backend, KeyInfo, KeyState, Role, Usage

__all__ = [
    "SlotChange",
    "add",
    "new_key",
    "relabel",
    "remove",
    "rotate",
    "set_role",
    "set_slot",
    "set_software_twin",
]


@frozen(kw_only=True)
class SlotChange:
    """What a look into a token changed.

    Attributes:
        discovered: keys that the registry did not know; they have no role and sign nothing yet.
        gained: known keys that were not known to be in this slot.
        lost: keys that were in this slot and are not any more.
    """

    discovered: tuple[KeyInfo, ...] = ()
    gained: tuple[KeyInfo, ...] = ()
    lost: tuple[KeyInfo, ...] = ()


def new_key(
    public_key: bytes,
    label: str,
    *,
    role: Role | None,
    backend: Backend,
    created_at: datetime,
    usage: tuple[Usage, ...] = (Usage.SIGNING,),
    slots: tuple[str, ...] = (),
    software_twin: bool = False,
) -> KeyInfo:
    """Describe a key that is not registered yet: its id and address follow from its 65-byte public key."""
    return KeyInfo(
        key_id=key_id_of(public_key),
        address=address_of(public_key),
        public_key=public_key,
        label=label,
        role=role,
        usage=usage,
        backend=backend,
        slots=slots,
        software_twin=software_twin,
        created_at=created_at,
    )


def add(index: KeyIndex, key: KeyInfo) -> Change[KeyInfo]:
    """Register a new key, or take over one that was only discovered.

    A key generated in a token can be found there before its own registration gets here. Such a key, active
    and without a role, is completed by ``key`` and keeps its counters, its age and the slots it was seen in.

    Raises:
        KeyExists: the key is registered and has a role or is retired, or its label is taken.
        InvalidRequest: the label may not be used (see :func:`~manahsm.keys.labels.validate_label`), or the
            key id and address are not those of the public key.
    """
    validate_label(key.label)
    complete = _merge_with_discovered(index, key)
    _require_free_label(index, complete.label, complete.key_id)
    return Change(put=(complete,), result=complete)


def set_role(index: KeyIndex, key_id: str, role: Role | None) -> Change[KeyInfo]:
    """Give a key its role, or with ``None`` take it away.

    Raises:
        KeyNotFound: no such key.
        RoleDenied: the key is retired.
    """
    return _replace(evolve(_active(index, key_id), role=role))


def relabel(index: KeyIndex, key_id: str, label: str) -> Change[KeyInfo]:
    """Call a key by another name.

    Raises:
        KeyNotFound: no such key.
        RoleDenied: the key is retired; its label tells what it was.
        KeyExists: another key has this label.
        InvalidRequest: the label may not be used.
    """
    validate_label(label)
    key = _active(index, key_id)
    _require_free_label(index, label, key_id)
    return _replace(evolve(key, label=label))


def set_software_twin(index: KeyIndex, key_id: str, software_twin: bool) -> Change[KeyInfo]:
    """Note that an encrypted keystore of the same key exists, or does not any more.

    Raises:
        KeyNotFound: no such key.
    """
    return _replace(evolve(_known(index, key_id), software_twin=software_twin))


def rotate(index: KeyIndex, old_key_id: str, new: KeyInfo) -> Change[KeyInfo]:
    """Retire a key and give its label and role to ``new``, in one step.

    The old key stays, as ``label@key_id`` and retired, so that past signatures can be told; it signs no more.

    Raises:
        KeyNotFound: no such key.
        RoleDenied: the old key is retired already.
        KeyExists: ``new`` is the old key, or is registered and has a role or is retired.
        InvalidRequest: its key id and address are not those of its public key.
    """
    old = _active(index, old_key_id)
    if new.key_id == old.key_id:
        raise KeyExists(f"key {old.key_id} can not be rotated to itself; generate a new key")
    replacement = evolve(_merge_with_discovered(index, new), label=old.label, role=old.role)
    retired = evolve(old, label=retired_label(old.label, old.key_id), state=KeyState.RETIRED)
    # In this order the label is never held by two keys, nor by none.
    return Change(put=(retired, replacement), result=replacement)


def remove(index: KeyIndex, key_id: str) -> Change[KeyInfo]:
    """Forget a key. One that is still in a token will be discovered again, without a role.

    Raises:
        KeyNotFound: no such key.
    """
    key = _known(index, key_id)
    return Change(removed=(key.key_id,), result=key)


def set_slot(index: KeyIndex, slot: str, held: Mapping[bytes, str], now: datetime) -> Change[SlotChange]:
    """Reconcile with what a token holds.

    Args:
        index: the keys there are.
        slot: the slot's configured name.
        held: 65-byte public key -> label in the token, of every key in it.
        now: becomes ``created_at`` of what is new.
    """
    by_id = {key_id_of(public_key): (public_key, label) for public_key, label in held.items()}
    lost = tuple(
        evolve(key, slots=tuple(name for name in key.slots if name != slot))
        for key in index.all()
        if slot in key.slots and key.key_id not in by_id
    )
    gained: list[KeyInfo] = []
    discovered: list[KeyInfo] = []
    labels: set[str] = set()
    for key_id, (public_key, token_label) in by_id.items():
        known = index.by_id(key_id)
        if known is None:
            label = label_for_token_key(token_label, key_id, _Either(index, labels))
            labels.add(label)
            discovered.append(new_key(public_key, label, role=None, backend=Backend.HSM, created_at=now, slots=(slot,)))
        elif slot not in known.slots:
            gained.append(evolve(known, slots=(*known.slots, slot)))
    return Change(
        put=(*lost, *gained, *discovered),
        result=SlotChange(discovered=tuple(discovered), gained=tuple(gained), lost=lost),
    )


@frozen
class _Either:
    """Labels that are taken already or will be by the same change."""

    index: KeyIndex
    planned: set[str]

    def __contains__(self, label: object) -> bool:
        return label in self.planned or label in self.index.taken


def _replace(key: KeyInfo) -> Change[KeyInfo]:
    return Change(put=(key,), result=key)


def _known(index: KeyIndex, key_id: str) -> KeyInfo:
    key = index.by_id(key_id)
    if key is None:
        raise KeyNotFound(f"no key has the id {describe_reference(key_id)}")
    return key


def _active(index: KeyIndex, key_id: str) -> KeyInfo:
    key = _known(index, key_id)
    if key.state is KeyState.RETIRED:
        raise RoleDenied(f"key {key.key_id} ({key.label}) is retired and is not changed any more")
    return key


def _merge_with_discovered(index: KeyIndex, key: KeyInfo) -> KeyInfo:
    # A row that contradicts itself would make the whole registry unreadable at the next start.
    if (key.key_id, key.address) != (key_id_of(key.public_key), address_of(key.public_key)):
        raise InvalidRequest("the key id and address are not those of the public key")
    known = index.by_id(key.key_id)
    if known is None:
        return key
    if known.role is not None or known.state is KeyState.RETIRED:
        raise KeyExists(f"key {known.key_id} is registered already, as {known.label!r}")
    return evolve(
        key,
        slots=tuple(dict.fromkeys((*known.slots, *key.slots))),
        software_twin=known.software_twin or key.software_twin,
        created_at=known.created_at,
        last_used=known.last_used,
        use_count=known.use_count,
    )


def _require_free_label(index: KeyIndex, label: str, key_id: str) -> None:
    holder = index.find(label)
    if holder is not None and holder.key_id != key_id:
        raise KeyExists(f"the label {label!r} is taken by key {holder.key_id}; choose another or rotate that key")
