"""Limits of unsent output, for each session and for all sessions of a user.

A session waits when its channel holds `SESSION_BYTES`. It also waits when all channels of its user together hold
`USER_BYTES` and its own channel holds more than `SMALL_BYTES`. So a user takes at most `USER_BYTES`, plus one piece of
output for each session.
"""

from __future__ import annotations

from typing import Protocol

#: Some clients wait for the exit status before they read. They get it if the output is no longer than this.
SESSION_BYTES = 8 * 1024 * 1024
USER_BYTES = 64 * 1024 * 1024
#: A session with less unsent output never waits because of other sessions.
SMALL_BYTES = 64 * 1024


class Sender(Protocol):
    """A channel whose session may have to wait."""

    def reconsider_writing(self) -> None:
        """Let the session write again if the limits allow it."""


class UnsentOutput:
    """The unsent output of one user, over all connections."""

    def __init__(self) -> None:
        """Start with no unsent output."""
        self._bytes: dict[Sender, int] = {}
        self._total = 0

    def note(self, sender: Sender, unsent_bytes: int) -> None:
        """Record the unsent bytes of a channel; 0 removes the channel."""
        was_full = self.full
        self._total += unsent_bytes - self._bytes.pop(sender, 0)
        if unsent_bytes:
            self._bytes[sender] = unsent_bytes
        if was_full and not self.full:
            for each in [*self._bytes]:
                each.reconsider_writing()

    @property
    def full(self) -> bool:
        """Whether the user's sessions must wait for their clients."""
        return self._total >= USER_BYTES
