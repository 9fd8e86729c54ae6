"""`ecss-console audit verify`: checks that nobody has changed the audit since the console wrote it."""

from __future__ import annotations

from dataclasses import dataclass

from server.audit.verify import certificate, findings, inspect, parse_head
from server.cli.output import say
from server.config import Config
from server.cooperative import Turns
from server.errors import StartError
from server.model.lines import one_line
from server.storage.opening import open_store


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """Options of `audit verify`. `head` is an exported head, `[NODE=]SEQ:MAC`."""

    head: str | None = None


async def verify(config: Config, options: VerifyOptions) -> None:
    """Print the number of unchanged records and the heads. Raises StartError with every finding.

    It changes nothing, and the server may run meanwhile.
    """
    exported = None
    if options.head is not None:
        try:
            exported = parse_head(options.head).of(config.node.name)
        except ValueError as error:
            raise StartError(str(error)) from error
    async with open_store(config, make=False) as store:
        inspection = await inspect(store, exported, Turns().of("host"), lambda _done, _total: None)
    if inspection.findings:
        raise StartError("\n".join(["the audit is not as it was written:", *map(one_line, findings(inspection))]))
    for line in certificate(inspection):
        say(one_line(line))
