"""All keys in memory, found by key id, label or address with one dictionary look-up.

Signing never waits for the disk: every read of the registry is answered here. The index is written by the one
thread that also writes the database, and read from the event loop without a lock; so each step of
:meth:`KeyIndex.apply` leaves every key findable, as it was or as it will be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from operator import attrgetter
from typing import Generic, TypeVar

from attrs import frozen

from manahsm.requests import Backend, KeyInfo, KeyState, Role

__all__ = ["Change", "KeyIndex", "KeyKind"]

T = TypeVar("T")


@frozen(kw_only=True)
class Change(Generic[T]):
    """What one operation does to the registry, as decided and not yet done.

    Attributes:
        put: keys as they are to be, new or replaced, in an order in which no label is ever taken twice.
        removed: ids of keys to forget.
        result: what the operation returns once this is durable.
    """

    put: tuple[KeyInfo, ...] = ()
    removed: tuple[str, ...] = ()
    result: T


@frozen
class KeyKind:
    """What keys are counted by."""

    backend: Backend
    role: Role | None
    state: KeyState
    software_twin: bool


class KeyIndex:
    """The keys of a registry. Counters in it are those of the last start: the registry has today's."""

    __slots__ = ("_by_id", "_by_reference", "_census", "_version")

    def __init__(self, keys: Iterable[KeyInfo] = ()) -> None:
        self._by_id = {key.key_id: key for key in keys}
        self._by_reference = self._by_id.copy()
        for key in self._by_id.values():  # as _insert does, in 0.7 us instead of 1.2
            self._by_reference[key.label] = self._by_reference[key.address.lower()] = key
        self._census = Counter(map(_kind_of, self._by_id.values()))
        self._version = 0

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def version(self) -> int:
        """Differs after every change, and from before the change can be seen."""
        return self._version

    def census(self) -> dict[KeyKind, int]:
        """Return how many keys there are of each kind."""
        return {KeyKind(*kind): count for kind, count in dict(self._census).items() if count}

    def parts(self, size: int) -> Iterator[tuple[KeyInfo, ...]]:
        """Yield every key, ``size`` at a time, in the order of :meth:`all`; ends early when the version changes.

        What takes long is fetching the keys from memory: even copying all references at once takes 4 ms with 100,000.
        """
        keys = iter(self._by_id.values())
        with suppress(RuntimeError):  # a key came or went
            while part := tuple(islice(keys, size)):
                yield part

    def all(self) -> tuple[KeyInfo, ...]:
        """Return every key, in the order in which they were first registered."""
        return tuple(self._by_id.values())

    def by_id(self, key_id: str) -> KeyInfo | None:
        """Return the key with exactly this id."""
        return self._by_id.get(key_id)

    @property
    def taken(self) -> Container[str]:
        """Every label in use (and ids and addresses, which no label may equal)."""
        return self._by_reference

    def find(self, reference: str) -> KeyInfo | None:
        """Return the key that ``reference`` names.

        Args:
            reference: a key id (any case), a label (exactly), or a 0x address: in one case, or with a right
                EIP-55 checksum. One with a wrong checksum names no key: it is a mistyped address.
        """
        key = self._by_reference.get(reference)
        if key is not None:
            return key
        lower = reference.lower()
        key = self._by_reference.get(lower)
        if key is None:
            return None
        if reference == key.address or lower == key.key_id:
            return key
        # Not a label in another case: labels are matched exactly.
        is_its_address = lower == key.address.lower() and reference[2:] in {lower[2:], lower[2:].upper()}
        return key if is_its_address else None

    def apply(self, change: Change[T]) -> None:
        """Do what was decided. The caller serialises calls."""
        self._version += 1
        stale = [
            key
            for key_id in (*(new.key_id for new in change.put), *change.removed)
            if (key := self._by_id.get(key_id)) is not None
        ]
        for key in change.put:
            self._insert(key)
        self._census.update(map(_kind_of, change.put))
        for key_id in change.removed:
            self._by_id.pop(key_id, None)
        self._census.subtract(map(_kind_of, stale))
        for key in stale:
            current = self._by_id.get(key.key_id)
            for reference in _references(key):
                # A label that has passed to another key is not ours to remove.
                if self._by_reference[reference].key_id == key.key_id and (
                    current is None or reference not in _references(current)
                ):
                    del self._by_reference[reference]

    def _insert(self, key: KeyInfo) -> None:
        self._by_id[key.key_id] = key
        for reference in _references(key):
            self._by_reference[reference] = key


_kind_of = attrgetter("backend", "role", "state", "software_twin")


def _references(key: KeyInfo) -> tuple[str, str, str]:
    return key.key_id, key.label, key.address.lower()
