"""A console starts while its database is away, refuses what an administrator must mend, and shows no secret."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import asyncpg
import pytest
from console import ConsoleServer
from databases import console_on
from postgresql import ROLE, Database, PostgresqlServer, free_port

from server.storage.postgresql.schema import SCHEMA_LOCK

_OTHER_ENCODING = "CREATE DATABASE latin OWNER {role} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(20)
        yield listening


@pytest.mark.slow
def test_a_server_waits_for_its_database_and_says_so(
    own_postgresql: PostgresqlServer, tmp_path: Path, notified: socket.socket
) -> None:
    console = console_on(own_postgresql.database("console"), tmp_path / "console")
    console.prepare()
    own_postgresql.stop()
    port = free_port()
    ready = console.launch(NOTIFY_SOCKET=str(tmp_path / "notify"), ECSS_CONSOLE_METRICS__LISTEN=f"127.0.0.1:{port}")
    reason = f"waits: the database postgresql://{ROLE}@127.0.0.1:{own_postgresql.port}/console does not answer"
    told = notified.recv(4096).decode()
    assert told.startswith(f"STATUS={reason}: ")
    assert told.endswith("\nEXTEND_TIMEOUT_USEC=30000000")
    with pytest.raises(HTTPError) as refusal:
        urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10)
    assert refusal.value.code == 503
    assert refusal.value.read().decode().startswith(reason)
    assert console.logs(reason)
    assert not ready.is_set()
    own_postgresql.start()
    assert ready.wait(20)
    while "READY=1" not in notified.recv(4096).decode():
        pass
    assert console.run("whoami").startswith("admin\n")
    assert console.stop() == 0


@pytest.mark.slow
def test_a_server_that_waits_ends_at_once_when_it_is_asked(own_postgresql: PostgresqlServer, tmp_path: Path) -> None:
    console = console_on(own_postgresql.database("console"), tmp_path)
    own_postgresql.stop()
    console.launch()
    assert console.logs("waits: the database")
    began = time.monotonic()
    assert console.stop() == 0
    assert time.monotonic() - began < 5
    own_postgresql.start()
    own_postgresql.suspend()  # the kernel accepts the connection, and nobody answers
    try:
        console.launch()
        assert console.logs("waits: the database", "does not answer")
        assert console.stop(signal.SIGINT) == 0
    finally:
        own_postgresql.resume()
    assert "Traceback" not in "".join(console.log)


@pytest.mark.slow
def test_subcommands_refuse_after_their_patience(own_postgresql: PostgresqlServer, tmp_path: Path) -> None:
    console = console_on(own_postgresql.database("console"), tmp_path)
    console.prepare()
    own_postgresql.stop()
    began = time.monotonic()
    ran = console.program("user", "list")
    assert 4 < time.monotonic() - began < 15
    assert ran.returncode != 0
    assert f"the database postgresql://{ROLE}@127.0.0.1:{own_postgresql.port}/console does not answer" in ran.stderr
    assert "Traceback" not in ran.stderr


def _wrong_password(console: ConsoleServer, database: Database) -> str:
    file = console.folder / "wrong"
    file.touch(0o600)
    file.write_text("Feuerstein-2\n")
    _replace(console, str(database.password_file), str(file))
    return "refuses this console: password authentication failed"


def _no_password_file(console: ConsoleServer, database: Database) -> str:
    _replace(console, str(database.password_file), "nowhere")
    return "the password of the database cannot be read from"


def _no_database(console: ConsoleServer, database: Database) -> str:
    _replace(console, f"/{database.name}", "/no_such_database")
    return 'refuses this console: database "no_such_database" does not exist'


def _other_encoding(console: ConsoleServer, database: Database) -> str:
    if database.psql("SELECT count(*) FROM pg_database WHERE datname = 'latin'") == "0":
        database.psql(_OTHER_ENCODING.format(role=ROLE))
    _replace(console, f"/{database.name}", "/latin")
    return "has the encoding LATIN1, and the console needs UTF8"


def _newer_schema(_console: ConsoleServer, database: Database) -> str:
    database.psql("UPDATE ecss_console.store SET value = '999' WHERE name = 'schema'")
    return "has schema 999, this program knows"


def _other_key(console: ConsoleServer, _database: Database) -> str:
    key = console.folder / "keys" / "storage.key"
    key.write_bytes(key.read_bytes()[::-1].replace(b"=", b"").replace(b"\n", b"") + b"=\n")
    return "was made with another storage key"


def _missing_table(_console: ConsoleServer, database: Database) -> str:
    database.psql("DROP TABLE ecss_console.grants")
    return "is damaged (the table grants is missing)"


def _replace(console: ConsoleServer, old: str, new: str) -> None:
    file = console.folder / "config.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [_wrong_password, _no_password_file, _no_database, _other_encoding, _newer_schema, _other_key, _missing_table],
)
def test_what_an_administrator_must_mend_is_refused_at_once(
    spoil: Callable[[ConsoleServer, Database], str],
    store_database: Database,
    store_template: Path,
    tmp_path: Path,
) -> None:
    console = console_on(store_database, tmp_path)
    keys = tmp_path / "keys"
    keys.mkdir(0o700)
    (keys / "storage.key").touch(0o600)
    (keys / "storage.key").write_bytes(store_template.read_bytes())
    message = spoil(console, store_database)
    for words in (("serve",), ("user", "list")):
        ran = console.program(*words)
        assert ran.returncode not in {0, 70}, ran.stderr
        assert message in ran.stderr
        assert "Traceback" not in ran.stderr
        assert "Feuerstein-2" not in ran.stderr
        assert store_database.password_file.read_text().strip() not in ran.stderr


@pytest.mark.slow
def test_tls_is_checked_with_the_name_of_the_host(own_postgresql: PostgresqlServer, tmp_path: Path) -> None:
    database = own_postgresql.database("console")
    authority = own_postgresql.with_tls()
    tls = f"?sslmode=verify-full&sslrootcert={authority}"
    console = console_on(database, tmp_path / "right", database.url + tls)
    console.prepare()
    console.start()
    assert console.run("whoami").startswith("admin\n")
    ciphers = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = 'console' AND ssl"
    assert int(database.psql(ciphers)) >= 1
    assert console.stop() == 0
    other = console_on(database, tmp_path / "wrong", database.url.replace("127.0.0.1", "localhost") + tls)
    ran = other.program("serve")
    assert ran.returncode != 0
    assert "refuses this console" in ran.stderr
    assert "certificate" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_check_of_the_configuration_shows_no_secret(database: Database, tmp_path: Path) -> None:
    console = console_on(database, tmp_path)
    ran = console.program("config", "check")
    assert ran.returncode == 0, ran.stderr
    shown = ran.stdout + ran.stderr
    assert database.password_file.read_text().strip() not in shown
    secret = "Feuerstein-2"
    _replace(console, f"{ROLE}@", f"{ROLE}:{secret}@")
    ran = console.program("config", "check")
    assert ran.returncode == 78
    assert "the password does not belong into the URL" in ran.stdout + ran.stderr
    assert secret not in ran.stdout + ran.stderr


def test_only_the_configuration_counts(database: Database, tmp_path: Path) -> None:
    console = console_on(database, tmp_path)
    console.prepare()
    password = database.password_file.read_text().strip()
    for name, value in {"PGSSLMODE": "require", "PGGSSLIB": "x", "PGSSLNEGOTIATION": "direct"}.items():
        ran = console.program("user", "list", **{name: value})
        assert ran.returncode == 0, (name, ran.stderr)
    pgpass = tmp_path / ".pgpass"
    pgpass.touch(0o600)
    pgpass.write_text(f"*:*:*:*:{password}\n")
    without = {"ECSS_CONSOLE_STORAGE__PASSWORD_FILE": ""}
    for more in ({"PGPASSWORD": password}, {"HOME": str(tmp_path)}, {"PGPASSFILE": str(pgpass)}):
        ran = console.program("user", "list", **without, **more)
        assert ran.returncode == 1
        (line,) = ran.stderr.splitlines()
        assert "refuses this console: password authentication failed" in line


def test_an_unusable_file_of_tls_is_named_at_once(database: Database, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing\n")
    for file, why in (("nowhere.pem", "No such file or directory"), ("no.pem", "no certificate")):
        url = f"{database.url}?sslmode=verify-full&sslrootcert={file}"
        ran = console_on(database, tmp_path, url).program("serve")
        assert ran.returncode == 1
        (line,) = ran.stderr.splitlines()
        assert f"sslrootcert of storage.url cannot be used: {tmp_path / file}: " in line
        assert why in line


@pytest.mark.slow
def test_a_database_that_takes_no_changes_is_no_silent_one(database: Database, tmp_path: Path) -> None:
    database.psql(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    ran = console_on(database, tmp_path).program("init")
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert "no host takes changes: it is a replica, or default_transaction_read_only is on" in line
    assert "does not answer" not in line


@pytest.mark.slow
async def test_a_connection_that_is_lost_during_the_start_is_made_again(database: Database, tmp_path: Path) -> None:
    console = console_on(database, tmp_path)
    password = database.password_file.read_text().strip()
    other = await asyncpg.connect(database.url, password=password)
    await other.execute(f"SELECT pg_advisory_lock({SCHEMA_LOCK})")  # another program makes the store
    ready = await asyncio.to_thread(console.launch)
    starting = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    async with asyncio.timeout(20):
        while database.psql(f"SELECT count(*) {starting}") == "0":  # noqa: ASYNC110  a database tells nobody
            await asyncio.sleep(0.02)
    database.psql(f"SELECT pg_terminate_backend(pid) {starting}")
    await other.close()
    assert await asyncio.to_thread(ready.wait, 20)
    assert console.port, console.log
    assert await asyncio.to_thread(console.stop) == 0


def test_a_password_that_everybody_may_read_is_refused(database: Database, tmp_path: Path) -> None:
    console = console_on(database, tmp_path)
    password = tmp_path / "password"
    password.write_text(database.password_file.read_text())
    password.chmod(0o644)
    _replace(console, str(database.password_file), str(password))
    ran = console.program("user", "add", "first", "--password-stdin", text="correct horse battery staple\n")
    assert ran.returncode != 0
    assert f"everybody may read the password of the database {password}: chmod o= it" in ran.stderr
    password.chmod(0o640)
    ran = console.program("user", "add", "first", "--password-stdin", text="correct horse battery staple\n")
    assert ran.returncode == 0, ran.stderr
