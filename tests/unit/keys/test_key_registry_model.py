"""Random histories against a dictionary: memory, file and model never disagree, whatever was done in which order."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from key_samples import A_DAY, public_key, sample_key

from manahsm.errors import KeyExists, KeyNotFound, RoleDenied
from manahsm.keys.index import KeyKind
from manahsm.keys.registry import KeyRegistry
from manahsm.requests import KeyInfo, KeyState, Role

NUMBERS = st.integers(1, 8)
LABELS = st.sampled_from(["main", "spare", "canary", "key 1", "key 2"])
ROLES = st.none() | st.sampled_from(Role)
SLOTS = st.sampled_from(["east", "west"])


class Model:
    """The registry's rules, once more, in the plainest way."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyInfo] = {}

    def active(self, key_id: str) -> KeyInfo:
        if key_id not in self.keys:
            raise KeyNotFound
        if self.keys[key_id].state is KeyState.RETIRED:
            raise RoleDenied
        return self.keys[key_id]

    def put(self, key: KeyInfo) -> None:
        if any(other.label == key.label and other.key_id != key.key_id for other in self.keys.values()):
            raise KeyExists
        self.keys[key.key_id] = key

    def newcomer(self, key: KeyInfo) -> KeyInfo:
        known = self.keys.get(key.key_id)
        if known is None:
            return key
        if known.role is not None or known.state is KeyState.RETIRED:
            raise KeyExists
        return evolve(
            key,
            slots=known.slots,
            software_twin=known.software_twin,
            created_at=known.created_at,
            use_count=known.use_count,
            last_used=known.last_used,
        )

    def rotate(self, key_id: str, new: KeyInfo) -> None:
        old = self.active(key_id)
        if new.key_id == key_id:
            raise KeyExists
        new = evolve(self.newcomer(new), label=old.label, role=old.role)
        self.keys[key_id] = evolve(old, label=f"{old.label}@{key_id}", state=KeyState.RETIRED)
        self.put(new)

    def see(self, slot: str, held: set[int]) -> None:
        ids = {sample_key(number).key_id: number for number in held}
        for key in list(self.keys.values()):
            if slot in key.slots and key.key_id not in ids:
                self.keys[key.key_id] = evolve(key, slots=tuple(s for s in key.slots if s != slot))
        for key_id, number in ids.items():
            known = self.keys.get(key_id)
            if known is None:
                # Numbered labels are asked for by no other rule but "key 1" and "key 2": those may be taken.
                taken = {key.label for key in self.keys.values()}
                label = f"key {number}" if f"key {number}" not in taken else f"key {number}-{key_id}"
                self.put(sample_key(number, label=label, role=None, slots=(slot,)))
            elif slot not in known.slots:
                self.keys[key_id] = evolve(known, slots=(*known.slots, slot))


class RegistryMachine(RuleBasedStateMachine):
    backend: ClassVar[str]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.runner: AbstractContextManager[BlockingPortal] = start_blocking_portal(self.backend)
        self.portal = self.runner.__enter__()
        self.model = Model()
        self.minute = 0
        self.open()

    def open(self) -> None:
        self.context = self.portal.wrap_async_context_manager(
            KeyRegistry.open(self.folder / "registry.sqlite3", now=lambda: A_DAY)
        )
        self.registry = self.context.__enter__()

    def teardown(self) -> None:
        if hasattr(self, "context"):
            self.context.__exit__(None, None, None)
            self.runner.__exit__(None, None, None)
            shutil.rmtree(self.folder)

    def both(self, real: Callable[[], Awaitable[Any]], model: Callable[[], object]) -> None:
        """Do it to both; where the model refuses, so must the registry, with the same error."""
        before = dict(self.model.keys)
        try:
            model()
        except (KeyExists, KeyNotFound, RoleDenied) as error:
            self.model.keys = before
            with pytest.raises(type(error)):
                self.portal.call(real)
        else:
            self.portal.call(real)

    @rule(number=NUMBERS, label=LABELS, role=ROLES)
    def add(self, number: int, label: str, role: Role | None) -> None:
        key = sample_key(number, label=label, role=role)
        self.both(lambda: self.registry.add(key), lambda: self.model.put(self.model.newcomer(key)))

    @rule(number=NUMBERS, role=ROLES)
    def set_role(self, number: int, role: Role | None) -> None:
        key_id = sample_key(number).key_id
        self.both(
            lambda: self.registry.set_role(key_id, role),
            lambda: self.model.put(evolve(self.model.active(key_id), role=role)),
        )

    @rule(number=NUMBERS, label=LABELS)
    def relabel(self, number: int, label: str) -> None:
        key_id = sample_key(number).key_id
        self.both(
            lambda: self.registry.relabel(key_id, label),
            lambda: self.model.put(evolve(self.model.active(key_id), label=label)),
        )

    @rule(number=NUMBERS, twin=st.booleans())
    def set_software_twin(self, number: int, twin: bool) -> None:
        key_id = sample_key(number).key_id

        def note() -> None:
            if key_id not in self.model.keys:
                raise KeyNotFound
            self.model.keys[key_id] = evolve(self.model.keys[key_id], software_twin=twin)

        self.both(lambda: self.registry.set_software_twin(key_id, software_twin=twin), note)

    @rule(old=NUMBERS, new=NUMBERS)
    def rotate(self, old: int, new: int) -> None:
        key_id = sample_key(old).key_id
        self.both(
            lambda: self.registry.rotate(key_id, sample_key(new)),
            lambda: self.model.rotate(key_id, sample_key(new)),
        )

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        key_id = sample_key(number).key_id

        def forget() -> None:
            if self.model.keys.pop(key_id, None) is None:
                raise KeyNotFound

        self.both(lambda: self.registry.remove(key_id), forget)

    @rule(slot=SLOTS, held=st.sets(NUMBERS, max_size=4))
    def look_into_a_token(self, slot: str, held: set[int]) -> None:
        tokens = {public_key(number): f"key {number}" for number in held}
        self.both(lambda: self.registry.set_slots(slot, tokens), lambda: self.model.see(slot, held))

    @rule(number=NUMBERS)
    def use(self, number: int) -> None:
        self.minute += 1
        when = A_DAY + timedelta(minutes=self.minute)
        key = self.model.keys.get(sample_key(number).key_id)
        self.registry.record_use(sample_key(number).key_id, when)
        if key is not None:
            self.model.keys[key.key_id] = evolve(key, use_count=key.use_count + 1, last_used=when)

    @rule()
    def flush(self) -> None:
        self.portal.call(self.registry.flush)

    @rule()
    def restart(self) -> None:
        self.context.__exit__(None, None, None)
        self.open()

    @invariant()
    @precondition(lambda self: hasattr(self, "registry"))
    def the_registry_is_the_model(self) -> None:
        keys = self.registry.list()
        assert {key.key_id: key for key in keys} == self.model.keys
        assert len(keys) == len(self.registry) == len(self.model.keys)
        names = {name for key in keys for name in (key.key_id, key.label, key.address.lower())}
        assert set(self.registry._index._by_reference) == names
        for key in keys:
            for name in (key.key_id, key.label, key.address):
                assert self.registry.get(name) == key
        kinds = Counter(KeyKind(key.backend, key.role, key.state, key.software_twin) for key in keys)
        assert self.registry.census() == kinds


class OnAsyncio(RegistryMachine):
    backend = "asyncio"


class OnTrio(RegistryMachine):
    backend = "trio"


class TestOnAsyncio(OnAsyncio.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


class TestOnTrio(OnTrio.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
