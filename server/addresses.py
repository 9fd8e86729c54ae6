"""IP addresses and networks as people write them, with IPv4-mapped IPv6 (`::ffff:10.0.0.1`) read as IPv4. Pure.

A socket for both families gives an IPv4 client as a mapped address, so both ways to write it must mean the same client.
6to4 (`2002::/16`), NAT64 (`64:ff9b::/96`) and Teredo are not translated: there the peer of the connection is a gateway.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPV4LENGTH, IPV6LENGTH, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_MAPPED_PREFIX = IPV6LENGTH - IPV4LENGTH
_ZONE = re.compile(r"%([^/]*)")


def plain_address(text: str) -> IPv4Address | IPv6Address:
    """Return an address, an IPv4-mapped one as IPv4. Raises ValueError for anything else."""
    parsed = ip_address(text)
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def plain_network(text: str) -> IPv4Network | IPv6Network:
    """Return a network or a single address, an IPv4-mapped one as IPv4.

    Raises ValueError for anything else, for a zone (`fe80::1%eth0`), which names an interface and no network, and for
    a mapped network that holds more than IPv4 addresses.
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
    """Tell whether a client's address is in one of the `sources` and in none that begins with `!`, as sshd(8) has it.

    The sources may come from an older version, which kept zones and mapped networks as they were written. Where such a
    text is not clear, it shuts out more and lets in less: a zone lets in only that zone and shuts out every one.
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
    """Return a network with IPv4-mapped as IPv4, and by how many bits it is larger than all of IPv4."""
    network = ip_network(text, strict=False)
    written = ip_address(text.partition("/")[0])
    if not isinstance(written, IPv6Address) or written.ipv4_mapped is None:
        return network, 0
    length = network.prefixlen - _MAPPED_PREFIX
    return IPv4Network((written.ipv4_mapped, max(length, 0)), strict=False), max(-length, 0)
