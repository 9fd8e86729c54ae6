"""`ecss-console migrate-store`: copies the store to another database."""

from __future__ import annotations

from server.backup.options import MigrateOptions
from server.cli.output import say
from server.config import Config
from server.interrupts import interruptible


def migrate_store(config: Config, options: MigrateOptions) -> None:
    """Copy the store and print what was copied, and what to do next. Raises StartError."""
    from server.backup.migrate import migrate  # noqa: PLC0415  only copies need it

    with interruptible():
        done = migrate(config, options)
        width = max(map(len, done.counts))
        rows = [f"  {table:{width}}  {count:,}" for table, count in done.counts.items()]
        say("\n".join([f"Copied {done.source} to {done.target}, and compared every row:", *rows]))
        say(f"Next: set storage.url to {options.target}, keep {config.storage_key}, and start the server.")
        say(f"{done.source} is unchanged: remove it when nobody needs it as a way back.")
