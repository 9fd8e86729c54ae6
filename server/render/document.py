"""A reply as a JSON document on one line: `rows`, `fields` or `lines`, `status`, `error`, `exec`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from server.errors import OperatorError
from server.escaping import escaped_json
from server.render.reply import ChangeDirectory, Exit, Lines, Record, Reply, Script, Table
from server.render.text import Footer, reply_text


def reply_document(reply: Reply, footer: Footer) -> Iterator[str]:
    """Yield the document of a successful command in pieces, all on one line.

    Names are the stable snake_case keys of columns and fields. Times are ISO 8601 with an offset.
    """
    rest = {"status": 0, "error": None, **_exec(footer)}
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
    told = {"kind": error.kind, "message": error.message, "hints": list(error.hints)}
    return _line({"lines": [], "status": error.status, "error": told, **_exec(footer)})


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
    return {"exec": {"at": footer.at, "time_ms": footer.time_ms, "nodes": [footer.nodes]}}


def _line(document: dict[str, Any]) -> str:
    return _json(document) + "\n"


def _json(value: dict[str, Any]) -> str:
    return escaped_json(json.dumps(value, ensure_ascii=False, default=_plain))


def _plain(value: object) -> str:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
