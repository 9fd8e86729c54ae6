"""Add, change and remove integrations of a domain, and replace their API keys.

When a function returns, the new key is stored, and the replaced or removed key no longer works.
"""

from __future__ import annotations

from server.audit.journal import utc_now
from server.errors import CommandError
from server.model.integrations import Integration, changed, new_key
from server.services.change import Actor
from server.services.domains import no_such_domain
from server.storage import domains, integrations
from server.storage.engine import Read
from server.storage.integrations import Added


async def add(actor: Actor, domain: str, integration: Integration) -> str:
    """Add an integration and return its new API key. Raises CommandError when the client id is taken."""
    key = new_key()
    actor.will(f"add {_described(integration)} to domain {domain}, with a new key")
    async with actor.change() as query:
        added = await integrations.insert(query, actor.store.vault, domain, integration, key, utc_now())
        if added is Added.NO_DOMAIN:
            raise no_such_domain(domain)
        if added is Added.KNOWN:
            message = f"integration {integration.client_id} exists already in domain {domain}"
            raise CommandError(message)
        await actor.record(query, _facts(domain, integration.client_id))
    return key


async def remove(actor: Actor, domain: str, client_id: str) -> None:
    """Remove an integration and its key. Raises CommandError for an unknown integration."""
    actor.will(f"remove integration {client_id} from domain {domain}, and with it the key")
    async with actor.change() as query:
        if not await integrations.delete(query, domain, client_id):
            raise await no_such_integration(query, domain, client_id)
        await actor.record(query, _facts(domain, client_id))


async def replace_key(actor: Actor, domain: str, client_id: str) -> str:
    """Replace the API key of an integration and return the new key.

    Raises CommandError for an unknown integration.
    """
    key = new_key()
    actor.will(f"replace the key of integration {client_id} in domain {domain}; the old one is dead then")
    async with actor.change() as query:
        if not await integrations.replace_key(query, actor.store.vault, domain, client_id, key, utc_now()):
            raise await no_such_integration(query, domain, client_id)
        await actor.record(query, _facts(domain, client_id))
    return key


async def set_properties(
    actor: Actor, domain: str, client_id: str, *, service: bool, numbers: tuple[str, ...] | None
) -> None:
    """Make an integration a service, or replace a service's numbers. The key stays. Raises CommandError."""
    async with actor.change() as query:
        known = await integrations.find(query, domain, client_id)
        if known is None:
            raise await no_such_integration(query, domain, client_id)
        after = changed(known, service=service, numbers=numbers)
        actor.will(f"change {_described(known)} of domain {domain} into {_described(after)}")
        await integrations.set_properties(query, domain, after, utc_now())
        await actor.record(query, _facts(domain, client_id))


async def no_such_integration(read: Read, domain: str, client_id: str) -> CommandError:
    """Return the error for an unknown client id, or for an unknown domain."""
    if not await domains.exists(read, domain):
        return no_such_domain(domain)
    return CommandError(f"there is no integration {client_id} in domain {domain}")


def _facts(domain: str, client_id: str) -> dict[str, object]:
    return {"domain": domain, "client_id": client_id}


def _described(integration: Integration) -> str:
    count = len(integration.numbers)
    numbers = f" with {count} number{'s' if count > 1 else ''} from {integration.numbers[0]} on" if count else ""
    return f"{integration.type.value} {integration.client_id}{numbers}"
