"""Every metric: its name, meaning and labels, which are a contract with dashboards and alerts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from server.node.measures import Durations

Value = float | Durations


class MetricKind(Enum):
    """What can be done with the numbers, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One declaration. Counters end in `_total`, units stand in names."""

    name: str
    kind: MetricKind
    meaning: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """The values of a metric at one moment, each below the values of its labels in their order."""

    metric: Metric
    values: Sequence[tuple[tuple[str, ...], Value]]


def single(metric: Metric, value: Value) -> Reading:
    """Return the reading of a metric without labels."""
    return Reading(metric, [((), value)])


_COUNTER, _GAUGE, _HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

BUILD = Metric(
    "ecss_console_build_info",
    _GAUGE,
    "Always 1; what runs here is in the labels: program's version, node, its version, schema of the store.",
    ("version", "node", "node_version", "schema"),
)
LOGINS = Metric(
    "ecss_console_logins_total",
    _COUNTER,
    "Tries to log in. outcome is accepted or failed; method is password, key or certificate. A key that no user has is "
    "not counted: clients offer all they have.",
    ("outcome", "method"),
)
CONNECTIONS = Metric(
    "ecss_console_connections",
    _GAUGE,
    "Connections that are open now. state is login before somebody has logged in, open after.",
    ("state",),
)
SESSIONS = Metric("ecss_console_sessions", _GAUGE, "Shells and commands of clients that are open now.")
REFUSALS = Metric(
    "ecss_console_refusals_total",
    _COUNTER,
    "Connections, tries and sessions that were refused. reason is a key of limits, or ssh.policy, protocol, forwarding "
    "or subsystem.",
    ("reason",),
)
COMMANDS = Metric(
    "ecss_console_commands_total",
    _COUNTER,
    "Lines that ended. command is the path of the declaration, none where there is no such command. outcome is done, "
    "refused, arguments, unknown, permission, temporary, interrupted or internal.",
    ("command", "outcome"),
)
COMMAND_SECONDS = Metric(
    "ecss_console_command_seconds",
    _HISTOGRAM,
    "How long lines took until their reply was there, without the waits for an answer or a document of the operator.",
    ("command",),
)
COMMANDS_RUNNING = Metric("ecss_console_commands_running", _GAUGE, "Lines that run now.")
LOOP_LAG = Metric(
    "ecss_console_loop_lag_seconds",
    _HISTOGRAM,
    "How late the event loop was, looked at twice a second: so long everybody waited.",
)
TASKS = Metric("ecss_console_tasks", _GAUGE, "Tasks of the event loop.")
STORE_SECONDS = Metric(
    "ecss_console_store_seconds",
    _HISTOGRAM,
    "How long the store took. operation is read, change (a transaction with the wait for its turn) or commit (its end, "
    "on the disk).",
    ("operation",),
)
STORE_BYTES = Metric("ecss_console_store_bytes", _GAUGE, "Size of the store. file is database or wal.", ("file",))
AUDIT_WAITING = Metric(
    "ecss_console_audit_waiting",
    _GAUGE,
    "Records of reads and logins that are not in the store yet; on a busy console what half a second brings.",
)
AUDIT_WAITING_SECONDS = Metric(
    "ecss_console_audit_waiting_seconds",
    _GAUGE,
    "How long the oldest of them has waited, 0 without any. More than a few seconds: the store takes nothing.",
)
AUDIT_LOST = Metric(
    "ecss_console_audit_lost_total", _COUNTER, "Records that the store never took; they stand in the log alone."
)
AUDIT_LOG_FAILING = Metric(
    "ecss_console_audit_log_failing", _GAUGE, "1 while audit.log cannot be written and its lines wait; else 0."
)
RELOAD_OK = Metric(
    "ecss_console_config_reload_ok",
    _GAUGE,
    "1 when the last reload was taken or there was none, 0 when it was refused.",
)
RELOAD_WAITING = Metric(
    "ecss_console_config_waiting", _GAUGE, "Keys of the configuration that were changed and need a restart."
)
CPU = Metric("process_cpu_seconds_total", _COUNTER, "User and system CPU time.")
RESIDENT = Metric("process_resident_memory_bytes", _GAUGE, "Resident memory.")
OPEN_FILES = Metric("process_open_fds", _GAUGE, "Open file descriptors.")
MOST_FILES = Metric("process_max_fds", _GAUGE, "File descriptors that the process may open.")
START_TIME = Metric("process_start_time_seconds", _GAUGE, "When the process began, in seconds since 1970.")

#: All of them, in the order of the documents.
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
    RELOAD_OK,
    RELOAD_WAITING,
    CPU,
    RESIDENT,
    OPEN_FILES,
    MOST_FILES,
    START_TIME,
)
