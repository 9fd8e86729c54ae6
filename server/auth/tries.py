"""How often one connection may try to log in. Pure."""

from __future__ import annotations

from collections import Counter

#: An accepted key appears twice in a login: the question whether it would do, and the signature.
_APPEARANCES = 2


class Tries:
    """Counts tries when they begin, so that one which the client cuts short with the next is counted too."""

    def __init__(self, most: int) -> None:
        """Allow `most` tries that fail."""
        self._most = most
        self._begun = 0
        self._accepted: Counter[str] = Counter()

    @property
    def any_failed(self) -> bool:
        """Whether something was tried in vain."""
        return self._begun > 0

    @property
    def spent(self) -> bool:
        """Whether no try is left, the one that has begun included."""
        return self._begun >= self._most

    def begin(self) -> bool:
        """Count a try; False when there was none left."""
        if self.spent:
            return False
        self._begun += 1
        return True

    def accept(self, proof: str) -> bool:
        """Take back the try of a proof that is right, a key that opens or a password that must be changed.

        False when it has appeared too often: the key's signature was wrong.
        """
        self._accepted[proof] += 1
        in_time = self._accepted[proof] <= _APPEARANCES
        if in_time:
            self._begun -= 1
        return in_time
