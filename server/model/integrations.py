"""Integrations: the third-party clients of a domain's Call API, their keys, and how `set` changes them.

Whoever shows a key to the Call API is the client, so a key is made by `secrets` and shown in full only to those who
may see it.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from server.errors import CommandError
from server.model.names import refusal, with_foreign

KEY_CHARACTERS = 64
_KEY_ALPHABET = string.ascii_letters + string.digits
_MOST_CHARACTERS = 64
_CLIENT_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._@-]{{0,{_MOST_CHARACTERS - 1}}}")
_KEY = re.compile(rf"[A-Za-z0-9]{{{KEY_CHARACTERS}}}")
_SHOWN_OF_MASKED = 4
#: What may be a key wherever it stands: pasted in the place of a client id, or two of them without a blank.
_KEY_ANYWHERE = re.compile(rf"[A-Za-z0-9]{{{KEY_CHARACTERS},}}")
_MOST_NAMED = 10


class IntegrationType(Enum):
    """Where the client runs; the value is what the `Type` column shows."""

    WIDGET = "widget"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Integration:
    """One client of one domain, without its key. `numbers` is ascending and only a service has any."""

    client_id: str
    type: IntegrationType
    numbers: tuple[str, ...] = ()


def new_key() -> str:
    """Make an API key: 64 characters of A-Z a-z 0-9, uniform, from the system's source of secrets."""
    return "".join(secrets.choice(_KEY_ALPHABET) for _ in range(KEY_CHARACTERS))


def parse_api_key(text: str) -> str:
    """Return the API key; raises ValueError, which does not repeat it, with what would be right."""
    if _KEY.fullmatch(text):
        return text
    if "*" in text:
        message = "the key is masked: an export has it in full"
    else:
        message = f"the key is not one of ours: {KEY_CHARACTERS} of A-Z a-z 0-9 are expected"
    raise ValueError(with_foreign(message, text))


def masked_key(key: str) -> str:
    """Return the key as those see it who may not: the first and last four characters, the rest as `*`."""
    return key[:_SHOWN_OF_MASKED] + "*" * (len(key) - 2 * _SHOWN_OF_MASKED) + key[-_SHOWN_OF_MASKED:]


def holds_key(text: str) -> bool:
    """Tell whether something in a text looks like an API key."""
    return _KEY_ANYWHERE.search(text) is not None


def without_keys(text: str) -> str:
    """Return a text with `***` in the place of all that looks like an API key, for what is kept or logged.

    A client id or a part of a path of 64 letters and digits looks like one too, and is hidden with them.
    """
    return _KEY_ANYWHERE.sub("***", text)


def parse_client_id(text: str) -> str:
    """Return the client id; raises ValueError with what would be right."""
    if not _CLIENT_ID.fullmatch(text):
        rule = "a client id is 1 to 64 of A-Z a-z 0-9 . _ @ - and begins with a letter or digit"
        raise refusal(rule, text, r"A-Za-z0-9._@-", _MOST_CHARACTERS)
    return text


def first_named(client_ids: Sequence[str]) -> str:
    """Return the first ten client ids, and how many more there are, for a sentence."""
    more = len(client_ids) - _MOST_NAMED
    return ", ".join([*client_ids[:_MOST_NAMED], *([f"and {more:,} more"] if more > 0 else [])])


def changed(integration: Integration, *, service: bool, numbers: tuple[str, ...] | None) -> Integration:
    """Return the integration as `set` leaves it.

    `service` makes it a service, whose numbers stay; `numbers` replaces the numbers of a service. Raises CommandError
    for numbers on a widget that is not made a service in the same command.
    """
    if not service and integration.type is IntegrationType.WIDGET:
        message = f"integration {integration.client_id} is a widget: only a service has numbers, add --service"
        raise CommandError(message)
    kept = integration.numbers if numbers is None else numbers
    return replace(integration, type=IntegrationType.SERVICE, numbers=kept)
