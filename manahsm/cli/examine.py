"""Looks at everything that a service needs, one thing after the other, and goes on where something is wrong.

The one thing to know: a configuration that can not be used is no reason to stop. Each faulty option is reported and
left out, and what remains is looked at all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import evolve

from manahsm.cli.findings import (
    Finding,
    Verdict,
    choose,
    describe_problem,
    library_failed,
    library_found,
    login_is_safe,
    mechanisms_found,
    pin_state,
    sessions_allowed_by,
)
from manahsm.cli.probe import Library, ProbeFailed, Token, list_tokens, try_key
from manahsm.cli.salvage import salvaged
from manahsm.cli.surroundings import look_around
from manahsm.config.load import load_config
from manahsm.config.model import Config, SlotConfig
from manahsm.config.slots import declared_slots, slot_name
from manahsm.config.tables import SlotOptions
from manahsm.config.vendors import PROFILES
from manahsm.errors import ConfigError

__all__ = ["examine", "examine_slots"]


def examine(source: Path | None, environ: Mapping[str, str], *, trial: bool = False) -> Iterator[Finding]:
    """Look at a configuration, at the folders it names, and at each of its tokens.

    Args:
        source: the file; ``None`` for what the environment names.
        environ: the environment.
        trial: whether a token without keys is to make one, which is removed again.
    """
    try:
        config: Config | None = load_config(source, environ=environ)
        named = source or environ.get("MANAHSM_CONFIG")
        yield Finding("configuration", Verdict.OK, str(named) if named else "no file: defaults and environment alone")
    except ConfigError as error:
        yield from (describe_problem(problem.path, problem.message) for problem in error.problems)
        config = salvaged(source, environ)
    if config is None:
        yield from _what_is_there(environ)
        return
    yield from look_around(config)
    yield from examine_slots(config, environ, trial=trial)


def examine_slots(config: Config, environ: Mapping[str, str], *, trial: bool = False) -> Iterator[Finding]:
    """Look at each token of a configuration."""
    slots = declared_slots(config) if config.enabled else ()
    if not slots:
        yield Finding("tokens", Verdict.NOTE, "none is configured: software keys only")
    for _, slot in slots:
        yield from _examine_slot(config, slot, environ, trial=trial)


def _what_is_there(environ: Mapping[str, str]) -> Iterator[Finding]:
    """The tokens behind every library at its usual place: nothing is known of those that were meant."""
    for profile in PROFILES.values():
        path = next((path for path in profile.libraries if path.is_file()), None)
        if path is None:
            continue
        with suppress(ProbeFailed):
            library = list_tokens(path, environ)
            if not library.tokens:
                remedy = "initialise a token with the vendor's tool; for SoftHSM, see that SOFTHSM2_CONF is set"
                yield Finding("library", Verdict.NOTE, f"{profile.title} ({path}) has no token", remedy)
                continue
            there = "; ".join(token.title for token in library.tokens)
            text = f"{profile.title} ({path}) has {there}"
            yield Finding("library", Verdict.NOTE, text, "manahsm init writes a configuration for it")


def _examine_slot(config: Config, slot: SlotOptions, environ: Mapping[str, str], *, trial: bool) -> Iterator[Finding]:
    name = slot_name(slot)
    resolved, problems, pin_good = _resolve(config, slot, environ)
    yield from (describe_problem(path, message, name) for path, message in problems)
    if resolved is None:
        return
    library: Library | None = None
    try:
        library = list_tokens(resolved.library_path, resolved.environment)
    except ProbeFailed as failed:
        yield library_failed(str(resolved.library_path), failed, name)
        return
    yield from library_found(library, name)
    token, finding = choose(library.tokens, resolved.token_label, resolved.slot_id, name)
    yield finding
    if token is not None:
        yield from _examine_token(resolved, token, pin_good=pin_good, trial=trial)


def _examine_token(slot: SlotConfig, token: Token, *, pin_good: bool, trial: bool) -> Iterator[Finding]:
    import anyio  # noqa: PLC0415 - nothing before this needs an event loop

    from manahsm.cli.token_visit import visit  # noqa: PLC0415 - as above

    mechanisms = list(mechanisms_found(token, slot.name))
    yield from mechanisms
    yield pin_state(token.flags, slot.name)
    yield sessions_allowed_by(token, slot.connection_pool, slot)
    if not (pin_good and login_is_safe(token.flags)):
        yield Finding("login", Verdict.NOTE, "not tried: see above", slot=slot.name)
        return
    if any(finding.verdict is Verdict.FAIL for finding in mechanisms):
        return
    found = anyio.run(visit, slot)
    without_key = any(finding.subject == "curve" and finding.verdict is Verdict.NOTE for finding in found)
    yield from (finding for finding in found if not (trial and finding.subject == "curve" and without_key))
    if trial and without_key:
        yield _trial(slot)


def _trial(slot: SlotConfig) -> Finding:
    try:
        removed = try_key(slot)
    except ProbeFailed as failed:
        remedy = (
            "whether the token has the curve secp256k1 is up to its firmware and policy: see the vendor's documents"
        )
        return Finding("curve", Verdict.FAIL, f"no secp256k1 key could be made: {failed}", remedy, slot.name)
    if removed:
        text = "secp256k1: a key was made, signed with and removed again"
        return Finding("curve", Verdict.OK, text, slot=slot.name)
    text = "secp256k1: a key was made and signed with, but could not be removed"
    return Finding("curve", Verdict.WARN, text, "remove 'manahsm-doctor-trial' with the vendor's tool", slot.name)


def _resolve(
    config: Config, slot: SlotOptions, environ: Mapping[str, str]
) -> tuple[SlotConfig | None, list[tuple[str, str]], bool]:
    """A slot by itself; where its PIN can not be read, without one.

    Returns:
        The slot, or ``None``; what is wrong, as path and message; whether its PIN is known.
    """
    alone: dict[str, Any] = {"slots": (slot,), "slot_id": None, "token_label": None}
    try:
        return evolve(config, **alone).resolved_slots(environ)[0], [], True
    except ConfigError as error:
        problems = [(problem.path.replace("hsm.slots[0]", "hsm"), problem.message) for problem in error.problems]
    without = evolve(slot, pin_file=None)
    with suppress(ConfigError):
        bare = evolve(config, **{**alone, "slots": (without,)}, pin=None, pin_file=None)
        return bare.resolved_slots(environ)[0], problems, False
    return None, problems, False
