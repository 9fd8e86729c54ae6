"""The metrics: names, meanings and labels.

Dashboards and alerts rely on them, so they stay as they are. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from server.node.measures import Durations

Value = float | Durations


class MetricKind(Enum):
    """The metric types of Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """The declaration of one metric. Its name includes the unit, and ends in `_total` for a counter."""

    name: str
    kind: MetricKind
    meaning: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """The values of a metric at one moment, each with its label values in the declared order."""

    metric: Metric
    values: Sequence[tuple[tuple[str, ...], Value]]


def single(metric: Metric, value: Value) -> Reading:
    """Return the reading of a metric that has no labels."""
    return Reading(metric, [((), value)])


_COUNTER, _GAUGE, _HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

BUILD = Metric(
    "ecss_console_build_info",
    _GAUGE,
    "Always 1. The labels are the program's version, the node, its version and the schema of the store.",
    ("version", "node", "node_version", "schema"),
)
LOGINS = Metric(
    "ecss_console_logins_total",
    _COUNTER,
    "Login attempts. outcome is accepted or failed; method is password, key or certificate. Keys that no user has are "
    "not counted, because clients offer all their keys.",
    ("outcome", "method"),
)
CONNECTIONS = Metric(
    "ecss_console_connections",
    _GAUGE,
    "Open connections. state is login before the login, open after it.",
    ("state",),
)
SESSIONS = Metric("ecss_console_sessions", _GAUGE, "Open shells and commands of clients.")
REFUSALS = Metric(
    "ecss_console_refusals_total",
    _COUNTER,
    "Refused connections, login attempts and sessions. reason is a key of limits, or ssh.policy, protocol, forwarding "
    "or subsystem.",
    ("reason",),
)
COMMANDS = Metric(
    "ecss_console_commands_total",
    _COUNTER,
    "Finished lines. command is the path of the command, or none for an unknown command. outcome is done, "
    "refused, arguments, unknown, permission, temporary, interrupted or internal.",
    ("command", "outcome"),
)
COMMAND_SECONDS = Metric(
    "ecss_console_command_seconds",
    _HISTOGRAM,
    "Time of lines until their reply, without the waits for an answer or a document of the operator.",
    ("command",),
)
COMMANDS_RUNNING = Metric("ecss_console_commands_running", _GAUGE, "Running lines.")
LOOP_LAG = Metric(
    "ecss_console_loop_lag_seconds",
    _HISTOGRAM,
    "Delay of the event loop, measured twice a second. All sessions wait as long.",
)
TASKS = Metric("ecss_console_tasks", _GAUGE, "Tasks of the event loop.")
STORE_SECONDS = Metric(
    "ecss_console_store_seconds",
    _HISTOGRAM,
    "Time of the store. operation is read, change (a transaction with the wait for its turn) or commit (writing it to "
    "the disk).",
    ("operation",),
)
STORE_BYTES = Metric("ecss_console_store_bytes", _GAUGE, "Size of the store. file is database or wal.", ("file",))
AUDIT_WAITING = Metric(
    "ecss_console_audit_waiting",
    _GAUGE,
    "Records of reads and logins that wait for the store. A busy console has those of half a second.",
)
AUDIT_WAITING_SECONDS = Metric(
    "ecss_console_audit_waiting_seconds",
    _GAUGE,
    "Waiting time of the oldest of these records, 0 without any. More than a few seconds: the store accepts no writes.",
)
AUDIT_LOST = Metric(
    "ecss_console_audit_lost_total", _COUNTER, "Records that the store never accepted. Only the log has them."
)
AUDIT_LOG_FAILING = Metric(
    "ecss_console_audit_log_failing", _GAUGE, "1 while audit.log cannot be written and its lines wait; else 0."
)
NODES = Metric(
    "ecss_console_nodes",
    _GAUGE,
    "Nodes that share the store. state is up, lost or stopped; a store on SQLite has one node.",
    ("state",),
)
NODE_LEASE = Metric(
    "ecss_console_node_lease",
    _GAUGE,
    "1 while this node has its name; 0 when another console has taken it, or the database is away for longer than "
    "10 seconds. Always 1 on SQLite.",
)
NODE_CLOCK_SKEW = Metric(
    "ecss_console_node_clock_skew_seconds",
    _GAUGE,
    "How far the clock of this node is ahead of the database's, as far as a beat tells. Always 0 on SQLite.",
)
RELOAD_OK = Metric(
    "ecss_console_config_reload_ok",
    _GAUGE,
    "1 when the last reload was applied or there was none, 0 when it was refused.",
)
RELOAD_WAITING = Metric("ecss_console_config_waiting", _GAUGE, "Changed keys of the configuration that need a restart.")
CPU = Metric("process_cpu_seconds_total", _COUNTER, "User and system CPU time.")
RESIDENT = Metric("process_resident_memory_bytes", _GAUGE, "Resident memory.")
OPEN_FILES = Metric("process_open_fds", _GAUGE, "Open file descriptors.")
MOST_FILES = Metric("process_max_fds", _GAUGE, "File descriptors that the process may open.")
START_TIME = Metric("process_start_time_seconds", _GAUGE, "Start time of the process, in seconds since 1970.")

#: All metrics, in the order of the documents.
METRICS: Sequence[Metric] = (
    BUILD,
    LOGINS,
    CONNECTIONS,
    SESSIONS,
    REFUSALS,
    COMMANDS,
    COMMAND_SECONDS,
    COMMANDS_RUNNING,
    LOOP_LAG,
    TASKS,
    STORE_SECONDS,
    STORE_BYTES,
    AUDIT_WAITING,
    AUDIT_WAITING_SECONDS,
    AUDIT_LOST,
    AUDIT_LOG_FAILING,
    NODES,
    NODE_LEASE,
    NODE_CLOCK_SKEW,
    RELOAD_OK,
    RELOAD_WAITING,
    CPU,
    RESIDENT,
    OPEN_FILES,
    MOST_FILES,
    START_TIME,
)
