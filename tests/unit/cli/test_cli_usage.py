"""The command line without a service: help, wrong usage, wrong configurations, and how each of them ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command_line import manahsm

from manahsm.cli.app import application
from manahsm.cli.failures import EXIT_STATUSES, AnswerNeeded, Exit, explain
from manahsm.cli.opened import service_url
from manahsm.config.load import load_config
from manahsm.errors import ConfigError, ConfigProblem, KeyNotFound
from supervisors import SupervisorError

PRIVATE_KEY = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"


def commands_of(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_of(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = list(commands_of(application))
REACHABLE = [path for path in COMMANDS if path[0] in {"status", "top", "keys", "sign", "alerts", "breaker", "unlatch"}]


def test_these_are_the_commands() -> None:
    named = "init check doctor keys sign status top alerts breaker unlatch audit config token serve"
    assert " ".join(dict.fromkeys(path[0] for path in COMMANDS)) == named


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_of_every_command_names_the_common_options_and_the_exit_statuses(path: tuple[str, ...]) -> None:
    shown = manahsm(*path, "--help")
    assert shown.status == 0
    assert "--config FILE" in shown.output
    assert "--json" in shown.output
    assert EXIT_STATUSES in " ".join(shown.output.split())


@pytest.mark.parametrize("path", REACHABLE, ids=" ".join)
def test_a_running_service_can_be_asked(path: tuple[str, ...]) -> None:
    assert "--url URL" in manahsm(*path, "--help").output


@pytest.mark.parametrize("path", [(), ("keys",), *COMMANDS], ids=" ".join)
def test_help_fits_80_columns(path: tuple[str, ...]) -> None:
    assert manahsm(*path, "--help").width <= 80


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_command_takes_a_secret_as_an_argument(path: tuple[str, ...]) -> None:
    command: click.Command = application
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    names = {option for parameter in command.params for option in parameter.opts}
    assert names.isdisjoint({"--pin", "--passphrase", "--private-key", "--token", "--password"})


PAGE = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_is_on_its_page(path: tuple[str, ...]) -> None:
    if path[0] == "breaker":
        assert "`breaker open|close|reset SLOT`" in PAGE
    else:
        assert re.search(rf"(`|manahsm ){' '.join(path)}\b", PAGE)


@pytest.mark.parametrize("status", Exit)
def test_every_exit_status_is_on_its_page(status: Exit) -> None:
    assert f"\n| {status.value} |" in PAGE
    assert re.search(rf"\b{status.value} \w", EXIT_STATUSES)


def test_help_loads_neither_the_service_nor_what_draws() -> None:
    code = "import sys; from manahsm.cli.app import application as a; a(['--help'], standalone_mode=False); "
    done = subprocess.run(  # noqa: S603 - our own statement
        [sys.executable, "-c", code + "print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"anyio", "asyncio", "coincurve", "eth_account", "httpx", "pkcs11", "rich", "structlog"})


@pytest.mark.parametrize(
    "words",
    [
        ["keyz"],
        ["keys", "generate", "hot"],
        ["keys", "generate", "hot", "--role", "king"],
        ["keys", "list", "--token-file", "t"],
        ["keys", "import", "hot", "--role", "admin", "--passphrase-file", "p"],
        ["sign", "tx", "--key", "a", "--role", "admin"],
        ["sign", "tx"],
        ["sign", "message", "--key", "a"],
        ["sign", "message", "zz", "--hex", "--key", "a"],
        ["top", "--interval", "0"],
        ["breaker", "open", "main"],
        ["unlatch", "main"],
        ["config", "sample", "acme"],
        ["audit", "verify", "/nowhere"],
        ["audit", "verify", "/", "--head", "x"],
        ["audit", "verify", "/", "--address", "x"],
        ["audit", "show", "/", "--since", "yesterday"],
        ["audit", "show", "/", "--event", "birth"],
        ["audit", "show", "/", "--outcome", "good"],
        ["sign", "message", "\udcff", "--key", "a"],
    ],
    ids=lambda words: " ".join(words).encode("ascii", "replace").decode(),
)
def test_wrong_usage_is_said_in_words_and_in_json(words: list[str]) -> None:
    in_words = manahsm(*words)
    assert (in_words.status, in_words.output) == (2, "")
    assert in_words.errors.startswith("manahsm: ")
    in_json = manahsm(*words, "--json")
    assert (in_json.status, in_json.errors) == (2, "")
    assert in_json.error["code"] == "usage"
    assert in_json.error["message"] in in_words.errors


def test_without_a_command_there_is_help() -> None:
    alone = manahsm()
    assert (alone.status, alone.output) == (2, "")
    assert "Commands:" in alone.errors


def test_wrong_usage_names_the_help_to_read() -> None:
    assert "(see manahsm keys generate --help)" in manahsm("keys", "generate", "hot").errors
    assert manahsm("keys").errors == "manahsm: Missing command (see manahsm keys --help)\n"


@pytest.mark.parametrize("words", ["config sample softhsm", "token --json"])
def test_output_that_is_lost_is_a_failure(words: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", "manahsm.cli", *words.split()], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert b"the output was lost" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_breaker_is_somewhere_else() -> None:
    assert "--url" in manahsm("breaker", "open", "main").errors


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "unix:/nowhere/api.sock", "nonsense"])
@pytest.mark.parametrize("words", [("status",), ("top", "--once"), ("keys", "list"), ("breaker", "reset", "main")])
def test_a_service_that_is_not_there_is_an_error(url: str, words: tuple[str, ...]) -> None:
    refused = manahsm(*words, "--url", url, "--json")
    assert (refused.status, refused.error["code"]) == (1, "remote_error")


@pytest.mark.parametrize("url", ["http://operator:swordfish@127.0.0.1:1", "https://operator:swordfish@127.0.0.1:1"])
def test_a_service_that_is_not_there_is_named_without_what_is_secret(url: str) -> None:
    refused = manahsm("status", "--url", url)
    assert url.replace("operator:swordfish@", "") + " was not reached" in refused.errors
    assert "is the service running" in refused.errors
    assert "swordfish" not in refused.everything


def test_without_a_terminal_no_secret_is_asked_for(tmp_path: Path) -> None:
    keystore = tmp_path / "key.json"
    keystore.write_text("{}")
    words = ("keys", "import", "hot", "--role", "admin", "--keystore", keystore)
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "manahsm.cli", *words],
        input=b"swordfish",
        capture_output=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"manahsm: there is no terminal to ask for a secret on: give --passphrase-file FILE")
    assert done.stderr.count(b"\n") == 1


def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret-t0ken")
    path.chmod(0o644)
    refused = manahsm("status", "--url", "http://127.0.0.1:1", "--token-file", path)
    assert refused.status == 2
    assert "chmod 600" in refused.errors
    assert "s3cret" not in refused.everything


def test_a_private_key_is_no_reference_and_is_not_repeated() -> None:
    refused = manahsm("sign", "message", "hello", "--key", PRIVATE_KEY)
    assert refused.status == 2
    assert "private key" in refused.errors
    assert PRIVATE_KEY not in refused.everything


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("[]", "not a JSON object"),
        ('{"nonce": 1, "nonce": 2}', "a name stands twice"),
        ("{", "not JSON"),
        ('{"value": NaN}', "not JSON"),
        ('{"a": ' * 70 + "1" + "}" * 70, "nested deeper"),
    ],
)
def test_a_transaction_is_read_strictly(document: str, why: str) -> None:
    refused = manahsm("sign", "tx", "--key", "hot", text=document)
    assert refused.status == 2
    assert why in refused.errors


# ---- configurations that can not be used ----

FAULTY = "[hsm]\nenabeld = false\nconnection_pool = { size = 0 }\n"


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    path = tmp_path / "faulty.toml"
    path.write_text(FAULTY)
    return path


@pytest.mark.parametrize("words", [("keys", "list"), ("status",), ("check",), ("config", "check"), ("config", "show")])
def test_every_fault_of_a_configuration_is_listed(words: tuple[str, ...], faulty: Path) -> None:
    refused = manahsm(*words, "--config", faulty)
    assert (refused.status, refused.output) == (2, "")
    assert "hsm.enabeld: unknown key; did you mean 'enabled'?" in refused.errors
    assert "hsm.connection_pool.size" in refused.errors


def test_a_faulty_configuration_is_an_error_in_json(faulty: Path) -> None:
    refused = manahsm("serve", "--config", faulty, "--json")
    assert refused.status == 2
    assert refused.error["code"] == "config_error"


def test_a_configuration_that_is_not_there_is_named() -> None:
    refused = manahsm("config", "check", "--config", "/nowhere/manahsm.toml")
    assert refused.status == 2
    assert "/nowhere/manahsm.toml: can not be read" in refused.errors


def test_where_no_configuration_is_named_the_way_to_one_is() -> None:
    refused = manahsm("keys", "list")
    assert refused.status == 2
    assert "MANAHSM_CONFIG is not set; `manahsm init` writes one" in refused.errors


@pytest.mark.parametrize(("uid", "url"), [(os.getuid(), "unix:/run/api.sock"), (4_000_000, "http://127.0.0.1:9000")])
def test_the_address_to_ask_is_the_one_that_knows_us(uid: int, url: str) -> None:
    callers = [{"name": "anybody", "anonymous": True}, {"name": "operator", "uid": uid}]
    table = {"enabled": False, "api": {"socket": "/run/api.sock", "callers": callers}}
    assert service_url(load_config({"hsm": table}, environ={})) == url


# ---- how errors end ----


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ConfigError([ConfigProblem("hsm.vendor", "unknown")]), Exit.USAGE, "config_error"),
        (KeyNotFound("no key"), Exit.FAILED, "key_not_found"),
        (click.UsageError("no"), Exit.USAGE, "usage"),
        (AnswerNeeded("say"), Exit.USAGE, "usage"),
        (click.ClickException("no"), Exit.FAILED, "failed"),
        (click.Abort(), Exit.INTERRUPTED, "interrupted"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, "interrupted"),
        (SupervisorError("no"), Exit.FAILED, "service_failed"),
        (ExceptionGroup("", [ExceptionGroup("", [KeyNotFound("no key")])]), Exit.FAILED, "key_not_found"),
    ],
)
def test_an_error_has_a_status_and_a_code(error: BaseException, status: Exit, code: str) -> None:
    explained = explain(error)
    assert explained is not None
    assert (explained.status, explained.code) == (status, code)


@pytest.mark.parametrize("error", [ValueError("ours"), ExceptionGroup("", [KeyNotFound("no"), ValueError("ours")])])
def test_a_fault_of_ours_keeps_its_traceback(error: Exception) -> None:
    assert explain(error) is None


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "manahsm.cli", "config", "sample", "acme", "--json"], capture_output=True, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "usage")
