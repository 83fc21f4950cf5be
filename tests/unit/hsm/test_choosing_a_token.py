"""Which of several tokens is meant."""

from __future__ import annotations

from typing import Any

import pytest

from manahsm.hsm.cryptoki import TokenCallFailed, TokenInfoStructure
from manahsm.hsm.host_token import choose_token
from manahsm.hsm.protocol import Start


def token(label: str, serial: str) -> TokenInfoStructure:
    return TokenInfoStructure(label=label.encode().ljust(32), serial=serial.encode().ljust(16))


def start(**wanted: Any) -> Start:
    wanted = {"slot_id": None, "token_label": None, "serial": None, **wanted}
    return Start("lib", wanted["slot_id"], wanted["token_label"], wanted["serial"], None, False, False, None, 32, False)


TOKENS = [(1, token("main", "A1")), (2, token("backup", "A2")), (7, token("main", "A3"))]


@pytest.mark.parametrize(
    ("wanted", "slot_id"),
    [
        ({"token_label": "backup"}, 2),
        ({"serial": "A3"}, 7),
        ({"slot_id": 1}, 1),
        ({"slot_id": 7, "token_label": "main"}, 7),
        ({"token_label": "main", "serial": "A1"}, 1),
    ],
)
def test_the_token_that_matches_everything_given_is_taken(wanted: dict[str, Any], slot_id: int) -> None:
    assert choose_token(TOKENS, start(**wanted))[0] == slot_id


def test_the_only_token_needs_no_name() -> None:
    assert choose_token(TOKENS[:1], start())[0] == 1


@pytest.mark.parametrize("wanted", [{}, {"token_label": "main"}])
def test_more_than_one_match_is_not_guessed_at(wanted: dict[str, Any]) -> None:
    with pytest.raises(TokenCallFailed) as caught:
        choose_token(TOKENS, start(**wanted))
    assert caught.value.failure.name == "TOKEN_AMBIGUOUS"


@pytest.mark.parametrize(
    "wanted", [{"token_label": "none"}, {"slot_id": 3}, {"serial": "A"}, {"slot_id": 2, "token_label": "main"}]
)
def test_no_match_names_what_is_wanted_and_what_is_there(wanted: dict[str, Any]) -> None:
    with pytest.raises(TokenCallFailed) as caught:
        choose_token(TOKENS, start(**wanted))
    failure = caught.value.failure
    assert failure.name == "TOKEN_NOT_FOUND"
    assert "'main' (slot 1), 'backup' (slot 2), 'main' (slot 7)" in failure.detail
    assert all(str(value) in failure.detail for value in wanted.values())


def test_no_token_at_all_is_said() -> None:
    with pytest.raises(TokenCallFailed) as caught:
        choose_token([], start(token_label="x"))
    assert "found: none" in caught.value.failure.detail


@pytest.mark.parametrize(("count", "expected"), [(0, None), (2**64 - 1, None), (16, 16)])
def test_a_token_that_does_not_say_how_many_sessions_it_allows_is_not_taken_at_its_word(
    count: int, expected: int | None
) -> None:
    assert TokenInfoStructure(max_session_count=count).max_sessions == expected
