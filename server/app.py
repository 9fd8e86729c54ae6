"""The composition root: builds the parts, starts them in order, and stops them in reverse order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from server import __version__, log
from server.audit.export import Exporter
from server.audit.host import record_host
from server.audit.journal import Journal, utc_now
from server.auth.authenticator import Authenticator
from server.auth.authorizer import Authorizer
from server.auth.passwords import PasswordChecker
from server.auth.weak_keys import warn_at_start
from server.cluster.joining import cluster_of
from server.commands import command_tree
from server.commands.shared_services import Services
from server.config import Config, Current
from server.errors import StartError
from server.log import about
from server.model.access import Role, User
from server.model.refusals import Refusal
from server.node import metrics
from server.node.metrics import Reading
from server.node.readiness import Readiness
from server.node.status import Node
from server.reload import Reloader, authorities
from server.shell.remote import answer
from server.storage import users
from server.storage.opening import open_store
from server.storage.owner import give_up_root
from server.storage.store import Store
from server.systemd import ActivatedSockets, SystemdNotifier, activated_sockets
from server.transport.hostkey import HostKeys, host_keys
from server.transport.listener import Listener
from server.transport.logins import Logins
from server.transport.pre_auth import listening_sockets
from server.transport.terminal.editor import prepare as prepare_editor

T = TypeVar("T")

_log = logging.getLogger("ecss-console")

#: Thresholds of the garbage collector. Python's defaults, 700, 10 and 10, suit small programs: the collector ran thirty
#: times during one list of 10,000 rows. Older generations are collected sooner than by default, because a closed line
#: editor leaves thousands of objects.
_COLLECTING = (10_000, 3, 3)
#: The time that each notification asks of systemd while the start waits for the database.
_WAIT_SECONDS = 30


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError when it cannot begin."""
    log.configure(config)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    asked = asyncio.Event()  # handle SIGHUP before the start, or it would kill the starting process
    if sys.stderr is None or not sys.stderr.isatty():  # at a terminal, SIGHUP means that the terminal has closed
        loop.add_signal_handler(signal.SIGHUP, asked.set)
    given, node, readiness = activated_sockets(), Node(), Readiness()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_probed(config, node, readiness, given))
        opening = open_store(config, serves=True, waits=partial(_wait, readiness))
        store = await _unless(ended, stack.enter_async_context(opening))
        if store is not None:
            give_up_root()
            await _serve(config, store, node, readiness, given, _Signals(ended, asked))
    _log.info("stopped", extra=about("stopped"))


@dataclass(frozen=True, slots=True)
class _Signals:
    """Set by SIGTERM and SIGINT, and by SIGHUP."""

    ended: asyncio.Event
    reload: asyncio.Event


async def _unless(ended: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of the work; cancel it and return None when the program is asked to end before."""
    working = asyncio.ensure_future(work)
    ending = asyncio.ensure_future(ended.wait())
    await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    if not working.done():
        working.cancel()
        await asyncio.wait({working})
    return None if working.cancelled() else working.result()


def _wait(readiness: Readiness, reason: str) -> None:
    """Tell probes and systemd what the start waits for, and ask systemd for more time."""
    readiness.reason = reason
    SystemdNotifier().waiting(reason, _WAIT_SECONDS)


async def _serve(
    config: Config, store: Store, node: Node, readiness: Readiness, given: ActivatedSockets, signals: _Signals
) -> None:
    """Serve with an open store."""
    loop = asyncio.get_running_loop()
    keys = host_keys(config.keys_dir, ecdsa=config.ecdsa_host_key)
    journal = Journal(store)
    exporter = Exporter(store, config.audit_log) if config.audit.log != "none" else None
    passwords = PasswordChecker()
    authorizer = Authorizer(store)
    current = Current(config)
    logins = Logins(current)
    store.feed.subscribe(logins.notice)
    cluster = cluster_of(store, current, node, logins, partial(logins.end_shut_out, authorizer))
    services = Services(
        store=store,
        journal=journal,
        root=command_tree(),
        authenticator=Authenticator(store, journal, passwords, config.node.name),
        authorizer=authorizer,
        sessions=logins,
        current=current,
        node=node,
        cluster=cluster,
    )
    listener = Listener(services, logins, authorities(config))
    reloader = Reloader(current, listener)
    node.schema = await store.schema()
    _count(node, config, [store, journal, listener, reloader, cluster, *([exporter] if exporter else [])])
    try:
        joining = cluster.start(partial(answer, services), partial(_wait, readiness))
        if await _unless(signals.ended, joining) is None:
            return
        readiness.serve(lambda: listener.why_closed or cluster.why_away, store.schema)
        async with _listening(services, listener, keys, given):
            if exporter is not None:
                await exporter.start()
            await record_host(store, journal, config, keys.in_use)
            lasting = (store.watch(), logins.watch(authorizer), node.watch_loop())
            watching = [loop.create_task(work) for work in lasting]
            async with _notified(services, listener, reloader, signals.reload):
                known = await users.every(store)
                _announce(services, known)
                trusted = bool(config.trusted_user_ca_keys)
                await asyncio.to_thread(warn_at_start, known, utc_now(), authorities=trusted)
                await asyncio.to_thread(prepare_editor)  # in a thread, so that users can log in meanwhile
                gc.collect()
                gc.freeze()  # objects of the start stay as long as the process, so the collector can skip them
                gc.set_threshold(*_COLLECTING)
                await signals.ended.wait()
            for task in watching:
                task.cancel()
    finally:  # also after a failed start: the audit may hold records of early logins
        readiness.stop()
        passwords.close()
        services.turns.close()
        await journal.close()
        if exporter is not None:
            await exporter.stop()
        await cluster.stop()


class _Counting(Protocol):
    """A part with metrics."""

    def readings(self) -> Iterable[Reading]:
        """Yield the present values."""


def _count(node: Node, config: Config, parts: Sequence[_Counting]) -> None:
    """Register the metrics of the build, then those of all parts."""
    labels = (__version__, config.node.name, config.node.version, node.schema)
    build = Reading(metrics.BUILD, [(labels, 1)])
    node.add(lambda: [build])
    for part in parts:
        node.add(part.readings)


@asynccontextmanager
async def _probed(config: Config, node: Node, readiness: Readiness, given: ActivatedSockets) -> AsyncIterator[None]:
    """Serve metrics and probes, if configured, from the start until the store is closed."""
    listen = config.metrics.listen
    if not (listen or given.metrics):
        yield
        return
    from server.http.endpoint import Endpoint  # noqa: PLC0415  its libraries take 20 ms of the start
    from server.http.pages import pages  # noqa: PLC0415  likewise

    host, _, port = listen.rpartition(":")
    try:
        opened = [*given.metrics] or await listening_sockets(host.strip("[]"), int(port))
    except OSError as error:
        message = f"cannot listen on {listen} (metrics.listen): {error.strerror or error}"
        raise StartError(message) from error
    endpoint = Endpoint(pages(node, readiness.why_closed, readiness.ask_store))
    await endpoint.start(opened)
    for each in opened:
        host, port = each.getsockname()[:2]
        _log.info("metrics and probes at http://%s:%d/metrics", f"[{host}]" if ":" in host else host, port)
    try:
        yield
    finally:
        await endpoint.stop()


@asynccontextmanager
async def _listening(
    services: Services, listener: Listener, keys: HostKeys, given: ActivatedSockets
) -> AsyncIterator[None]:
    """Accept clients inside the block, and disconnect them at its end.

    Raises StartError when it cannot listen.
    """
    config = services.current.config
    try:
        services.node.places = await listener.start(keys, given.ssh)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"cannot listen on {config.listen.host} port {config.listen.port}: {reason}"
        raise StartError(message) from error
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell_state, listener)
    try:
        yield
    finally:
        _log.info("stopping: no more logins, commands may end", extra=about("stopping"))
        await listener.stop()


@asynccontextmanager
async def _notified(
    services: Services, listener: Listener, reloader: Reloader, asked: asyncio.Event
) -> AsyncIterator[None]:
    """Keep the service manager informed while logins are accepted, and reload at each SIGHUP."""
    notifier = SystemdNotifier()
    node, current = services.node, services.current

    def status() -> str:
        held = "listens on {}; {} connections, {} sessions".format(", ".join(node.places), *listener.held())
        return held + reloader.remark

    async def reload() -> None:
        while await asked.wait():
            asked.clear()
            notifier.reloading()
            try:
                keys = reloader.reload()
                if keys is not None:
                    await record_host(services.store, services.journal, current.config, keys.in_use, "SIGHUP")
            except Exception:  # noqa: BLE001  after any failure the next SIGHUP must still work
                _log.exception("the reload has failed")
            notifier.ready(status())

    loop = asyncio.get_running_loop()
    notifier.ready(status())
    tasks = [loop.create_task(notifier.beat(status)), loop.create_task(reload())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        notifier.stopping(f"draining: no more logins; {node.commands.running} commands run")


def _tell_state(listener: Listener) -> None:
    """Log the present connections, sessions, tasks and refusals, for `kill -USR1`."""
    tasks = len(asyncio.all_tasks())
    refused = ", ".join(f"{reason.value} {count}" for reason, count in sorted(listener.refused.items(), key=_name))
    _log.info("now: %d connections, %d sessions, %d tasks; refused: %s", *listener.held(), tasks, refused or "none")


def _name(counted: tuple[Refusal, int]) -> str:
    return counted[0].value


def _announce(services: Services, known: Sequence[User]) -> None:
    """Log version, configuration, database and addresses in one line; then how to log in."""
    config, node = services.current.config, services.node
    read = str(config.file.absolute()) if config.file else "none, the defaults"
    database = config.store_name
    _log.info(
        "ecss-console %s as %s; configuration %s; database %s, schema %s; listens on %s",
        __version__,
        config.node.name,
        read,
        database,
        node.schema,
        ", ".join(node.places),
        extra=about(
            "started",
            version=__version__,
            configuration=read,
            database=database,
            schema=node.schema,
            listens=node.places,
            host_keys=node.fingerprints,
            pid=os.getpid(),
        ),
    )
    everywhere = {"0.0.0.0", "::"}  # noqa: S104  compared with, not bound
    able = [user for user in known if not user.shut_out(utc_now())]
    name = next((user.name for user in sorted(able, key=lambda user: user.role is not Role.ADMIN)), "USER")
    for place in node.places:
        host, _, port = place.partition(" port ")
        _log.info("log in with: ssh -p %s %s@%s", port, name, "HOST" if host in everywhere else host)
    if not known:
        _log.warning("there are no users yet: ecss-console user add admin")
