"""What a host process needs to know: which library, which token, which PIN, and how long things may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

from attrs import Attribute, field, frozen

from manahsm.config.secret import Secret
from manahsm.config.slots import SlotConfig
from manahsm.hsm.quirks import Quirks

__all__ = ["HostSettings"]


def _positive(_: object, attribute: Attribute[float], value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be more than 0 seconds, not {value}")


@frozen(kw_only=True)
class HostSettings:
    """Frozen settings of the host processes of one slot.

    The token is the one that matches everything given of ``slot_id``, ``token_label`` and ``serial``; with none of them
    there must be exactly one token.

    Attributes:
        name: name of the slot in messages, logs and metrics.
        library_path: the vendor's PKCS#11 library; its real path is loaded.
        slot_id: CK_SLOT_ID.
        token_label: label of the token, without padding.
        serial: serial number of the token, without padding.
        pin: the user PIN, or a function that fetches it anew for each start; ``None`` for tokens without login.
        environment: variables for the vendor's library, set before it loads.
        quirks: how the library differs from the standard.
        call_timeout: seconds that one call may take before its host counts as wedged.
        start_timeout: seconds from spawning a host to its ready frame.
        stop_grace: seconds that a host has to close its sessions and log out before it is killed.
    """

    name: str
    library_path: str = field(converter=str)
    slot_id: int | None = None
    token_label: str | None = None
    serial: str | None = None
    pin: Secret | Callable[[], Secret] | None = None
    environment: Mapping[str, str] = field(factory=dict)
    quirks: Quirks = field(factory=Quirks)
    call_timeout: float = field(default=10.0, validator=_positive)
    start_timeout: float = field(default=30.0, validator=_positive)
    stop_grace: float = field(default=2.0, validator=_positive)

    @classmethod
    def of(cls, slot: SlotConfig) -> Self:
        """Settings for the host processes of a configured slot."""
        return cls(
            name=slot.name,
            library_path=str(slot.library_path),
            slot_id=slot.slot_id,
            token_label=slot.token_label,
            pin=slot.pin,
            environment=slot.environment,
            quirks=slot.quirks,
            call_timeout=slot.connection_pool.call_timeout,
            start_timeout=slot.connection_pool.start_timeout,
        )

    def reveal_pin(self) -> str | None:
        """Fetch the PIN, for the first frame only."""
        if self.pin is None:
            return None
        secret = self.pin if isinstance(self.pin, Secret) else self.pin()
        return secret.reveal()
