"""The schema of the configuration. Every key is optional."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from server.addresses import plain_address
from server.config.limits import Limits
from server.config.postgresql_url import SCHEMES, PostgresqlUrl, parse_postgresql_url
from server.config.values import Counts, Section, Text, Whole
from server.file_names import DATABASE_NAME, STORAGE_KEY_NAME

_SQLITE = "sqlite:///"
_PROMPT_FIELD = re.compile(r"\{(?:user|node|path)\}")


class Listen(Section):
    """The address of the SSH server."""

    host: Annotated[Text, Counts.RESTART] = Field(
        default="127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 or :: for all"
    )
    port: Annotated[Whole, Counts.RESTART] = Field(
        default=8023, ge=0, le=65535, description="TCP port; 0 takes a free one and logs which"
    )


class Node(Section):
    """The node's identity in prompts and footers."""

    name: Annotated[str, Counts.RESTART] = Field(
        default="ds1@ecss1", pattern=r"^[^\s,:]{1,64}$", description="name of this node in prompt and footer"
    )

    version: Annotated[str, Counts.RESTART] = Field(
        default="3.14.7.585", pattern=r"^[^\s,\]]{1,64}$", description="version in the footer"
    )

    @field_validator("name")
    @classmethod
    def _distinct(cls, name: str) -> str:
        """Refuse a name that `--on` or a terminal would take for something else."""
        if name == "all" or not name.isprintable():
            message = "visible characters are expected, and another name than `all`, which means every node"
            raise ValueError(message)
        return name


class Storage(Section):
    """The database."""

    url: Annotated[Text, Counts.RESTART] = Field(
        default=f"sqlite:///var/{DATABASE_NAME}",
        description=(
            "SQLite database; sqlite:///FILE is relative to this file, sqlite:////FILE absolute; for several nodes "
            "postgresql://USER@HOST[:PORT][,HOST]/DATABASE"
        ),
    )
    password_file: Annotated[Text, Counts.RESTART] = Field(
        default="", description="file with the password of the PostgreSQL user; relative to this file"
    )

    @field_validator("url")
    @classmethod
    def _known_url(cls, url: str) -> str:
        if url.startswith(SCHEMES):
            parse_postgresql_url(url)
        elif not url.startswith(_SQLITE) or not Path(url.removeprefix(_SQLITE)).name:
            message = (
                "sqlite:///FILE (relative), sqlite:////FILE (absolute) or postgresql://USER@HOST/DATABASE is expected"
            )
            raise ValueError(message)
        return url


class Keys(Section):
    """The paths of the host keys and the storage key."""

    dir: Annotated[Text, Counts.RESTART] = Field(
        default="keys", min_length=1, description="folder of the host keys and the storage key; relative to this file"
    )
    storage_key_file: Annotated[Text, Counts.RESTART] = Field(
        default="", description="path of the storage key; relative to this file; empty is storage.key in dir"
    )


class Ssh(Section):
    """Encryption of connections."""

    policy: Annotated[Literal["default", "post-quantum", "compatible"], Counts.NEXT] = Field(
        default="default",
        description=(
            "default for current clients; post-quantum only for clients with ML-KEM; compatible also for old libraries"
        ),
    )
    rekey_megabytes: Annotated[Whole, Counts.NEXT] = Field(
        default=1024, ge=1, le=1048576, description="data sent on one connection before new session keys are negotiated"
    )


class Audit(Section):
    """The copy of the audit outside the store."""

    log: Annotated[Text, Counts.RESTART] = Field(
        default="none",
        min_length=1,
        description="copy of each event as a JSON line: none, stderr, or a file relative to this file",
    )


class Keepalive(Section):
    """SSH keepalive, which finds clients that no longer respond.

    TCP keepalive, for dead hosts, is always on.
    """

    interval_seconds: Annotated[Whole, Counts.NEXT] = Field(
        default=0, ge=0, le=86400, description="seconds of silence before a keepalive request; 0 sends none"
    )
    count: Annotated[Whole, Counts.NEXT] = Field(
        default=3, ge=1, le=100, description="unanswered requests before the connection is closed"
    )


class Greeting(Section):
    """Texts before and after the login, of one or more lines."""

    banner: Annotated[str, Counts.NEXT] = Field(default="", description="shown to every client before the login")
    motd: Annotated[str, Counts.NEXT] = Field(
        default="", description="shown after the login to people at a terminal, never to scripts"
    )


class Prompt(Section):
    """The prompt."""

    format: Annotated[str, Counts.NOW] = Field(
        default="{user}@{node}:{path}$ ",
        max_length=200,
        description="the prompt with the fields {user}, {node} and {path}; it ends in `$ `",
    )
    colour: Annotated[Literal["none", "red", "green", "yellow", "blue", "magenta", "cyan"], Counts.NEXT] = Field(
        default="none",
        description="none, red, green, yellow, blue, magenta or cyan; scripts get no colour",
    )

    def text(self, *, user: str, node: str, path: str) -> str:
        """Return the prompt of a user at a path. Braces inside the values stay as they are."""
        values = {"{user}": user, "{node}": node, "{path}": path}
        return _PROMPT_FIELD.sub(lambda found: values[found[0]], self.format)

    @field_validator("format")
    @classmethod
    def _waited_for(cls, text: str) -> str:
        """Refuse a prompt that scripts cannot wait for, or that controls the terminal."""
        if not text.isprintable():
            message = "one line of visible characters is expected"
            raise ValueError(message)
        if left := re.search(r"\{[^}]*\}?|\}", _PROMPT_FIELD.sub("", text)):
            message = f"unknown field {left[0]}; use {{user}}, {{node}} and {{path}}"
            raise ValueError(message)
        if not text.endswith("$ "):
            message = "it must end in a dollar sign and a blank, because scripts wait for them; put it in quotes"
            raise ValueError(message)
        return text


class Integrations(Section):
    """How integrations are shown."""

    show_keys: Annotated[Literal["full", "masked"], Counts.NOW] = Field(
        default="full", description="full, or masked: only the reply that creates a key and show --reveal show it"
    )


class Sessions(Section):
    """Time limits of sessions. People are warned a minute before the end."""

    idle_seconds: Annotated[Whole, Counts.NOW] = Field(
        default=0,
        ge=0,
        le=2_592_000,
        description="seconds without input before a session ends; 0 is no limit",
    )
    longest_seconds: Annotated[Whole, Counts.NOW] = Field(
        default=0, ge=0, le=2_592_000, description="longest duration of a session in seconds; 0 is no limit"
    )


class Auth(Section):
    """Login methods besides the users' own passwords and keys."""

    trusted_user_ca_keys: Annotated[Text, Counts.NEXT] = Field(
        default="",
        description="file of public keys that sign user certificates; relative to this file",
    )


class Log(Section):
    """The program's log on standard error."""

    format: Annotated[Literal["console", "json"], Counts.NOW] = Field(
        default="console", description="console for people; json, one object per line, for collectors"
    )
    level: Annotated[Literal["debug", "info", "warning", "error"], Counts.NOW] = Field(
        default="info", description="debug, info, warning or error: the lowest level that is logged"
    )


class Metrics(Section):
    """The pages /metrics, /healthz and /readyz over HTTP, without a password."""

    public: Annotated[bool, Counts.RESTART] = Field(
        default=False, description="allow an address that other machines can reach"
    )
    listen: Annotated[Text, Counts.RESTART] = Field(
        default="", description="ADDRESS:PORT, as 127.0.0.1:9823 or [::1]:9823; empty is off; port 0 takes a free one"
    )

    @field_validator("listen")
    @classmethod
    def _near(cls, text: str, info: ValidationInfo) -> str:
        if not text:
            return text
        host, _, port = text.rpartition(":")
        try:
            address = plain_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            address = None
        digits = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535  # noqa: PLR2004
        zone = "%" in host and address is not None and not address.is_link_local
        if address is None or not digits or zone or (":" in host) is not host.startswith("["):
            message = "an address and a port are expected, as in 127.0.0.1:9823 or [::1]:9823"
            raise ValueError(message)
        if not address.is_loopback and not info.data.get("public"):
            message = f"other machines can reach {address}: metrics.public: true allows it"
            raise ValueError(message)
        return f"{address}:{port}" if address.version == 4 else text  # noqa: PLR2004  a mapped address is written as IPv4


class Config(Section):
    """The whole configuration. Relative paths start from the folder of its file."""

    listen: Listen = Listen()
    node: Node = Node()
    storage: Storage = Storage()
    keys: Keys = Keys()
    ssh: Ssh = Ssh()
    audit: Audit = Audit()
    keepalive: Keepalive = Keepalive()
    limits: Limits = Limits()
    greeting: Greeting = Greeting()
    prompt: Prompt = Prompt()
    integrations: Integrations = Integrations()
    sessions: Sessions = Sessions()
    auth: Auth = Auth()
    log: Log = Log()
    metrics: Metrics = Metrics()
    _base: Path = PrivateAttr(default=Path())
    _file: Path | None = PrivateAttr(default=None)
    _credential: Path | None = PrivateAttr(default=None)
    _password_credential: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """The configuration file; None without one."""
        return self._file

    @property
    def postgresql(self) -> PostgresqlUrl | None:
        """The address of the PostgreSQL database; None when the store is on SQLite."""
        url = self.storage.url
        return parse_postgresql_url(url).below(self._base) if url.startswith(SCHEMES) else None

    @property
    def database_password(self) -> Path | None:
        """The file with the password of PostgreSQL: systemd's credential `database.password`, or the configured one."""
        configured = self._base / self.storage.password_file if self.storage.password_file else None
        return self._password_credential or configured

    def with_store(self, url: str) -> Config:
        """Return the configuration with another `storage.url`. Raises ValueError for a wrong one."""
        try:
            storage = Storage(url=url, password_file=self.storage.password_file)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self.model_copy(update={"storage": storage})

    @property
    def store_name(self) -> str:
        """The database for people and logs: an absolute path, or a URL without secrets."""
        return str(self.postgresql or self.database.absolute())

    @property
    def database(self) -> Path:
        """The SQLite file. Only for a store on SQLite.

        For a link it is the target, because SQLite creates its other files beside the target.
        """
        path = self._base / self.storage.url.removeprefix(_SQLITE)
        return Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114  never raises

    @property
    def places(self) -> tuple[Path, ...]:
        """The configured paths of the database, if it is a file, and of the keys folder, without following links."""
        if self.postgresql is not None:
            return (self.keys_dir,)
        return self._base / self.storage.url.removeprefix(_SQLITE), self.keys_dir

    @property
    def trusted_user_ca_keys(self) -> Path | None:
        """The file of the keys that sign user certificates."""
        return self._base / self.auth.trusted_user_ca_keys if self.auth.trusted_user_ca_keys else None

    @property
    def keys_dir(self) -> Path:
        """The folder of the keys."""
        return self._base / self.keys.dir

    @property
    def storage_key(self) -> Path:
        """The path of the storage key: systemd's credential `storage.key`, or else the configured file."""
        configured = self.keys.storage_key_file or f"{self.keys.dir}/{STORAGE_KEY_NAME}"
        return self._credential or self._base / configured

    @property
    def ecdsa_host_key(self) -> bool:
        """Whether the policy needs an ECDSA host key beside the Ed25519 one."""
        return self.ssh.policy == "compatible"

    @property
    def audit_log(self) -> Path | None:
        """The file for the audit's JSON lines; None when `audit.log` names no file."""
        return None if self.audit.log in {"none", "stderr"} else self._base / self.audit.log
