"""What is known of each vendor's PKCS#11 module: where it is, what it needs, where it leaves the standard.

The one thing to know: a profile only supplies defaults, and only SoftHSM's was ever tried on the real thing. All but
its quirks can be overridden by configuration, because vendors move files and change limits between releases. What the
others know comes from the vendors' documentation, sources and bug reports. It is tested against a module with
their quirks over SoftHSM (``tests/faults/test_vendor_profiles.py``), which proves that we keep to what we believe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from attrs import field, frozen

from manahsm.hsm.quirks import Quirks

__all__ = ["PROFILES", "PinForm", "Variable", "Vendor", "VendorProfile", "profile_of"]


class Vendor(StrEnum):
    """A family of PKCS#11 modules; ``generic`` stands for any other."""

    THALES = "thales"
    AWS_CLOUDHSM = "aws_cloudhsm"
    SAFENET_LUNA = "safenet_luna"
    UTIMACO = "utimaco"
    YUBIHSM = "yubihsm"
    SOFTHSM = "softhsm"
    GENERIC = "generic"


@frozen
class Variable:
    """An environment variable that a vendor's library reads.

    Attributes:
        name: its name.
        doc: what it is for.
        default: value that the profile sets when nobody else does, or ``None``.
        is_path: its value is a path; in a configuration file it may be relative to that file.
    """

    name: str
    doc: str
    default: str | None = None
    is_path: bool = False


@frozen
class PinForm:
    """A vendor's PIN syntax. A PIN that can not be right is refused before it costs a retry.

    Attributes:
        pattern: regular expression that the whole PIN must match.
        doc: the form in words.
    """

    pattern: str
    doc: str

    def fits(self, pin: str) -> bool:
        """Whether ``pin`` may be right."""
        return re.fullmatch(self.pattern, pin, re.DOTALL) is not None


def _paths(paths: Iterable[str]) -> tuple[Path, ...]:
    return tuple(Path(path) for path in paths)


def _read_only(pool: Mapping[str, int]) -> Mapping[str, int]:
    return MappingProxyType(dict(pool))


@frozen(kw_only=True)
class VendorProfile:
    """Defaults for one vendor.

    Attributes:
        vendor: whose they are.
        title: the product's name.
        libraries: where its PKCS#11 library may be, likeliest first.
        pool: defaults of ``connection_pool`` in file form (times in milliseconds).
        variables: environment variables that its library reads.
        pin_form: the form of its PINs, or ``None`` for any.
        quirks: how its library differs from the standard.
        notes: what an operator should know, one sentence each.
    """

    vendor: Vendor
    title: str
    libraries: tuple[Path, ...] = field(converter=_paths)
    pool: Mapping[str, int] = field(converter=_read_only, hash=False)
    variables: tuple[Variable, ...] = ()
    pin_form: PinForm | None = None
    quirks: Quirks = field(factory=Quirks)
    notes: tuple[str, ...] = ()


def _pool(size: int, max_overflow: int, timeout: int, idle_timeout: int, **others: int) -> dict[str, int]:
    """The pool numbers that users of the original know, in milliseconds, and any of ours that differ."""
    return {
        "size": size,
        "max_overflow": max_overflow,
        "timeout": timeout,
        "idle_timeout": idle_timeout,
        **others,
    }


_THALES = VendorProfile(
    vendor=Vendor.THALES,
    title="Thales (Entrust) nShield",
    libraries=("/opt/nfast/toolkits/pkcs11/libcknfast.so",),
    pool=_pool(5, 10, 30000, 60000),
    variables=(
        Variable("CKNFAST_LOADSHARING", "spread load over several modules", default="1"),
        Variable("CKNFAST_OVERRIDE_SECURITY_ASSURANCES", "which of its security assurances to waive"),
        Variable("CKNFAST_SESSION_THREADSAFE", "whether sessions may be used by several threads"),
    ),
    notes=(
        "Load sharing is its high availability: one slot here is enough for several modules.",
        "Full throughput needs at least 60 jobs outstanding: raise size where that matters.",
        "Whether it offers secp256k1 depends on the firmware: try `python -m manahsm.run --check`.",
    ),
)

_AWS_CLOUDHSM = VendorProfile(
    vendor=Vendor.AWS_CLOUDHSM,
    title="AWS CloudHSM",
    libraries=("/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",),
    # Its SDK retries a throttled call by itself, so a call may take long without being stuck.
    pool=_pool(10, 20, 15000, 30000, call_timeout=15000),
    pin_form=PinForm(r"[^:]+:.+", "CU_user:password"),
    quirks=Quirks(read_write_sessions=True, point_on_private_key=True, device_error_throttles=True),
    notes=(
        "The PIN is the crypto user's name and password: CU_user:password.",
        "Read-only sessions are not supported, so all sessions are opened read-write.",
        "CKR_DEVICE_ERROR can mean that the cluster is throttling.",
    ),
)

_SAFENET_LUNA = VendorProfile(
    vendor=Vendor.SAFENET_LUNA,
    title="Thales (SafeNet) Luna",
    libraries=("/usr/safenet/lunaclient/lib/libCryptoki2_64.so",),
    # Its own receive timeout is 20 s: let it report a lost appliance itself. It opens many sessions slowly.
    pool=_pool(8, 16, 20000, 45000, call_timeout=25000, start_timeout=60000),
    variables=(Variable("ChrystokiConfigurationPath", "directory of Chrystoki.conf", is_path=True),),
    notes=(
        "In an HA group, name the group's token label: the client recovers the loss of a member by itself.",
        "Whether it offers secp256k1 depends on firmware and FIPS mode: try `python -m manahsm.run --check`.",
    ),
)

_UTIMACO = VendorProfile(
    vendor=Vendor.UTIMACO,
    title="Utimaco SecurityServer",
    libraries=("/opt/utimaco/lib/libcs_pkcs11_R2.so",),
    pool=_pool(6, 12, 25000, 50000),
    variables=(Variable("CS_PKCS11_R2_CFG", "its configuration file", is_path=True),),
    quirks=Quirks(raw_ec_point=True),
    notes=("It closes sessions that are idle for 30 minutes unless its own configuration says otherwise.",),
)

_YUBIHSM = VendorProfile(
    vendor=Vendor.YUBIHSM,
    title="YubiHSM 2",
    libraries=("/usr/local/lib/pkcs11/yubihsm_pkcs11.so",),
    # The original's 3/6 would not help: a slot has one device session, and the device 16 in all.
    pool=_pool(2, 0, 10000, 20000),
    variables=(Variable("YUBIHSM_PKCS11_CONF", "its configuration file", is_path=True),),
    pin_form=PinForm(r"[0-9A-Fa-f]{4}.+", "four hex digits of the authentication key id, then the password"),
    quirks=Quirks(max_sessions=16, cka_id_bytes=2),
    notes=(
        "The PIN is the authentication key id in four hex digits, then the password: 0001password.",
        "A yubihsm_pkcs11.conf in the working directory wins over YUBIHSM_PKCS11_CONF.",
        "Each host process uses one of the device's 16 sessions; a pool of more than 2 signs no faster.",
    ),
)

_SOFTHSM = VendorProfile(
    vendor=Vendor.SOFTHSM,
    title="SoftHSM 2",
    libraries=(
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    ),
    pool=_pool(4, 8, 5000, 15000),
    variables=(Variable("SOFTHSM2_CONF", "its configuration file, which names the token directory", is_path=True),),
    notes=(
        "For development and tests: its keys are as safe as the files that hold them.",
        "Without SOFTHSM2_CONF it looks into another token directory and finds no such token.",
        "Its slot numbers change when a token is made anew: name the token by its label.",
    ),
)

_GENERIC = VendorProfile(
    vendor=Vendor.GENERIC,
    title="any other PKCS#11 module",
    libraries=(),
    pool={},
    notes=("Name the library: library_path has no default here.",),
)

PROFILES: Mapping[Vendor, VendorProfile] = MappingProxyType(
    {
        profile.vendor: profile
        for profile in (_THALES, _AWS_CLOUDHSM, _SAFENET_LUNA, _UTIMACO, _YUBIHSM, _SOFTHSM, _GENERIC)
    }
)


def profile_of(vendor: Vendor) -> VendorProfile:
    """The profile of a vendor; there is one for each."""
    return PROFILES[vendor]
