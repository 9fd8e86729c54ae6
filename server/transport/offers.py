"""What one client has offered in vain, name by name: told once, when it is in under another name or gone.

Clients offer every key that they have, so a key in vain is no failure by itself; and what becomes of a certificate or a
signature asyncssh judges alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import asyncssh

from server.auth.keys import fingerprint
from server.model.access import UserKey

#: Who tries more names than this in one connection is told of by the first ones.
MOST_NAMES = 10
#: The name of the option, no standard one, that carries the authority from the line that matched to the login.
_AUTHORITY = "authority"


@dataclass
class _Offered:
    keys: set[str] = field(default_factory=set)
    certificates: set[tuple[str, ...]] = field(default_factory=set)
    refused: set[tuple[str, str]] = field(default_factory=set)
    told: bool = False


class Offers:
    """What was offered for each name that a client gave."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._by_name: dict[str, _Offered] = {}

    def key(self, name: str, public_key: str) -> None:
        """Keep in mind a public key."""
        self._of(name).keys.add(public_key)

    def certificate(self, name: str, authority: str, principals: Sequence[str]) -> None:
        """Keep in mind a certificate, by the fingerprint of its authority and the names that it is for."""
        self._of(name).certificates.add((authority, *principals))

    def refused(self, name: str, way: str, reason: str) -> None:
        """Keep in mind what was right and did not let in: of how many names that may be, who has them has decided."""
        self._by_name.setdefault(name, _Offered()).refused.add((way, reason))

    def failed(self, name: str) -> None:
        """Keep in mind that a failure of this name was told, so that it is not told again."""
        self._of(name).told = True

    def proved(self, name: str) -> None:
        """Forget what was offered for the name that is in."""
        self._by_name.pop(name, None)

    def in_vain(self) -> Iterator[tuple[str, str, str]]:
        """Yield (name, way, what was offered or why it did not let in) of what was not told yet, if anything was."""
        while self._by_name:
            name = next(iter(self._by_name))
            offered = self._by_name.pop(name)
            counted = [_counted(len(offered.keys), "key"), _counted(len(offered.certificates), "certificate")]
            text = ", ".join(each for each in counted if each)
            yield from ((name, way, reason) for way, reason in sorted(offered.refused))
            if text and not (offered.told or offered.refused):
                yield name, "key" if offered.keys else "certificate", f"{text} offered, nothing proved"

    def _of(self, name: str) -> _Offered:
        if name not in self._by_name and len(self._by_name) >= MOST_NAMES:
            return _Offered()
        return self._by_name.setdefault(name, _Offered())


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}" if count else ""


class Authorities(asyncssh.SSHAuthorizedKeys):
    """Whose certificates for one principal let in."""

    def __init__(
        self,
        authorities: Sequence[UserKey],
        principal: str,
        name: str,
        offers: Offers,
        stands_against: Callable[[], str | None],
    ) -> None:
        """Take the keys of the authorities, one at least; `stands_against` says why a certificate of theirs fails."""
        options = f'cert-authority,principals="{principal}",{_AUTHORITY}='
        lines = [f'{options}"{fingerprint(each.public_key)}" {each.public_key}' for each in authorities]
        super().__init__("\n".join(lines))
        self._name = name
        self._offers = offers
        self._stands_against = stands_against

    def validate(
        self,
        key: asyncssh.SSHKey,
        client_host: str,
        client_addr: str,
        cert_principals: Sequence[str] | None = None,
        ca: bool = False,  # noqa: FBT001, FBT002  asyncssh's own
    ) -> Mapping[str, object] | None:
        """Judge as asyncssh does, then ask whether the user may log in."""
        options = super().validate(key, client_host, client_addr, cert_principals, ca)
        reason = None if options is None else self._stands_against()
        if reason is not None:
            self._offers.refused(self._name, f"certificate by {key.get_fingerprint()}", reason)
        return options if reason is None else None


def authority_of(ssh: asyncssh.SSHServerConnection) -> str:
    """Return the fingerprint of the authority whose certificate has let somebody in."""
    found = ssh.get_key_option(_AUTHORITY)
    return str(found[0]) if isinstance(found, list) and found else "no authority"
