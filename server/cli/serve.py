"""`ecss-console serve`: runs the server in the foreground."""

from __future__ import annotations

from server import app, log
from server.config import Config


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT. An unread log does not block the server. Raises StartError."""
    with log.unblocked():
        await app.serve(config)
