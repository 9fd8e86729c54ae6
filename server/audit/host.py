"""Audit records of the node: its host keys and configuration, if they differ from the last start."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from server.audit.journal import Journal, utc_now
from server.config import Config
from server.cooperative import Turns
from server.errors import TemporaryError
from server.model.events import Event, EventKind
from server.storage import events
from server.storage.chain import COLUMNS
from server.storage.store import Store

_MOST_CHARACTERS = 200

_log = logging.getLogger("ecss-console.audit")


async def record_host(
    store: Store, journal: Journal, config: Config, host_keys: Mapping[str, str], cause: str = "ecss-console serve"
) -> None:
    """Record the host keys' fingerprints and the configuration if they differ from the last such record.

    When the store is unavailable, log a warning; the next start or reload finds the same change.
    """
    try:
        await journal.flush()  # the last such record may still wait in the journal
        event = await _change(store, config, host_keys, cause)
    except TemporaryError as error:
        _log.warning("the configuration is not recorded in the audit: %s", error.message)
        return
    if event is not None:
        journal.record_soon(event)


async def _change(store: Store, config: Config, host_keys: Mapping[str, str], cause: str) -> Event | None:
    now = {**host_keys, **_configured(config)}
    wanted = {"event": EventKind.HOST_CHANGE.value, "node": config.node.name}
    rows = await events.newest(store, wanted, {}, 1, Turns().of(config.node.name))
    before = _arguments(rows[0][1 + COLUMNS.index("arguments")]) if rows else {}
    changed = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    if not changed:
        return None
    return Event(
        kind=EventKind.HOST_CHANGE,
        at=utc_now(),
        node=config.node.name,
        user_name="",
        source="console host",
        session_id="",
        command=cause,
        arguments=json.dumps(now, ensure_ascii=False),
        detail=f"changed: {', '.join(changed)}" if rows else "first start",
    )


def _configured(config: Config) -> dict[str, Any]:
    """Return every value by its dotted name. A long text becomes its hash; no value is a secret."""
    sections = config.model_dump(mode="json")
    return {f"{section}.{key}": _short(value) for section, keys in sections.items() for key, value in keys.items()}


def _short(value: Any) -> Any:  # noqa: ANN401  a configured value has any type
    if isinstance(value, str) and len(value) > _MOST_CHARACTERS:
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return value


def _arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a record; empty when they are damaged."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
