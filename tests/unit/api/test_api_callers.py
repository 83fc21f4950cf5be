"""Who asks: every way to be known, and every way not to be."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from typing import Any

import pytest
from attrs import evolve
from key_samples import sample_key

from manahsm.access import Access
from manahsm.api.callers import Callers, Known, Refused
from manahsm.api.peers import Peer
from manahsm.config.api_tables import Api, CallerOptions, Dialect, Listener
from manahsm.errors import KeyNotFound, PolicyDenied
from manahsm.requests import KeyInfo, Operation, Role

TOKEN = "a-token-of-alice"
LOCAL = Peer(listener=Listener(port=9000))
REMOTE = Peer(listener=Listener(host="192.0.2.1", port=9000))
BATCHERS = evolve(REMOTE, certificate="batcher.example", tls="TLSv1.3")
AT_SOCKET = Peer(listener=Listener(socket="/run/api.sock"), uid=1000)  # type: ignore[arg-type]


def caller(name: str, **options: Any) -> CallerOptions:
    return CallerOptions(name=name, **options)


def token_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


ALICE = caller("alice", token_sha256=token_of(TOKEN))
BATCHER = caller("batcher", certificate="batcher.example", dialect=Dialect.OP_SIGNER)
BOB = caller("bob", uid=1000, admin=True)
ANYBODY = caller("anybody", anonymous=True)


def recognise(peer: Peer, authorization: str | None, *callers: CallerOptions) -> Known:
    return Callers(Api(callers=callers)).recognise(peer, authorization)


def refusal(peer: Peer, authorization: str | None, *callers: CallerOptions) -> HTTPStatus:
    with pytest.raises(Refused) as caught:
        recognise(peer, authorization, *callers)
    return caught.value.status


@pytest.mark.parametrize(
    ("peer", "authorization", "callers", "name"),
    [
        (LOCAL, None, (), "anonymous"),
        (AT_SOCKET, None, (), "anonymous"),
        (LOCAL, None, (ALICE, ANYBODY), "anybody"),
        (LOCAL, f"Bearer {TOKEN}", (ANYBODY, ALICE), "alice"),
        (REMOTE, f"bearer  {TOKEN} ", (ALICE, ANYBODY), "alice"),
        (AT_SOCKET, None, (ALICE, BOB), "bob"),
        (BATCHERS, None, (ALICE, BATCHER), "batcher"),
    ],
)
def test_a_caller_is_known(
    peer: Peer, authorization: str | None, callers: tuple[CallerOptions, ...], name: str
) -> None:
    assert recognise(peer, authorization, *callers).access.caller == name


@pytest.mark.parametrize(
    ("peer", "authorization", "callers", "status"),
    [
        pytest.param(LOCAL, None, (ALICE,), 401, id="nothing presented"),
        pytest.param(REMOTE, None, (ALICE, ANYBODY), 401, id="anonymous from another machine"),
        pytest.param(REMOTE, None, (), 401, id="nobody configured, from another machine"),
        pytest.param(LOCAL, "Bearer wrong", (ALICE, ANYBODY), 401, id="wrong token"),
        pytest.param(LOCAL, "Bearer ", (ALICE, ANYBODY), 401, id="empty token"),
        pytest.param(LOCAL, f"Bearer {token_of(TOKEN)}", (ALICE,), 401, id="the hash in place of the token"),
        pytest.param(LOCAL, f"Basic {TOKEN}", (ALICE, ANYBODY), 401, id="another scheme"),
        pytest.param(evolve(AT_SOCKET, uid=1001), None, (BOB,), 401, id="another uid"),
        pytest.param(evolve(BATCHERS, certificate="eve.example"), None, (BATCHER,), 403, id="unknown name"),
        pytest.param(evolve(BATCHERS, certificate=""), None, (BATCHER,), 403, id="certificate without name"),
        pytest.param(
            evolve(BATCHERS, tls="TLSv1.2"),
            None,
            (BATCHER,),
            403,
            id="op-signer on TLS 1.2",
        ),
        pytest.param(
            BATCHERS,
            f"Bearer {TOKEN}",
            (BATCHER, ALICE),
            403,
            id="credentials of two callers",
        ),
        pytest.param(
            BATCHERS,
            "Bearer wrong",
            (BATCHER, ALICE),
            401,
            id="a good certificate and a wrong token",
        ),
        pytest.param(AT_SOCKET, f"Bearer {TOKEN}", (BOB, ALICE), 403, id="the token of another uid"),
    ],
)
def test_nobody_else_is(peer: Peer, authorization: str | None, callers: tuple[CallerOptions, ...], status: int) -> None:
    assert refusal(peer, authorization, *callers) == status


def test_whoever_is_not_configured_may_neither_manage_nor_sign_blindly() -> None:
    access = recognise(LOCAL, None).access

    assert (access.admin, access.blind_signing) == (False, False)


@pytest.mark.parametrize(
    ("dialects", "own", "dialect"),
    [
        (tuple(Dialect), None, Dialect.WEB3SIGNER),
        ((Dialect.CLEF,), None, Dialect.CLEF),
        ((Dialect.WEB3SIGNER, Dialect.CLEF), None, Dialect.WEB3SIGNER),
        ((Dialect.WEB3SIGNER,), Dialect.CLEF, Dialect.CLEF),
    ],
)
def test_errors_are_those_of_the_caller_or_else_of_the_only_dialect(
    dialects: tuple[Dialect, ...], own: Dialect | None, dialect: Dialect
) -> None:
    peer = Peer(listener=Listener(port=1, dialects=dialects))

    assert recognise(peer, None, caller("a", anonymous=True, dialect=own)).dialect is dialect


class TestAccess:
    KEY = sample_key(1, label="Hot", role=Role.TRANSACTION_SIGNER)

    def access(self, **options: Any) -> Access:
        return recognise(LOCAL, None, caller("a", anonymous=True, **options)).access

    @pytest.mark.parametrize("name", ["key_id", "label", "address"])
    def test_a_key_may_be_named_in_each_way(self, name: str) -> None:
        assert self.access(keys=(getattr(self.KEY, name),)).covers(self.KEY)

    @pytest.mark.parametrize("change", [str.lower, str.upper])
    def test_an_address_is_the_same_in_any_case(self, change: Any) -> None:
        address = "0x" + change(self.KEY.address[2:])

        assert self.access(keys=(address,)).covers(self.KEY)

    def test_a_label_is_another_one_in_another_case(self) -> None:
        assert not self.access(keys=("hot",)).covers(self.KEY)

    def test_a_caller_with_roles_has_no_key_of_another_or_of_none(self) -> None:
        access = self.access(roles=(Role.TRANSACTION_SIGNER,))

        assert access.covers(self.KEY)
        assert not access.covers(evolve(self.KEY, role=Role.VALIDATOR))
        assert not access.covers(evolve(self.KEY, role=None))

    def test_both_keys_and_roles_must_fit(self) -> None:
        access = self.access(keys=("Hot",), roles=(Role.VALIDATOR,))

        assert not access.covers(self.KEY)

    def test_methods_may_have_stars(self) -> None:
        access = self.access(methods=("eth_sign*", "account_list"))

        assert [access.admits(name) for name in ("eth_signTransaction", "account_list", "account_new")] == [
            True,
            True,
            False,
        ]

    def test_digests_are_signed_for_those_who_may_alone(self) -> None:
        self.access(blind_signing=True).check(self.KEY, "Hot", Operation.HASH)
        with pytest.raises(PolicyDenied, match="blind_signing"):
            self.access().check(self.KEY, "Hot", Operation.HASH)

    def test_a_key_of_another_is_refused_with_what_to_do(self) -> None:
        with pytest.raises(KeyNotFound, match=r"that caller a may use .* hsm\.api\.callers"):
            self.access(keys=("other",)).check(self.KEY, "Hot", Operation.MESSAGE)

    @pytest.mark.parametrize("asked_by", ["key_id", "label", "address"])
    def test_a_refusal_tells_nothing_of_a_key_but_what_it_was_asked_by(self, asked_by: str) -> None:
        reference = getattr(self.KEY, asked_by)
        with pytest.raises(KeyNotFound) as caught:
            self.access(keys=("other",)).check(self.KEY, reference, Operation.HASH)

        assert said_of(str(caught.value), self.KEY) == {asked_by}


def said_of(text: str, key: KeyInfo) -> set[str]:
    """Which of its names a text tells of a key, whatever the case."""
    names = {name: str(getattr(key, name)) for name in ("key_id", "label", "address", "role")}
    return {name for name, value in names.items() if value.lower() in text.lower()}
