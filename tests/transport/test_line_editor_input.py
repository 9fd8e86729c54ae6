"""Line editor input of real terminals: pasted tabs, unfinished pastes, changed window widths."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import pytest
from console import PROMPT, ConsoleServer, needs
from terminals import PERSON, Person, Sink, a_terminal, typed, until

from server.shell.completion import Completion
from server.shell.terminal import LineDroppedError
from server.transport.terminal.editor import LineEditor
from server.transport.terminal.plain import PlainEditor
from server.transport.terminal.reader import LineReader
from server.transport.terminal.tty import Tty

READERS: Sequence[tuple[str | None, dict[str, str]]] = [("xterm", PERSON), ("dumb", {}), (None, {})]
IDS = ["editor", "plain", "pipe"]


def _remaining(console: ConsoleServer) -> bool:
    return "crm-backup" in console.run("domain/tab.local/integrations/list")


@pytest.mark.slow
@pytest.mark.parametrize(("term", "version"), READERS, ids=IDS)
@pytest.mark.parametrize(
    "line",
    [
        "domain/tab.local/integrations/remove\tcrm\t\r",
        "integrations/remove\tcrm\t\x01domain/tab.local/\x05\r",
        "\x1b[A\x1b[B\x15domain/tab.local/integrations/remove\tcrm\t\x1b[D\x1b[C\r",
        "\x1b[200~domain/tab.local/integrations/remove\tcrm\t\x1b[201~\r",
        "\x1b[200~domain/tab.local/integrations/remove\tcrm\t\r",
        "domain/tab.local/integrations/remove\tcrm\t\n",
    ],
    ids=["plain text", "behind Ctrl-A", "behind arrows", "a marked paste", "a paste without its end", "newline"],
)
async def test_field_a_tab_in_a_whole_line_is_a_blank(
    console: ConsoleServer, term: str | None, version: dict[str, str], line: str
) -> None:
    """Pasted spreadsheet rows: `remove<TAB>crm<TAB>` once removed the client `crm-backup`."""
    console.run("domain/declare tab.local")
    console.run("domain/tab.local/integrations/add crm-backup")
    async with console.asyncssh(**version) as connection:
        shell = await connection.create_process(term_type=term, term_size=(120, 24), encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write(line)
        said = await asyncio.wait_for(shell.stdout.readuntil("585]"), 10)
    assert "Command error: " in said or "no such command" in said or "Invalid command" in said
    assert _remaining(console)


async def test_field_a_tab_is_a_blank_when_the_end_of_its_line_arrives_in_a_later_packet(
    console: ConsoleServer,
) -> None:
    console.run("domain/declare tab.local")
    console.run("domain/tab.local/integrations/add crm-backup")
    async with console.asyncssh(**PERSON) as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(120, 24), encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        for packet in ("domain/tab.local/integrations/remove", "\t", "cr", "m\t", "\r"):
            shell.stdin.write(packet)
        said = await asyncio.wait_for(shell.stdout.readuntil("585]"), 10)
    assert "integrations/remove crm \r\n" in said
    assert "no client" in said or "Command error: " in said
    assert _remaining(console)


@pytest.mark.parametrize("key", ["\t", "?"])
async def test_field_a_late_completion_is_not_applied_to_an_ended_line(key: str) -> None:
    """The rest of the line arrives during a slow look-up in the store."""

    async def complete(_text: str) -> Completion:
        tty.feed(b"more\r")
        return Completion("backup", ())

    sink = Sink()
    tty = Tty(sink, pty=True, interrupt=lambda: None)

    async def recall() -> Sequence[str]:
        return ()

    reading = asyncio.create_task(LineReader(tty, LineEditor(tty, (80, 24), complete, recall)).read_line("$ "))
    await typed(tty, "remove ")
    tty.feed(key.encode())
    assert await asyncio.wait_for(reading, 10) == f"remove {key.replace(chr(9), ' ')}more"
    assert b"backup" not in sink.sent


@pytest.mark.parametrize("key", ["\t", "?"])
async def test_field_the_end_of_input_is_the_end_of_a_line_too(key: str) -> None:
    tty, _, _, reader = a_terminal()
    reading = asyncio.create_task(reader.read_line("$ "))
    await typed(tty, "remove ")
    tty.feed(key.encode())
    tty.end()
    assert await asyncio.wait_for(reading, 10) == f"remove {key.replace(chr(9), ' ')}"


async def test_field_a_tab_without_a_line_end_completes() -> None:
    async def complete(text: str) -> Completion:
        return Completion("ami" if text == "who" else "", ())

    async def recall() -> Sequence[str]:
        return ()

    sink = Sink()
    tty = Tty(sink, pty=True, interrupt=lambda: None)
    reading = asyncio.create_task(LineReader(tty, LineEditor(tty, (80, 24), complete, recall)).read_line("$ "))
    await typed(tty, "w")
    tty.feed(b"ho\t | count")
    await until(lambda: b"ami | count" in sink.sent)
    tty.feed(b"\r")
    assert await asyncio.wait_for(reading, 10) == "whoami | count"


async def test_field_a_question_mark_and_a_search_key_in_a_whole_line(console: ConsoleServer) -> None:
    async with console.asyncssh(**PERSON) as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(120, 24), encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write("\x15echo ? a\r")
        assert "\n? a\r\n" in await shell.stdout.readuntil("585]")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write("\x12echo\r\x05 b\r")  # as typed slowly: the first Enter accepts the match
        assert "\n? a b\r\n" in await shell.stdout.readuntil("585]")


@pytest.mark.parametrize("reader", ["editor", "plain"])
@pytest.mark.parametrize(
    ("begun", "line"),
    [
        ("\x1b[200~", "echo a"),
        ("\x1b[200~\x1b[200~", "echo a"),
        ("\x1b]0;", "0;echo a"),
        ("\x1bP", "echo a"),
        ("\x1b_G", "Gecho a"),
        ("\x1b^", "echo a"),
        ("\x1bX", "echo a"),
        ("\x1b[1;", "cho a"),
        ("\x1b[" + "1" * 500, "1" * 500 + "echo a"),
        ("\x1bO", "cho a"),
    ],
    ids=["paste", "two pastes", "OSC", "DCS", "APC", "PM", "SOS", "CSI and a letter", "a long CSI", "SS3 and a letter"],
)
async def test_field_an_unfinished_escape_sequence_swallows_no_later_input(reader: str, begun: str, line: str) -> None:
    """`ESC [ 2 0 0 ~` on a broken link once swallowed all input until the session ended."""
    tty, _, editor, lines = a_terminal()
    reading = asyncio.create_task((editor if reader == "editor" else PlainEditor(tty)).edit("$ "))
    tty.feed(begun.encode())
    await asyncio.sleep(0)
    tty.feed(b"echo a")
    await asyncio.sleep(0)
    tty.feed(b"\r")
    found = await asyncio.wait_for(reading, 10)
    assert found.lstrip("[]P^_X") == line
    tty.feed(b"whoami\r")
    assert await asyncio.wait_for(lines.read_line("$ "), 10) == "whoami"


@pytest.mark.parametrize("reader", ["editor", "plain"])
@pytest.mark.parametrize("begun", ["\x1b[200~ab", "\x1b]0;ab", "\x1bPab", "\x1b[1;", "\x1b"])
async def test_field_ctrl_c_ends_an_unfinished_sequence(reader: str, begun: str) -> None:
    tty, _, editor, lines = a_terminal()
    tty.reading = True
    reading = asyncio.create_task((editor if reader == "editor" else PlainEditor(tty)).edit("$ "))
    tty.feed(begun.encode())
    await asyncio.sleep(0)
    tty.feed(b"\x03")
    with pytest.raises(LineDroppedError):
        await asyncio.wait_for(reading, 10)
    tty.feed(b"whoami\r")
    assert await asyncio.wait_for(lines.read_line("$ "), 10) == "whoami"


async def test_field_a_lone_escape_is_a_key_after_half_a_second() -> None:
    tty, _, editor, _ = a_terminal()
    reading = asyncio.create_task(editor.edit("$ "))
    await typed(tty, "ab")
    tty.feed(b"\x1b")
    await until(lambda: not len(tty))
    tty.feed(b"b\r")  # not Alt-B
    assert await asyncio.wait_for(reading, 10) == "abb"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "keys", "columns"),
    [
        ("echo " + "x" * 51, (), [40, 100]),
        ("echo " + "x" * 51, (), [40, 30, 100]),
        ("echo " + "x" * 51, (), [75, 20, 120]),
        ("echo " + "x" * 51, ("C-a",), [40, 100]),
        ("echo " + "x" * 51, ("C-a", "M-f"), [15, 100]),
        ("echo " + "x" * 51, ("C-a", "M-f"), [30, 50]),
        ("echo " + "漢" * 40, (), [40, 31, 100]),
        ("echo " + "漢" * 40, ("C-a", "M-f"), [41, 100]),
        ("echo x", (), [15, 100]),
    ],
)
def test_field_a_line_stands_once_in_a_window_of_other_widths(
    console: ConsoleServer, text: str, keys: tuple[str, ...], columns: list[int]
) -> None:
    """A line of 56 columns, then widths 40 and 100: tmux once showed the line twice."""
    needs("tmux")
    person = Person(console, str(console.folder / f"tmux{os.getpid()}"))
    try:
        person.types("echo above", "Enter")
        person.sees_at_end(f"]\n{PROMPT.rstrip()}")
        person.pastes(text)
        person.sees("".join(text[-5:]))
        person.types(*keys)
        for width in columns:
            person.resizes(width)
        person.types("C-e", "!")
        person.sees("!")
        joined = person.everything().replace("\n", "")
        assert joined.count(text) == 1
        assert joined.endswith(f"{PROMPT}{text}!")
        assert joined.startswith(f"{PROMPT}echo aboveabove[exec at: ")
    finally:
        person.leaves()
