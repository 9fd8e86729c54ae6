"""Reload the configuration and the keys of a running server.

A single mistake cancels the whole reload.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from server import log
from server.auth.keys import parse_authorized_keys
from server.config import Config, Current, load_config
from server.config.current import Difference, differences, takeable
from server.encoding import decoded
from server.errors import ConfigurationError, StartError
from server.log import about
from server.model.access import UserKey
from server.node import metrics
from server.node.metrics import Reading, single
from server.plain_files import MOST_TEXT_BYTES, read_plain
from server.transport.hostkey import HostKeys, host_keys, make_ecdsa_host_key
from server.transport.listener import Listener

_MOST_CHARACTERS = 200

_log = logging.getLogger("ecss-console.reload")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The results of a reload: configuration, host keys, and keys that sign user certificates."""

    config: Config
    keys: HostKeys
    authorities: tuple[UserKey, ...]


class Reloader:
    """Applies changes to the running server, and logs which apply now and which need a restart."""

    def __init__(self, current: Current, listener: Listener) -> None:
        """Take the configuration in force, and the listener that uses the keys."""
        self._current = current
        self._listener = listener
        self._taken = True

    @property
    def remark(self) -> str:
        """The failed reload or the waiting keys, for a status line; empty without either."""
        if not self._taken:
            return "; the last reload was refused"
        waiting = len(self._current.waiting)
        return f"; {waiting} configured keys wait for a restart" if waiting else ""

    def reload(self) -> HostKeys | None:
        """Read and apply everything again, and return the host keys.

        Returns None after mistakes: nothing changes.
        """
        self._taken = False
        try:
            loaded = _load(self._current.config)
        except ConfigurationError as error:
            for mistake in error.mistakes:
                _log.error("not reloaded, nothing has changed: %s", mistake, extra=about("reload.refused"))
            return None
        self._take(loaded)
        self._taken = True
        return loaded.keys

    def readings(self) -> Iterator[Reading]:
        """Yield the metrics of the last reload."""
        yield single(metrics.RELOAD_OK, int(self._taken))
        yield single(metrics.RELOAD_WAITING, len(self._current.waiting))

    def _take(self, loaded: Loaded) -> None:
        running = self._current.config
        taken = takeable(loaded.config, running)
        applied, waiting = differences(running, taken), differences(taken, loaded.config)
        self._current.config = taken
        self._current.waiting = tuple(each.name for each in waiting)
        log.configure(taken)
        self._listener.use(loaded.keys, loaded.authorities)
        for each in applied:
            _log.info("reload: %s", _told(each), extra=_about("config.applied", each))
        for each in waiting:
            _log.warning("reload: %s waits for a restart", _told(each), extra=_about("config.waiting", each))
        fingerprints = loaded.keys.fingerprints
        _log.info("host keys read anew: %s", ", ".join(fingerprints), extra=about("hostkeys.read", keys=fingerprints))
        _log.info(
            "reloaded %s: %d keys changed, %d wait for a restart; %d authorities of certificates",
            taken.file or "the defaults",
            len(applied),
            len(waiting),
            len(loaded.authorities),
            extra=about("reloaded", applied=[each.name for each in applied], waiting=self._current.waiting),
        )


def authorities(config: Config) -> tuple[UserKey, ...]:
    """Return the keys in the file `auth.trusted_user_ca_keys`. Raises StartError when it cannot be used."""
    path = config.trusted_user_ca_keys
    if path is None:
        return ()
    try:
        keys = parse_authorized_keys(decoded(read_plain(path, MOST_TEXT_BYTES)))
    except (OSError, ValueError) as error:
        message = f"auth.trusted_user_ca_keys: {path}: {getattr(error, 'strerror', None) or error}"
        raise StartError(message) from error
    if any(key.sources or key.expires_at for key in keys):
        message = f"auth.trusted_user_ca_keys: {path}: options before a key are not supported here"
        raise StartError(message)
    return keys


def _load(running: Config) -> Loaded:
    """Read everything again. Raises ConfigurationError with every mistake."""
    mistakes: list[str] = []
    config = running
    trusted: tuple[UserKey, ...] = ()
    try:
        config = load_config(running.file)
        trusted = authorities(config)
    except ConfigurationError as error:
        mistakes += error.mistakes
    except StartError as error:
        mistakes.append(str(error))
    try:
        keys = _host_keys(running, config, make=not mistakes)
    except StartError as error:
        raise ConfigurationError((*mistakes, str(error))) from error
    if mistakes:
        raise ConfigurationError(tuple(mistakes))
    return Loaded(config, keys, trusted)


def _host_keys(running: Config, config: Config, *, make: bool) -> HostKeys:
    """Read the host keys that a configuration needs. With `make`, create a missing ECDSA key."""
    folder, ecdsa = running.keys_dir, config.ecdsa_host_key  # another folder needs a restart
    keys = host_keys(folder, make=False, ecdsa=ecdsa)
    if not make or not ecdsa or keys.ecdsa is not None:
        return keys
    make_ecdsa_host_key(folder)
    return host_keys(folder, make=False, ecdsa=True)


def _told(difference: Difference) -> str:
    return f"{difference.name}: {_short(difference.before)} → {_short(difference.now)}"


def _about(event: str, difference: Difference) -> dict[str, object]:
    return about(event, key=difference.name, before=difference.before, now=difference.now)


def _short(value: object) -> str:
    """Return a value as the configuration writes it, shortened. The configuration holds no secrets."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}… ({len(text)} characters)"
