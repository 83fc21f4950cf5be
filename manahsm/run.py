"""``python -m manahsm.run``: the service as a program, which serves HTTP unless it is told otherwise.

The one thing to know: SIGTERM and SIGINT stop it in order (nothing new is read, what was accepted is answered,
hosts log out, exit 0); a second SIGINT ends it at once, and its host processes die with it.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import anyio
from anyio.abc import TaskStatus

from manahsm.check import report
from manahsm.config.load import load_config
from manahsm.config.model import Config
from manahsm.errors import ConfigError, ManaHSMError
from manahsm.jsonl import serve_lines
from manahsm.logs import configure_logging, get_logger
from manahsm.notify import Notifier
from manahsm.service import Interface, Service, open_service
from manahsm.stdio import LineReader, LineWriter, replace_closed_streams
from supervisors import SupervisorError
from supervisors.exits import leaves

__all__ = ["main"]

_log = get_logger("manahsm.run")

_STDIN, _STDOUT = 0, 1
_TELL_EVERY = 5.0  # seconds between two words to the service manager
_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status: 0 in order, 1 trouble, 2 wrong usage or configuration."""
    replace_closed_streams()
    options = _parser().parse_args(arguments)
    configure_logging(debug=False)
    try:
        config = load_config(options.config, environ=os.environ)
        os.environ.pop("HSM_PIN", None)  # it is in the configuration now, and no child is to inherit it
        configure_logging(debug=config.debug)
        return anyio.run(partial(_run, config, options), backend=options.backend)
    except (ManaHSMError, SupervisorError, ExceptionGroup) as error:
        return _explain(error)


def _explain(error: Exception) -> int:
    """Say on standard error what went wrong; anything that is not ours is a fault and keeps its traceback."""
    for cause in leaves(error):
        match cause:
            case ConfigError():
                lines = ["the configuration can not be used:", *(f"  {problem}" for problem in cause.problems)]
            case ManaHSMError() | SupervisorError():
                lines = [str(cause)]
            case _:
                raise error
        print("manahsm: " + "\n".join(lines), file=sys.stderr)  # noqa: T201
        if isinstance(cause, ConfigError):
            return _EXIT_USAGE
    return _EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m manahsm.run",
        description="A supervised Ethereum signing service whose keys live in hardware security modules.",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML or JSON file (default: $MANAHSM_CONFIG, else defaults)")
    parser.add_argument(
        "--backend", choices=("asyncio", "trio"), default="asyncio", help="event loop (default: asyncio)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--stdio", action="store_true", help="sign JSON lines from standard input, answer on standard output"
    )
    what.add_argument("--check", action="store_true", help="validate, connect, print what was found, exit 0 or 1")
    return parser


async def _run(config: Config, options: argparse.Namespace) -> int:
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(_watch_signals, stop)
        if options.check or options.stdio:
            status = await _serve(config, options, stop, {})
        else:
            from manahsm.api.server import listening  # noqa: PLC0415 - uvicorn and starlette, where they serve

            with listening(config) as server:
                status = await _serve(config, options, stop, {"api": server.serve})
        tasks.cancel_scope.cancel()
    return status


async def _watch_signals(stop: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set() and number == signal.SIGINT:
                os._exit(_EXIT_INTERRUPTED)  # the kernel ends our host processes with us
            _log.info("stopping", signal=signal.Signals(number).name)
            stop.set()


async def _serve(
    config: Config, options: argparse.Namespace, stop: anyio.Event, interfaces: Mapping[str, Interface]
) -> int:
    status = 0
    async with anyio.create_task_group() as tasks:
        starting = tasks.cancel_scope

        async def give_up_start() -> None:
            await stop.wait()
            starting.cancel()

        tasks.start_soon(give_up_start)
        async with open_service(config, interfaces=interfaces) as service:
            starting = anyio.CancelScope()  # from here on a stop is in order, and no cancellation
            gc.freeze()  # modules live as long as the program: going through them would keep the loop for 25 ms
            status = await _work(service, options, stop)
        tasks.cancel_scope.cancel()
    return status


async def _work(service: Service, options: argparse.Namespace, stop: anyio.Event) -> int:
    if not (options.check or options.stdio):
        await _until(stop, service)
        return 0
    lost: list[OSError] = []
    output = LineWriter(_STDOUT)

    async def write(line: bytes) -> None:
        try:
            await output.write(line)
        except OSError as error:  # its reader has gone, the disk is full, ...
            lost.append(error)
            stop.set()

    if options.check:
        status = await report(service, write)
    else:
        limits = service.config.service
        served = await serve_lines(
            LineReader(_STDIN).read,
            write,
            service.answer,
            stop,
            grace=limits.shutdown_grace,
            at_once=limits.queue_size,
        )
        status = 0 if served else _EXIT_FAILED
        if not served:
            _log.error("nobody read the last answers", grace=limits.shutdown_grace)
    if lost:
        _log.error("output lost", error=lost[0].strerror, lines=len(lost))
    return _EXIT_FAILED if lost else status


async def _until(stop: anyio.Event, service: Service) -> None:
    """Serve until a signal comes, and keep the service manager informed."""
    notifier = Notifier()
    notifier.ready(_condition(service))
    _log.info("ready")
    async with anyio.create_task_group() as tasks:
        if notifier.heard:
            tasks.start_soon(_show_life, notifier, service)
        await stop.wait()
        tasks.cancel_scope.cancel()
    notifier.stopping()


async def _show_life(notifier: Notifier, service: Service) -> None:
    interval = _TELL_EVERY if notifier.watchdog is None else min(_TELL_EVERY, notifier.watchdog / 2)
    while True:
        notifier.alive(_condition(service))
        await anyio.sleep(interval)


def _condition(service: Service) -> str:
    reason = service.why_not_ready()
    return "signing" if reason is None else f"not signing: {reason}"


if __name__ == "__main__":
    sys.exit(main())
