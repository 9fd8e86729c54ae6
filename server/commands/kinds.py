"""The kinds of arguments: each parses, names, explains and completes one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from server.auth.keys import ALGORITHMS, parse_key, parse_sources, parse_time
from server.commands.context import CompletionContext
from server.grammar.declare import Kind, PathTo
from server.model.access import Role, UserKey, parse_user_name
from server.model.integrations import parse_api_key, parse_client_id
from server.model.numbers import MOST_NUMBERS, parse_numbers
from server.storage import integrations, users

#: The most names that a completion looks up.
MOST_CANDIDATES = 100
_LONGEST_SLEEP_SECONDS = 86_400.0
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
_HIGHEST_STATUS = 255
_CLIENT_ID_EXPECTED = "client id, 1 to 64 of A-Z a-z 0-9 . _ @ -, beginning with a letter or digit"


async def _stored_client_ids(context: CompletionContext, arguments: Mapping[str, Any], beginning: str) -> list[str]:
    return await integrations.client_ids(context.store, arguments["domain"], beginning, MOST_CANDIDATES)


async def _stored_user_names(context: CompletionContext, _arguments: Mapping[str, Any], beginning: str) -> list[str]:
    return await users.names(context.store, beginning, MOST_CANDIDATES)


async def _roles(_context: CompletionContext, _arguments: Mapping[str, Any], beginning: str) -> list[str]:
    return [role.value for role in Role if role.value.startswith(beginning)]


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        *others, last = Role
        message = f"unknown role {text}; use {', '.join(others)} or {last}"
        raise ValueError(message) from None


def _key(text: str) -> UserKey:
    try:
        return parse_key(text.strip())
    except ValueError as wrong:
        message = f"the key {wrong}"
        raise ValueError(message) from wrong


def _date(text: str) -> str:
    """Parse a time and return it in UTC, or return an empty text for `never`."""
    return "" if text == "never" else parse_time(text)


def _seconds(text: str) -> float:
    seconds = float(text) if _DECIMAL.fullmatch(text) else -1.0
    if not 0 <= seconds <= _LONGEST_SLEEP_SECONDS:
        message = f"{text} is not a time; use seconds from 0 to {_LONGEST_SLEEP_SECONDS:.0f}, as in 0.5"
        raise ValueError(message)
    return seconds


def _status(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(_HIGHEST_STATUS)) or int(text) > _HIGHEST_STATUS:
        message = f"{text} is not an exit status; use 0 to {_HIGHEST_STATUS}"
        raise ValueError(message)
    return int(text)


#: The reference writes this argument as `<ClientId>` for add and set, and as `<CLIENT_ID>` for the others.
NEW_CLIENT_ID = Kind("<ClientId>", _CLIENT_ID_EXPECTED, parse_client_id)
CLIENT_ID = Kind("<CLIENT_ID>", "client id of an integration of the domain", parse_client_id, _stored_client_ids)
SET_CLIENT_ID = Kind("<ClientId>", CLIENT_ID.expected, parse_client_id, _stored_client_ids)
API_KEY = Kind("<ApiKey>", "API key, 64 of A-Z a-z 0-9, as in an export", parse_api_key, secret=True)
NUMBER_RANGE = Kind(
    "<NumberRange>", f"numbers as in 24010{{0-1}},240200; at most {MOST_NUMBERS:,} of 1 to 32 digits", parse_numbers
)
SECONDS = Kind("<SECONDS>", f"seconds from 0 to {_LONGEST_SLEEP_SECONDS:.0f}, as in 0.5", _seconds)
STATUS = Kind("<N>", f"exit status, 0 to {_HIGHEST_STATUS}", _status)
TEXT = Kind("<TEXT>", "any word", str)
DIRECTORY = Kind("<DIRECTORY>", "path of a directory, as in /domain/biysk.local or ..", str, path_to=PathTo.DIRECTORY)
PATH = Kind("<PATH>", "path of a command or directory", str, path_to=PathTo.ANYTHING)
NEW_USER = Kind("<USER>", "name of 1 to 32 of a-z 0-9 . _ -, beginning with a letter", parse_user_name)
USER = Kind("<USER>", "name of a user", parse_user_name, _stored_user_names)
ROLE = Kind("<ROLE>", f"one of {', '.join(Role)}", _role, _roles)
DATE = Kind(
    "<TIME>", "YYYY-MM-DD or YYYY-MM-DDTHH:MM, in the node's time zone, or with Z at the end in UTC; or never", _date
)
#: Secret, because people paste private keys here by mistake. Audit records have the fingerprint instead.
PUBLIC_KEY = Kind("<KEY>", "line of a .pub file", _key, secret=True, begins=ALGORITHMS.__contains__)
KEY_WORD = Kind("<KEY>", "line of a .pub file", str, secret=True)
SOURCES = Kind("<NETWORKS>", "addresses or networks, separated by commas; ! before one excludes it", parse_sources)
