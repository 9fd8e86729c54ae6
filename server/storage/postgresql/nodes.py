"""The nodes in the database: their leases, questions, answers and confirmations.

All times are the database's, so the clocks of the nodes do not matter. These tables are no part of a copy of the store.
Statements run on the control connection, outside the writer: a node keeps its name while a long change runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from server.model.nodes import Member, NodeState, is_node_name
from server.storage.engine import Row, Value
from server.storage.postgresql.control import Control, Subscription
from server.storage.temporary import Failures

#: How long a node keeps its name without a beat.
LEASE_SECONDS = 10.0
#: Larger rows come from a stranger, and would fill the memory before their mac is found wrong.
_MOST_QUESTION_BYTES, _MOST_ANSWER_BYTES = 64 * 1024, 2 * 1024 * 1024
_MOST_QUESTIONS = 500
#: The channels of NOTIFY, which only wakes up: readers look into the tables.
QUESTIONS, ANSWERS, APPLIED = "ecss_questions", "ecss_answers", "ecss_applied"

_LEASE = f"clock_timestamp() + interval '{LEASE_SECONDS} seconds'"
#: The longest version or address that is shown.
_MOST_SHOWN = 256
#: asyncpg cannot read all years that PostgreSQL can store; no node has written such a time.
_SEEN_AT = "greatest(least(seen_at, clock_timestamp()), to_timestamp(0))"
_LEASE_UNTIL = "greatest(least(lease_until, timestamptz '9999-01-01Z'), to_timestamp(0))"
_NUMBER = "coalesce((SELECT number FROM change_counter), 0)"
_CLAIM = f"""
INSERT INTO nodes (name, boot, epoch, version, program, address, sessions, started_at, seen_at, lease_until, stopped,
    applied)
VALUES ($1, $2, 1, $3, $4, $5, 0, clock_timestamp(), clock_timestamp(), {_LEASE}, FALSE, 0)
ON CONFLICT (name) DO UPDATE SET boot = excluded.boot, epoch = nodes.epoch + 1, version = excluded.version,
    program = excluded.program, address = excluded.address, sessions = 0, started_at = excluded.started_at,
    seen_at = excluded.seen_at, lease_until = excluded.lease_until, stopped = FALSE, applied = 0
WHERE nodes.boot = excluded.boot OR nodes.stopped OR nodes.lease_until < clock_timestamp()
RETURNING epoch
"""
_BEAT = f"""
UPDATE nodes SET lease_until = {_LEASE}, seen_at = clock_timestamp(), address = $3, sessions = $4
WHERE name = $1 AND boot = $2 RETURNING epoch, {_NUMBER}, clock_timestamp()
"""
_RELEASE = """
UPDATE nodes SET stopped = TRUE, lease_until = clock_timestamp(), sessions = 0 WHERE name = $1 AND boot = $2
"""
_HOLDER = f"""
SELECT boot, left(program, {_MOST_SHOWN}), left(address, {_MOST_SHOWN}), {_LEASE_UNTIL} FROM nodes WHERE name = $1
"""
_STATE = "CASE WHEN stopped THEN 'stopped' WHEN lease_until > clock_timestamp() THEN 'up' ELSE 'lost' END"
_MEMBERS = f"""
SELECT name, left(version, {_MOST_SHOWN}), {_STATE}, sessions, left(address, {_MOST_SHOWN}), {_SEEN_AT} FROM nodes
ORDER BY name COLLATE "C"
"""
_FORGET = "DELETE FROM nodes WHERE seen_at < clock_timestamp() - interval '7 days'"
_ASK = """
WITH made AS (
    INSERT INTO requests (id, asker, recipients, made_at, question, mac)
    VALUES ($1, $2, $3, $4::text::timestamptz, $5, $6) RETURNING id
)
SELECT pg_notify($7, id) FROM made
"""
_UNANSWERED = f"""
SELECT id, left(asker, {_MOST_SHOWN}), recipients, made_at, question, mac FROM requests
WHERE $1 = ANY (recipients) AND octet_length(question) <= {_MOST_QUESTION_BYTES}
    AND made_at BETWEEN clock_timestamp() - interval '10 seconds' AND clock_timestamp() + interval '10 seconds'
    AND NOT EXISTS (SELECT 1 FROM answers WHERE request = requests.id AND node = $1)
ORDER BY made_at LIMIT {_MOST_QUESTIONS}
"""
_ANSWER = """
WITH made AS (
    INSERT INTO answers (request, node, answer, mac) SELECT id, $2, $3, $4 FROM requests WHERE id = $1
    ON CONFLICT DO NOTHING RETURNING request
)
SELECT pg_notify($5, request) FROM made
"""
_ANSWERS = f"""
SELECT node, answer, mac FROM answers WHERE request = $1 AND octet_length(answer) <= {_MOST_ANSWER_BYTES}
"""
_CLEAN_UP = """
DELETE FROM requests WHERE made_at NOT BETWEEN clock_timestamp() - interval '60 seconds'
    AND clock_timestamp() + interval '60 seconds'
"""
#: Never above the counter: every role of the database may send notifications, and their numbers may be invented.
_APPLY = f"""
WITH marked AS (
    UPDATE nodes SET applied = least(greatest(applied, $3), {_NUMBER}) WHERE name = $1 AND boot = $2
    RETURNING name, applied
)
SELECT applied, pg_notify($4, name) FROM marked
"""
_BEHIND = f"""
SELECT left(name, {_MOST_SHOWN}) FROM nodes
WHERE name <> $1 AND NOT stopped AND lease_until > clock_timestamp() AND applied < $2
ORDER BY name COLLATE "C"
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """The node of this process. `boot` differs in each process, so that two processes of one name differ."""

    name: str
    boot: str
    version: str
    program: str


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a beat: the number of the latest shared change, and the database's time."""

    change_number: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Holder:
    """The node that has a name now. `boot` and `lease_until` stay the same when the node is dead."""

    boot: str
    program: str
    address: str
    lease_until: datetime


@dataclass(frozen=True, slots=True)
class Question:
    """A question to other nodes, with the proof that a holder of the storage key asks it."""

    id: str
    asker: str
    recipients: tuple[str, ...]
    made_at: datetime
    text: str
    mac: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one node, with its proof."""

    node: str
    text: str
    mac: str


class NodeTables:
    """Runs the statements. Every method raises TemporaryError while the database does not answer."""

    def __init__(self, control: Control, failures: Failures) -> None:
        """Take the control connection, and the engine's temporary failures."""
        self._control = control
        self._failures = failures

    def subscribe(self, channel: str) -> Subscription:
        """Return the notifications of a channel."""
        return self._control.subscribe(channel)

    async def claim(self, node: Identity, address: str) -> bool:
        """Take the node's name for the length of a lease; False while another live process has it."""
        values = (node.name, node.boot, node.version, node.program, address)
        return bool(await self._run(_CLAIM, *values))

    async def holder(self, name: str) -> Holder | None:
        """Return the process that has the name."""
        return next((Holder(*row) for row in await self._run(_HOLDER, name)), None)

    async def beat(self, node: Identity, address: str, sessions: int) -> Beat | None:
        """Extend the lease; None when another process has the name, or nobody any more."""
        rows = await self._run(_BEAT, node.name, node.boot, address, sessions)
        return next((Beat(number, at) for _epoch, number, at in rows), None)

    async def release(self, node: Identity) -> None:
        """Give the name back, so that another process need not wait for the end of the lease."""
        await self._run(_RELEASE, node.name, node.boot)

    async def members(self) -> list[Member]:
        """Return all nodes of the last seven days, in the order of their names.

        A row with a name that no node can have is left out.
        """
        rows = await self._run(_MEMBERS)
        return [
            Member(name, version, NodeState(state), *rest) for name, version, state, *rest in rows if is_node_name(name)
        ]

    async def clean_up(self) -> None:
        """Delete nodes that were not seen for seven days, and questions that nobody waits for."""
        await self._run(_FORGET)
        await self._run(_CLEAN_UP)

    async def ask(self, question: Question) -> None:
        """Put a question and wake up the other nodes."""
        head = (question.id, question.asker, [*question.recipients], question.made_at.isoformat())
        await self._run(_ASK, *head, question.text, question.mac, QUESTIONS)

    async def unanswered(self, name: str) -> list[Question]:
        """Return the questions of the last ten seconds that this node has not answered."""
        rows = await self._run(_UNANSWERED, name)
        return [Question(id_, asker, tuple(to), *rest) for id_, asker, to, *rest in rows]

    async def answer(self, question_id: str, answer: Answer) -> None:
        """Put an answer and wake up the asker. Does nothing when the question is gone or already answered."""
        await self._run(_ANSWER, question_id, answer.node, answer.text, answer.mac, ANSWERS)

    async def answers(self, question_id: str) -> list[Answer]:
        """Return the answers that a question has so far."""
        return [Answer(*row) for row in await self._run(_ANSWERS, question_id)]

    async def mark_applied(self, node: Identity, change_number: int) -> int | None:
        """Confirm all changes up to this number, and return the number that is confirmed.

        It is smaller when there are not so many changes yet. Returns None when the name is lost.
        """
        rows = await self._run(_APPLY, node.name, node.boot, change_number, APPLIED)
        return next((int(applied) for applied, _ in rows), None)

    async def behind(self, name: str, change_number: int) -> list[str]:
        """Return the other live nodes that have not confirmed a change."""
        return [behind for (behind,) in await self._run(_BEHIND, name, change_number)]

    async def _run(self, sql: str, *values: Value | list[str]) -> list[Row]:
        with self._failures.raised_as_temporary():
            return await self._control.run(sql, *values)
