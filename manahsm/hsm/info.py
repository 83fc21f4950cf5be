"""What the signer learns of a token and its keys: frozen values without secrets."""

from __future__ import annotations

from attrs import frozen

__all__ = ["HostInfo", "TokenKey"]


@frozen(kw_only=True)
class HostInfo:
    """A ready host process and the token behind it.

    Attributes:
        pid: the host process.
        slot_id: CK_SLOT_ID at present; some modules give another after a restart.
        token_label, serial, manufacturer, model: from CK_TOKEN_INFO, without padding.
        firmware: ``major.minor``.
        flags: CKF_* of CK_TOKEN_INFO by name without the prefix, e.g. ``USER_PIN_COUNT_LOW``.
        max_sessions: sessions that the token allows one application, or ``None`` where it does not say.
        max_session_threads: sessions that this host may have open, or ``None`` for no limit; 1 without locking.
        mechanisms: elliptic curve mechanisms by name, e.g. ``CKM_ECDSA``.
        locking: the library accepted CKF_OS_LOCKING_OK, so sessions sign in parallel.
        library: description and version of the library.
        generation: counts logins of this host; sessions of an earlier one are refused.
    """

    pid: int
    slot_id: int
    token_label: str
    serial: str
    manufacturer: str
    model: str
    firmware: str
    flags: tuple[str, ...]
    max_sessions: int | None
    max_session_threads: int | None
    mechanisms: tuple[str, ...]
    locking: bool
    library: str
    generation: int

    @property
    def pin_count_low(self) -> bool:
        """A wrong PIN was tried since the last good one."""
        return "USER_PIN_COUNT_LOW" in self.flags


@frozen(kw_only=True)
class TokenKey:
    """A secp256k1 key pair in a token.

    Attributes:
        public_key: 65 bytes, uncompressed SEC 1 point.
        label: CKA_LABEL of the private key; tokens do not keep labels unique.
        cka_id: CKA_ID, which ties the halves together.
        can_sign: CKA_SIGN of the private key.
        sensitive: CKA_SENSITIVE: its value can not be read in the clear.
        extractable: CKA_EXTRACTABLE: it can be wrapped and taken out.
    """

    public_key: bytes
    label: str
    cka_id: bytes
    can_sign: bool
    sensitive: bool
    extractable: bool
