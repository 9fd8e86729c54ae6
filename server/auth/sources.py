"""The source of a connection: addresses of one network count as one source."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPV4LENGTH, IPv4Address, IPv6Address

from server.addresses import plain_address, plain_network


def _plain(address: str) -> IPv4Address | IPv6Address | None:
    """Return the address as `plain_address` does; None for text that is no address."""
    try:
        return plain_address(address)
    except ValueError:
        return None


class Sources:
    """Maps addresses to sources, and knows which addresses are exempt from penalties."""

    def __init__(self, prefix_lengths: tuple[int, int], exempt: Sequence[str]) -> None:
        """Take the lengths of the networks that count as one source, IPv4 and IPv6, and the exempt networks."""
        self._prefix_v4, self._prefix_v6 = prefix_lengths
        self._exempt = tuple(plain_network(text) for text in exempt)

    def source(self, address: str) -> str:
        """Return the source of the address; text that is no address, as of a local socket, is its own source."""
        if self._prefix_v4 == IPV4LENGTH and ":" not in address:
            return address
        parsed = _plain(address)
        if parsed is None:
            return address
        length = self._prefix_v4 if isinstance(parsed, IPv4Address) else self._prefix_v6
        if length == parsed.max_prefixlen:
            return str(parsed)
        kept = int(parsed) >> (parsed.max_prefixlen - length) << (parsed.max_prefixlen - length)
        return f"{type(parsed)(kept)}/{length}"

    def is_exempt(self, address: str) -> bool:
        """Tell whether the address is never penalised."""
        parsed = _plain(address)
        return parsed is not None and any(parsed in network for network in self._exempt)
