"""What one caller may do, and who is asking at this moment.

The one thing to know: :class:`Access` is checked where a request is signed, after its key was found and before anything
else is said of it, so a refusal is in the audit log like any other, and tells its caller nothing of keys that are not
theirs: not even that they are there. Code that embeds the service passes none, and may do all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase

from attrs import frozen

from manahsm.errors import KeyNotFound, PolicyDenied
from manahsm.keys.labels import describe_reference
from manahsm.requests import KeyInfo, Operation, Role

__all__ = ["Access", "Asker", "asked_by", "asker"]


@frozen(kw_only=True)
class Access:
    """What a caller may do. Everything that is empty admits all.

    Attributes:
        caller: the name in the audit log.
        keys: key ids, labels and addresses, these in lower case.
        roles: roles of keys.
        methods: names of methods, where ``*`` stands for any characters.
        blind_signing: whether digests may be signed whose meaning nobody can see.
        admin: whether keys, breakers and alerts may be managed.
    """

    caller: str
    keys: frozenset[str] = frozenset()
    roles: frozenset[Role] = frozenset()
    methods: frozenset[str] = frozenset()
    blind_signing: bool = False
    admin: bool = False

    def admits(self, method: str) -> bool:
        """Whether the caller may call ``method`` at all."""
        return not self.methods or any(fnmatchcase(method, pattern) for pattern in self.methods)

    def covers(self, key: KeyInfo) -> bool:
        """Whether the caller may use ``key``, and see it."""
        if self.roles and key.role not in self.roles:
            return False
        if not self.keys:
            return True
        return not self.keys.isdisjoint({key.key_id, key.label, key.address.lower()})

    def unknown(self, reference: str) -> KeyNotFound:
        """The error for a key that is not there or not the caller's: both read the same.

        Args:
            reference: what the caller named it by.
        """
        return KeyNotFound(
            f"no key that caller {self.caller} may use is called {describe_reference(reference)}: give a key id, label "
            "or 0x address of one, or have an administrator add it in hsm.api.callers"
        )

    def check(self, key: KeyInfo, reference: str, operation: Operation) -> None:
        """Insist that the caller may sign this with ``key``.

        Args:
            key: what was found.
            reference: what the caller named it by.
            operation: what is to be signed.

        Raises:
            KeyNotFound: the key is not the caller's.
            PolicyDenied: it may not have this signed.
        """
        if not self.covers(key):
            raise self.unknown(reference)
        if operation is Operation.HASH and not self.blind_signing:
            raise PolicyDenied(
                f"caller {self.caller} may not have digests signed, which nobody can read: send what is to be signed, "
                "or have an administrator set blind_signing in hsm.api.callers"
            )


@frozen(kw_only=True)
class Asker:
    """Who asks for something that is no signature, for its audit record."""

    caller: str
    request_id: str


_ASKER: ContextVar[Asker | None] = ContextVar("manahsm_asker", default=None)


def asker() -> Asker | None:
    """Who asks in this task, where an interface has said so."""
    return _ASKER.get()


@contextmanager
def asked_by(who: Asker) -> Iterator[None]:
    """Do the block for somebody: the audit records of what is done there name them."""
    token = _ASKER.set(who)
    try:
        yield
    finally:
        _ASKER.reset(token)
