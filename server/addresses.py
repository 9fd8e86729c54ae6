"""Parse IP addresses and networks, and read IPv4-mapped IPv6 (`::ffff:10.0.0.1`) as IPv4. Pure.

A dual-stack socket reports an IPv4 client as a mapped address, so both spellings must mean the same client. 6to4
(`2002::/16`), NAT64 (`64:ff9b::/96`) and Teredo addresses are not translated: there the peer is a gateway.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPV4LENGTH, IPV6LENGTH, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_MAPPED_PREFIX = IPV6LENGTH - IPV4LENGTH
_ZONE = re.compile(r"%([^/]*)")


def plain_address(text: str) -> IPv4Address | IPv6Address:
    """Parse an address, and return a mapped one as IPv4. Raises ValueError."""
    parsed = ip_address(text)
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def plain_network(text: str) -> IPv4Network | IPv6Network:
    """Parse a network or a single address, and return a mapped one as IPv4.

    Raises ValueError for any other text, for an address with a zone (`fe80::1%eth0`), and for a mapped network that
    holds more than IPv4 addresses. A zone names an interface, not a network.
    """
    if "%" in text:
        message = f"{text} has a zone, leave out % and what follows: it would match no other interface"
        raise ValueError(message)
    network, extra_bits = _unmapped(text)
    if extra_bits:
        message = f"{text} holds more than IPv4 addresses: the prefix of an IPv4-mapped network is 96 to 128"
        raise ValueError(message)
    return network


def lets_in(sources: Iterable[str], address: str) -> bool:
    """Tell whether `sources` allow a client's address.

    As in sshd(8), one source must contain it, and none that begins with `!` may. Older versions stored sources with
    zones and large mapped networks unchanged. Such a source excludes more and allows less: with a zone it allows only
    that zone, but excludes all zones.
    """
    came_from = plain_address(_ZONE.sub("", address))
    zone = _ZONE.search(address)
    found = False
    for each in sources:
        shuts_out, text = each.startswith("!"), each.removeprefix("!")
        network, extra_bits = _unmapped(_ZONE.sub("", text))
        if came_from not in network:
            continue
        if shuts_out:
            return False
        named = _ZONE.search(text)
        found = found or (not extra_bits and (named is None or (zone is not None and named[1] == zone[1])))
    return found


def _unmapped(text: str) -> tuple[IPv4Network | IPv6Network, int]:
    """Parse a network, a mapped one as IPv4. Also return how many bits it is larger than all of IPv4."""
    network = ip_network(text, strict=False)
    written = ip_address(text.partition("/")[0])
    if not isinstance(written, IPv6Address) or written.ipv4_mapped is None:
        return network, 0
    length = network.prefixlen - _MAPPED_PREFIX
    return IPv4Network((written.ipv4_mapped, max(length, 0)), strict=False), max(-length, 0)
