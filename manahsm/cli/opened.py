"""The service that a command works with: that of the configuration, opened here, or one that is running.

The one thing to know: only one process may hold an audit log and a key registry. Where a service of this configuration
is running already, opening it again fails, and the error says how to ask the one that runs.
"""

from __future__ import annotations

import inspect
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from manahsm.cli.failures import ServiceRunning
from manahsm.cli.options import Options
from manahsm.cli.output import show_log
from manahsm.errors import AuditUnavailable, ConfigError, ConfigProblem, ManaHSMError, RegistryError
from manahsm.files import FileInUse

if TYPE_CHECKING:
    from manahsm.config.model import Config
    from manahsm.requests import RequestOptions
    from manahsm.service import Service

__all__ = ["CALLER", "asked_here", "configuration", "opened", "service_url", "settled", "with_service"]

CALLER = "cli"
"""Who asks, in the audit log, where the service is opened here."""

T = TypeVar("T")


def configuration(options: Options) -> Config:
    """Load the configuration that the options name.

    Raises:
        ConfigError: it can not be used.
    """
    from manahsm.config.load import load_config  # noqa: PLC0415 - `--help` does not need it

    try:
        config = load_config(options.config, environ=os.environ)
    except ConfigError as error:
        if options.config is None and not os.environ.get("MANAHSM_CONFIG"):
            problem = "no file is named, and MANAHSM_CONFIG is not set; `manahsm init` writes one"
            raise ConfigError([*error.problems, ConfigProblem("--config", problem)]) from None
        raise
    os.environ.pop("HSM_PIN", None)  # it is in the configuration now, and no child is to inherit it
    return config


def with_service(options: Options, work: Callable[[Service], Awaitable[T]]) -> T:
    """Run ``work`` with the service, in an event loop of its own.

    Raises:
        ManaHSMError: of the service or of the work.
    """
    import anyio  # noqa: PLC0415 - as above

    async def run() -> T:
        failed: ManaHSMError | None = None
        async with opened(options) as service:
            try:
                return await work(service)
            except ManaHSMError as error:
                failed = error  # raised outside, where no task group wraps it
        assert failed is not None  # noqa: S101 - the other way out is above
        raise failed

    return anyio.run(run)


@asynccontextmanager
async def opened(options: Options) -> AsyncIterator[Service]:
    """A service for as long as the context lasts: a client of the one at ``--url``, else that of the configuration.

    Raises:
        ServiceRunning: another process runs it.
        ManaHSMError: it can not be opened.
        click.UsageError: the token's file can not be used.
        RemoteError: nobody answers at ``--url``, or no service of ours.
    """
    if options.url is not None:
        show_log(verbose=options.verbose)
        async with _client(options) as client:
            yield client
        return
    from manahsm.access import Asker, asked_by  # noqa: PLC0415 - as above
    from manahsm.service import open_service  # noqa: PLC0415 - as above

    config = configuration(options)
    show_log(verbose=options.verbose, debug=config.debug)
    try:
        async with open_service(config) as service:
            with asked_by(Asker(caller=CALLER, request_id=uuid.uuid4().hex)):
                yield service
    except (AuditUnavailable, RegistryError) as error:
        if not isinstance(error.__context__, FileInUse):
            raise
        raise _running(config) from None


def _running(config: Config) -> ServiceRunning:
    url = service_url(config) or "URL"
    return ServiceRunning(
        f"a service with this configuration is running: only one process may hold {config.state_dir} and the audit "
        f"log. Ask that one with --url {url}, or stop it first"
    )


def service_url(config: Config) -> str | None:
    """Where the service of a configuration can be asked, if its port is known: at best where it knows our user."""
    from manahsm.config.api_rules import listeners_of  # noqa: PLC0415 - as above

    scheme = "http" if config.api.tls.certificate is None else "https"
    known = any(caller.uid == os.getuid() for caller in config.api.callers)
    for listener in sorted(listeners_of(config.api), key=lambda one: known and one.socket is None):
        if listener.port:
            host = f"[{listener.host}]" if ":" in listener.host else listener.host
            return f"{scheme}://{host}:{listener.port}"
        if listener.socket is not None:
            return f"unix:{listener.socket}"
    return None


def _client(options: Options) -> AbstractAsyncContextManager[Service]:
    from manahsm.client import connect  # noqa: PLC0415 - as above

    assert options.url is not None  # noqa: S101 - whoever calls this has looked
    client = connect(options.url, token=_bearer_token(options), ca=options.ca, certificate=options.certificate)
    return cast("AbstractAsyncContextManager[Service]", client)


def _bearer_token(options: Options) -> str | None:
    if options.token_file is None:
        return None
    from manahsm.config.secret_files import read_secret_file  # noqa: PLC0415 - as above

    try:
        return read_secret_file(options.token_file).reveal()
    except ValueError as error:
        raise click.UsageError(f"--token-file: {error}") from None


def asked_here(options: Options) -> RequestOptions:
    """What a signature's audit record says of who asked; a service elsewhere knows by itself."""
    return {"caller": CALLER} if options.url is None else {}


async def settled(value: Any) -> Any:
    """A value that the service has at hand, and a client of it must ask for."""
    return await value if inspect.isawaitable(value) else value
