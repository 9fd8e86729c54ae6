"""Parse the URL of a PostgreSQL database, in the form of libpq, without a password."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

SCHEMES = ("postgresql://", "postgres://")
DEFAULT_PORT = 5432
_EXPECTED = "postgresql://USER@HOST[:PORT][,HOST]/DATABASE is expected"
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
#: Those that check the server's certificate with a given `sslrootcert`.
_CHECKING = ("require", "verify-ca", "verify-full")
#: Parameters with the name of a file.
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_PORT = re.compile(r"[0-9]{1,5}")
_MOST_PORT = 65_535
_MOST_HOSTS = 16


@dataclass(frozen=True, slots=True)
class PostgresqlUrl:
    """The address of a database. A host that begins with `/` is the folder of a Unix socket.

    `parameters` are libpq's parameters of TLS. Their files are absolute once `below` was called.
    """

    user: str
    hosts: tuple[tuple[str, int], ...]
    database: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    def below(self, folder: Path) -> PostgresqlUrl:
        """Return the URL with files that are relative to a folder."""
        files = {name: str(folder.absolute() / path) for name, path in self.parameters.items() if name in FILES}
        return replace(self, parameters={**self.parameters, **files})

    def __str__(self) -> str:
        """Return the address for people and logs: it has no secret."""
        hosts = ",".join(_shown_host(host, port) for host, port in self.hosts)
        mode = f"?sslmode={self.parameters['sslmode']}" if "sslmode" in self.parameters else ""
        return f"postgresql://{quote(self.user)}@{hosts}/{quote(self.database)}{mode}"


def parse_postgresql_url(text: str) -> PostgresqlUrl:
    """Parse a URL. Raises ValueError, whose text says what is wrong, and never repeats a password."""
    try:
        parts = urlsplit(text)
        login, _, place = parts.netloc.rpartition("@")
        given = parse_qsl(parts.query, strict_parsing=True, errors="strict") if parts.query else []
    except (ValueError, UnicodeError) as error:
        raise ValueError(_EXPECTED) from error
    query = dict(given)
    user, colon, _ = login.partition(":")
    if colon or "password" in query:
        message = (
            "the password does not belong into the URL: put it into a file, and name that in storage.password_file"
        )
        raise ValueError(message)
    if len(query) < len(given):
        message = "a parameter is given twice"
        raise ValueError(message)
    user = query.pop("user", unquote(user))
    database = query.pop("dbname", unquote(parts.path.removeprefix("/")))
    ports = query.pop("port", "")
    hosts = _hosts(query.pop("host", "") or place, ports)
    if (
        not user
        or not database
        or "/" in database
        or not hosts
        or parts.fragment
        or not (user + database).isprintable()
    ):
        raise ValueError(_EXPECTED)
    return PostgresqlUrl(user, hosts, database, _checked(query))


def _hosts(text: str, ports: str) -> tuple[tuple[str, int], ...]:
    """Return the hosts with their ports. One port, or one for each host, may be given apart."""
    names = [name for name in text.split(",") if name]
    given = ports.split(",") if ports else []
    if len(given) not in {0, 1, len(names)}:
        message = "one port, or one port for each host is expected"
        raise ValueError(message)
    if len(names) > _MOST_HOSTS:
        message = f"at most {_MOST_HOSTS} hosts are expected"
        raise ValueError(message)
    apart = given * len(names) if len(given) == 1 else given or [""] * len(names)
    return tuple(_host(unquote(name), port) for name, port in zip(names, apart, strict=True))


def _host(name: str, port: str) -> tuple[str, int]:
    if name.startswith("["):
        name, _, rest = name[1:].partition("]")
        port = port or rest.removeprefix(":")
    elif not name.startswith("/") and name.count(":") == 1:
        name, _, behind = name.partition(":")
        port = port or behind
    if not name or not name.isprintable() or " " in name:
        raise ValueError(_EXPECTED)
    _refuse_no_host(name)
    if port and not (_PORT.fullmatch(port) and 0 < int(port) <= _MOST_PORT):
        message = "a port is a number from 1 to 65535"
        raise ValueError(message)
    return name, int(port) if port else DEFAULT_PORT


def _refuse_no_host(name: str) -> None:
    """Refuse a name that no host can have, because Python fails on it as on a defect."""
    if name.startswith("/"):
        return
    try:
        name.encode("idna")
    except UnicodeError as error:
        message = f"{name} is no name of a host: a part between dots has 1 to 63 characters"
        raise ValueError(message) from error


def _checked(query: Mapping[str, str]) -> dict[str, str]:
    """Check libpq's parameters. Unknown ones are refused, because a mistyped `sslmode` would turn TLS off."""
    for name, value in query.items():
        if name == "sslmode" and value not in _SSL_MODES:
            message = f"sslmode is one of {', '.join(_SSL_MODES)}"
            raise ValueError(message)
        if name == "target_session_attrs" and value not in {"any", "read-write", "primary"}:
            message = "target_session_attrs is read-write, because the console writes"
            raise ValueError(message)
        if name not in {"sslmode", "target_session_attrs", *FILES}:
            known = ", ".join(("host", "port", "user", "dbname", "sslmode", "target_session_attrs", *FILES))
            message = f"the parameter {name} is not known; known are {known}"
            raise ValueError(message)
    idle = sorted({"sslrootcert", "sslcrl"} & query.keys())
    if idle and query.get("sslmode") not in _CHECKING:
        message = f"{idle[0]} counts only with sslmode={', '.join(_CHECKING)}"
        raise ValueError(message)
    return {name: value for name, value in query.items() if name != "target_session_attrs"}


def _shown_host(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port == DEFAULT_PORT else f"{shown}:{port}"
