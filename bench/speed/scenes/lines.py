"""A command by exec, as a line of a script's shell, and as a person at a terminal types or pastes it."""

from __future__ import annotations

from servers import Server  # isort: skip  a neighbour, not a package
from speed.client import PERSON, SCRIPT, Batch, Shell, run
from speed.stage import FEW, Stage, list_of

EXEC = "exec of list, 5 rows"
PLAIN = "plain shell line, list of 5"
PASTED = "person's line as pasted, list of 5"
TYPED = "person's line as typed, list of 5"
KEY = "a key typed by a person"
_WARM = 3


async def play(stage: Stage) -> None:
    """Run `list` of five in every way, on every server in turn."""
    counts, note = stage.counts, stage.figures.note
    for server in stage.in_turn():
        note(EXEC, server.name, **(await _execs(server, counts.execs)).measures())
    for server in stage.in_turn():
        note(PLAIN, server.name, **(await _lines(server, counts.lines, SCRIPT)).measures())
    for server in stage.in_turn():
        note(PASTED, server.name, **(await _lines(server, counts.lines, PERSON)).measures())
    for server in stage.in_turn():
        typed, keys = await _typed(server, counts.typed_lines)
        note(TYPED, server.name, **typed.measures())
        note(KEY, server.name, **keys.measures())


async def _execs(server: Server, count: int) -> Batch:
    batch = Batch(server)
    async with await server.connect() as connection:
        for _ in range(_WARM):
            await run(connection, list_of(FEW))
        with batch:
            for _ in range(count):
                with batch.one():
                    await run(connection, list_of(FEW))
    return batch


async def _lines(server: Server, count: int, client: str) -> Batch:
    batch, shell = Batch(server), await Shell.opened(server, client)
    for _ in range(_WARM):
        await shell.line(list_of(FEW))
    with batch:
        for _ in range(count):
            with batch.one():
                await shell.line(list_of(FEW))
    await shell.close()
    return batch


async def _typed(server: Server, count: int) -> tuple[Batch, Batch]:
    """Type lines key by key, each after the echo of the last; return the cost of the lines and of the keys."""
    lines, keys, shell = Batch(server), Batch(server), await Shell.opened(server, PERSON)
    await shell.key("l")  # the first key press creates the editor
    await shell.press("\x7fwhoami\r", "admin@ds1@ecss1:/$ ")
    for _ in range(count):
        with lines, lines.one():
            with keys:
                for key in list_of(FEW):
                    with keys.one():
                        await shell.key(key)
            await shell.line("")
    await shell.close()
    return lines, keys
