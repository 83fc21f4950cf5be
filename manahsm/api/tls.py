"""The certificate of the interface, and how a new one is taken without a restart.

The one thing to know: a listener holds one :class:`NewestContext` for all its life, which hands each new connection to
the newest real one. Connections that are there keep what they began with.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any, Self

from manahsm.config.api_tables import Tls
from manahsm.config.secret_files import insist_on_a_private_file
from manahsm.errors import ConfigError, ConfigProblem
from manahsm.logs import get_logger

__all__ = ["Certificates", "NewestContext"]

_log = get_logger("manahsm.api")


class NewestContext(ssl.SSLContext):
    """A server's context that stands for another one, which can be exchanged."""

    newest: ssl.SSLContext

    def __new__(cls, newest: ssl.SSLContext) -> Self:
        """Stand for ``newest`` at first."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        context.newest = newest
        return context

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin a connection; asyncio calls nothing else."""
        return self.newest.wrap_bio(*args, **kwargs)


class Certificates:
    """The files of the table ``hsm.api.tls``, and the contexts that were made of them.

    Args:
        options: with a certificate and a key.

    Raises:
        ConfigError: a file can not be used.
    """

    def __init__(self, options: Tls) -> None:
        self._options = options
        self._contexts: dict[ssl.TLSVersion, NewestContext] = {}
        self._seen = self._stamps()
        self._make(ssl.TLSVersion.TLSv1_2)

    def context(self, least: ssl.TLSVersion) -> NewestContext:
        """Return the context of listeners that take ``least`` or a newer version."""
        if least not in self._contexts:
            self._contexts[least] = NewestContext(self._make(least))
        return self._contexts[least]

    def changed(self) -> bool:
        """Whether a file is another one than when it was last read."""
        return self._stamps() != self._seen

    def reload(self) -> None:
        """Read the files anew. What is wrong with them is raised, and the certificate that was stays.

        Raises:
            ConfigError: a file can not be used.
        """
        self._seen = self._stamps()
        made = {least: self._make(least) for least in self._contexts}
        for least, context in made.items():
            self._contexts[least].newest = context
        _log.info("certificate read", file=str(self._options.certificate))

    def _make(self, least: ssl.TLSVersion) -> ssl.SSLContext:
        options = self._options
        assert options.certificate is not None and options.key is not None  # noqa: PT018, S101 - the rules of the configuration
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = least
        context.options |= ssl.OP_NO_RENEGOTIATION
        _insist_on_a_private_key(options.key)
        try:
            context.load_cert_chain(options.certificate, options.key, password=_no_password)
        except (OSError, ValueError) as error:
            raise ConfigError([ConfigProblem("hsm.api.tls.certificate", _why(error, options.certificate))]) from None
        if options.client_ca is not None:
            try:
                context.load_verify_locations(options.client_ca)
            except (OSError, ValueError) as error:
                raise ConfigError([ConfigProblem("hsm.api.tls.client_ca", _why(error, options.client_ca))]) from None
            context.verify_mode = ssl.CERT_OPTIONAL  # who presents none may have a token
        return context

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(file) for file in (self._options.certificate, self._options.key, self._options.client_ca))


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file) if file is not None else None  # noqa: PTH116 - follows the links that renewal tools move
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_ino, found.st_size)


def _insist_on_a_private_key(file: Path) -> None:
    try:
        insist_on_a_private_file(file.stat().st_mode, file)
    except (OSError, ValueError) as error:
        raise ConfigError([ConfigProblem("hsm.api.tls.key", _why(error, file))]) from None


def _no_password() -> str:
    raise ValueError("the key is encrypted: keys must be in clear, in a file that only the service can read")


def _why(error: Exception, file: Path) -> str:
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "no certificate in it"
        return f"{file} is no PEM file that can be used, or does not belong to the key ({reason})"
    if isinstance(error, OSError):
        return f"can not open {file}: {error.strerror}"
    return str(error)
