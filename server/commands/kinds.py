"""What words can be: each kind bundles how it is parsed, shown, explained and completed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from server.grammar.declare import Kind, PathTo
from server.model.integrations import parse_client_id
from server.model.numbers import MOST_NUMBERS, parse_numbers
from server.storage import integrations
from server.storage.database import Store

MOST_CANDIDATES = 200
_LONGEST_SLEEP_SECONDS = 86_400.0
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
_HIGHEST_STATUS = 255
_CLIENT_ID_EXPECTED = "client id, 1 to 64 of A-Z a-z 0-9 . _ @ -, beginning with a letter or digit"


async def _stored_client_ids(store: Store, arguments: Mapping[str, Any], beginning: str) -> list[str]:
    return await integrations.client_ids(store, arguments["domain"], beginning, MOST_CANDIDATES)


def _seconds(text: str) -> float:
    seconds = float(text) if _DECIMAL.fullmatch(text) else -1.0
    if not 0 <= seconds <= _LONGEST_SLEEP_SECONDS:
        message = f"{text} is no time: seconds from 0 to {_LONGEST_SLEEP_SECONDS:.0f} are expected, as in 0.5"
        raise ValueError(message)
    return seconds


def _status(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(_HIGHEST_STATUS)) or int(text) > _HIGHEST_STATUS:
        message = f"{text} is no exit status: 0 to {_HIGHEST_STATUS} is expected"
        raise ValueError(message)
    return int(text)


#: The reference writes the same argument in two ways, `<ClientId>` for add and set, `<CLIENT_ID>` for the others.
NEW_CLIENT_ID = Kind("<ClientId>", _CLIENT_ID_EXPECTED, parse_client_id)
CLIENT_ID = Kind("<CLIENT_ID>", "client id of an integration of the domain", parse_client_id, _stored_client_ids)
SET_CLIENT_ID = Kind("<ClientId>", CLIENT_ID.expected, parse_client_id, _stored_client_ids)
NUMBER_RANGE = Kind(
    "<NumberRange>", f"numbers as in 24010{{0-1}},240200; at most {MOST_NUMBERS:,} of 1 to 32 digits", parse_numbers
)
SECONDS = Kind("<SECONDS>", f"seconds from 0 to {_LONGEST_SLEEP_SECONDS:.0f}, as in 0.5", _seconds)
STATUS = Kind("<N>", f"exit status, 0 to {_HIGHEST_STATUS}", _status)
TEXT = Kind("<TEXT>", "any word", str)
DIRECTORY = Kind("<DIRECTORY>", "path of a directory, as in /domain/biysk.local or ..", str, path_to=PathTo.DIRECTORY)
PATH = Kind("<PATH>", "path of a command or directory", str, path_to=PathTo.ANYTHING)
