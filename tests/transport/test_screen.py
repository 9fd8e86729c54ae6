"""The edited line on a terminal emulator equals the same text on a fresh terminal."""

from __future__ import annotations

import pyte
import pyte.modes
from hypothesis import given
from hypothesis import strategies as st

from server.transport.terminal.screen import Screen

PROMPT = "adm:/$ "
TEXT = st.text("abcdef жя", max_size=45)
COLUMNS = st.integers(8, 30)


def shown(text: str, columns: int) -> tuple[list[str], tuple[int, int]]:
    """Return a fresh terminal's display of a text, and its cursor (row, column)."""
    screen = pyte.Screen(columns, 24)
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    return [row.rstrip() for row in screen.display], (screen.cursor.y, screen.cursor.x)


@given(COLUMNS, st.lists(st.tuples(TEXT, st.floats(0, 1)), max_size=12), st.integers(0, 3))
def test_the_screen_shows_the_line_and_its_cursor(columns: int, edits: list[tuple[str, float]], above: int) -> None:
    terminal = pyte.Screen(columns, 24)
    stream = pyte.Stream(terminal)
    before = "above\n" * above
    stream.feed((before + PROMPT).replace("\n", "\r\n"))
    screen = Screen(lambda sent: stream.feed(sent.replace("\n", "\r\n")))
    screen.begin(PROMPT, columns, PROMPT)
    for line, share in edits:
        cursor = round(share * len(line))
        screen.show(line, cursor)
        rows, _ = shown(before + PROMPT + line, columns)
        assert [row.rstrip() for row in terminal.display] == rows
        _, (row, column) = shown(before + PROMPT + line[:cursor], columns)
        if column == columns and cursor < len(line):
            row, column = row + 1, 0
        assert (terminal.cursor.y, terminal.cursor.x) == (row, column)
    screen.leave("^C")
    last = edits[-1][0] if edits else ""
    rows, place = shown(f"{before}{PROMPT}{last}^C\n", columns)
    assert [row.rstrip() for row in terminal.display] == rows
    assert (terminal.cursor.y, terminal.cursor.x) == place


@given(COLUMNS, st.lists(st.text("abcdef жя", min_size=1, max_size=9), max_size=8))
def test_text_typed_at_the_end_is_echoed_unchanged(columns: int, runs: list[str]) -> None:
    sent: list[str] = []
    screen = Screen(sent.append)
    screen.begin(PROMPT, columns, PROMPT)
    line = ""
    for run in runs:
        line += run
        screen.show(line, len(line))
    screen.leave()
    assert "".join(sent) == line + "\n"


def test_a_combining_character_is_drawn_with_the_one_before_it() -> None:
    sent: list[str] = []
    screen = Screen(sent.append)
    screen.begin(PROMPT, 80, PROMPT)
    screen.show("e", 1)
    screen.show("e\u0301", 2)
    screen.show("e\u0301x", 3)
    assert [text.replace("\x1b[K", "") for text in sent] == ["e", "\be\u0301", "x"]


def test_clear_and_resize_redraw_the_line() -> None:
    sent: list[str] = []
    screen = Screen(sent.append, reflows=False)
    screen.begin(PROMPT, 20, PROMPT)
    screen.show("x" * 20, 20)
    screen.show("x" * 20, 0)
    sent.clear()
    screen.clear()
    assert sent[0].startswith("\x1b[H\x1b[2J" + PROMPT + "x" * 20)
    sent.clear()
    screen.resize(40)
    assert sent[0].startswith("\r\x1b[J" + PROMPT + "x" * 20)


def test_a_terminal_that_reflows_is_sent_nothing_when_its_width_changes() -> None:
    sent: list[str] = []
    screen = Screen(sent.append)
    screen.begin(PROMPT, 20, PROMPT)
    screen.show("x" * 20, 20)
    sent.clear()
    screen.resize(40)
    assert sent == []
    screen.show("x" * 20 + "y", 21)
    assert sent == ["y"]


@given(COLUMNS, st.text("abcdef", max_size=45), st.floats(0, 1), st.lists(COLUMNS, min_size=1, max_size=4))
def test_a_terminal_that_keeps_its_rows_shows_the_line_once(
    columns: int, line: str, share: float, widths: list[int]
) -> None:
    terminal = pyte.Screen(columns, 24)
    stream = pyte.Stream(terminal)
    stream.feed("above\r\n" + PROMPT)
    screen = Screen(lambda sent: stream.feed(sent.replace("\n", "\r\n")), reflows=False)
    screen.begin(PROMPT, columns, PROMPT)
    cursor = round(share * len(line))
    screen.show(line, cursor)
    for width in widths:
        terminal.resize(24, width)
        screen.resize(width)
        rows, _ = shown("above\n" + PROMPT + line, width)
        assert [row.rstrip() for row in terminal.display] == rows
    screen.show(line, len(line))
    _, place = shown("above\n" + PROMPT + line, widths[-1])
    assert (terminal.cursor.y, terminal.cursor.x) == place
