"""Frames: whatever is written comes back, however it is cut; whatever else arrives is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manahsm.hsm.protocol import (
    CloseSession,
    Command,
    Done,
    Failed,
    Failure,
    FindKeys,
    GenerateKey,
    ImportKey,
    KeyRecord,
    Keys,
    LoggedIn,
    LogInAgain,
    Opened,
    OpenSession,
    RelabelKey,
    Reply,
    Shutdown,
    Sign,
    Signed,
    Start,
    StartFailed,
    TokenInfo,
    read_commands,
    read_replies,
)
from manahsm.hsm.quirks import Quirks
from manahsm.processes.frames import MAX_FRAME, ProtocolError, encode

ids = st.integers(0, 2**63 - 1)
texts = st.text(max_size=20)
blobs = st.binary(max_size=70)
failures = st.builds(Failure, texts, st.none() | ids, texts, texts)
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        Start, texts, st.none() | ids, st.none() | texts, st.none() | texts, st.none() | texts,
        st.booleans(), st.booleans(), st.none() | ids, ids, st.booleans(),
    ),
    st.builds(Sign, ids, ids, ids, st.lists(st.tuples(blobs, blobs), max_size=4)),
    st.builds(OpenSession, ids),
    st.builds(CloseSession, ids, ids),
    st.builds(FindKeys, ids),
    st.builds(GenerateKey, ids, texts),
    st.builds(ImportKey, ids, blobs, blobs, texts),
    st.builds(RelabelKey, ids, blobs, texts),
    st.builds(TokenInfo, ids),
    st.builds(LogInAgain, ids, texts),
    st.builds(Shutdown),
)  # fmt: skip
records = st.builds(KeyRecord, blobs, texts, blobs, st.booleans(), st.booleans(), st.booleans())
replies: st.SearchStrategy[Reply] = st.one_of(
    st.builds(Signed, ids, st.lists(blobs | failures, max_size=4)),
    st.builds(Opened, ids, ids, ids),
    st.builds(Done, ids),
    st.builds(Keys, ids, st.lists(records, max_size=3), st.booleans()),
    st.builds(LoggedIn, ids, ids),
    st.builds(Failed, ids, failures),
    st.builds(StartFailed, failures),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(commands, max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
def test_commands_come_back_however_the_stream_is_cut(sent: list[Command], places: list[int]) -> None:
    reader = read_commands()
    received = [message for part in cut(b"".join(map(encode, sent)), places) for message in reader.feed(part)]
    assert received == sent
    assert not reader.incomplete


@given(st.lists(replies, max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
def test_replies_come_back_however_the_stream_is_cut(sent: list[Reply], places: list[int]) -> None:
    reader = read_replies()
    received = [message for part in cut(b"".join(map(encode, sent)), places) for message in reader.feed(part)]
    assert received == sent


@given(commands)
def test_a_truncated_frame_is_kept_and_not_guessed_at(command: Command) -> None:
    reader = read_commands()
    assert reader.feed(encode(command)[:-1]) == []
    assert reader.incomplete


@given(st.integers(MAX_FRAME + 1, 2**32 - 1))
def test_an_impossible_length_is_refused_before_its_body_arrives(length: int) -> None:
    with pytest.raises(ProtocolError, match="limit"):
        read_replies().feed(length.to_bytes(4, "big"))


@given(st.binary(max_size=200))
def test_rubbish_raises_a_protocol_error_or_waits_for_more(rubbish: bytes) -> None:
    for reader in (read_commands(), read_replies()):
        try:
            reader.feed(rubbish)
        except ProtocolError:
            continue


@given(st.binary(min_size=1, max_size=100))
def test_a_body_that_is_no_message_is_refused_without_being_quoted(body: bytes) -> None:
    reader = read_commands()
    frame = len(body).to_bytes(4, "big") + body
    error: ProtocolError | None = None
    decoded: list[Command] = []
    try:
        decoded = reader.feed(frame)
    except ProtocolError as caught:
        error = caught
    if error is None:
        # It was a message after all; then it says the same as when it is encoded again.
        assert reader.feed(encode(decoded[0])) == decoded
    else:
        assert str(error) == f"a frame of {len(body)} bytes that is no message"
        assert error.__suppress_context__


def test_a_reply_is_no_command() -> None:
    with pytest.raises(ProtocolError):
        read_commands().feed(encode(Signed(1, [b"x"])))


def test_a_message_that_fits_no_frame_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="limit"):
        encode(GenerateKey(1, "x" * MAX_FRAME))


@pytest.mark.parametrize(
    "message",
    [
        Start("lib", None, None, None, "s3cr3t", False, False, None, 32, False),
        ImportKey(1, b"s3cr3t", b"", "label"),
        LogInAgain(1, "s3cr3t"),
    ],
)
def test_messages_with_secrets_do_not_show_them(message: Command) -> None:
    shown = f"{message} {message!r} {message.__rich_repr__()}"
    assert "s3cr3t" not in shown
    assert type(message).__name__ in shown


def test_quirks_travel_in_the_start_message() -> None:
    quirks = Quirks(
        read_write_sessions=True, raw_ec_point=True, max_sessions=3, cka_id_bytes=2, point_on_private_key=True
    )
    start = Start(
        "lib", None, None, None, None,
        quirks.read_write_sessions, quirks.raw_ec_point, quirks.max_sessions, quirks.cka_id_bytes,
        quirks.point_on_private_key,
    )  # fmt: skip
    assert start.quirks == quirks
