"""The queue between a channel and its reader loses, cuts and doubles nothing, however bytes arrive."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.shell.terminal import EndOfInputError, ForeignEncodingError, LineDroppedError
from server.transport.terminal.plain import PlainEditor
from server.transport.terminal.reader import LineReader
from server.transport.terminal.tty import PAUSE_ABOVE, RESUME_BELOW, Tty


class Wire:
    """A channel that keeps the sent text."""

    def __init__(self) -> None:
        self.sent = b""
        self.paused = False

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.sent += data

    def pause_reading(self) -> None:
        """Note it."""
        self.paused = True

    def resume_reading(self) -> None:
        """Note it."""
        self.paused = False


def terminal(*, pty: bool) -> tuple[Tty, Wire, list[str]]:
    """Return a terminal, its wire, and its record of interrupts."""
    wire, interrupts = Wire(), list[str]()
    return Tty(wire, pty=pty, interrupt=lambda: interrupts.append("^C")), wire, interrupts


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at some places."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


async def read_all(tty: Tty) -> list[str]:
    """Return every line until the end of input."""
    reader, lines = LineReader(tty), list[str]()
    while True:
        try:
            lines.append(await reader.read_line("$ "))
        except EndOfInputError:
            return lines


LINE = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), max_size=20)


@given(
    st.lists(LINE, max_size=6),
    st.sampled_from(["\n", "\r", "\r\n", "\r\0"]),
    st.lists(st.integers(0, 300)),
    st.booleans(),
)
def test_lines_arrive_whole_however_they_are_cut(lines: list[str], end: str, places: list[int], pty: bool) -> None:  # noqa: FBT001
    tty, wire, _ = terminal(pty=pty)
    for packet in cut("".join(line + end for line in lines).encode(), places):
        tty.feed(packet)
    tty.end()
    lines = [*(line.removeprefix("\ufeff") for line in lines[:1]), *lines[1:]]
    assert asyncio.run(read_all(tty)) == lines
    newline = "\r\n" if pty else ""
    echoed = "".join(f"$ {line if pty else ''}{newline}" for line in lines) + "$ " + newline
    assert wire.sent.decode() == echoed


@given(st.binary(max_size=200), st.lists(st.integers(0, 300)), st.booleans())
def test_arbitrary_bytes_neither_break_the_reader_nor_send_escapes(data: bytes, places: list[int], pty: bool) -> None:  # noqa: FBT001
    async def read() -> None:
        reader = LineReader(tty)
        while True:
            try:
                await reader.read_line("$ ")
            except LineDroppedError:
                continue
            except (EndOfInputError, ForeignEncodingError):
                return

    tty, wire, _ = terminal(pty=pty)
    for packet in cut(data, places):
        tty.feed(packet)
    tty.end()
    asyncio.run(asyncio.wait_for(read(), 5))
    assert b"\x1b" not in wire.sent


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("lx\x7fs", "ls"),
        ("lx\x08s", "ls"),
        ("\x7f\x7fls", "ls"),
        ("wrong\x15ls", "ls"),
        ("echo one two\x17three", "echo one three"),
        ("l\x1b[As\x1b[1;5C", "ls"),
        ("l\x1bOAs\x1bb", "ls"),
        ("\x1b]0;title\x07ls", "ls"),
        ("a\tb", "a b"),
        ("Бийск\x7f\x7f漢\x7f", "Бий"),
        ("l\x0c\x00\x02s", "ls"),
        ("l\x1b[5;5Rs\x1b", "ls"),
        ("x" * 70_000 + "\x7f" * 10_000, "x" * 65_537),
    ],
)
def test_the_plain_editor(typed: str, line: str) -> None:
    async def read() -> str:
        tty.feed(typed[:-1].encode())
        asyncio.get_running_loop().call_soon(tty.feed, typed[-1:].encode() + b"\r")
        return await PlainEditor(tty).edit("$ ")

    tty, wire, _ = terminal(pty=True)
    tty.reading = True
    assert asyncio.run(read()) == line
    assert b"\x1b" not in wire.sent


def test_erased_text_disappears_from_the_screen() -> None:
    tty, wire, _ = terminal(pty=True)
    tty.feed("a漢\x7f\x7f\r".encode())
    assert asyncio.run(PlainEditor(tty).edit("$ ")) == ""
    assert wire.sent.decode() == "a漢\b \b\b \b\b \b\r\n"


def test_ctrl_c_while_a_command_runs_drops_earlier_input() -> None:
    tty, _, interrupts = terminal(pty=True)
    tty.feed(b"lost\rhalf")
    tty.feed(b" lost too\x03kept\r")
    assert interrupts == ["^C"]
    assert tty.take_line() == "kept"
    assert not len(tty)


def test_ctrl_c_is_text_without_a_terminal_and_a_signal_interrupts_all_the_same() -> None:
    tty, _, interrupts = terminal(pty=False)
    tty.feed(b"one\rtwo\x03\r")
    assert interrupts == []
    tty.reading = True
    tty.interrupt()
    assert interrupts == ["^C"]


def test_input_after_ctrl_c_in_the_same_packet_is_kept() -> None:
    async def read() -> list[str]:
        reader, lines = LineReader(tty), list[str]()
        for _ in range(2):
            try:
                lines.append(await reader.read_line("$ "))
            except LineDroppedError:
                lines.append("^C")
        return lines

    tty, _, _ = terminal(pty=True)
    tty.reading = True
    tty.feed(b"abc\x03whoami\r")
    assert asyncio.run(read()) == ["^C", "whoami"]


def test_dropping_the_queue_resumes_reading() -> None:
    tty, wire, _ = terminal(pty=True)
    tty.feed(b"x\r" * PAUSE_ABOVE)
    assert wire.paused
    tty.interrupt()
    assert not wire.paused


def test_a_full_queue_pauses_the_client_until_it_is_read() -> None:
    tty, wire, _ = terminal(pty=False)
    tty.feed(b"x" * 999 + b"\n")
    assert not wire.paused
    for _ in range(PAUSE_ABOVE // 1000):
        tty.feed(b"x" * 999 + b"\n")
    assert wire.paused
    while len(tty) >= RESUME_BELOW:
        assert wire.paused
        assert tty.take_line() == "x" * 999
    assert not wire.paused
