"""The experiments of the scorecard: each starts its own server and returns its finding."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import fuzz_lines
import fuzz_packets
from asyncssh import Error, generate_private_key

from attackers import ATTACKS, DOMAIN  # isort: skip  neighbours, not packages
from flood import start as start_flood  # isort: skip
from guessing import offers, refusals  # isort: skip
from rank_test import mann_whitney  # isort: skip
from servers import Server, make_key, start_ours  # isort: skip
from witness import Witness, quantile  # isort: skip

ROOT = Path(__file__).parent.parent
_PASSWORD = "correct horse battery staple"  # noqa: S105  of servers that live as long as an experiment
_MOST_TRIES = 50
_TRIES_ON_ONE_CONNECTION = 6
_TRIES_A_MINUTE = 120
_SOCKETS, _SOCKETS_HELD, _GRACE_SECONDS = 200, 64, 5
_FLOOD, _FLOOD_SECONDS, _LOGINS = 10_000, 100, 100
_LOGIN_SECONDS = 1.0
_TIMED_TRIES, _TRIES_EACH, _TIMING_SECONDS, _DIFFERS_BELOW = 1_000, 4, 1_200, 0.01
_AT_ONCE, _LOGIN_ROUNDS, _LAG_SECONDS = 50, 5, 0.5
_EXPOSURE = 1.5
_ATTACKED_SECONDS = 0.1

#: Logs in with a wrong credential under a name, this many times on one connection; returns the seconds of each refusal.
_Ask = Callable[[Server, str, int], Awaitable[list[float]]]


@dataclass(frozen=True)
class Finding:
    """The result of one experiment. `passed` is None if it could not run."""

    result: str
    passed: bool | None


@contextmanager
def serving(**settings: str) -> Iterator[Server]:
    """Give a server with an empty store and the user `admin`; `settings` as in the environment."""
    with tempfile.TemporaryDirectory() as name:
        key = Path(name) / "id"
        make_key(key)
        server = start_ours(Path(name), key, _PASSWORD, **settings)
        try:
            yield server
        finally:
            server.kill()


def ssh_audit() -> Finding:
    """Count the findings of ssh-audit about the algorithms."""
    program = shutil.which("ssh-audit", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if program is None:
        return Finding("ssh-audit is not installed", None)
    with serving() as server:
        words = [program, "-n", "--skip-rate-test", "-p", str(server.port), "127.0.0.1"]
        said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60).stdout
    fails, warnings = said.count("[fail]"), said.count("[warn]")
    return Finding(f"{fails} fail, {warnings} warn", passed="(gen)" in said and fails == 0)


def tries() -> Finding:
    """Count the passwords accepted for checking on one connection, and in a minute from one address."""
    with serving() as server:
        on_one = len(asyncio.run(refusals(server, "admin", _MOST_TRIES, "127.0.0.7")))
        a_minute = asyncio.run(_tries_in(server, 60.0, "127.0.0.6"))
    more = "or more " if on_one >= _MOST_TRIES else ""
    passed = on_one <= _TRIES_ON_ONE_CONNECTION and a_minute <= _TRIES_A_MINUTE
    return Finding(f"{on_one} {more}on one connection, {a_minute} in a minute from one address", passed)


async def _tries_in(server: Server, seconds: float, source: str) -> int:
    count, end = 0, time.monotonic() + seconds

    async def work() -> None:
        nonlocal count
        while time.monotonic() < end:
            refused = len(await refusals(server, "admin", _MOST_TRIES, source))
            count += refused
            await asyncio.sleep(0 if refused else 0.2)

    await asyncio.gather(*(work() for _ in range(4)))
    return count


def sockets() -> Finding:
    """Open many silent connections from one address; measure how many are held, and for how long."""
    with serving(limits__login_grace_time=str(_GRACE_SECONDS)) as server:
        held, seconds = asyncio.run(_held(server))
    passed = held <= _SOCKETS_HELD and seconds < _GRACE_SECONDS + 2
    return Finding(f"{held} of {_SOCKETS} held, the last for {seconds:.1f} s", passed)


async def _held(server: Server) -> tuple[int, float]:
    """Return how many connections are open after a second, and when the last one is closed."""
    loop, lived = asyncio.get_running_loop(), list[float]()

    async def silent() -> None:
        began = loop.time()
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=("127.0.0.8", 0))
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_SECONDS * 3):
                    while await reader.read(4096):
                        pass
            writer.transport.abort()
        lived.append(loop.time() - began)

    await asyncio.gather(*(silent() for _ in range(_SOCKETS)))
    return sum(seconds > 1 for seconds in lived), max(lived)


def flood() -> Finding:
    """Log in from one address while another makes ten thousand hostile connections."""
    with serving() as server:
        flooding = start_flood(server, _FLOOD)
        try:
            seconds, failed, done = asyncio.run(_logins_during(server, flooding))
        finally:
            flooding.kill()
            flooding.wait()
    p50, p99 = quantile(seconds, 0.5), quantile(seconds, 0.99)
    cut = "" if done else f"; the flood was cut after {_FLOOD_SECONDS} s"
    result = f"{len(seconds)} logins, {failed} failed, p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms{cut}"
    return Finding(result, passed=done and not failed and len(seconds) >= _LOGINS and p99 <= _LOGIN_SECONDS)


async def _logins_during(server: Server, flooding: subprocess.Popen[str]) -> tuple[list[float], int, bool]:
    """Log in by key and by password in turn until the flood has ended."""
    seconds: list[float] = []
    failed, end = 0, time.monotonic() + _FLOOD_SECONDS
    await asyncio.sleep(1)
    while (flooding.poll() is None or len(seconds) + failed < _LOGINS) and time.monotonic() < end:
        by_password = {"client_keys": None, "password": _PASSWORD} if len(seconds) % 2 else {}
        began = time.perf_counter()
        try:
            async with asyncio.timeout(20), await server.connect(**by_password) as connection:
                await connection.run("whoami", check=True)
                seconds.append(time.perf_counter() - began)
        except (OSError, Error, TimeoutError):
            failed += 1
        await asyncio.sleep(0.05)
    return seconds, failed, flooding.poll() is not None


def user_or_password() -> Finding:
    """Compare refusal times: wrong passwords of all kinds of users with unknown users."""
    return _told_apart(refusals)


def user_or_key() -> Finding:
    """Compare refusal times of an unknown key: all kinds of users with unknown users."""
    key = generate_private_key("ssh-ed25519")
    return _told_apart(lambda server, name, most: offers(server, name, most, key))


def _told_apart(ask: _Ask) -> Finding:
    with serving(limits__per_source_penalties="false") as server:
        asyncio.run(_make_users(server))
        times = asyncio.run(_refusal_times(server, ask))
    unknown = times.pop("unknown")
    told, least = [f"{len(unknown)} tries each, median {statistics.median(unknown) * 1000:.3f} ms"], 1.0
    for kind, seconds in times.items():
        above, p = mann_whitney(unknown, seconds)
        least = min(least, p)
        told.append(f"{kind} {statistics.median(seconds) * 1000:.3f} ms, p = {p:.3f}, faster in {above:.1%} of pairs")
    enough = min(len(unknown), *(len(each) for each in times.values())) >= _TIMED_TRIES
    # Bonferroni: a smaller limit for each comparison keeps the total error at one in a hundred
    return Finding("; ".join(told), passed=enough and least >= _DIFFERS_BELOW / len(times))


async def _make_users(server: Server) -> None:
    """Add a user of each kind that cannot log in, with an administrator's commands."""
    async with await server.connect() as connection:
        for name in ("haswrong", "islocked", "hasended"):
            added = await connection.run(f"cocon/user/add {name}", input=f"{_PASSWORD}\n{_PASSWORD}\n")
            if added.exit_status:
                raise RuntimeError(str(added.stdout))
        public = server.key.with_suffix(".pub").read_text().strip()
        for command in (
            f"cocon/user/add keysonly --key '{public}'",
            "cocon/user/lock islocked",
            "cocon/user/set hasended --expires 2020-01-01",
        ):
            await connection.run(command, check=True)


async def _refusal_times(server: Server, ask: _Ask) -> dict[str, list[float]]:
    """Return the seconds of refusals by the kind of user, measured in turn."""
    # names have equal length: a longer one takes longer, and the client knows its length anyway
    names = {"wrong": "haswrong", "locked": "islocked", "expired": "hasended", "keys only": "keysonly"}
    times: dict[str, list[float]] = {kind: [] for kind in ("unknown", *names)}
    order = random.Random(1)  # the order must not make a kind of user look slower
    end = time.monotonic() + _TIMING_SECONDS  # a slow machine does as many as it can
    for turn in range(_TIMED_TRIES // _TRIES_EACH):
        if time.monotonic() > end:
            break
        for kind in order.sample([*times], len(times)):
            times[kind].extend(await ask(server, names.get(kind, f"n{turn:07d}"), _TRIES_EACH))
    return times


def lag() -> Finding:
    """Log in fifty times at once by password; measure the added wait of another session."""
    with serving() as server:
        with Witness(server.port, server.key) as alone:
            time.sleep(3)
        with Witness(server.port, server.key) as during:
            failed = asyncio.run(_logins_at_once(server))
    usual, delays = quantile(alone.delays_seconds, 0.5), during.delays_seconds
    worst, p99 = max(delays, default=0) - usual, quantile(delays, 0.99) - usual
    result = f"extra delay p99 {p99 * 1000:.0f} ms, max {worst * 1000:.0f} ms of {len(delays)}, {failed} logins failed"
    return Finding(result, passed=not failed and not during.failure and worst <= _LAG_SECONDS)


async def _logins_at_once(server: Server) -> int:
    async def login() -> bool:
        with suppress(OSError, Error, TimeoutError):
            connection = await asyncio.wait_for(server.connect(client_keys=None, password=_PASSWORD), 30)
            connection.abort()
            return True
        return False

    entered: list[bool] = []
    for _ in range(_LOGIN_ROUNDS):
        entered += await asyncio.gather(*(login() for _ in range(_AT_ONCE)))
    return entered.count(False)


def attacked_by(who: str) -> Finding:
    """Run each attack as a stranger, viewer or operator; measure the wait of another session."""
    longest: dict[str, float] = {}
    usual, failures = 0.0, list[str]()
    for attack in ATTACKS[who]:
        with serving() as server:
            asyncio.run(_make_attackers(server))
            with Witness(server.port, server.key) as alone:
                time.sleep(2)
            with Witness(server.port, server.key) as during:
                words = [sys.executable, str(ROOT / "bench" / "attackers.py"), who, attack]
                words += [str(server.port), str(server.key)]
                subprocess.run(words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
        usual = max(usual, *alone.delays_seconds)
        longest[attack] = max(during.delays_seconds, default=_ATTACKED_SECONDS * 2)
        if during.failure:
            failures.append(f"{attack}: {during.failure}")
    told = ", ".join(f"{attack} {seconds * 1000:.0f}" for attack, seconds in longest.items())
    result = f"longest wait in ms: {told}; without an attack {usual * 1000:.0f}"
    passed = not failures and max(longest.values()) <= _ATTACKED_SECONDS
    return Finding("; ".join([result, *failures]), passed=passed)


async def _make_attackers(server: Server) -> None:
    """Add the attacking users, and a domain for the operator."""
    public = server.key.with_suffix(".pub").read_text().strip()
    async with await server.connect() as connection:
        for command in (
            f"domain/declare {DOMAIN}",
            f"cocon/user/add vi --role viewer --key '{public}'",
            f"cocon/user/add op --role operator --key '{public}'",
            f"cocon/user/grant op {DOMAIN}",
        ):
            await connection.run(command, check=True)


def tampering() -> Finding:
    """Run the tests that flip every byte of an audit trail of 200 records or attack it in other ways."""
    words = [sys.executable, "-m", "pytest", "tests/audit/test_audit_chain.py", "tests/audit/test_audit_nodes.py", "-q"]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    return Finding(
        ran.stdout.strip().splitlines()[-1].strip("= ") if ran.stdout else ran.stderr[-200:], ran.returncode == 0
    )


def lines(count: int) -> Finding:
    """Fuzz the grammar."""
    found = fuzz_lines.fuzz(count, seed=int(time.time()))
    for fault in found.faults:
        print(fault)
    times = f"p99.9 {found.p999_seconds * 1000:.1f} ms, max {found.slowest_seconds * 1000:.0f} ms of CPU"
    return Finding(
        f"{found.lines:,} lines, {found.fault_count} faults, {times}, {found.growth_kb:,.0f} KB more", found.passed
    )


def packets(count: int) -> Finding:
    """Fuzz a server with packets."""
    found = fuzz_packets.run(count, seed=int(time.time()))
    for fault in found.faults:
        print(fault)
    wait = f"another session waited at most {max(found.delays_seconds, default=0) * 1000:.0f} ms"
    return Finding(f"{found.packets:,} packets, {len(found.faults)} faults, {wait}", found.passed)


def exposure() -> Finding:
    """Ask systemd for the exposure score of the service."""
    if shutil.which("systemd-analyze") is None:
        return Finding("systemd-analyze is not installed", None)
    words = [
        "systemd-analyze",
        "security",
        "--offline=true",
        "--no-pager",
        str(ROOT / "systemd" / "ecss-console.service"),
    ]
    said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    level = re.search(r"exposure level for \S+: ([0-9.]+)", said.stdout)
    if level is None:
        return Finding(f"systemd-analyze says nothing: {said.stderr.strip()[:200]}", passed=None)
    return Finding(f"exposure {level[1]} of 10", float(level[1]) <= _EXPOSURE)
