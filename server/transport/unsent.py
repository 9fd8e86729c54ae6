"""What the sessions of one user have written and their clients have not taken, over all connections of that user.

A session waits when its own channel holds `SESSION_BYTES`, or when all of its user's hold `USER_BYTES` and its own
more than a small part. So one user costs the process `USER_BYTES`, and a last piece for each open session.
"""

from __future__ import annotations

from typing import Protocol

#: Clients that wait for the exit status before they read get it up to here.
SESSION_BYTES = 8 * 1024 * 1024
USER_BYTES = 64 * 1024 * 1024
#: Below this a session is never held back because of the others.
SMALL_BYTES = 64 * 1024


class Sender(Protocol):
    """A channel that may be held back."""

    def reconsider_writing(self) -> None:
        """Let the session write again if there is room."""


class UnsentOutput:
    """The account of one user."""

    def __init__(self) -> None:
        """Begin with nothing unsent."""
        self._bytes: dict[Sender, int] = {}
        self._total = 0

    def note(self, sender: Sender, unsent_bytes: int) -> None:
        """Note what a channel holds now; 0 forgets it."""
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
