"""Why the node cannot serve users now, for the page /readyz."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


async def _nothing() -> object:
    return None


class Readiness:
    """The node's readiness while it starts, serves and stops.

    `reason` is why nobody can log in, as long as the parts of the server do not exist. Then `why_closed` and
    `ask_store` tell it.
    """

    def __init__(self) -> None:
        """Begin as a node that starts."""
        self.reason = "the console is starting"
        self._why_closed: Callable[[], str] = str
        self._ask_store: Callable[[], Awaitable[object]] = _nothing

    def serve(self, why_closed: Callable[[], str], ask_store: Callable[[], Awaitable[object]]) -> None:
        """Ask these from now on: the first returns a reason or an empty text, the second raises TemporaryError."""
        self._why_closed, self._ask_store, self.reason = why_closed, ask_store, ""

    def stop(self) -> None:
        """Ask nothing any more, because the store is going to be closed."""
        self.reason, self._ask_store = "the console is stopping", _nothing

    def why_closed(self) -> str:
        """Return why logins are refused now, or an empty text."""
        return self.reason or self._why_closed()

    async def ask_store(self) -> object:
        """Ask the store for something. Raises TemporaryError when it is away."""
        return await self._ask_store()
