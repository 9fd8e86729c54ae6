"""Integrations: third-party clients of a domain's Call API, their keys, and the changes of `set`.

The Call API trusts any client that has a key. So `secrets` makes the keys, and only users with the permission see them
in full.
"""

from __future__ import annotations

import re
import secrets
import string
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
#: The shortest run of letters and digits that may be a cut key: without 16 letters, 95 bits are left to guess.
_LEAST_RUN = 48
#: The shortest part of a key that a blank, a hyphen or a line break splits in two. With a shorter part, the longer part
#: is long enough to be found as a run.
_LEAST_PART = KEY_CHARACTERS - _LEAST_RUN
_PART = rf"[A-Za-z0-9]{{{_LEAST_PART},{_LEAST_RUN - 1}}}"
#: First the exceptions, fingerprints and heads of the audit (`7:` and a hex digest); then a run, or the first part of a
#: split key.
_LIKE_KEYS = re.compile(
    r"(?P<kept>SHA256:[A-Za-z0-9+/]{43}(?![A-Za-z0-9+/])|(?<![A-Za-z0-9])[0-9]{1,18}:[0-9a-f]{64}(?![A-Za-z0-9]))"
    rf"|[A-Za-z0-9]{{{_LEAST_RUN},}}"
    rf"|(?<![A-Za-z0-9])(?P<first>{_PART})(?=(?:[\s_-]|\\[nrt]){{1,3}}(?P<second>{_PART})(?![A-Za-z0-9]))"
)
#: The lengths of both parts of a split key together. One or two letters may be lost or added in copying.
_BROKEN_LETTERS = range(KEY_CHARACTERS - 2, KEY_CHARACTERS + 3)
_MASK = "***"


class IntegrationType(Enum):
    """The kind of client; the value is shown in the `Type` column."""

    WIDGET = "widget"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Integration:
    """One client of one domain, without its key. `numbers` is ascending; a widget has none."""

    client_id: str
    type: IntegrationType
    numbers: tuple[str, ...] = ()


def new_key() -> str:
    """Make an API key: 64 uniform characters of A-Z a-z 0-9 from the system's random source."""
    return "".join(secrets.choice(_KEY_ALPHABET) for _ in range(KEY_CHARACTERS))


def parse_api_key(text: str) -> str:
    """Return the API key. Raises ValueError with the rule, and without the key."""
    if _KEY.fullmatch(text):
        return text
    if "*" in text:
        message = "the key is masked: an export has it in full"
    else:
        message = f"the key is not an API key: {KEY_CHARACTERS} of A-Z a-z 0-9 are expected"
    raise ValueError(with_foreign(message, text))


def masked_key(key: str) -> str:
    """Return the masked key for users without the permission: first and last four characters, `*` between."""
    return key[:_SHOWN_OF_MASKED] + "*" * (len(key) - 2 * _SHOWN_OF_MASKED) + key[-_SHOWN_OF_MASKED:]


def holds_key(text: str) -> bool:
    """Tell whether a text contains something that looks like an API key, whole, cut or split in two."""
    return without_keys(text) != text


def without_keys(text: str) -> str:
    """Replace everything that looks like an API key by `***`, for texts that are stored or logged.

    It masks runs of at least 48 letters and digits. It also masks two parts of 16 to 47 with 62 to 66 together, with a
    blank, hyphen, underscore or line break between them. A client id, a part of a domain name or a hex digest of such a
    length is masked too. Fingerprints, heads of the audit and numbers of up to 32 digits stay.
    """
    masked, position = [], 0
    for found in _LIKE_KEYS.finditer(text):
        if found.start() < position or found["kept"] or not _is_key(found):
            continue
        masked += [text[position : found.start()], _MASK]
        position = found.end("second") if found["first"] else found.end()
    return "".join([*masked, text[position:]])


def _is_key(found: re.Match[str]) -> bool:
    """Tell whether a match is a run, or two parts as long as a key together that are not all digits."""
    parts = (found["first"] or "") + (found["second"] or "")
    return not parts or (len(parts) in _BROKEN_LETTERS and not parts.isdigit())


def parse_client_id(text: str) -> str:
    """Return the client id; raises ValueError with the rule."""
    if not _CLIENT_ID.fullmatch(text):
        rule = "a client id is 1 to 64 of A-Z a-z 0-9 . _ @ - and begins with a letter or digit"
        raise refusal(rule, text, r"A-Za-z0-9._@-", _MOST_CHARACTERS)
    return text


def changed(integration: Integration, *, service: bool, numbers: tuple[str, ...] | None) -> Integration:
    """Return the integration as `set` leaves it.

    `service` turns a widget into a service; a service keeps its numbers. `numbers` replaces the numbers of a service.
    Raises CommandError for numbers on a widget that the same command does not turn into a service.
    """
    if not service and integration.type is IntegrationType.WIDGET:
        message = f"integration {integration.client_id} is a widget: only a service has numbers, add --service"
        raise CommandError(message)
    kept = integration.numbers if numbers is None else numbers
    return replace(integration, type=IntegrationType.SERVICE, numbers=kept)
