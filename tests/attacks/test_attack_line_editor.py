"""Key presses of one user block no other session, and the memory for them is bounded."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import asyncssh
import pytest
from console import PROMPT, ConsoleServer
from prompt_toolkit.input import vt100_parser
from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.keys import Keys
from terminals import PERSON, Sink, a_terminal, typed, until

from server.cooperative import Turns
from server.shell.terminal import EndOfInputError, LineDroppedError
from server.transport.terminal.bindings import ALT_CHARACTERS, shared_bindings
from server.transport.terminal.editing import Editing
from server.transport.terminal.keys import QueueInput, key_presses
from server.transport.terminal.plain import PlainEditor
from server.transport.terminal.tty import Tty

DOCS = Path(__file__).parents[2] / "docs" / "automation.md"
MOST_EDITED = 1000
#: Ten times the promised 50 ms: machines are busy. Each attack took seconds.
LONGEST_TURN_SECONDS = 0.5


async def longest_turn(is_over: Callable[[], bool]) -> float:
    """Return the longest CPU time that other sessions wait until the work ends."""
    longest, began = 0.0, time.process_time()
    while not is_over():
        await asyncio.sleep(0)
        now = time.process_time()
        longest, began = max(longest, now - began), now
    return longest


async def a_person(connection: asyncssh.SSHClientConnection) -> asyncssh.SSHClientProcess[str]:
    """Return a shell with the line editor after its first prompt."""
    shell = await connection.create_process(term_type="xterm", term_size=(80, 24), encoding="utf-8")
    await shell.stdout.readuntil(PROMPT)
    return shell


async def test_attack_each_turn_handles_one_key_press_of_a_session() -> None:
    """Every packet once scheduled its own key presses for each turn: one session blocked the loop for 99 ms."""
    tty = Tty(Sink(), pty=True, interrupt=lambda: None)
    keys = QueueInput(tty, lambda _: True)
    read: list[int] = []
    with keys.attach(lambda: read.append(len(keys.read_keys()))):
        for _ in range(100):
            tty.feed(b"\x01\x05" * 10)
        for turn in range(1, 200):
            await asyncio.sleep(0)
            assert sum(read) <= turn
        assert sum(read) >= 190


@pytest.mark.parametrize("key", ["\x15", "\x17"], ids=["Ctrl-U", "Ctrl-W"])
async def test_attack_erasing_a_long_wide_line_yields_the_event_loop(key: str) -> None:
    """Measuring 64 K Chinese letters to erase them once blocked the loop for 84 ms, each time."""
    tty = Tty(Sink(), pty=True, interrupt=lambda: None)
    line = "".join(chr(0x20000 + number % 40_000) for number in range(65_000))
    turns = 0
    reading = asyncio.create_task(PlainEditor(tty).edit(""))
    tty.feed((line + key).encode())
    await until(lambda: len(tty) <= 1)
    while len(tty):
        await asyncio.sleep(0)
        turns += 1
    assert turns > 60
    tty.feed(b"whoami\r")
    assert await reading == "whoami"


async def test_attack_a_digit_argument_repeats_nothing(console: ConsoleServer) -> None:
    """31 bytes once made a yank of 818 MB: Alt-9 five times before Ctrl-Y."""
    async with console.asyncssh(**PERSON) as connection:
        shell = await a_person(connection)
        for keys in ("x", "\x15", "abcdefghij", "\x15", "\x1b9" * 5 + "\x19", "\x1b-\x1b9\x1b9x", "\r"):
            shell.stdin.write(keys)
        said = await asyncio.wait_for(shell.stdout.readuntil("585]"), 10)
        assert "There is no such command: abcdefghijx\r\n" in said
        assert len(said) < 1000


async def test_attack_a_keyboard_macro_is_not_replayed(console: ConsoleServer) -> None:
    """A macro that contains itself doubled with each replay: 128 bytes took six seconds."""
    async with console.asyncssh(**PERSON) as connection:
        shell = await a_person(connection)
        for keys in ("\x18", "(", "\x18", "e", "\x18", ")", "\x18", "e", "\r"):
            shell.stdin.write(keys)
        said = await asyncio.wait_for(shell.stdout.readuntil("585]"), 10)
        assert "There is no such command: (e)e\r\n" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys", ["\x18\x05", "\x1b#", "\x16", "\x11", "\x0f", "\x1a", "\x00", "\x1b*", "\x1bv", "\x1b5"]
)
async def test_attack_undocumented_keys_do_nothing(console: ConsoleServer, keys: str) -> None:
    """External editor, comment, quoted insert, operate-and-get-next, suspend, mark, completion keys."""
    async with console.asyncssh(**PERSON) as connection:
        shell = await a_person(connection)
        for part in ("echo ", keys, "a", "\r"):
            shell.stdin.write(part)
        said = await asyncio.wait_for(shell.stdout.readuntil("585]"), 10)
        assert "echo a\r\na\r\n" in said


_NAMES = {"PgUp": Keys.PageUp, "PgDn": Keys.PageDown, "Enter": Keys.Enter, "Esc": Keys.Escape, "Del": Keys.Delete}


def _key(name: str) -> tuple[Keys | str, ...]:
    """Return the documented key."""
    if name.startswith("Alt-"):
        return (Keys.Escape, *_key(name.removeprefix("Alt-").lower() if len(name) == len("Alt-x") else name[4:]))
    if name in _NAMES:
        return (_NAMES[name],)
    if name.startswith("Ctrl-") and len(name) == len("Ctrl-x"):
        return (Keys("c-" + name[-1].lower()),)
    if len(name) == 1:
        return (name,)
    return (Keys(name.lower().replace("ctrl-", "c-").replace("backspace", "c-h").replace("tab", "c-i")),)


def test_attack_the_docs_name_every_key() -> None:
    table = DOCS.read_text().partition("## Keys")[2].partition("\n## ")[0]
    documented = {_key(name) for name in re.findall(r"`([^` ]+)`", table.partition("|---")[2])}
    bound = {binding.keys for binding in shared_bindings().bindings} - {(Keys.BracketedPaste,)}
    of_each_session = {("?",), (Keys.ControlC,), (Keys.ControlD,), (Keys.Tab,)}
    assert documented == bound | of_each_session


async def test_attack_a_yank_never_makes_a_line_longer_than_the_limit(console: ConsoleServer) -> None:
    async with console.asyncssh(**PERSON) as connection:
        shell = await a_person(connection)
        for keys in ("y", "\x15", "x" * 900, "\x15", *["\x19"] * 5, "\x1by", "\x1by", "\r"):
            shell.stdin.write(keys)
            await asyncio.sleep(0)
        said = await asyncio.wait_for(shell.stdout.readuntil("585]"), 10)
        assert re.findall(r"no such command: (x+)\r", said) == ["x" * 900]


async def test_attack_no_keys_make_a_line_longer_than_the_limit() -> None:
    """Every inserting key on a nearly full line: yank, yank-pop, last argument, transpose."""
    tty, _, editor, reader = a_terminal(["echo " + "w" * 600, "echo " + "v" * 999])
    reading = asyncio.create_task(reader.read_line("$ "))
    await typed(tty, "a" * 500, "\x17", "b" * 600, "\x17", "\x19", "\x19", "\x1by", "\x1b.", "\x1b.", "\x14", "c" * 90)
    running = editor._running  # noqa: SLF001  what no client sees
    assert running is not None
    for keys in ("\x19", "\x1by", "\x1b.", "\x14", "\x1f", "\x19", "\x1f", "\x1b[A", "\x1b[B"):
        await typed(tty, keys)
        assert len(running.buffer.text) <= MOST_EDITED
    tty.feed(b"\r")
    assert len(await asyncio.wait_for(reading, 10)) <= MOST_EDITED


async def test_attack_undo_and_yank_history_are_bounded() -> None:
    tty, _, editor, reader = a_terminal()
    reading = asyncio.create_task(reader.read_line("$ "))
    await typed(tty, "x" * 900)
    for _ in range(200):
        await typed(tty, " ab", "\x17")
    running: Editing | None = editor._running  # noqa: SLF001  what no client sees
    assert running is not None
    assert 0 < len(running.buffer._undo_stack) <= 50  # noqa: SLF001
    clipboard = running._application.clipboard  # noqa: SLF001
    assert len(clipboard._ring) == 10  # type: ignore[attr-defined]  # noqa: SLF001
    tty.feed(b"\r")
    await asyncio.wait_for(reading, 10)


async def test_attack_escape_sequences_and_letters_do_not_grow_memory() -> None:
    """prompt_toolkit caches every sequence prefix and every key for the life of the process."""
    before = len(vt100_parser._IS_PREFIX_OF_LONGER_MATCH_CACHE)  # noqa: SLF001
    tty, _, editor, reader = a_terminal()
    reading = asyncio.create_task(reader.read_line("$ "))
    for number in range(300):
        await typed(tty, f"\x1b[{number};{number * 7}z", chr(0x4E00 + number), f"\x1b{chr(0x5E00 + number)}")
    running = editor._running  # noqa: SLF001  what no client sees
    assert running is not None
    bindings = running._application.key_bindings  # noqa: SLF001
    for each in (bindings, shared_bindings()):
        assert len(each._get_bindings_for_keys_cache._data) < 100  # type: ignore[union-attr]  # noqa: SLF001
    assert len(vt100_parser._IS_PREFIX_OF_LONGER_MATCH_CACHE) == before  # noqa: SLF001
    tty.feed(b"\x15\r")
    await asyncio.wait_for(reading, 10)


EARLIER = [f"echo {number} " + "ab" * 100 for number in range(1000)]


@pytest.mark.parametrize(
    "keys",
    ["\x12zq" + "\x12" * 900, "\x1b[A" * 300, "\x1b." * 400, "a\x17" * 450, "\x1b<\x1b>" * 200, "é\x01\x05" * 300],
    ids=["search", "older lines", "words of older lines", "kill", "ends of the history", "moves"],
)
async def test_attack_a_packet_full_of_keys_yields_the_event_loop(keys: str) -> None:
    """200 presses of Ctrl-R in one packet once blocked all sessions for three seconds."""
    tty, _, _, reader = a_terminal(EARLIER)
    reading = asyncio.create_task(reader.read_line("$ "))
    await typed(tty, "x", "\x15", "\x1b[A", "\x1b[B")
    arrivals = tty.arrivals
    asyncio.get_running_loop().call_soon(tty.feed, keys.encode())
    assert await longest_turn(lambda: tty.arrivals > arrivals and not len(tty)) < LONGEST_TURN_SECONDS
    assert not reading.done()
    await typed(tty, "\x07")
    tty.feed(b"\x03")
    with pytest.raises(LineDroppedError):
        await asyncio.wait_for(reading, 10)


@pytest.mark.parametrize("keys", ["\x17", "\x7f", "\x15", "w \x17\x15"])
@pytest.mark.parametrize("text", ["a ", "漢"])
async def test_attack_a_long_line_and_a_flood_of_editing_keys_in_the_plain_editor(text: str, keys: str) -> None:
    """32,000 words and as many Ctrl-W once took nine seconds in one turn of the event loop."""
    sink = Sink()
    tty = Tty(sink, pty=True, interrupt=lambda: None)
    editing = asyncio.create_task(PlainEditor(tty).edit("$ "))
    tty.feed((text * (64_000 // len(text)) + keys * (32_000 // len(keys))).encode())
    tty.feed(b"\r")
    assert await longest_turn(editing.done) < LONGEST_TURN_SECONDS
    line = await editing
    assert line == (text * (64_000 // len(text)))[: 64_000 - 32_000] if keys == "\x7f" else not line


async def test_attack_floods_of_keys_at_many_terminals_take_turns() -> None:
    """A command takes ten turns of the loop. With 48 flooding terminals others once waited nearly a second."""
    turns = Turns()
    ttys = [Tty(Sink(), pty=True, interrupt=lambda: None, share=turns.of("vi")) for _ in range(48)]
    editing = [asyncio.create_task(PlainEditor(tty).edit("$ ")) for tty in ttys]
    for tty in ttys:
        tty.feed(b"a " * 2_000 + b"\x17" * 2_000)
        tty.feed(b"\r")
    most, before = 0, [len(tty) for tty in ttys]
    while not all(each.done() for each in editing):
        await asyncio.sleep(0)
        now = [len(tty) for tty in ttys]
        # the last few keys of a flood run at once, as a person's do
        most = max(most, sum(old - new > 200 for old, new in zip(before, now, strict=True)))
        before = now
    turns.close()
    assert most == 1
    assert [each.result() for each in editing] == [""] * 48


async def test_attack_floods_of_keys_in_many_line_editors_take_turns() -> None:
    """Each of a user's sessions acted on a key in every turn: with 200 sessions others waited for 62 ms."""
    turns, reads = Turns(), 0
    ttys = [Tty(Sink(), pty=True, interrupt=lambda: None, share=turns.of("vi")) for _ in range(48)]
    inputs = [QueueInput(tty, lambda _: True) for tty in ttys]

    def read(keys: QueueInput) -> None:
        nonlocal reads
        reads += bool(keys.read_keys())

    with ExitStack() as attached:
        for tty, keys in zip(ttys, inputs, strict=True):
            attached.enter_context(keys.attach(partial(read, keys)))
            tty.feed(b"\x01\x05" * 20)
        most = 0
        while any(len(tty) > 20 for tty in ttys):
            await asyncio.sleep(0)
            most, reads = max(most, reads), 0
    turns.close()
    assert most == 1


@pytest.mark.parametrize("reader", ["editor", "plain"])
async def test_attack_keys_of_a_client_that_reads_nothing_wait(reader: str) -> None:
    """Each Ctrl-A and letter redrew the line, and the output for a client that read none of it was kept."""
    tty, sink, editor, _ = a_terminal()
    editing = asyncio.create_task((editor if reader == "editor" else PlainEditor(tty)).edit("$ "))
    await typed(tty, "x" * 500)
    await until(lambda: bool(sink.sent))
    tty.pause_writing()
    sent = len(sink.sent)
    for _ in range(40):
        tty.feed(b"\x01y" * 5)
        await asyncio.sleep(0.02)  # the line editor draws at most every ten milliseconds
    assert len(sink.sent) - sent < 2_000
    tty.resume_writing()
    tty.feed(b"\r")
    assert (await asyncio.wait_for(editing, 10)).count("y") == 200


async def test_attack_an_overlong_recalled_line_continues_in_the_plain_editor(console: ConsoleServer) -> None:
    async with console.asyncssh(**PERSON) as connection:
        shell = await a_person(connection)
        text = "word " * 3_000
        shell.stdin.write(f"echo {text}\r")
        await shell.stdout.readuntil(PROMPT)
        for keys, stood, more in (("\x1b[A", "", "one"), ("\x12word wo", "one", "two")):
            shell.stdin.write(keys)
            if more == "two":
                await shell.stdout.readuntil("wo': ")
                shell.stdin.write("\r")  # accepts the match
            await shell.stdout.readuntil(text + stood)
            shell.stdin.write(f"{more}\r")
            assert f"\r\n{text}{stood}{more}\r\n" in await shell.stdout.readuntil(PROMPT)


async def test_attack_the_history_of_one_shell_is_bounded() -> None:
    _, _, editor, _ = a_terminal()
    for number in range(100):
        editor.remember(f"{number} " + "x" * 60_000)
    assert sum(len(line) for line in editor._typed) <= 262_144  # noqa: SLF001  what no client sees
    assert [line.split()[0] for line in editor._typed] == ["96", "97", "98", "99"]  # noqa: SLF001


def test_unbound_alt_keys_are_dropped() -> None:
    for letter in map(chr, range(32, 127)):
        known = letter in ALT_CHARACTERS or f"\x1b{letter}" in ANSI_SEQUENCES
        assert bool(key_presses(f"\x1b{letter}")) == known


async def test_the_end_of_input_after_an_unfinished_sequence_ends_the_session() -> None:
    tty, _, _, reader = a_terminal()
    reading = asyncio.create_task(reader.read_line("$ "))
    await typed(tty, "x", "\x7f")
    tty.feed(b"\x1b[1;")
    tty.end()
    with suppress(EndOfInputError):
        assert await asyncio.wait_for(reading, 10) == "[1;"
