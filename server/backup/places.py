"""Choose the place of the configured store by its URL."""

from __future__ import annotations

from server.backup.place import StorePlace
from server.backup.postgresql_place import PostgresqlPlace
from server.backup.sqlite_place import SqlitePlace
from server.config import Config


def place_of(config: Config) -> StorePlace:
    """Return the place of the configured store."""
    return SqlitePlace(config) if config.postgresql is None else PostgresqlPlace(config, config.postgresql)
