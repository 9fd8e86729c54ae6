"""Real PostgreSQL servers for tests: made, run, crashed, replicated and removed."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from certificates import issued_for
from console import is_absent

#: Owns the databases of the tests and has no other rights.
ROLE = "console"
#: The administrator of the server, with the same password.
SUPERUSER = "postgres"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "fsync": "off",
    "max_wal_size": "128MB",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",  # files in the server's folder, which are removed with it
}
_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_LIMIT_SECONDS = 30
_LARGE_BYTES = 4_000_000_000
# Its standard input ends with the test run, even a killed one. Only then does it stop the servers that still run.
_GUARD = """
exec >/dev/null 2>&1
cat
for data in "$0"/*/; do
    read -r pid <"$data/postmaster.pid" || continue
    [ "/proc/$pid/cwd" -ef "$data" ] && kill -QUIT "$pid" && kill -CONT "$pid"
    while [ "/proc/$pid/cwd" -ef "$data" ]; do sleep 0.1; done
    ipcrm -m "$(sed -n '7s/.* //p' "$data/postmaster.pid")"  # a crashed server leaves shared memory
done
rm -rf "$0"
"""


def is_installed() -> bool:
    """Tell whether this machine has PostgreSQL's server."""
    return _programs() is not None


def needs_postgresql() -> None:
    """Skip the test where PostgreSQL's server is absent; with CI=true fail instead."""
    if not is_installed():
        is_absent("PostgreSQL's server is not installed: no initdb in $PG_BIN or /usr/lib/postgresql/*/bin")


@contextmanager
def postgresql_server(*, on_disk: bool = False, **settings: str) -> Iterator[PostgresqlServer]:
    """Make a server with an empty store and start it. The end stops it and its replicas and removes all files.

    `settings` are those of postgresql.conf. By default `fsync` is off: a killed process loses nothing by that.
    """
    folder = Path(tempfile.mkdtemp(prefix="ecss-pg-", dir="/var/tmp" if on_disk else _place()))  # noqa: S108
    owner = _owner()
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    folder.chmod(0o755)
    words = ["sh", "-c", _GUARD, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True, **_as_owner()) as guard:
        server = PostgresqlServer(folder / "primary", settings)
        try:
            server.initialize()
            server.start()
            server.psql(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{server.password}'")
            yield server
        finally:
            server.close()
            assert guard.stdin is not None
            guard.stdin.close()


@dataclass(frozen=True)
class Database:
    """One database, owned by `ROLE`, and the ways to reach it. The URLs have no password."""

    server: PostgresqlServer
    name: str

    @property
    def url(self) -> str:
        """The URL over TCP."""
        return self.server.url(self.name)

    def url_through(self, port: int) -> str:
        """Return the URL for the proxy on this port."""
        return self.server.url(self.name, port)

    @property
    def socket_url(self) -> str:
        """The URL over the Unix socket."""
        return self.server.socket_url(self.name)

    @property
    def password_file(self) -> Path:
        """The file with the password, readable only by the user of the tests."""
        return self.server.password_file

    def psql(self, sql: str) -> str:
        """Run SQL as the administrator and return the rows as text, columns separated by `|`."""
        return self.server.psql(sql, self.name)


class PostgresqlServer:
    """One server, primary or replica, in a folder of its own. All methods block."""

    def __init__(self, data: Path, settings: dict[str, str]) -> None:
        """Use the folder `data`, which `initialize` or `replica` fills."""
        self.data = data
        self.settings = settings
        self.password_file = data.parent / "password"
        self.port = free_port()
        self.replicas: list[PostgresqlServer] = []
        self._process: subprocess.Popen[bytes] | None = None

    def initialize(self) -> None:
        """Make an empty store that asks every client for a password."""
        owner = _owner()
        self.password_file.touch(0o600)
        self.password_file.write_text(secrets.token_urlsafe(24) + "\n")
        os.chown(self.password_file, owner.pw_uid, owner.pw_gid)  # only for initdb
        words = ("-D", self.data, "-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={self.password_file}")
        self._run("initdb", *words, "--encoding=UTF8", "--locale=C", "--no-sync")
        os.chown(self.password_file, os.geteuid(), os.getegid())

    @property
    def password(self) -> str:
        """The password of `ROLE` and of `SUPERUSER`."""
        return self.password_file.read_text().strip()

    @property
    def pid(self) -> int:
        """The process id of the running postmaster."""
        assert self._process is not None, "the server is not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """The server's log since its first start."""
        return self._log_file.read_text()

    @property
    def _log_file(self) -> Path:
        return self.data.with_name(f"{self.data.name}.log")

    def start(self) -> None:
        """Start the server and wait until it accepts connections. It keeps its port over restarts."""
        options = {**_SETTINGS, **self.settings, "port": str(self.port), "unix_socket_directories": self.data.parent}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), "-D", self.data, *words],
                **_as_owner(),
                cwd=self.data.parent,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        _wait_until(self._accepts, lambda: f"the server does not start:\n{self.log}")

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ends:\n{self.log}"
        with suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().split("\n")
            return lines[0] == str(self.pid) and lines[7:8] in (["ready   "], ["standby "])
        return False

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: `fast` ends all transactions first, `immediate` recovers at the next start.

        `fast` waits for every replica that is connected, so resume a suspended one before.
        """
        os.kill(self.pid, _SIGNALS[mode])
        self._wait()

    def kill(self) -> None:
        """Kill all processes at once, as a crash does. `start` then recovers."""
        family = self._suspended()
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        self._wait()
        # the next start refuses while a process uses the shared memory
        _wait_until(lambda: not any(map(_runs, family)), lambda: "killed processes do not end")

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(_LIMIT_SECONDS)
        self._process = None

    def close(self) -> None:
        """Stop the server and its replicas, if they run, suspended or not."""
        for replica in self.replicas:
            replica.close()
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.stop("immediate")

    def suspend(self) -> None:
        """Freeze all processes until `resume`: connections stay open and nothing answers."""
        self._suspended()

    def resume(self) -> None:
        """Continue after `suspend`."""
        for pid in self._family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _suspended(self) -> list[int]:
        os.kill(self.pid, signal.SIGSTOP)  # first: it makes no more children
        family = self._family()
        for pid in family[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return family

    def _family(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server since its start, ended children included."""
        ticks = sum(sum(map(int, fields[11:15])) for pid in self._family() if (fields := _stat(pid)))
        return ticks / os.sysconf("SC_CLK_TCK")

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Run SQL as the administrator and return the rows as text, columns separated by `|`.

        Several statements run in one transaction.
        """
        words = ("-h", self.data.parent, "-p", str(self.port), "-U", SUPERUSER, "-d", database)
        return self._run("psql", *words, "-qXAt", "-v", "ON_ERROR_STOP=1", "-c", sql).rstrip("\n")

    def _run(self, program: str, *words: str | Path) -> str:
        ran = subprocess.run(
            [_program(program), *words],
            **_as_owner(),
            cwd=self.data.parent,
            env={**os.environ, "PGPASSWORD": self.password},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT_SECONDS,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def database(self, name: str, template: str = "template0") -> Database:
        """Make a database that `ROLE` owns, a copy of `template`."""
        self.psql(f'CREATE DATABASE "{name}" OWNER {ROLE} TEMPLATE "{template}" STRATEGY file_copy')
        return Database(self, name)

    def drop(self, database: Database) -> None:
        """Remove a database, after ending its connections."""
        self.psql(f'DROP DATABASE "{database.name}" WITH (FORCE)')

    def url(self, database: str, port: int = 0) -> str:
        """Return the URL of a database over TCP, without the password. `port` is that of a proxy."""
        return f"postgresql://{ROLE}@127.0.0.1:{port or self.port}/{database}"

    def socket_url(self, database: str) -> str:
        """Return the URL of a database over the Unix socket, without the password."""
        return f"postgresql://{ROLE}@/{database}?host={self.data.parent}&port={self.port}"

    def replica(self, name: str) -> PostgresqlServer:
        """Make a streaming replica called `name`, start it, and wait until it streams."""
        made = PostgresqlServer(self.data.with_name(name), self.settings)
        source = f"host=127.0.0.1 port={self.port} user={SUPERUSER} application_name={name}"
        self._run("pg_basebackup", "-d", source, "-D", made.data, "-R", "--checkpoint=fast", "--no-sync")
        with (made.data / "postgresql.auto.conf").open("a") as settings:
            settings.write("synchronous_standby_names = ''\n")  # a promoted replica has no replica yet
        self.replicas.append(made)
        made.start()
        self._wait_for_replica(name, "state = 'streaming'")
        return made

    def make_synchronous(self, name: str) -> None:
        """Let every COMMIT from now on wait until the replica `name` has stored it."""
        self.configure("synchronous_standby_names", f'"{name}"')
        self._wait_for_replica(name, "sync_state = 'sync'")

    def _wait_for_replica(self, name: str, condition: str) -> None:
        asked = f"SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' AND {condition}"
        _wait_until(lambda: self.psql(asked) == "1", lambda: f"not true of replica {name}: {condition}\n{self.log}")

    def promote(self) -> None:
        """Make a replica a primary, and wait until it takes changes."""
        assert self.psql(f"SELECT pg_promote(true, {_LIMIT_SECONDS})") == "t", self.log

    def configure(self, setting: str, value: str) -> None:
        """Change a setting of the running server, for sessions and replicas made later too."""
        # psql runs several statements of one -c in one transaction, which ALTER SYSTEM refuses
        self.psql(f"ALTER SYSTEM SET {setting} = '{value}'")
        self.psql("SELECT pg_reload_conf()")
        _wait_until(lambda: self.psql(f"SHOW {setting}") == value, lambda: f"{setting} is not {value}")

    def with_tls(self) -> Path:
        """Turn TLS on and return the file of the authority, for `sslmode=verify-full&sslrootcert=…`.

        The certificate is for 127.0.0.1 alone: `verify-full` refuses the same server as `localhost`.
        Connections without TLS are still accepted, but clients with the default `sslmode=prefer` encrypt from now on,
        so that a `FaultProxy` sees no COMMITs.
        """
        issued, owner, authority = issued_for("127.0.0.1"), _owner(), self.data.with_name("authority.pem")
        authority.write_bytes(issued.authority)
        for name, content in (("server.crt", issued.certificate), ("server.key", issued.private_key)):
            path = self.data / name
            path.touch(0o600)
            path.write_bytes(content)
            os.chown(path, owner.pw_uid, owner.pw_gid)
        self.configure("ssl", "on")
        return authority


def free_port() -> int:
    """Return a free TCP port below those that outgoing connections take."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _place() -> str:
    """Return the folder for servers: memory where it is large, as a new database is 300 files, else /tmp.

    The servers' user cannot read pytest's tmp_path.
    """
    with suppress(OSError):
        if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > _LARGE_BYTES:  # noqa: S108
            return "/dev/shm"  # noqa: S108
    return "/tmp"  # noqa: S108


def _programs() -> Path | None:
    """Return the folder with the server's programs: $PG_BIN, else the newest version."""
    folders = [Path(os.environ["PG_BIN"])] if "PG_BIN" in os.environ else Path("/usr/lib/postgresql").glob("*/bin")
    found = [folder for folder in folders if (folder / "initdb").exists()]
    return max(found, key=lambda folder: int("0" + "".join(filter(str.isdigit, folder.parent.name))), default=None)


def _program(name: str) -> Path:
    folder = _programs()
    assert folder is not None, "PostgreSQL's server is not installed"
    return folder / name


def _owner() -> pwd.struct_passwd:
    """Return the user that runs the servers: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


class _AsOwner(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _as_owner() -> _AsOwner:
    owner = _owner()
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none for an ended process."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return []


def _runs(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], ["Z"])


def _wait_until(condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.01)
