"""A PKCS#11 library with its tokens, sessions and objects: the only code that imports python-pkcs11. Host process only.

The one thing to know: the library is initialised through :mod:`manahsm.hsm.cryptoki` (with locking), and python-pkcs11
is told not to do it. Sessions are opened without a PIN and start logged in once the anchor session has logged in; so
closing one is C_CloseSession alone and leaves the others logged in.

python-pkcs11's exceptions become :class:`~manahsm.hsm.cryptoki.TokenCallFailed` here, with the return code behind them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import frozen
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass
from pkcs11._pkcs11 import lib as PKCS11Library  # noqa: N812 - the binding's class has a lower-case name
from pkcs11.exceptions import PKCS11Error

from manahsm.hsm.cryptoki import Cryptoki, TokenCallFailed, TokenInfoStructure
from manahsm.hsm.ec_points import SECP256K1_PARAMS, der_point
from manahsm.hsm.outcomes import Action, outcome_of
from manahsm.hsm.quirks import Quirks
from manahsm.hsm.return_codes import CKR, code_of_exception

__all__ = ["KeyObject", "Module", "TokenSession"]

_ASK_AGAIN_AFTER = (0.02, 0.05, 0.1, 0.2)  # seconds
_READABLE = (
    Attribute.LABEL,
    Attribute.ID,
    Attribute.EC_POINT,
    Attribute.SIGN,
    Attribute.SENSITIVE,
    Attribute.EXTRACTABLE,
)


class _InitializedLibrary(PKCS11Library):
    """python-pkcs11's view of a library that is initialised already."""

    def initialize(self) -> None:
        """Do nothing: C_Initialize(NULL) would switch the library's locking off."""


@contextmanager
def _calling(function: str) -> Iterator[None]:
    """Turn the binding's exceptions into return codes."""
    try:
        yield
    except PKCS11Error as error:
        raise TokenCallFailed.code(code_of_exception(type(error).__name__, str(error)), function) from None


class Module:
    """One loaded and initialised library."""

    def __init__(self, path: str, quirks: Quirks) -> None:
        """Load and initialise the library.

        Raises:
            TokenCallFailed: LIBRARY_NOT_FOUND, LIBRARY_UNUSABLE, or what C_Initialize returned.
        """
        # The same library by two paths would be loaded twice and fail as initialised already.
        real_path = Path(path).resolve()
        if not real_path.is_file():
            raise TokenCallFailed.named(
                "LIBRARY_NOT_FOUND",
                "dlopen",
                f"library not found: {path}; install the vendor's PKCS#11 library (for SoftHSM: apt-get install "
                "softhsm2) or set hsm.library_path",
            )
        self.path = str(real_path)
        self.quirks = quirks
        self.cryptoki = Cryptoki(self.path)
        self.locking = self.cryptoki.initialize()
        self._read_write_only = quirks.read_write_sessions
        with _calling("C_GetInfo"):
            self._library = _InitializedLibrary(self.path)
        self._tokens: dict[int, Any] = {}

    @property
    def description(self) -> str:
        """The library's own description and version."""
        major, minor = self._library.library_version
        return f"{self._library.library_description.strip()} {major}.{minor}"

    def tokens(self) -> Iterator[tuple[int, TokenInfoStructure]]:
        """Slot id and description of every initialised token; a slot that fails is passed over."""
        with _calling("C_GetSlotList"):
            slots = self._library.get_slots()
        for slot in slots:
            with suppress(TokenCallFailed):
                info = self.cryptoki.token_info(slot.slot_id)
                if "TOKEN_INITIALIZED" in info.flag_names:
                    with _calling("C_GetTokenInfo"):
                        self._tokens[slot.slot_id] = slot.get_token()
                    yield slot.slot_id, info

    def token_info(self, slot_id: int, known_as: tuple[str, str] | None = None) -> TokenInfoStructure:
        """Ask a token who and how it is.

        While another process logs in, SoftHSM answers CKR_GENERAL_ERROR here for a tenth of a second, or CKR_OK without
        the token's names (it rewrites the token's file; measured). Either is believed only when it stays.

        Args:
            slot_id: a slot with a token.
            known_as: the label and the serial number that it should have; ``None`` where it was never seen.
        """
        for delay in _ASK_AGAIN_AFTER:
            try:
                info = self.cryptoki.token_info(slot_id)
                if info.names == known_as or (known_as is None and all(info.names)):
                    return info
            except TokenCallFailed as error:
                if error.failure.rv != CKR["CKR_GENERAL_ERROR"]:
                    raise
            time.sleep(delay)
        return self.cryptoki.token_info(slot_id)

    def look_again(self) -> None:
        """Finalize and initialise anew, because some modules look for tokens only then. No session may be open."""
        self.cryptoki.finalize()
        self.cryptoki.initialize()

    def open_session(self, slot_id: int, *, read_write: bool = False) -> TokenSession:
        """Open a session on a slot that :meth:`tokens` found, without logging in.

        A module that refuses to open one read-only gets another chance, and none of that kind is tried again.
        """
        if read_write or self._read_write_only:
            return self._open(slot_id, read_write=True)
        try:
            return self._open(slot_id, read_write=False)
        except TokenCallFailed as error:
            rv, function = error.failure.rv, error.failure.function
            if rv is None or outcome_of(rv, function).action is not Action.TELL_CALLER:
                raise
        session = self._open(slot_id, read_write=True)
        self._read_write_only = True
        return session

    def _open(self, slot_id: int, *, read_write: bool) -> TokenSession:
        with _calling("C_OpenSession"):
            session = self._tokens[slot_id].open(rw=read_write)
        return TokenSession(self, session)


@frozen(eq=False)
class KeyObject:
    """One half of a key pair, as the token describes it. ``item`` is the binding's object."""

    item: Any
    handle: int
    label: str
    cka_id: bytes
    point: bytes
    can_sign: bool
    sensitive: bool
    extractable: bool


class TokenSession:
    """One session. Used from one thread at a time."""

    def __init__(self, module: Module, session: Any) -> None:
        self._session = session
        self._module = module
        self.handle = int(session.handle)
        self.quirks = module.quirks
        self.sign = module.cryptoki.signer(self.handle).sign

    @property
    def is_logged_in(self) -> bool:
        """Whether the session has user rights."""
        return self._module.cryptoki.is_logged_in(self.handle)

    def login(self, pin: str) -> None:
        """Log the whole process in."""
        self._module.cryptoki.login(self.handle, pin)

    def logout(self) -> None:
        """Log the whole process out."""
        self._module.cryptoki.logout(self.handle)

    def close(self) -> None:
        """C_CloseSession, which leaves the other sessions logged in."""
        with _calling("C_CloseSession"):
            self._session.close()

    def public_keys(self, **attributes: Any) -> list[KeyObject]:
        """Public EC keys that match the attributes (``cka_id``, ``label``, ``point``: as stored)."""
        return self._find(ObjectClass.PUBLIC_KEY, attributes)

    def private_keys(self, **attributes: Any) -> list[KeyObject]:
        """Private EC keys that match the attributes (``cka_id``, ``label``, ``point``: as stored)."""
        return self._find(ObjectClass.PRIVATE_KEY, attributes)

    def _find(self, object_class: ObjectClass, attributes: dict[str, Any]) -> list[KeyObject]:
        names = {"cka_id": Attribute.ID, "label": Attribute.LABEL, "point": Attribute.EC_POINT}
        template = {
            Attribute.CLASS: object_class,
            Attribute.KEY_TYPE: KeyType.EC,
            **{names[name]: value for name, value in attributes.items()},
        }
        with _calling("C_FindObjects"):
            # Exhausted here and now: a search left open keeps the session's operation and a lock.
            found = list(self._session.get_objects(template))
        return [_describe(item) for item in found]

    def generate(self, cka_id: bytes, label: str) -> tuple[KeyObject, KeyObject]:
        """Make a secp256k1 pair that stays in the token; returns (public, private)."""
        with _calling("C_GenerateKeyPair"):
            parameters = self._session.create_domain_parameters(
                KeyType.EC, {Attribute.EC_PARAMS: SECP256K1_PARAMS}, local=True
            )
            public, private = parameters.generate_keypair(
                id=cka_id,
                label=label,
                store=True,
                capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
                private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
            )
        return _describe(public), _describe(private)

    def create(self, cka_id: bytes, label: str, public_key: bytes, private_key: bytes) -> tuple[KeyObject, KeyObject]:
        """Store a given pair with C_CreateObject; returns (public, private). A half stored alone is taken back."""
        point = der_point(public_key)
        common = {
            Attribute.KEY_TYPE: KeyType.EC,
            Attribute.TOKEN: True,
            Attribute.EC_PARAMS: SECP256K1_PARAMS,
            Attribute.ID: cka_id,
            Attribute.LABEL: label,
        }
        private_template = {
            **common,
            Attribute.CLASS: ObjectClass.PRIVATE_KEY,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.SIGN: True,
            Attribute.VALUE: private_key,
        }
        if self.quirks.point_on_private_key:
            private_template[Attribute.EC_POINT] = point
        public_template = {
            **common,
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.VERIFY: True,
            Attribute.EC_POINT: point,
        }
        with _calling("C_CreateObject"):
            private = self._session.create_object(private_template)
            try:
                public = self._session.create_object(public_template)
            except PKCS11Error:
                private.destroy()
                raise
        return _describe(public), _describe(private)

    def relabel(self, key: KeyObject, label: str) -> None:
        """Set CKA_LABEL."""
        with _calling("C_SetAttributeValue"):
            key.item[Attribute.LABEL] = label

    def destroy(self, key: KeyObject) -> None:
        """Remove an object from the token."""
        with _calling("C_DestroyObject"):
            key.item.destroy()


def _describe(item: Any) -> KeyObject:
    values: dict[Attribute, Any] = {}
    try:
        values = item.get_attributes(_READABLE)
    except (PKCS11Error, UnicodeDecodeError):
        # One attribute that the object lacks, or a label in no known encoding, spoils the whole answer.
        for attribute in _READABLE:
            with suppress(PKCS11Error, UnicodeDecodeError):
                values[attribute] = item[attribute]
    return KeyObject(
        item,
        int(item.handle),
        values.get(Attribute.LABEL, ""),
        values.get(Attribute.ID, b""),
        values.get(Attribute.EC_POINT, b""),
        bool(values.get(Attribute.SIGN, False)),
        bool(values.get(Attribute.SENSITIVE, False)),
        bool(values.get(Attribute.EXTRACTABLE, True)),
    )
