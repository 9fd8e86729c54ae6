"""The document that `export | json` prints and `import` reads: integrations with their keys. Pure.

It is parsed row by row, so that the event loop can serve others between the rows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from server.model.integrations import Integration, IntegrationType, parse_api_key, parse_client_id
from server.model.names import described, foreign, with_foreign
from server.model.numbers import MOST_DIGITS, MOST_NUMBERS, ascending

MOST_ROWS = 100_000
#: Ten thousand services with a hundred numbers each fit easily.
MOST_CHARACTERS = 32 * 1024 * 1024
_FIELDS = ("client_id", "type", "api_key", "numbers")
_ROWS = "rows"
_BLANK = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(rf"[0-9]{{1,{MOST_DIGITS}}}")
#: The longest integration: ten thousand numbers of 32 digits, each on its own line.
MOST_ROW_CHARACTERS = 640_000
_MOST_AT_FIRST = 4_096
#: The most fields beside the rows, such as those of `exec`. They are read without a pause.
_MOST_NAMES = 64
_MOST_BLANKS = 65_536


@dataclass(frozen=True, slots=True)
class Row:
    """One integration of a document with its key in clear."""

    integration: Integration
    key: str


def read_rows(text: str) -> Iterator[Row | str]:
    """Yield each row, or the text of its mistake.

    A document is an object with `rows` and any other fields, or just the list of rows. Raises ValueError for one that
    cannot be read.
    """
    try:
        end = yield from _rows(text, _rows_at(text))
        _refuse_what_follows(text, end)
    except (json.JSONDecodeError, RecursionError, IndexError) as error:
        why = _where(error) if isinstance(error, json.JSONDecodeError) else "it ends too soon"
        message = f"the document is no JSON: {why}"
        raise ValueError(message) from None


def _where(error: json.JSONDecodeError) -> str:
    """Return the parser's message with the position; describe the character there if not ASCII."""
    found = error.doc[error.pos : error.pos + 1]
    return f"{error.msg}, character {error.pos + 1}{'' if found.isascii() else f', which is {described(found)}'}"


def _rows_at(text: str) -> int:
    """Return the position of the list of rows."""
    at = _after_blanks(text, 0)
    if text[at] == "[":
        return at
    if text[at] != "{":
        message = "Expecting an object with rows, as export | json prints it"
        raise json.JSONDecodeError(message, text, at)
    at = _to_rows_or_end(text, _after_blanks(text, at + 1))
    if text[at] == "[":
        return at
    message = "the document has no rows: it is not what export | json prints"
    raise ValueError(message)


def _to_rows_or_end(text: str, at: int) -> int:
    """Read an object from one of its names on; return the position of its rows, or of its end."""
    began = at
    for _ in range(_MOST_NAMES):
        if text[at] == "}":
            return at
        name, at = _decoded(text, at)
        at = _after_blanks(text, at)
        if text[at] != ":" or not isinstance(name, str):
            message = "Expecting a name and :"
            raise json.JSONDecodeError(message, text, at)
        at = _after_blanks(text, at + 1)
        if name == _ROWS and text[at] == "[":
            return at
        _, at = _decoded(text, at)
        if at - began > MOST_ROW_CHARACTERS:
            break
        at = _after_comma(text, at, "}")
    message = "the document has too much beside its rows: it is not what export | json prints"
    raise ValueError(message)


def _refuse_what_follows(text: str, at: int) -> None:
    """Check the text after the rows, so that a cut document or a second one is refused."""
    at += 1
    if text[_after_blanks(text, 0)] == "{":
        at = _to_rows_or_end(text, _after_comma(text, at, "}"))
        if text[at] == "[":
            message = "the document has rows twice"
            raise ValueError(message)
        at += 1
    at = _after_blanks(text, at)
    if at < len(text):
        message = f"something follows the document, character {at + 1}: import one at a time"
        raise ValueError(message)


def _rows(text: str, at: int) -> Generator[Row | str, None, int]:
    """Yield the rows of the list at this position; return its end."""
    clients: dict[str, int] = {}
    keys: dict[str, int] = {}
    count = 0
    at = _after_blanks(text, at + 1)
    while text[at] != "]":
        said, at = _decoded(text, at)
        at = _after_comma(text, at, "]")
        count += 1
        if count > MOST_ROWS:
            message = f"the document has more than {MOST_ROWS:,} integrations"
            raise ValueError(message)
        where = f"integration {count}"
        try:
            row = _row(said)
        except ValueError as wrong:
            yield f"{where}: {wrong}"
            continue
        client_id = row.integration.client_id
        where = f"{where}, {client_id}"
        if client_id in clients:
            yield f"{where}: the client id is already used by integration {clients[client_id]}"
        elif row.key in keys:
            yield f"{where}: the key is already used by integration {keys[row.key]}"
        else:
            yield row
        clients.setdefault(client_id, count)
        keys.setdefault(row.key, count)
    return at


def _decoded(text: str, at: int) -> tuple[Any, int]:
    """Return the value at this position, and its end. Too long a value is refused unread.

    Reading it would block the event loop.
    """
    for most in (_MOST_AT_FIRST, MOST_ROW_CHARACTERS):
        try:
            said, length = _DECODER.raw_decode(text[at : at + most])
        except json.JSONDecodeError as error:
            wrong = error
        else:
            return said, at + length
    at_its_end = wrong.pos > MOST_ROW_CHARACTERS - _MOST_AT_FIRST or wrong.msg.startswith("Unterminated string")
    if at_its_end and len(text) - at > MOST_ROW_CHARACTERS:
        message = f"the value at character {at + 1} is longer than {MOST_ROW_CHARACTERS:,} characters"
        raise ValueError(message)
    raise json.JSONDecodeError(wrong.msg, text, at + wrong.pos)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object. A repeated name is an error, because one of its values would be dropped silently."""
    named = dict(pairs)
    if len(named) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        message = f"the name {ascii(twice)[:60]} stands twice in an object"
        raise ValueError(message)
    return named


#: No field is a number. `float` accepts any count of digits; `int` would not.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=float)


def _row(said: Any) -> Row:  # noqa: ANN401  any JSON value
    if not isinstance(said, dict):
        message = f"an object with {', '.join(_FIELDS)} is expected"
        raise ValueError(message)  # noqa: TRY004  every mistake of a document is a ValueError
    foreign = sorted(said.keys() - {*_FIELDS})
    if foreign:
        message = f"there is no field {ascii(foreign[0])[:60]}: {', '.join(_FIELDS)} are known"
        raise ValueError(message)
    client_id = parse_client_id(_text(said, "client_id"))
    kind = _type(_text(said, "type"))
    key = parse_api_key(_text(said, "api_key"))
    numbers = _numbers(said.get("numbers", []))
    if numbers and kind is IntegrationType.WIDGET:
        message = f"{client_id} is a widget: only a service has numbers"
        raise ValueError(message)
    return Row(Integration(client_id, kind, numbers), key)


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str):
        message = f"{name} is missing" if name not in said else f"{name} is no text"
        raise ValueError(message)  # noqa: TRY004  as above
    return value


def _type(text: str) -> IntegrationType:
    try:
        return IntegrationType(text)
    except ValueError:
        message = f"unknown type {ascii(text)[:60]}; use {' or '.join(kind.value for kind in IntegrationType)}"
        raise ValueError(message) from None


def _numbers(said: Any) -> tuple[str, ...]:  # noqa: ANN401  as above
    if isinstance(said, list) and len(said) > MOST_NUMBERS:
        message = f"{len(said):,} numbers, at most {MOST_NUMBERS:,} are allowed"
        raise ValueError(message)
    if not isinstance(said, list) or not all(isinstance(each, str) and _NUMBER.fullmatch(each) for each in said):
        message = f"numbers is a list of texts of 1 to {MOST_DIGITS} digits, in quotes so that zeros are kept"
        texts = [each for each in said if isinstance(each, str)] if isinstance(said, list) else []
        raise ValueError(with_foreign(message, next((each for each in texts if foreign(each)), "")))
    return ascending(said)


def _after_blanks(text: str, at: int) -> int:
    found = _BLANK.match(text, at, at + _MOST_BLANKS)
    end = found.end() if found else at
    if end == at + _MOST_BLANKS:
        message = f"more than {_MOST_BLANKS:,} blanks begin at character {at + 1}"
        raise ValueError(message)
    return end


def _after_comma(text: str, at: int, end: str) -> int:
    """Return the position of the next item, or of `end`."""
    at = _after_blanks(text, at)
    if text[at] == end:
        return at
    if text[at] != ",":
        message = f"Expecting , or {end}"
        raise json.JSONDecodeError(message, text, at)
    return _after_blanks(text, at + 1)
