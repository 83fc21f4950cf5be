"""What a key may be called, and how a reference to a key is shown to a caller.

Labels, key ids and addresses share one namespace (a caller may name a key by any of them), so a label must
never look like one of the other two. It must not look like a private key either: callers paste those into the
wrong argument, and a label is written to logs and audit records.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Container
from itertools import count
from typing import TypeGuard

from manahsm.errors import InvalidRequest

__all__ = [
    "MAX_LABEL_LENGTH",
    "describe_reference",
    "is_address",
    "is_key_id",
    "is_reference",
    "label_for_token_key",
    "label_problem",
    "retired_label",
    "validate_label",
]

MAX_LABEL_LENGTH = 64

_KEY_ID = re.compile(r"[0-9a-fA-F]{16}")
_ADDRESS = re.compile(r"(0[xX])?[0-9a-fA-F]{40}")
_PRIVATE_KEY = re.compile(r"(0[xX])?[0-9a-fA-F]{64}")
_RETIRED = re.compile(r".*@[0-9a-f]{16}", re.DOTALL)

# Longer than an address is already suspicious: a private key that lost some digits on the way is still mostly
# a private key. Decimal private keys are runs of hex digits too.
_HEX_RUN = re.compile(r"[0-9a-fA-F]{41}")
_HEX_SEPARATORS = re.compile(r"[\s:_,.-]+")
_BASE64_KEY = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9+/_-]{43}=?")
_MNEMONIC_WORDS = 12


def is_key_id(text: str) -> bool:
    """Whether ``text`` has the form of a key id: 16 hexadecimal characters."""
    return _KEY_ID.fullmatch(text) is not None


def is_address(text: str) -> bool:
    """Whether ``text`` has the form of an address: 40 hexadecimal characters, with or without ``0x``."""
    return _ADDRESS.fullmatch(text) is not None


def is_reference(value: object) -> TypeGuard[str]:
    """Tell a key id, label or address from a private key: text that is not 64 hex digits is a reference."""
    return isinstance(value, str) and _PRIVATE_KEY.fullmatch(value.strip()) is None


def _looks_like_key_material(text: str) -> bool:
    """Whether ``text`` may be a private key (hex, decimal, base64) or a mnemonic; errs on the side of yes."""
    return (
        _HEX_RUN.search(_HEX_SEPARATORS.sub("", text)) is not None
        or _BASE64_KEY.fullmatch(text) is not None
        or len(text.split()) >= _MNEMONIC_WORDS
    )


# In order: each rule may take those before it for granted.
_RULES: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda label: not label, "a label has at least one character"),
    (lambda label: len(label) > MAX_LABEL_LENGTH, f"a label has at most {MAX_LABEL_LENGTH} characters"),
    (lambda label: not label.isprintable(), "a label has no control, line break or invisible characters"),
    (lambda label: label != label.strip(), "a label neither begins nor ends with a space"),
    (
        lambda label: unicodedata.normalize("NFC", label) != label,
        "a label is in Unicode normal form C, so that equal labels look equal",
    ),
    (
        lambda label: is_key_id(label) or is_address(label),
        "a label must not look like a key id (16 hex digits) or an address (40 hex digits)",
    ),
    (_looks_like_key_material, "a label must not look like a private key or a mnemonic"),
    (
        lambda label: _RETIRED.fullmatch(label) is not None,
        "labels that end in @ and a key id are kept for retired keys",
    ),
)


def label_problem(label: str) -> str | None:
    """Say which rule ``label`` breaks, without repeating it, or ``None`` where it may be used."""
    return next((rule for broken, rule in _RULES if broken(label)), None)


def validate_label(label: str) -> str:
    """Return ``label`` unchanged if a key may be called so.

    Raises:
        InvalidRequest: it may not; the message gives the rule, never the label.
    """
    if not isinstance(label, str):
        raise InvalidRequest(f"label: a label is a string, not {type(label).__name__}")
    problem = label_problem(label)
    if problem is not None:
        raise InvalidRequest(f"label: {problem}")
    return label


def retired_label(label: str, key_id: str) -> str:
    """Give the label under which a key that was rotated out can still be found."""
    return f"{label}@{key_id}"


def label_for_token_key(token_label: str, key_id: str, taken: Container[str]) -> str:
    """Make a valid and free label for a key that was found in a token.

    Args:
        token_label: CKA_LABEL as the token gives it; any text, often empty or the same for several keys.
        key_id: the key's id, used where the token's label alone will not do.
        taken: labels in use.

    Returns:
        The token's label where it is valid and free, else one that is made of it and the key id.
    """
    printable = "".join(c for c in unicodedata.normalize("NFC", token_label) if c.isprintable())
    # A key that was rotated out in a registry now lost keeps its history readable, but the form is not its to
    # use.
    wish = printable.replace("@", "-").strip() if _RETIRED.fullmatch(printable) else printable.strip()
    wish = wish[:MAX_LABEL_LENGTH].strip()
    if label_problem(wish) is None and wish not in taken:
        return wish
    stem = wish[: MAX_LABEL_LENGTH - len(key_id) - 1].strip()
    with_id = f"{stem}-{key_id}"
    if stem and label_problem(with_id) is None and with_id not in taken:
        return with_id
    # Only a label that somebody chose in order to clash gets further than the first of these.
    return next(
        label
        for number in count(1)
        if (label := f"token-key-{key_id}" + (f"-{number}" if number > 1 else "")) not in taken
    )


def describe_reference(reference: object) -> str:
    """Show what a caller named a key by, in an error message, unless it could be a secret.

    A private key that was passed where a label belongs must not end up in a log.
    """
    if not isinstance(reference, str):
        return f"the given {type(reference).__name__}"
    if is_key_id(reference) or is_address(reference):
        return repr(reference)
    base, _, suffix = reference.rpartition("@")
    if label_problem(base if is_key_id(suffix) else reference) is None:
        return repr(reference)
    return "the given reference (not shown: it is not a label, key id or address)"
