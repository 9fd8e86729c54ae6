"""Merge the replies of several nodes into one table, whose first column names the node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from server.cooperative import Share
from server.errors import OperatorError
from server.escaping import escaped
from server.render.document import error_facts
from server.render.reply import Cell, Column, Field, Lines, Record, Reply, Table
from server.render.text import reply_text

_NODE = Column("node", "Node", escaped)
_ERROR = ("error", "Error")
_REPLY = ("reply", "Reply")
_FIELD = (("field", "Field"), ("value", "Value"))


def cell_column(key: str, title: str) -> Column:
    """Return a column of cells."""
    return Column(key, title, _text)


async def as_table(reply: Reply, share: Share) -> Table:
    """Return a reply as a table of cells: lines have one column, a record has one row for each field."""
    if isinstance(reply, Table):
        rows = [_cells(reply, row) async for row in share.in_turns(reply.rows)]
        return Table(tuple(cell_column(column.key, column.title) for column in reply.columns), rows)
    if isinstance(reply, Record):
        columns = tuple(cell_column(*titled) for titled in _FIELD)
        return Table(columns, [*_message(reply), *(_field(each) for each in reply.fields)])
    lines = reply.lines if isinstance(reply, Lines) else "".join(reply_text(reply)).splitlines()
    return Table((cell_column(*_REPLY),), [(Cell(line, line),) for line in lines or [""]])


def as_record(table: Table) -> Record:
    """Return the record of which `as_table` has made a table."""
    return Record("", tuple(Field(str(key.value), key.text, value, _text) for key, value in table.rows))


async def merged(replies: Mapping[str, Table | OperatorError], share: Share) -> Table:
    """Return one table of all replies, in the order of the nodes' names.

    It has the columns of all nodes, because nodes of different versions may have different ones. An error is a row with
    its text in a last column, which is there only then.
    """
    tables = [each for _, each in sorted(replies.items()) if isinstance(each, Table)]
    titles = {column.key: column.title for table in tables for column in table.columns}
    if len(tables) < len(replies):
        titles |= dict([_ERROR])
    keys = [*titles]
    pieces = (row for name in sorted(replies) for row in _merged_rows(name, replies[name], keys))
    rows = [row async for row in share.in_turns(pieces)]
    return Table((_NODE, *(cell_column(key, title) for key, title in titles.items())), rows)


def _merged_rows(name: str, reply: Table | OperatorError, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    if isinstance(reply, OperatorError):
        cells = {_ERROR[0]: Cell(error_facts(reply), "\n".join(reply.lines()))}
        yield (name, *(cells.get(key, Cell(None, "")) for key in keys))
        return
    for row in reply.rows:
        cells = dict(zip((column.key for column in reply.columns), row, strict=True))
        yield (name, *(cells.get(key, Cell(None, "")) for key in keys))


def _cells(table: Table, row: tuple[Any, ...]) -> tuple[Cell, ...]:
    return tuple(Cell(value, column.text(value)) for column, value in zip(table.columns, row, strict=True))


def _message(record: Record) -> list[tuple[Cell, Cell]]:
    return [(Cell("message", "Message"), Cell(record.message, record.message))] if record.message else []


def _field(field: Field) -> tuple[Cell, Cell]:
    return Cell(field.key, field.title), Cell(field.value, field.text(field.value))


def _text(cell: Cell) -> str:
    return cell.text
