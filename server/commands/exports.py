"""Export and import a domain's integrations with their keys: `/domain/<DOMAIN>/integrations/`.

`export` prints commands that the console can run. `export | json` prints a document for `import`. Both contain the
keys in full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from server.audit.journal import utc_now
from server.commands.context import Context
from server.commands.domains import DOMAIN
from server.commands.integrations import COLUMNS
from server.commands.kinds import API_KEY, NEW_CLIENT_ID, NUMBER_RANGE
from server.cooperative import Share
from server.errors import ArgumentError, CommandError
from server.grammar.declare import Relation, command
from server.grammar.tokens import MOST_CHARACTERS as LONGEST_LINE
from server.model.access import Permission
from server.model.exports import MOST_CHARACTERS, Row, read_rows
from server.model.integrations import Integration, IntegrationType
from server.model.names import first_named
from server.model.numbers import number_range
from server.render.reply import Lines, Script
from server.services.domains import no_such_domain
from server.storage import domains, integrations
from server.storage.engine import Read
from server.storage.integrations import Conflict, Keyed
from server.storage.turn import Rank

_HERE = "/domain/{domain}/integrations/"
_EXAMPLE = "domain/biysk.local/integrations/"
_KEY = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01"
_QUESTION = "JSON document on one line: "
_MOST_MISTAKES = 100
_MOST_CONFLICTS = 1_000
#: A larger import waits behind the short changes of other users.
_FEW_ROWS = 100


@command(
    _HERE + "export",
    permission=Permission.KEYS_REVEAL,
    examples=(_EXAMPLE + "export", _EXAMPLE + "export | json"),
)
async def export(
    context: Context,
    domain: Annotated[str, DOMAIN],
    *,
    reveal: Annotated[bool, Relation("export the keys in full although the configuration masks them")] = False,
) -> Script:
    """Print commands that rebuild the domain with the same keys, ready to be piped into a console.

    Prints nothing else, not even a footer. With | json it prints one document for import. Protect the output: it
    contains the keys.
    """
    if context.services.masks_keys and not reveal:
        message = "keys are masked here, and an export shows them in full: give --reveal to export them"
        raise CommandError(message)
    found = await integrations.of_domain(
        context.store, domain, context.share, lambda done, total: context.progress(done, total, "keys")
    )
    if found is None:
        raise no_such_domain(domain)
    damaged = [each.integration.client_id for each in found if each.key is None]
    if damaged:
        message = f"{len(damaged)} keys cannot be read, replace or remove them first"
        raise CommandError(message, *damaged)
    if not context.json:
        await _refuse_unspeakable(
            context.share, domain, found, lambda done: context.progress(done, len(found), "commands")
        )
    return Script(
        COLUMNS, (f"domain/declare {domain}",), [_row(each) for each in found], lambda row: _adopt_line(domain, row)
    )


@command(_HERE + "adopt", permission=Permission.INTEGRATIONS_CHANGE, examples=(_EXAMPLE + f"adopt crm {_KEY}",))
async def adopt(
    context: Context,
    domain: Annotated[str, DOMAIN],
    client_id: Annotated[str, NEW_CLIENT_ID],
    key: Annotated[str, API_KEY],
    *,
    service: Annotated[bool, Relation("a service; without it a widget")] = False,
    numbers: Annotated[tuple[str, ...], NUMBER_RANGE, Relation("the service's numbers", needs="service")] = (),
    replace: Annotated[bool, Relation("replace an existing integration, whose present key stops working")] = False,
) -> Lines:
    """Add an integration with an existing key, in the form that export prints.

    With --replace it restores a key that was lost by mistake, for example from yesterday's export. History does not
    keep the line, and the audit does not keep the key.
    """
    kind = IntegrationType.SERVICE if service else IntegrationType.WIDGET
    if replace:
        context.will(
            f"replace integration {client_id} of domain {domain} with {kind.value} {client_id} and the given key"
        )
    else:
        context.will(f"add {kind.value} {client_id} to domain {domain}, with the key that it has")
    await _put_in(context, domain, [Row(Integration(client_id, kind, numbers), key)], replacing=replace)
    return Lines((f"Integration {client_id} {'replaced' if replace else 'added'} with its key",))


@command(
    _HERE + "import",
    permission=Permission.INTEGRATIONS_CHANGE,
    examples=(_EXAMPLE + 'import\n{"rows": [{"client_id": "crm", "type": "widget", "api_key": "' + _KEY + '"}]}',),
)
async def import_(context: Context, domain: Annotated[str, DOMAIN]) -> Lines:
    """Add all integrations of a document from export | json with their keys, or none.

    Pipe the document into the command, as in `ssh HOST domain/biysk.local/integrations/import < FILE`. In a shell the
    document is one line, which is neither echoed nor kept. If one of the integrations exists already, nothing changes.
    """
    async with context.services.documents.reading(context.operator.name, MOST_CHARACTERS) as room:
        text = await context.document(_QUESTION, room)
        await room.take_turn()  # also for short documents: one import per user at a time uses the store
        rows = await _read(context, text)
        del text
        context.will(_described(domain, rows))
        await _put_in(context, domain, rows)
    return Lines((f"Integrations added with their keys: {len(rows)}",))


async def _read(context: Context, text: str) -> list[Row]:
    """Parse a document and return its rows. Raises ArgumentError with all mistakes."""
    rows: list[Row] = []
    mistakes: list[str] = []
    try:
        async for each in context.share.in_turns(read_rows(text)):
            if isinstance(each, Row):
                rows.append(each)
            else:
                mistakes.append(each)
    except ValueError as wrong:
        raise ArgumentError(str(wrong)) from wrong
    if mistakes:
        message = f"the document has {_counted(len(mistakes), 'mistake')}, nothing was changed"
        more = len(mistakes) - _MOST_MISTAKES
        raise ArgumentError(message, *mistakes[:_MOST_MISTAKES], *([f"and {more:,} more"] if more > 0 else []))
    return rows


async def _put_in(context: Context, domain: str, rows: Sequence[Row], *, replacing: bool = False) -> None:
    """Add all rows in one transaction. With `replacing`, replace existing integrations.

    Raises CommandError with all conflicts.
    """
    vault, now = context.store.vault, utc_now()
    keyed = (Keyed(row.integration, row.key) for row in rows)
    sealed = [integrations.sealed_row(vault, domain, each, now) async for each in context.share.in_turns(keyed)]
    if not replacing:
        # check before the transaction, so that a failing import or `--check` delays no change
        await _refuse_conflicts(context, context.store.read, domain, sealed)
        if context.check:
            await context.authorize()
            return
    async with context.change(Rank.LONG if len(rows) > _FEW_ROWS else Rank.ORDINARY) as query:
        if not await domains.exists(query, domain):
            raise no_such_domain(domain)
        for row in rows if replacing else ():
            client_id = row.integration.client_id
            if not await integrations.delete(query, domain, client_id):
                message = f"there is no integration {client_id} in domain {domain}, adopt it without --replace"
                raise CommandError(message)
        await _refuse_conflicts(context, query, domain, sealed)
        total = len(sealed)
        await integrations.insert_rows(query, sealed, lambda done: context.progress(done, total, "integrations"))


async def _refuse_conflicts(context: Context, read: Read, domain: str, sealed: Sequence[tuple[str, ...]]) -> None:
    """Raise CommandError when the domain does not exist, or when rows conflict with stored ones."""
    if not await domains.exists(read, domain):
        raise no_such_domain(domain)
    found, many = await integrations.conflicts(read, domain, sealed, _MOST_CONFLICTS)
    told = [_told(context, domain, each) for each in found]
    if not told:
        return
    if len(sealed) == 1:
        raise CommandError(told[0], *told[1:])
    message = f"{'more than ' if many else ''}{_counted(len(told), 'conflict')}, nothing was changed"
    raise CommandError(message, *told)


def _told(context: Context, domain: str, conflict: Conflict) -> str:
    if conflict.owner is None:
        known = f"integration {conflict.client_id} exists already in domain {domain}"
        return f"{known}, give --replace to replace its key with this one" if context.command is adopt else known
    owning, client_id = conflict.owner
    owner = f"integration {client_id} in domain {owning}" if context.operator.reaches(owning) else "another domain's"
    return f"the key of {conflict.client_id} is that of {owner} already"


async def _refuse_unspeakable(share: Share, domain: str, found: Sequence[Keyed], show: Callable[[int], None]) -> None:
    """Raise CommandError for services whose numbers do not fit into a line.

    Only an import creates such services.
    """
    lines = ((each, len(_adopt_line(domain, _row(each)))) for each in found)
    looked = share.in_turns(lines, show)
    long = [each.integration.client_id async for each, length in looked if length > LONGEST_LINE]
    if long:
        message = "the numbers of these do not fit into a line, export with | json"
        raise CommandError(message, *long)


def _row(keyed: Keyed) -> tuple[Any, ...]:
    integration = keyed.integration
    return (integration.client_id, integration.type.value, keyed.key, integration.numbers)


def _adopt_line(domain: str, row: tuple[Any, ...]) -> str:
    client_id, kind, key, numbers = row
    service = " --service" if kind == IntegrationType.SERVICE.value else ""
    with_numbers = f" --numbers {number_range(numbers)}" if numbers else ""
    return f"domain/{domain}/integrations/adopt {client_id} {key}{service}{with_numbers}"


def _described(domain: str, rows: Sequence[Row]) -> str:
    named = first_named([row.integration.client_id for row in rows])
    return f"add {_counted(len(rows), 'integration')} to domain {domain}, with the keys that they have: {named}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


COMMANDS = (export, adopt, import_)
