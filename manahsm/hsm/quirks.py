"""How a vendor's PKCS#11 module differs from what the standard, or SoftHSM, would make one expect.

Values only: the host process acts on them, the vendor profiles of the configuration set them.
"""

from __future__ import annotations

from attrs import frozen

__all__ = ["Quirks"]


@frozen(kw_only=True)
class Quirks:
    """Differences of one module.

    Attributes:
        read_write_sessions: open every session read-write, because read-only ones are not supported.
        raw_ec_point: CKA_EC_POINT may come without its DER wrapping, and even without the leading 04 byte.
        max_sessions: sessions that the device allows in all, or ``None`` where the token's own count is right.
        cka_id_bytes: longest CKA_ID that the token keeps, in bytes.
        point_on_private_key: the private key object carries CKA_EC_POINT too.
        device_error_throttles: CKR_DEVICE_ERROR may mean that the device is asked for too much at once.
    """

    read_write_sessions: bool = False
    raw_ec_point: bool = False
    max_sessions: int | None = None
    cka_id_bytes: int = 32
    point_on_private_key: bool = False
    device_error_throttles: bool = False
