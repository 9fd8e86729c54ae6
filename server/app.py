"""The composition root: builds the parts, starts them in order, and stops them in the reverse one."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from server.audit.export import Exporter
from server.audit.host import record_host
from server.audit.journal import Journal
from server.auth.keys import parse_authorized_keys
from server.auth.login import Doorkeeper
from server.auth.passwords import PasswordChecker
from server.auth.standing import Standings
from server.commands import command_tree
from server.commands.call import Console
from server.config import Config
from server.errors import StartError
from server.model.access import UserKey
from server.model.refusals import Refusal
from server.storage import users
from server.storage.database import Store
from server.storage.files import prepare
from server.storage.serving import serving
from server.supervisor import Supervisor, given_sockets
from server.transport.hostkey import fingerprint_of, host_keys
from server.transport.listener import Listener
from server.transport.logins import Ends, Logins

_log = logging.getLogger("ecss-console")


@asynccontextmanager
async def open_store(config: Config, *, make: bool = True, serves: bool = False) -> AsyncIterator[Store]:
    """Open the store; with `make`, made where there is neither database nor storage key. Raises StartError.

    One that `serves` has it to itself among its like.
    """
    with serving(config.database) if serves else nullcontext():
        prepared = prepare(config.database, config.keys_dir, make=make, storage_key=config.storage_key)
        if prepared.made:
            _log.info("made the store %s with its key in %s", config.database, config.keys_dir)
        store = await Store.open(prepared.database, prepared.vault, checkpoints=serves)
        try:
            yield store
        finally:
            await store.close()


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError when it cannot begin."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with open_store(config, serves=True) as store:
        keys = host_keys(config.keys_dir)
        journal = Journal(store)
        exporter = Exporter(store, config.audit_log) if config.audit.log != "none" else None
        passwords = PasswordChecker()
        standings = Standings(store)
        logins = Logins(Ends(config.sessions.idle_seconds, config.sessions.longest_seconds))
        console = Console(
            store=store,
            journal=journal,
            root=command_tree(),
            doorkeeper=Doorkeeper(store, journal, passwords, config.node.name),
            standings=standings,
            sessions=logins,
            node_name=config.node.name,
            node_version=config.node.version,
            masks_keys=config.integrations.show_keys == "masked",
        )
        listener = Listener(console, logins, config, _authorities(config))
        try:
            places = await listener.start(keys, given_sockets())
            loop.add_signal_handler(signal.SIGUSR1, _tell_state, listener)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            message = f"cannot listen on {config.listen.host} port {config.listen.port}: {reason}"
            raise StartError(message) from error
        await _announce(store, config, places)
        if exporter is not None:
            await exporter.start()
        await record_host(store, journal, config, fingerprint_of(keys.announced[0]))
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the process; the collector need not walk it
        watching = loop.create_task(logins.watch(standings))
        async with _supervised(config, listener, places):
            await ended.wait()
        watching.cancel()
        _log.info("stopping: no more logins, commands may end")
        await listener.stop()
        passwords.close()
        await journal.close()
        if exporter is not None:
            await exporter.stop()
    _log.info("stopped")


def _authorities(config: Config) -> tuple[UserKey, ...]:
    """Return the keys of `auth.trusted_user_ca_keys`; raises StartError when the file is not to be trusted blindly."""
    path = config.trusted_user_ca_keys
    if path is None:
        return ()
    try:
        keys = parse_authorized_keys(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"auth.trusted_user_ca_keys: {path}: {error}"
        raise StartError(message) from error
    if any(key.sources or key.expires_at for key in keys):
        message = f"auth.trusted_user_ca_keys: {path}: options before a key are not supported here"
        raise StartError(message)
    return keys


@asynccontextmanager
async def _supervised(config: Config, listener: Listener, places: list[str]) -> AsyncIterator[None]:
    """Tell the service manager how it goes while logins are taken, and read the host keys anew when it asks for it."""
    supervisor = Supervisor()

    def status() -> str:
        return "listens on {}; {} connections, {} sessions".format(", ".join(places), *listener.held())

    def reload() -> None:
        supervisor.reloading()
        _reload(config, listener)
        supervisor.ready(status())

    loop = asyncio.get_running_loop()
    if not sys.stderr.isatty():  # at a terminal SIGHUP is its end, and the program's with it
        loop.add_signal_handler(signal.SIGHUP, reload)
    supervisor.ready(status())
    beats = loop.create_task(supervisor.beat(status))
    try:
        yield
    finally:
        beats.cancel()
        supervisor.stopping()


def _reload(config: Config, listener: Listener) -> None:
    """Read the host keys anew; what cannot be read changes nothing."""
    try:
        keys = host_keys(config.keys_dir)
    except StartError as error:
        _log.error("the host keys stay as they are: %s", error)
        return
    listener.use(keys)
    _log.info("host keys read anew: %s", ", ".join(map(fingerprint_of, keys.announced)))


def _tell_state(listener: Listener) -> None:
    """Log what the process holds at this moment, for `kill -USR1`."""
    tasks = len(asyncio.all_tasks())
    refused = ", ".join(f"{reason.value} {count}" for reason, count in sorted(listener.refused.items(), key=_name))
    _log.info("now: %d connections, %d sessions, %d tasks; refused: %s", *listener.held(), tasks, refused or "none")


def _name(counted: tuple[Refusal, int]) -> str:
    return counted[0].value


async def _announce(store: Store, config: Config, places: list[str]) -> None:
    everywhere = {"0.0.0.0", "::"}  # noqa: S104  compared with, not bound
    known = await users.every(store)
    name = next((user.name for user in known), "USER")
    for place in places:
        host, _, port = place.partition(" port ")
        _log.info("%s listens on %s", config.node.name, place)
        _log.info("log in with: ssh -p %s %s@%s", port, name, "HOST" if host in everywhere else host)
    if not known:
        _log.warning("there are no users yet: ecss-console user add admin")
