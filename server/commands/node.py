"""The state of the node: `/node/`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from server import __version__
from server.commands.asking import ask, no_such_nodes, unanswered
from server.commands.context import CompletionContext, Context
from server.errors import OperatorError
from server.escaping import escaped
from server.grammar.declare import Kind, command
from server.model.access import Permission
from server.model.nodes import parse_node_name
from server.node.measures import BOUNDS_SECONDS, Durations
from server.node.metrics import Reading
from server.render.merging import as_record
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


def _shown(at: datetime) -> str:
    return at.astimezone().strftime("%d.%m.%Y %H:%M:%S")


_MEMBER_COLUMNS = (
    Column("node", "Node", escaped),
    Column("version", "Version", escaped),
    Column("state", "State"),
    Column("sessions", "Sessions"),
    Column("address", "Address", escaped),
    Column("seen_at", "Last seen", _shown),
)


async def _known_nodes(context: CompletionContext, _arguments: Mapping[str, Any], beginning: str) -> list[str]:
    names = [member.name for member in await context.services.cluster.members()]
    return [name for name in names if name.startswith(beginning)]


class _NodeNames:
    """The directories of `/node`, one for each known node."""

    async def every(self, context: Context) -> Sequence[str]:
        """Return the names of all known nodes."""
        return [member.name for member in await context.services.cluster.members()]

    async def declared(self, context: Context, text: str) -> str:
        """Return the name of a node. Raises CommandError for an unknown one."""
        members = await context.services.cluster.members()
        if text not in {member.name for member in members}:
            raise no_such_nodes([text], members)
        return text


NODE = Kind("<NODE>", "name of a node, as node/list shows it", parse_node_name, _known_nodes, place_names=_NodeNames())


@command("/node/list", permission=Permission.CONSOLE, examples=("node/list",))
async def list_(context: Context) -> Table:
    """List the nodes that share the store, with their state, their open logins and the time they were last seen.

    A node is lost when it has not been seen for the length of its lease, and stopped when it has ended by itself.
    """
    members = await context.services.cluster.members()
    return Table(
        _MEMBER_COLUMNS,
        [(each.name, each.version, each.state.value, each.sessions, each.address, each.seen_at) for each in members],
    )


@command("/node/{node}/info", permission=Permission.CONSOLE, examples=("node/ds1@ecss1/info | match 'node:'",))
async def info_of(context: Context, node: Annotated[str, NODE]) -> Record:
    """Print the same as node/info, of any node."""
    if node == context.services.node_name:
        return await _info(context)
    members = await context.services.cluster.members()
    found = [member for member in members if member.name == node]
    if not found:
        raise no_such_nodes([node], members)
    answer = (await ask(context, [info.path], found)).get(node)
    if answer is None:
        raise unanswered([node])
    if isinstance(answer, OperatorError):
        raise answer
    return as_record(answer)


@command("/node/info", permission=Permission.CONSOLE, examples=("node/info | match Program",), on_nodes=True)
async def info(context: Context) -> Record:
    """Print the node's version, uptime, addresses, host keys, store and sessions.

    With permission to read metrics it also prints the paths of the files, and the settings that wait for a restart.
    """
    return await _info(context)


async def _info(context: Context) -> Record:
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
    on_nodes=True,
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


DIRECTORIES = {
    "/node": "The nodes that share the store; this node and its metrics.",
    "/node/{node}": "One node.",
}
COMMANDS = (list_, info, info_of, metrics)
