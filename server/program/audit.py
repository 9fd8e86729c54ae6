"""`ecss-console audit verify`: whether the audit is as the console wrote it."""

from __future__ import annotations

import argparse

from server.app import open_store
from server.audit.verify import certificate, findings, inspect, parse_head
from server.config import Config
from server.cooperative import Turns
from server.errors import StartError
from server.model.lines import one_line
from server.program.answer import say


async def verify(config: Config, options: argparse.Namespace) -> None:
    """Print what is whole; raises StartError with every finding. Changes nothing, works while the server runs."""
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
