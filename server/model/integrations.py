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
#: A run of key letters this long may be a key that lost a part: 16 letters less leave 95 bits to guess.
_LEAST_RUN = 48
#: A key that a blank, a hyphen or the wrap of a line has broken in two: of such a pair, the shorter part has this many
#: letters at least, or the longer part is a run by itself.
_LEAST_PART = KEY_CHARACTERS - _LEAST_RUN
_PART = rf"[A-Za-z0-9]{{{_LEAST_PART},{_LEAST_RUN - 1}}}"
#: Fingerprints and heads of the audit (`7:` and a hex digest) stay; then what may be a key, or the first part of one.
_LIKE_KEYS = re.compile(
    r"(?P<kept>SHA256:[A-Za-z0-9+/]{43}(?![A-Za-z0-9+/])|(?<![A-Za-z0-9])[0-9]{1,18}:[0-9a-f]{64}(?![A-Za-z0-9]))"
    rf"|[A-Za-z0-9]{{{_LEAST_RUN},}}"
    rf"|(?<![A-Za-z0-9])(?P<first>{_PART})(?=(?:[\s_-]|\\[nrt]){{1,3}}(?P<second>{_PART})(?![A-Za-z0-9]))"
)
#: The letters of a broken key together; one or two more or less, as a part is easily copied with a letter too few.
_BROKEN_LETTERS = range(KEY_CHARACTERS - 2, KEY_CHARACTERS + 3)
_MASK = "***"
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
    """Tell whether something in a text looks like an API key, whole, cut or broken in two."""
    return without_keys(text) != text


def without_keys(text: str) -> str:
    """Return a text with `***` in the place of all that looks like an API key, for what is kept or logged.

    Hidden are 48 and more letters and digits without a break, and two parts of 16 to 47 that have 62 to 66 together,
    with a blank, hyphen, underscore or line break between them. A client id, a part of a domain name or a hex digest of
    that length looks like one too. Fingerprints, heads of the audit and numbers of up to 32 digits stay.
    """
    masked, position = [], 0
    for found in _LIKE_KEYS.finditer(text):
        if found.start() < position or found["kept"] or not _is_key(found):
            continue
        masked += [text[position : found.start()], _MASK]
        position = found.end("second") if found["first"] else found.end()
    return "".join([*masked, text[position:]])


def _is_key(found: re.Match[str]) -> bool:
    """Tell whether a match is a run, or two parts that together are as long as a key and no numbers."""
    parts = (found["first"] or "") + (found["second"] or "")
    return not parts or (len(parts) in _BROKEN_LETTERS and not parts.isdigit())


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
