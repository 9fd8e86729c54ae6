"""The permission check before a handler runs, repeated before each change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.auth.authorizer import Authorizer, no_more
from server.errors import PermissionDeniedError
from server.grammar.declare import Command
from server.model.access import Operator
from server.storage.engine import Read


async def authorize(
    authorizer: Authorizer, operator: Operator, command: Command, arguments: Mapping[str, Any], read: Read | None = None
) -> Operator:
    """Return the operator with its present rights.

    Raises PermissionDeniedError unless it may run the command. Denies by default. The message is the same whether the
    named domain exists or not. Inside a change, pass its query as `read`, so that the check sees the changes of the
    same transaction.
    """
    present = await authorizer.current(operator, read)
    if present is None:
        raise PermissionDeniedError(no_more(operator.name))
    of_options = (option.relation.permission for option in command.options if arguments.get(option.name))
    for permission in (command.permission, *of_options):
        if permission is not None and not present.may(permission):
            message = f"{command.path} needs {permission.value}, which the role {present.role.value} does not have"
            raise PermissionDeniedError(message)
    for taker in (*command.places.values(), *command.arguments):
        if taker.kind.granted and taker.name in arguments:
            check_domain_granted(present, arguments[taker.name])
    return present


def check_domain_granted(operator: Operator, domain: str) -> None:
    """Raise PermissionDeniedError unless the domain is granted to the operator, whether it exists or not."""
    if not operator.reaches(domain):
        message = f"domain {domain} is not granted to {operator.name}"
        raise PermissionDeniedError(message)
