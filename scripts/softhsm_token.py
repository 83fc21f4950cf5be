"""Make a SoftHSM token for development: ``softhsm_token.py DIRECTORY LABEL [LIBRARY]``.

Writes ``softhsm2.conf``, ``tokens/`` and ``pin`` (mode 0600) under DIRECTORY. It speaks PKCS#11 through
ctypes, because ``softhsm2-util`` takes PINs only from its command line or a terminal, and a PIN must never
stand in argv.
Does nothing when the token is there already. Needs only the standard library.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import sys
from pathlib import Path

LIBRARIES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
LABEL_BYTES = 32  # CK_TOKEN_INFO.label, padded with blanks (PKCS#11 2.40, 3.2)
CKF_RW_SESSION, CKF_SERIAL_SESSION = 2, 4
CKU_SO = 0


def write_private(path: Path, text: str) -> None:
    """Create ``path`` readable by its owner alone, from the first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def check(function: str, rv: int) -> None:
    """Stop with the return code when a PKCS#11 call failed."""
    if rv != 0:
        raise SystemExit(f"softhsm_token: {function} failed with return code 0x{rv:x}")


def initialise(library: str, label: str, so_pin: bytes, pin: bytes) -> None:
    """Initialise the first free slot's token and set its user PIN (PKCS#11 2.40, 5.5 and 5.6)."""
    module = ctypes.CDLL(library)
    check("C_Initialize", module.C_Initialize(None))
    count = ctypes.c_ulong()
    check("C_GetSlotList", module.C_GetSlotList(0, None, ctypes.byref(count)))
    slots = (ctypes.c_ulong * count.value)()
    check("C_GetSlotList", module.C_GetSlotList(0, slots, ctypes.byref(count)))
    slot = ctypes.c_ulong(slots[count.value - 1])  # SoftHSM keeps its one free slot last
    padded = label.encode().ljust(LABEL_BYTES)
    check("C_InitToken", module.C_InitToken(slot, so_pin, ctypes.c_ulong(len(so_pin)), padded))
    session = ctypes.c_ulong()
    flags = ctypes.c_ulong(CKF_RW_SESSION | CKF_SERIAL_SESSION)
    check("C_OpenSession", module.C_OpenSession(slot, flags, None, None, ctypes.byref(session)))
    check("C_Login", module.C_Login(session, ctypes.c_ulong(CKU_SO), so_pin, ctypes.c_ulong(len(so_pin))))
    check("C_InitPIN", module.C_InitPIN(session, pin, ctypes.c_ulong(len(pin))))
    check("C_Finalize", module.C_Finalize(None))


def main(arguments: list[str]) -> None:
    """Create the token unless its PIN file, which is written last, says that it exists."""
    if len(arguments) not in (2, 3):
        raise SystemExit(__doc__)
    directory, label = Path(arguments[0]).absolute(), arguments[1]
    candidates = (arguments[2],) if len(arguments) == 3 else LIBRARIES  # noqa: PLR2004 - see the usage line
    library = next((path for path in candidates if Path(path).is_file()), None)
    if library is None:
        tried = " or ".join(candidates)
        raise SystemExit(f"softhsm_token: no SoftHSM library at {tried}; apt-get install softhsm2")
    if len(label.encode()) > LABEL_BYTES:
        raise SystemExit(f"softhsm_token: the label is longer than {LABEL_BYTES} bytes")
    pin_file = directory / "pin"
    if pin_file.exists():
        return
    tokens = directory / "tokens"
    tokens.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    conf = directory / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(conf)
    pin = f"{secrets.randbelow(10**12):012}"
    initialise(library, label, secrets.token_hex(16).encode(), pin.encode())
    write_private(pin_file, pin + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
