"""An IPv4 address written as IPv6 is the same address, in exclusions too (an attack)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from authority import new_key
from console import ConsoleServer
from weak_keys import stored

from server.addresses import plain_network
from server.auth.keys import MOST_NETWORKS, parse_sources
from server.auth.sources import Sources
from server.config import Limits
from server.config.schema import Metrics
from server.model.access import UserKey

_NOW = "2026-01-01T00:00:00.000+00:00"


@pytest.mark.slow
@pytest.mark.parametrize("kept_before", [False, True])
def test_attack_an_exclusion_written_as_ipv6_excludes_the_ipv4_address(
    stopped_console: ConsoleServer, tmp_path: Path, *, kept_before: bool
) -> None:
    """`from="0.0.0.0/0,!::ffff:127.0.0.1"` once admitted 127.0.0.1. Stored entries of this form now work too."""
    console = stopped_console
    key = new_key(tmp_path, "id_eve")
    line = key.with_suffix(".pub").read_text().strip()
    cases = {
        "0.0.0.0/0,!127.0.0.1": False,
        "0.0.0.0/0,!::ffff:127.0.0.1": False,
        "0.0.0.0/0,!::ffff:127.0.0.0/104": False,
        "127.0.0.0/8,!::FFFF:7f00:2": True,
        "::ffff:127.0.0.1": True,
        "::ffff:127.0.0.0/104": True,
        "::ffff:10.0.0.0/104": False,
    }
    for number in range(len(cases)):
        console.program("user", "add", f"u{number}", "--password-stdin", text="x\n")
        if kept_before:
            stored(console, f"u{number}", line, sources=list(cases)[number])
    console.start(ECSS_CONSOLE_LIMITS__PER_SOURCE_PENALTIES="false")
    for number, (sources, opens) in enumerate(cases.items()):
        if not kept_before:
            console.run(f"cocon/user/key/add u{number} {line} --from {sources}")
        came_in = asyncio.run(_enters(console, f"u{number}", key))
        assert came_in is opens, sources
    shown = {str(key_["from"]) for key_ in json.loads(console.run("cocon/user/key/list u2 | json"))["rows"]}
    assert shown == ({"['0.0.0.0/0', '!::ffff:127.0.0.0/104']"} if kept_before else {"['0.0.0.0/0', '!127.0.0.0/8']"})
    assert console.stop() == 0


async def _enters(console: ConsoleServer, name: str, key: Path) -> bool:
    words = [*console.ssh_words("-o", "BatchMode=yes", "-i", str(key), user=name), "whoami"]
    words[words.index(str(console.key))] = str(key)
    ran = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, _ = await ran.communicate()
    return out.startswith(name.encode())


@pytest.mark.parametrize(
    "sources",
    ["fe80::1%eth0", "0.0.0.0/0,!fe80::1%eth0", "::1%lo", "fe80::%1/64", "::ffff:10.0.0.1%eth0", "10.0.0.1%eth0"],
)
def test_attack_a_zone_is_refused_wherever_networks_are_given(shared_console: ConsoleServer, sources: str) -> None:
    line = (shared_console.folder / "id_admin.pub").read_text().strip()
    status, shown = shared_console.told("admin", f"cocon/user/key/add admin {line} --from {sources} --check")
    assert (status, "has a zone" in shown) == (2, True)
    status, shown = shared_console.told("admin", f"cocon/user/add eve --key 'from=\"{sources}\" {line}' --check")
    assert (status, "has a zone" in shown) == (2, True)
    with pytest.raises(ValueError, match="has a zone"):
        Limits(per_source_penalty_exempt_list=(sources.rpartition("!")[2].rpartition(",")[2],))


def test_attack_mapped_networks_are_kept_as_ipv4_and_too_wide_ones_refused() -> None:
    given = "::ffff:10.0.0.0/104, !::ffff:10.1.2.3 ,10.0.0.0/8,!2001:db8::/32,::FFFF:C000:0201/128"
    assert parse_sources(given) == ("10.0.0.0/8", "!10.1.2.3", "10.0.0.0/8", "!2001:db8::/32", "192.0.2.1")
    for wide in ("::ffff:0:0/95", "!::ffff:10.0.0.0/8", "::ffff:1.2.3.4/0"):
        with pytest.raises(ValueError, match="the prefix of an IPv4-mapped network is 96 to 128"):
            parse_sources(f"192.0.2.0/24,{wide}")
    assert str(plain_network("::ffff:0:0/96")) == "0.0.0.0/0"


@pytest.mark.parametrize(
    ("kept", "address", "opens"),
    [
        ("fe80::1%eth0", "fe80::1%eth0", True),
        ("fe80::1%eth0", "fe80::1%eth1", False),
        ("fe80::1%eth0", "fe80::1", False),
        ("fe80::/64,!fe80::1%eth0", "fe80::1%eth1", False),
        ("fe80::/64", "fe80::1%eth1", True),
        ("::ffff:10.0.0.0/90", "10.0.0.1", False),
        ("0.0.0.0/0,!::ffff:10.0.0.0/90", "10.0.0.1", False),
        ("::/0", "10.0.0.1", False),
        ("0.0.0.0/0,!::/0", "10.0.0.1", True),
        ("0.0.0.0/0", "::ffff:10.0.0.1", True),
        ("0.0.0.0/0,!10.0.0.1", "::ffff:10.0.0.1", False),
        # not translated: the client is behind a gateway, whose address this is
        ("0.0.0.0/0", "64:ff9b::10.0.0.1", False),
        ("10.0.0.0/8", "2002:a00:1::", False),
        ("::/0,!10.0.0.0/8", "::10.0.0.1", True),
    ],
)
def test_attack_networks_stored_by_older_versions_admit_no_more_than_written(
    kept: str, address: str, *, opens: bool
) -> None:
    assert UserKey("ssh-ed25519 A", sources=tuple(kept.split(","))).opens(address, _NOW) is opens


def test_attack_the_lists_of_the_configuration_know_mapped_addresses() -> None:
    """An exempt network written as IPv6 once exempted no client. One Python took [::ffff:127.0.0.1] as loopback."""
    sources = Sources((32, 128), ("::ffff:192.0.2.0/120",))
    assert sources.is_exempt("192.0.2.7")
    assert sources.is_exempt("::ffff:192.0.2.7")
    assert not sources.is_exempt("192.0.3.7")
    assert Metrics(listen="[::ffff:127.0.0.1]:9823").listen == "127.0.0.1:9823"
    assert Metrics(public=True, listen="[fe80::1%eth0]:9823").listen == "[fe80::1%eth0]:9823"
    for wrong in ("[::ffff:10.0.0.1]:9823", "[::1%lo]:9823", "::1:9823", "[127.0.0.1]:9823", "[::ffff:0.0.0.0]:9823"):
        with pytest.raises(ValueError, match=r"metrics\.public|an address and a port"):
            Metrics(listen=wrong)


def test_attack_a_list_of_thousands_of_networks_is_refused_before_it_is_read() -> None:
    """9,000 IPv6 addresses, the first one wrong, are only counted: parsing them took 75 ms."""
    one_too_many = ",".join(["no address"] * (MOST_NETWORKS + 1))
    with pytest.raises(ValueError, match="1,001 addresses or networks, at most 1,000 are allowed"):
        parse_sources(one_too_many)
    assert len(parse_sources(",".join(["10.0.0.0/8"] * MOST_NETWORKS))) == MOST_NETWORKS
