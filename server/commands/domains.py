"""Domains, the virtual telephone exchanges: `/domain/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from server.commands.authorize import check_domain_granted
from server.commands.context import CompletionContext, Context
from server.commands.kinds import MOST_CANDIDATES
from server.grammar.declare import Kind, Relation, command
from server.model.access import Permission, Role
from server.model.domains import folded, parse_domain_name
from server.render.reply import Column, Lines, Table
from server.services import domains as service
from server.storage import domains

_PRIVILEGES = "accepted for scripts of the exchange, without effect: administrators of this console reach every domain"


def _parse_name(text: str) -> str:
    """Parse a domain name. Refuse names of commands in /domain, because no path could reach such a domain."""
    name = parse_domain_name(text)
    if folded(name) in {each.name for each in COMMANDS}:
        message = f"{name} is a command of /domain"
        raise ValueError(message)
    return name


async def _stored_names(context: CompletionContext, _arguments: Mapping[str, Any], beginning: str) -> list[str]:
    if context.operator.role is Role.ADMIN:
        return await domains.names(context.store, beginning, MOST_CANDIDATES)
    granted = sorted(context.operator.domains.items())
    return [name for key, name in granted if key.startswith(folded(beginning))]


class _DomainNames:
    """The directories of `/domain`, one for each domain that the operator may see."""

    async def every(self, context: Context) -> Sequence[str]:
        """Return the domains that the operator reaches."""
        if not context.operator.may(Permission.DOMAINS_READ):
            return ()
        return [each.name for each in await domains.every(context.store) if context.operator.reaches(each.name)]

    async def declared(self, context: Context, text: str) -> str:
        """Return a domain's name as declared. Raises CommandError, or PermissionDeniedError for one not granted."""
        check_domain_granted(context.operator, text)
        name = await domains.declared_as(context.store.read, text)
        if name is None:
            raise service.no_such_domain(text)
        return name


NEW_DOMAIN = Kind("<DOMAIN>", "name of the virtual PBX, 1 to 253 of A-Z a-z 0-9 . - _", _parse_name)
DOMAIN = Kind(
    "<DOMAIN>",
    "name of a declared virtual PBX",
    _parse_name,
    _stored_names,
    granted=True,
    ignores_case=True,
    place_names=_DomainNames(),
)


@command("/domain/declare", permission=Permission.DOMAINS_CHANGE, examples=("domain/declare moscow.local",))
async def declare(
    context: Context,
    domain: Annotated[str, NEW_DOMAIN],
    *,
    add_domain_admin_privileges: Annotated[bool, Relation(_PRIVILEGES)] = False,  # noqa: ARG001  see the help
    add_domain_user_privileges: Annotated[bool, Relation(_PRIVILEGES)] = False,  # noqa: ARG001
) -> Lines:
    """Declare a domain, a virtual PBX.

    The name is shown as you type it here. Two names that differ only in case are one domain.
    """
    await service.declare(context, domain)
    return Lines((f"Domain {domain} declared",))


@command("/domain/list", permission=Permission.DOMAINS_READ, examples=("domain/list", "domain/list | count"))
async def list_(context: Context) -> Table:
    """List your domains and the number of their integrations.

    Names are shown as declared, and sorted without regard to case.
    """
    found = [each for each in await domains.every(context.store) if context.operator.reaches(each.name)]
    columns = (Column("domain", "Domain"), Column("integrations", "Integrations"))
    return Table(columns, [(each.name, each.integrations) for each in found])


@command(
    "/domain/remove",
    permission=Permission.DOMAINS_CHANGE,
    examples=("domain/remove biysk.local --force --check", "domain/remove biysk.local --force"),
)
async def remove(
    context: Context,
    domain: Annotated[str, DOMAIN],
    *,
    force: Annotated[bool, Relation("do not ask")] = False,
) -> Lines:
    """Remove a domain with all its integrations. Their keys stop working at once.

    Asks for confirmation. Any answer but yes changes nothing.
    """
    if not force:
        known = await domains.find(context.store, domain)
        if known is None:
            raise service.no_such_domain(domain)
        await context.confirm(
            f"Domain {domain} will be removed, integrations whose keys will die: {known.integrations}."
        )
    await service.remove(context, domain)
    return Lines((f"Domain {domain} removed",))


DIRECTORIES = {
    "/domain": "The domains, virtual PBXs, each with its integrations.",
    "/domain/{domain}": "One domain, a virtual PBX.",
}
COMMANDS = (declare, list_, remove)
