"""The integrations of a domain and their API keys: `/domain/<DOMAIN>/integrations/`.

Source of texts, table and syntax: the primary reference. A key is stored before a reply shows it. An old key has
stopped working before a reply confirms `replace` or `remove`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from server.commands.context import Context
from server.commands.domains import DOMAIN
from server.commands.kinds import CLIENT_ID, NEW_CLIENT_ID, NUMBER_RANGE, SET_CLIENT_ID
from server.errors import ArgumentError
from server.grammar.declare import Relation, command
from server.model.access import Permission
from server.model.integrations import KEY_CHARACTERS, Integration, IntegrationType, masked_key
from server.render.reply import Column, Field, Lines, Record, Table
from server.services import integrations as use_cases
from server.services.domains import no_such_domain
from server.services.integrations import no_such_integration
from server.storage import integrations
from server.storage.vault import Vault

_HERE = "/domain/{domain}/integrations/"
_EXAMPLE = "domain/biysk.local/integrations/"
#: Replaces a key that is damaged in the store. The command `replace` gives the integration a new key.
_UNREADABLE = "unreadable, replace it"


@dataclass(slots=True, repr=False)
class _Keys:
    """The settings of `list` for the keys of one domain."""

    vault: Vault
    domain: str
    in_full: bool


class _ListedKey:
    """A key in `list`.

    It is decrypted when its row is sent, so that a table of ten thousand keys begins at once.
    """

    __slots__ = ("_client_id", "_keys", "_sealed")

    def __init__(self, keys: _Keys, client_id: str, sealed: str) -> None:
        self._keys, self._client_id, self._sealed = keys, client_id, sealed

    def __str__(self) -> str:
        key = integrations.opened(self._keys.vault, self._keys.domain, self._client_id, self._sealed)
        return _UNREADABLE if key is None else key if self._keys.in_full else masked_key(key)


def _widest(keys: Sequence[object]) -> int:
    """Return the width of a column of keys. All readable keys have the same length, masked or not."""
    first = len(str(keys[0])) if keys else 0
    return first if first in {0, KEY_CHARACTERS} else max(len(str(key)) for key in keys)


COLUMNS = (
    Column("client_id", "Client id"),
    Column("type", "Type"),
    Column("api_key", "API Key", width=_widest),
    Column("numbers", "Options", lambda numbers: "\n".join(("Numbers:", *numbers)) if numbers else ""),
)


@command(
    _HERE + "add",
    permission=Permission.INTEGRATIONS_CHANGE,
    examples=(_EXAMPLE + "add crm", _EXAMPLE + "add ivr --service --numbers 24010{0-1},240200"),
)
async def add(
    context: Context,
    domain: Annotated[str, DOMAIN],
    client_id: Annotated[str, NEW_CLIENT_ID],
    *,
    widget: Annotated[bool, Relation("runs in a subscriber's browser (the default)", excludes="service")] = False,
    service: Annotated[bool, Relation("runs on a server and acts for its numbers")] = False,
    numbers: Annotated[tuple[str, ...], NUMBER_RANGE, Relation("the service's numbers", needs="service")] = (),
) -> Record:
    """Add an integration and make its API key.

    The client shows the key to the Call API. Without --service the integration is a widget.
    """
    kind = IntegrationType.SERVICE if service and not widget else IntegrationType.WIDGET
    key = await use_cases.add(context, domain, Integration(client_id, kind, numbers))
    return Record("New integration was added.", (Field("api_key", "API key", key),))


@command(
    _HERE + "remove",
    permission=Permission.INTEGRATIONS_CHANGE,
    examples=(_EXAMPLE + "remove tester --check", _EXAMPLE + "remove tester"),
)
async def remove(context: Context, domain: Annotated[str, DOMAIN], client_id: Annotated[str, CLIENT_ID]) -> Lines:
    """Remove an integration. Its key stops working at once."""
    await use_cases.remove(context, domain, client_id)
    return Lines(("ok",))


@command(
    _HERE + "list",
    permission=Permission.INTEGRATIONS_READ,
    examples=(_EXAMPLE + "list", _EXAMPLE + "list | match service | json"),
)
async def list_(context: Context, domain: Annotated[str, DOMAIN]) -> Table:
    """List the integrations of the domain with their keys."""
    found = await integrations.sealed_of_domain(context.store, domain, context.share)
    if found is None:
        raise no_such_domain(domain)
    keys = _Keys(context.store.vault, domain, context.lists_keys_in_full)
    rows = [
        (
            client_id,
            integrations.stored_type(kind).value,
            _ListedKey(keys, client_id, sealed),
            integrations.stored_numbers(numbers),
        )
        async for client_id, kind, numbers, sealed in context.share.in_turns(found)
    ]
    return Table(COLUMNS, rows)


@command(_HERE + "replace", permission=Permission.INTEGRATIONS_CHANGE, examples=(_EXAMPLE + "replace tester",))
async def replace(context: Context, domain: Annotated[str, DOMAIN], client_id: Annotated[str, CLIENT_ID]) -> Record:
    """Replace the key of an integration with a new one.

    The old key has stopped working when the reply appears. Nothing else of the integration changes.
    """
    key = await use_cases.replace_key(context, domain, client_id)
    return Record("Old key was replaced with new one.", (Field("api_key", "New API key", key),))


@command(
    _HERE + "set",
    permission=Permission.INTEGRATIONS_CHANGE,
    examples=(_EXAMPLE + "set servint --numbers 240{300-302}", _EXAMPLE + "set tester --service"),
)
async def set_(
    context: Context,
    domain: Annotated[str, DOMAIN],
    client_id: Annotated[str, SET_CLIENT_ID],
    *,
    service: Annotated[bool, Relation("make it a service; its numbers stay, a former widget has none")] = False,
    numbers: Annotated[tuple[str, ...] | None, NUMBER_RANGE, Relation("replace the numbers of a service")] = None,
) -> Lines:
    """Change the properties of an integration. Its key stays.

    Give at least one option. Only services have numbers: for a widget, give --service too.
    """
    if not service and numbers is None:
        message = "nothing to change, give --service or --numbers"
        raise ArgumentError(message)
    await use_cases.set_properties(context, domain, client_id, service=service, numbers=numbers)
    return Lines(("Integration properties changed",))


@command(_HERE + "show", permission=Permission.INTEGRATIONS_READ, examples=(_EXAMPLE + "show servint",))
async def show(
    context: Context,
    domain: Annotated[str, DOMAIN],
    client_id: Annotated[str, CLIENT_ID],
    *,
    reveal: Annotated[bool, Relation("show the key in full", permission=Permission.KEYS_REVEAL)] = False,
) -> Record:
    """Show one integration, its key masked unless --reveal is given."""
    keyed = await integrations.one(context.store, domain, client_id)
    if keyed is None:
        raise await no_such_integration(context.store.read, domain, client_id)
    shown = keyed.key if reveal or keyed.key is None else masked_key(keyed.key)
    integration = keyed.integration
    fields = [
        Field("client_id", "Client id", integration.client_id),
        Field("type", "Type", integration.type.value),
        Field("api_key", "API key", shown or _UNREADABLE),
    ]
    if integration.numbers:
        fields.append(Field("numbers", "Numbers", ",".join(integration.numbers)))
    return Record("", tuple(fields))


DIRECTORIES = {"/domain/{domain}/integrations": "Third-party services that use the Call API, and their keys."}
COMMANDS = (add, remove, list_, replace, set_, show)
