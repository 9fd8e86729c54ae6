"""The composition root: builds the parts, starts them in order, and stops them in the reverse one."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.audit.export import Exporter
from server.audit.host import record_host
from server.audit.journal import Journal
from server.auth.login import Doorkeeper
from server.auth.passwords import PasswordChecker
from server.commands import command_tree
from server.commands.call import Console
from server.config import Config
from server.errors import StartError
from server.storage import users
from server.storage.database import Store
from server.storage.files import prepare
from server.transport.hostkey import host_key
from server.transport.listener import Listener

_log = logging.getLogger("ecss-console")


@asynccontextmanager
async def open_store(config: Config, *, make: bool = True) -> AsyncIterator[Store]:
    """Open the store; with `make`, made where there is neither database nor storage key. Raises StartError."""
    prepared = prepare(config.database, config.keys_dir, make=make)
    if prepared.made:
        _log.info("made the store %s with its key in %s", config.database, config.keys_dir)
    store = await Store.open(prepared.database, prepared.vault)
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
    async with open_store(config) as store:
        key = host_key(config.keys_dir)
        journal = Journal(store)
        exporter = Exporter(store, config.audit_log) if config.audit.log != "none" else None
        passwords = PasswordChecker()
        console = Console(store, journal, command_tree(), config.node.name, config.node.version)
        listener = Listener(console, Doorkeeper(store, passwords), config)
        try:
            port = await listener.start(key)
            loop.add_signal_handler(signal.SIGUSR1, _tell_state, listener)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            message = f"cannot listen on {config.listen.host} port {config.listen.port}: {reason}"
            raise StartError(message) from error
        await _announce(store, config, port)
        if exporter is not None:
            await exporter.start()
        await record_host(store, journal, config, key.get_fingerprint())
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the process; the collector need not walk it
        await ended.wait()
        _log.info("stopping: no more logins, commands may end")
        await listener.stop()
        passwords.close()
        await journal.close()
        if exporter is not None:
            await exporter.stop()
    _log.info("stopped")


def _tell_state(listener: Listener) -> None:
    """Log what the process holds at this moment, for `kill -USR1`."""
    tasks = len(asyncio.all_tasks())
    _log.info("now: %d connections, %d sessions, %d tasks", *listener.held(), tasks)


async def _announce(store: Store, config: Config, port: int) -> None:
    host = config.listen.host
    everywhere = {"0.0.0.0", "::"}  # noqa: S104  compared with, not bound
    known = await users.every(store)
    name = next((user.name for user in known), "USER")
    _log.info("%s listens on %s port %d", config.node.name, host, port)
    _log.info("log in with: ssh -p %d %s@%s", port, name, "HOST" if host in everywhere else host)
    if not known:
        _log.warning("there are no users yet: ecss-console user add admin")
