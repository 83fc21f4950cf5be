"""Addresses of other programs that settings name: http or https, with a host, and nothing that may not be shown.

The one thing to know: an address that is a secret in itself, as those of many webhooks are, is a :class:`SecretUrl`; a
:class:`Url` is shown, so a password in it is refused.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from manahsm.config.kinds import SecretText, Text
from manahsm.config.options import Kind, OptionError
from manahsm.config.secret import Secret

__all__ = ["SecretUrl", "Url"]

_LONGEST = 2048


class Url(Kind):
    """An address without a password in it."""

    def describe(self) -> str:
        """The type."""
        return "http or https address"

    def parse(self, raw: object) -> str:
        """Check the type, then the value."""
        url: str = Text(_LONGEST).parse(raw)
        _check(url)
        if "@" in urlsplit(url).netloc:
            raise OptionError("must not hold a user or a password: it is shown in logs")
        return url.rstrip("/")


class SecretUrl(SecretText):
    """An address that is never shown."""

    def describe(self) -> str:
        """The type."""
        return "http or https address (secret)"

    def parse(self, raw: object) -> Secret:
        """Check the type, then the value; never repeat it."""
        secret = super().parse(raw)
        _check(secret.reveal())
        return secret


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or any(character.isspace() for character in url):
        raise OptionError("must be an address such as https://example.org/path")
