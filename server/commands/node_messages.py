"""The questions that nodes send each other, and their answers: JSON texts of limited size.

A question is a line of an operator. The answering node authorizes the operator by itself. An answer is a table of
cells, or the error of the command.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from server.cooperative import Share
from server.errors import (
    ArgumentError,
    CommandError,
    InternalError,
    OperatorError,
    PermissionDeniedError,
    TemporaryError,
    UnknownCommandError,
)
from server.render.document import error_facts, plain
from server.render.merging import cell_column
from server.render.reply import Cell, Table

MOST_QUESTION_BYTES = 64 * 1024
MOST_ANSWER_BYTES = 1024 * 1024
_KINDS: dict[str, type[OperatorError]] = {
    each.kind: each
    for each in (
        ArgumentError,
        CommandError,
        InternalError,
        PermissionDeniedError,
        TemporaryError,
        UnknownCommandError,
    )
}
_UNREADABLE = "the answer of the node cannot be read; its log may say why"


@dataclass(frozen=True, slots=True)
class Question:
    """A line that another node runs: its `words` from the absolute path on, and the operator who has typed it.

    `node` is the node that asks. With `json` the reply is for a JSON document.
    """

    words: tuple[str, ...]
    user: str
    added_at: str
    source: str
    session_id: str
    node: str
    json: bool

    def text(self) -> str:
        """Return the question as JSON. Raises CommandError when it is too long."""
        text = json.dumps(asdict(self), ensure_ascii=False)
        if len(text.encode("utf-8", "surrogatepass")) > MOST_QUESTION_BYTES:
            message = f"the line is too long for other nodes, which take {MOST_QUESTION_BYTES // 1024} KB"
            raise CommandError(message)
        return text


def read_question(text: str) -> Question:
    """Return the question of a text. Raises ValueError."""
    if len(text.encode("utf-8", "surrogatepass")) > MOST_QUESTION_BYTES:
        message = f"the question is longer than {MOST_QUESTION_BYTES // 1024} KB"
        raise ValueError(message)
    given = json.loads(text)
    words = given.pop("words", None) if isinstance(given, dict) else None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        message = "the question has no words"
        raise ValueError(message)
    json_wanted = given.pop("json", None)
    texts = {each.name: given.get(each.name) for each in fields(Question) if each.name not in {"words", "json"}}
    if not isinstance(json_wanted, bool) or not all(isinstance(value, str) for value in texts.values()):
        message = "the question lacks a value"
        raise ValueError(message)
    "".join((*words, *texts.values())).encode()  # lone surrogates cannot be stored, and raise ValueError here
    return Question(tuple(words), json=json_wanted, **texts)


async def answer_text(answer: Table | OperatorError, share: Share) -> str:
    """Return an answer as JSON. A table that is too large becomes an error that says so."""
    if isinstance(answer, OperatorError):
        return _json({"error": error_facts(answer)})
    pieces: list[str] = []
    size = 0
    async for piece in share.in_turns(_pieces(answer)):
        pieces.append(piece)
        size += len(piece.encode("utf-8", "surrogatepass"))
        if size > MOST_ANSWER_BYTES:
            message = f"the reply of the node is larger than {MOST_ANSWER_BYTES // 1024} KB; log in there to see it"
            return _json({"error": error_facts(CommandError(message))})
    return "".join(pieces)


def read_answer(text: str) -> Table | OperatorError:
    """Return the table or the error of an answer; a CommandError for a text that is no answer."""
    try:
        given = json.loads(text)
        if "error" in given:
            return _error(given["error"])
        columns = tuple(cell_column(str(key), str(title)) for key, title in given["columns"])
        rows = [tuple(Cell(value, str(shown)) for value, shown in row) for row in given["rows"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return CommandError(_UNREADABLE)
    return Table(columns, rows) if all(len(row) == len(columns) for row in rows) else CommandError(_UNREADABLE)


def _error(facts: Any) -> OperatorError:  # noqa: ANN401  JSON
    kind = _KINDS.get(facts["kind"], CommandError)
    return kind(str(facts["message"]), *(str(hint) for hint in facts["hints"]))


def _pieces(table: Table) -> Iterator[str]:
    yield '{"columns": ' + _json([(column.key, column.title) for column in table.columns]) + ', "rows": ['
    for count, row in enumerate(table.rows):
        yield (", " if count else "") + _json([(cell.value, cell.text) for cell in row])
    yield "]}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=plain)
