"""Keys and certificates that one client offered and that did not log it in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from server.auth.credentials import AuthResult, Failure, Method

#: A client that tries more user names in one connection is recorded under the first ones only.
MOST_NAMES = 10


@dataclass
class _Offered:
    keys: set[str] = field(default_factory=set)
    certificates: set[tuple[str, ...]] = field(default_factory=set)
    refused: dict[tuple[str, str], AuthResult] = field(default_factory=dict)
    recorded: bool = False


class RejectedCredentials:
    """What was offered under each name, recorded once when the client logs in or leaves.

    Clients offer every key that they have, so one rejected key is no failure by itself. asyncssh alone checks
    signatures, so nothing here knows when one was wrong.
    """

    def __init__(self) -> None:
        """Start without rejected credentials."""
        self._by_name: dict[str, _Offered] = {}

    def key(self, name: str, public_key: str) -> None:
        """Add a public key."""
        self._of(name).keys.add(public_key)

    def certificate(self, name: str, authority: str, principals: Sequence[str]) -> None:
        """Add a certificate, by the fingerprint of its authority and its principals."""
        self._of(name).certificates.add((authority, *principals))

    def refused(self, result: AuthResult) -> None:
        """Add a right password or certificate whose user may not log in.

        Names are not limited here: only the owner of such credentials can add one.
        """
        self._by_name.setdefault(result.name, _Offered()).refused[result.used, result.reason] = result

    def recorded(self, name: str) -> None:
        """Note that a failure under this name is on record, so that `take` does not repeat it."""
        self._of(name).recorded = True

    def logged_in(self, name: str) -> None:
        """Forget what was offered under the name that has logged in."""
        self._by_name.pop(name, None)

    def take(self) -> Iterator[AuthResult]:
        """Yield the failures that are not on record yet, and forget them."""
        by_name, self._by_name = self._by_name, {}
        for name, offered in by_name.items():
            yield from (offered.refused[each] for each in sorted(offered.refused))
            text = ", ".join((*_counted(len(offered.keys), "key"), *_counted(len(offered.certificates), "certificate")))
            if text and not (offered.recorded or offered.refused):
                method = Method.KEY if offered.keys else Method.CERTIFICATE
                yield AuthResult(name, method, failure=Failure.NOT_PROVED, detail=text)

    def _of(self, name: str) -> _Offered:
        if name not in self._by_name and len(self._by_name) >= MOST_NAMES:
            return _Offered()
        return self._by_name.setdefault(name, _Offered())


def _counted(count: int, noun: str) -> Iterator[str]:
    if count:
        yield f"{count} {noun}{'s' if count > 1 else ''}"
