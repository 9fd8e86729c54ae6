"""Declare a domain, and remove one with all its integrations."""

from __future__ import annotations

from server.audit.journal import utc_now
from server.errors import CommandError
from server.model.names import first_named, with_foreign
from server.services.change import Actor
from server.storage import domains


def no_such_domain(name: str) -> CommandError:
    """Return the error for a domain that is not declared."""
    return CommandError(with_foreign(f"there is no domain {name}", name))


async def declare(actor: Actor, name: str) -> None:
    """Declare a domain. Raises CommandError when the name is taken, in upper or lower case."""
    actor.will(f"declare domain {name}")
    async with actor.change() as query:
        if not await domains.insert(query, name, utc_now()):
            message = f"domain {await domains.declared_as(query, name)} exists already"
            raise CommandError(message)
        await actor.record(query, {"domain": name})


async def remove(actor: Actor, name: str) -> None:
    """Remove a domain with its integrations and their keys. Raises CommandError for an unknown domain."""
    async with actor.change() as query:
        clients = await domains.delete(query, name)
        if clients is None:
            raise no_such_domain(name)
        named = f": {first_named(clients)}" if clients else ""
        actor.will(f"remove domain {name} and the keys of its integrations, {len(clients)} in all{named}")
        await actor.record(query, {"domain": name})
