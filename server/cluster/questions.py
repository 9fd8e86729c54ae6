"""Questions between nodes, through the database.

Question and answer carry a mac of the storage key: write access to the database alone runs nothing on a node. The
mac covers the time of a question, so an old one cannot be put again.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from time import monotonic

from server.cluster.bell import Bell, rung
from server.cluster.lease import Lease
from server.cluster.repeating import Seldom
from server.errors import TemporaryError
from server.log import about
from server.storage.postgresql.nodes import Answer, Identity, NodeTables, Question
from server.storage.vault import Vault

_WAIT_SECONDS = 1.0
#: The most questions that this node answers at the same time.
_MOST_RUNNING = 8
#: Longer than a question can be read from the table.
_REMEMBERED_SECONDS = 60.0

_log = logging.getLogger("ecss-console.cluster")

#: Answers the question of another node.
Answering = Callable[[str], Awaitable[str]]


class Questions:
    """Asks other nodes, and answers their questions. `bell` rings when an answer has come."""

    def __init__(self, vault: Vault, tables: NodeTables, identity: Identity, lease: Lease) -> None:
        """Take the vault, which signs; the lease knows the time of the database."""
        self._vault = vault
        self._tables = tables
        self._identity = identity
        self._lease = lease
        self._running: set[asyncio.Task[None]] = set()
        self._few = asyncio.Semaphore(_MOST_RUNNING)
        self._taken_at_seconds: dict[str, float] = {}
        self._forged = Seldom()
        self.bell = Bell()

    async def ask(self, nodes: Collection[str], text: str) -> Mapping[str, str]:
        """Ask other nodes and return the answers that come within a second. Raises TemporaryError."""
        recipients = tuple(sorted({*nodes} - {self._identity.name}))
        if not recipients:
            return {}
        deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
        made_at = self._lease.database_time()
        asked = Question(secrets.token_hex(16), self._identity.name, recipients, made_at, text, "")
        question = Question(asked.id, asked.asker, recipients, made_at, text, self._mac_of(asked))
        await self._tables.ask(question)
        while True:
            ring = self.bell.next_ring
            answers = await self._answers(question)
            if len(answers) == len(recipients) or not await rung(ring, deadline):
                return answers

    async def answer_new(self, answering: Answering) -> None:
        """Begin to answer the questions that came since the last call. Raises TemporaryError."""
        self._forget_old()
        for question in await self._tables.unanswered(self._identity.name):
            if question.id in self._taken_at_seconds:
                continue
            if not _is_same(question.mac, self._mac_of(question)):
                self._report_forged("question", question.asker)
                continue
            self._taken_at_seconds[question.id] = monotonic()
            task = asyncio.get_running_loop().create_task(self._answer(question, answering))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def end(self) -> None:
        """Interrupt the answers that are in the making."""
        running = [*self._running]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _answer(self, question: Question, answering: Answering) -> None:
        try:
            async with self._few:
                text = await answering(question.text)
            mac = self._vault.node_mac("answer", question.id, self._identity.name, text)
            await self._tables.answer(question.id, Answer(self._identity.name, text, mac))
        except TemporaryError:  # logged where it was raised; the asker reports that this node has not answered
            pass
        except Exception:  # noqa: BLE001  likewise
            _log.exception("a question of node %s cannot be answered", question.asker)

    async def _answers(self, question: Question) -> dict[str, str]:
        found = {}
        for each in await self._tables.answers(question.id):
            if each.node not in question.recipients:
                continue
            if _is_same(each.mac, self._vault.node_mac("answer", question.id, each.node, each.text)):
                found[each.node] = each.text
            else:
                self._report_forged("answer", each.node)
        return found

    def _forget_old(self) -> None:
        """Forget questions that are too old to be read again. Until then none is answered twice."""
        begin = monotonic() - _REMEMBERED_SECONDS
        self._taken_at_seconds = {id_: at for id_, at in self._taken_at_seconds.items() if at > begin}

    def _mac_of(self, question: Question) -> str:
        made_at = question.made_at.isoformat()
        return self._vault.node_mac(
            "question", question.id, question.asker, made_at, *question.recipients, question.text
        )

    def _report_forged(self, what: str, node: str) -> None:
        if self._forged.due():
            message = "ignored the %s of node %s: a holder of the storage key has not written it"
            _log.warning(message, what, node, extra=about("node.forged", node=node))


def _is_same(mac: str, right_mac: str) -> bool:
    return hmac.compare_digest(mac.encode(), right_mac.encode())
