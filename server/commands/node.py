"""The state of the node: `/node/`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from server import __version__
from server.commands.context import Context
from server.grammar.declare import command
from server.model.access import Permission
from server.node.measures import BOUNDS_SECONDS, Durations
from server.node.metrics import Reading
from server.render.reply import Column, Field, Record, Table

_LONGER = f"> {BOUNDS_SECONDS[-1]:g}"
_COLUMNS = (
    Column("name", "Name"),
    Column("labels", "Labels"),
    Column("value", "Value", lambda value: _LONGER if value is None else f"{value:.10g}"),
)
#: The percentiles shown with the count and the sum of durations.
_SHARES = (("p50", 0.5), ("p99", 0.99))
_Row = tuple[str, str, float | None]


@command("/node/info", permission=Permission.CONSOLE, examples=("node/info | match Program",))
async def info(context: Context) -> Record:
    """Print the node's version, uptime, addresses, host keys, store and sessions.

    With permission to read metrics it also prints the paths of the files, and the settings that wait for a restart.
    """
    node, config = context.services.node, context.services.current.config
    database_bytes, wal_bytes = context.store.sizes_bytes()
    fields = [
        Field("program", "Program", f"ecss-console {__version__}"),
        Field("node", "Node", context.services.nodes),
        Field("since", "Since", node.since, lambda since: since.strftime("%d.%m.%Y %H:%M:%S %z")),
        Field("up_seconds", "Up, s", int(node.up_seconds())),
        Field("listens", "Listens on", ", ".join(node.places)),
        Field("host_keys", "Host keys", ", ".join(node.fingerprints)),
        Field("schema", "Schema", int(await context.store.schema())),
        Field("store_bytes", "Store, bytes", database_bytes + wal_bytes),
        Field("logins", "Logins open", len(context.services.sessions.every())),
        Field("commands_running", "Commands running", node.commands.running),
    ]
    if context.operator.may(Permission.NODE_READ):
        fields += [
            Field("pid", "Process", os.getpid()),
            Field("configuration", "Configuration", str(config.file.absolute()) if config.file else "the defaults"),
            Field("waiting", "Waits for a restart", ", ".join(context.services.current.waiting) or "nothing"),
            Field("database", "Database", config.store_name),
        ]
    return Record("", tuple(fields))


@command(
    "/node/metrics",
    permission=Permission.NODE_READ,
    examples=("node/metrics | match config",),
)
async def metrics(context: Context) -> Table:
    """List the present values of the metrics that Prometheus collects.

    For durations: their number, their sum, and the bounds in seconds that half and 99 % of them do not exceed.
    """
    return Table(_COLUMNS, [row for reading in context.services.node.readings() for row in _rows(reading)])


def _rows(reading: Reading) -> Iterator[_Row]:
    name = reading.metric.name
    for values, value in reading.values:
        labels = ", ".join(f"{label}={text}" for label, text in zip(reading.metric.labels, values, strict=True))
        if isinstance(value, Durations):
            yield f"{name}_count", labels, value.count
            yield f"{name}_sum", labels, round(value.sum_seconds, 6)
            for suffix, share in _SHARES if value.count else ():
                bound = value.below_seconds(share)
                yield f"{name}_{suffix}", labels, None if bound == float("inf") else bound
        else:
            yield name, labels, value


DIRECTORIES = {"/node": "This node and its metrics."}
COMMANDS = (info, metrics)
