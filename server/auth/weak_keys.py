"""Warnings at the start: weak stored keys, and a store in which no administrator can log in."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from server.auth.keys import fingerprint, weakness
from server.log import about
from server.model.access import Role, User
from server.model.public_keys import DAMAGED

#: Further weak keys are only counted: `ecss-console user list` marks them all.
MOST_NAMED = 20

_log = logging.getLogger("ecss-console.login")


def warn_at_start(users: Sequence[User], now: str, *, authorities: bool) -> None:
    """Log the weak keys, and how to recover when no administrator can log in.

    With `authorities` a certificate may log in any administrator who is not locked or expired.
    """
    weak = list(_weak_keys(users))
    for name, print_, reason in weak[:MOST_NAMED]:
        extra = about("key.weak", user=name, key=print_, reason=reason)
        _log.warning("the key %s of %s opens nothing, it is too weak: %s", print_, name, reason, extra=extra)
    if len(weak) > MOST_NAMED:
        more = len(weak) - MOST_NAMED
        _log.warning("%d more weak keys open nothing; ecss-console user list marks them", more, extra=about("key.weak"))
    administrators = [user for user in users if user.role is Role.ADMIN]
    usable = [user for user in administrators if not user.shut_out(now)]
    if not users or any(authorities or _can_log_in(user, now) for user in usable):
        return
    known = f"ecss-console user passwd {usable[0].name}, or " if usable else ""
    _log.error(
        "no administrator can log in; on this host run %secss-console user add NAME, which work while the server runs",
        known,
        extra=about("administrators.none", users=[user.name for user in administrators][:MOST_NAMED]),
    )


def _weak_keys(users: Sequence[User]) -> Iterator[tuple[str, str, str]]:
    """Yield (user, fingerprint, kind and size) of each weak key."""
    for user in users:
        for key in user.keys:
            weak = weakness(key.public_key)
            if weak is not None:
                yield user.name, "unreadable" if weak == DAMAGED else fingerprint(key.public_key), weak


def _can_log_in(user: User, now: str) -> bool:
    """Tell whether the user has a password or a strong, unexpired key, from any address."""
    keys = (key for key in user.keys if key.expires_at is None or key.expires_at > now)
    return user.password_hash is not None or any(weakness(key.public_key) is None for key in keys)
