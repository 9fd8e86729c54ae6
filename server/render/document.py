"""A reply as a JSON document on one line: `rows`, `fields` or `lines`, `status`, `error`, `exec`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from server.errors import OperatorError
from server.escaping import escaped_json
from server.render.reply import Cell, ChangeDirectory, Exit, Lines, Record, Reply, Script, Table
from server.render.text import Footer, reply_text


def reply_document(
    reply: Reply, footer: Footer, error: OperatorError | None = None, unconfirmed: Sequence[str] = ()
) -> Iterator[str]:
    """Yield the document of a reply in pieces, all on one line.

    Names are the stable snake_case keys of columns and fields. Times are ISO 8601 with an offset. `error` says why the
    reply is not complete. `unconfirmed` are the nodes that have not confirmed a change.
    """
    told = {"status": error.status, "error": error_facts(error)} if error else {"status": 0, "error": None}
    rest = told | _exec(footer) | ({"unconfirmed": list(unconfirmed)} if unconfirmed else {})
    if not isinstance(reply, Table | Script):
        yield _line({**_content(reply), **rest})
        return
    keys = [column.key for column in reply.columns]
    yield '{"rows": ['
    for count, row in enumerate(reply.rows):
        yield (", " if count else "") + _json(dict(zip(keys, row, strict=True)))
    yield "], " + _line(rest).removeprefix("{")


def error_document(error: OperatorError, footer: Footer) -> str:
    """Return the document of an error. `status` is the exit status."""
    return _line({"lines": [], "status": error.status, "error": error_facts(error), **_exec(footer)})


def error_facts(error: OperatorError) -> dict[str, Any]:
    """Return the value of `error` in a document."""
    return {"kind": error.kind, "message": error.message, "hints": list(error.hints)}


def plain(value: object) -> Any:  # noqa: ANN401  whatever JSON can hold
    """Return the JSON value of a cell, a time, or any other object."""
    if isinstance(value, Cell):
        return value.value
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)


def _content(reply: Reply) -> dict[str, Any]:
    match reply:
        case Record(message, fields):
            named: dict[str, Any] = {field.key: field.value for field in fields}
            return {"fields": ({"message": message} if message else {}) | named}
        case Lines(lines):
            return {"lines": list(lines)}
        case ChangeDirectory() | Exit():
            return {"lines": []}
        case _:
            return {"lines": "".join(reply_text(reply)).splitlines()}


def _exec(footer: Footer) -> dict[str, Any]:
    return {"exec": {"at": footer.at, "time_ms": footer.time_ms, "nodes": list(footer.nodes)}}


def _line(document: dict[str, Any]) -> str:
    return _json(document) + "\n"


def _json(value: dict[str, Any]) -> str:
    return escaped_json(json.dumps(value, ensure_ascii=False, default=plain))
