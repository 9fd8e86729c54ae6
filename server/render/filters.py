"""Apply filters to the rows of a table or a script, and to the lines of other replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from server.cooperative import Share
from server.grammar.filters import Expression, Filter
from server.render.reply import ChangeDirectory, Exit, Field, Lines, Record, Reply, Script, Table
from server.render.text import reply_text

_T = TypeVar("_T")


async def filtered(reply: Reply, filters: Sequence[Filter], share: Share) -> Reply:
    """Return the filtered reply. The results of `cd` and `exit` stay as they are.

    `filters` must not contain `json`. Thousands of rows, each perhaps with a key to decrypt, are searched in turns
    with other sessions.
    """
    for each in filters:
        if isinstance(reply, ChangeDirectory | Exit):
            return reply
        reply = await _filtered(reply, each, share)
    return reply


async def _filtered(reply: Reply, each: Filter, share: Share) -> Reply:
    if isinstance(reply, Table):
        rows = await _kept(reply.rows, each, lambda row: " ".join(reply.texts(row)), share)
        return _counted(rows) if each.name == "count" else replace(reply, rows=rows)
    if isinstance(reply, Script):
        return await _filtered_script(reply, each, share)
    lines = reply.lines if isinstance(reply, Lines) else "".join(reply_text(reply)).splitlines()
    kept = await _kept(lines, each, str, share)
    return _counted(kept) if each.name == "count" else Lines(kept)


async def _filtered_script(script: Script, each: Filter, share: Share) -> Reply:
    items: list[str | tuple[Any, ...]] = [*script.opening, *script.rows]
    kept = await _kept(items, each, lambda item: item if isinstance(item, str) else script.line(item), share)
    if each.name == "count":
        return _counted(kept)
    opening = tuple(item for item in kept if isinstance(item, str))
    return replace(script, opening=opening, rows=[item for item in kept if not isinstance(item, str)])


def _counted(rows: Sequence[object]) -> Record:
    return Record("", (Field("count", "Count", len(rows)),))


async def _kept(rows: Sequence[_T], each: Filter, text: Callable[[_T], str], share: Share) -> Sequence[_T]:
    if each.name == "first":
        return rows[: each.value]
    if each.name == "last":
        return rows[max(0, len(rows) - each.value) :]
    if each.name not in {"match", "except", "regex"}:
        return rows
    kept = []
    async for row in share.in_turns(rows):
        shown = text(row)
        await share.turn_for(shown)
        if await _fits(shown, each, share):
            kept.append(row)
    return kept


async def _fits(text: str, each: Filter, share: Share) -> bool:
    """Tell whether a filter keeps a text. Large expressions search long texts in a thread."""
    if isinstance(each.value, Expression):
        found = each.value.found_in
        return bool(await share.in_thread(found, text) if each.value.takes_long(text) else found(text))
    return (each.value in text.casefold()) == (each.name == "match")
