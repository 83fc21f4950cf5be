"""Reading and writing lines on file descriptors: pipes, files, and lines of every size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manahsm.stdio import LineReader, LineTooLong, LineWriter

pytestmark = pytest.mark.anyio


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:  # the test has closed it
            continue


async def read_all(reader: LineReader) -> list[bytes | str]:
    lines: list[bytes | str] = []
    while (line := await reader.read()) is not None:
        lines.append(line if isinstance(line, bytes) else "too long")
    return lines


@given(content=st.lists(st.sampled_from([b"a", b"\n", b"bcd", b"efghij"])).map(b"".join), longest=st.integers(1, 6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
async def test_lines_of_a_file_are_what_splitting_says(tmp_path: Path, content: bytes, longest: int) -> None:
    path = tmp_path / "lines"
    path.write_bytes(content)
    with path.open("rb") as file:
        lines = await read_all(LineReader(file.fileno(), longest=longest))

    expected = content.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert lines == ["too long" if len(line) > longest else line for line in expected]


async def test_a_line_that_comes_in_pieces_is_one_line(pipe: tuple[int, int]) -> None:
    reader = LineReader(pipe[0])
    for piece in (b"ab", b"c\nd"):
        os.write(pipe[1], piece)
    assert await reader.read() == b"abc"
    os.write(pipe[1], b"ef\n")
    assert await reader.read() == b"def"


async def test_a_read_that_is_cancelled_loses_nothing(pipe: tuple[int, int]) -> None:
    reader = LineReader(pipe[0])
    os.write(pipe[1], b"half a li")
    with anyio.move_on_after(0.01) as scope:
        await reader.read()
    assert scope.cancelled_caught
    os.write(pipe[1], b"ne\n")
    assert await reader.read() == b"half a line"


async def test_a_last_line_without_a_newline_counts(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"one\ntwo")
    os.close(pipe[1])
    assert await read_all(LineReader(pipe[0])) == [b"one", b"two"]


async def test_a_long_line_is_skipped_to_its_end_and_takes_no_memory(pipe: tuple[int, int]) -> None:
    reader = LineReader(pipe[0], longest=10)
    seen: list[bytes | LineTooLong | None] = []

    async def read_two() -> None:
        seen.extend([await reader.read(), await reader.read()])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_two)
        for _ in range(50):
            await anyio.wait_writable(pipe[1])
            os.write(pipe[1], b"x" * 1000)
            assert len(reader._partial) <= 10
        os.write(pipe[1], b"\nshort\n")
    assert isinstance(seen[0], LineTooLong)
    assert seen[1] == b"short"


async def test_a_slow_reader_holds_up_only_the_task_that_writes(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    line = b"y" * 1_000_000
    received = bytearray()
    beats = 0

    async def read_slowly() -> None:
        nonlocal beats
        while len(received) <= len(line):
            beats += 1
            await anyio.wait_readable(pipe[0])
            received.extend(os.read(pipe[0], 10_000))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_slowly)
            await writer.write(line)
    assert bytes(received) == line + b"\n"
    assert beats >= 100


async def test_a_reader_that_has_gone_is_an_error(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    with pytest.raises(BrokenPipeError):
        await LineWriter(pipe[1]).write(b"hello")


async def test_lines_to_a_file_and_to_dev_null(tmp_path: Path) -> None:
    path = tmp_path / "output"
    for target in (path, Path(os.devnull)):
        fd = os.open(target, os.O_WRONLY | os.O_CREAT)
        await LineWriter(fd).write(b"hello")
        os.close(fd)
    assert path.read_bytes() == b"hello\n"
