"""Fixtures: real servers, each in its own folder."""

from __future__ import annotations

import secrets
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from backups import IDENTITY, PASSPHRASE, status_of
from console import ConsoleServer, needs
from engines import ENGINES, TEMPLATE, Opened, make_template
from faults import Faults, compiled
from hypothesis import HealthCheck, settings
from nodes import NodeServer, Pair, make_node, running
from postgresql import Database, PostgresqlServer, needs_postgresql, postgresql_server
from postgresql_copies import SQLITE_URL, fill

from server.storage.engine import Engine
from server.storage.sqlite.engine import SqliteEngine
from server.storage.sqlite.files import prepare
from server.storage.store import Store

# the same examples on every machine, without deadlines; `make scorecard` runs random ones
settings.register_profile(
    "suite", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def prepared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and the user `admin`, made by the program; servers start with copies of it."""
    needs("ssh-keygen")
    needs("ssh")
    server = ConsoleServer(tmp_path_factory.mktemp("prepared"))
    server.prepare()
    return server.folder


def _served(prepared: Path, folder: Path, **environment: str) -> Iterator[ConsoleServer]:
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    server = ConsoleServer(folder)
    server.start(**environment)
    yield server
    status = server.stop()
    log = "".join(server.log)
    assert status == 0, log
    assert "Traceback" not in log, log
    assert "never retrieved" not in log, log


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A new, open store without a server."""
    prepared = prepare(tmp_path / "console.db", tmp_path / "keys")
    made = Store(await SqliteEngine.open(prepared.database), prepared.vault)
    yield made
    await made.close()


@pytest.fixture(scope="session")
def shared_console(prepared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleServer]:
    """A server shared by tests that leave no traces outside their own domains."""
    # failed logins of one test must not penalise the next
    exempt = {"ECSS_CONSOLE_LIMITS__PER_SOURCE_PENALTY_EXEMPT_LIST": "[127.0.0.1]"}
    yield from _served(prepared_folder, tmp_path_factory.mktemp("shared"), **exempt)


@pytest.fixture
def console(prepared_folder: Path, tmp_path: Path) -> Iterator[ConsoleServer]:
    """A server with an empty store, for one test."""
    yield from _served(prepared_folder, tmp_path)


@pytest.fixture
def stopped_console(prepared_folder: Path, tmp_path: Path) -> Iterator[ConsoleServer]:
    """A folder with a store and the user `admin`, and no server yet. A started server is stopped at the end."""
    shutil.copytree(prepared_folder, tmp_path, dirs_exist_ok=True)
    server = ConsoleServer(tmp_path)
    yield server
    if server.process is not None and server.process.poll() is None:
        server.stop()


@pytest.fixture(scope="module")
def staffed(shared_console: ConsoleServer) -> Iterator[ConsoleServer]:
    """A console with open.local, granted to oleg (operator) and vera (viewer), and ungranted shut.local."""
    for line in ("domain/declare open.local", "domain/declare shut.local"):
        shared_console.run(line)
    for domain in ("open.local", "shut.local"):
        shared_console.run(f"domain/{domain}/integrations/add tester")
    shared_console.add_user("oleg", "operator", "open.local")
    shared_console.add_user("vera", "viewer", "open.local")
    yield shared_console
    for line in ("cocon/user/remove oleg --force", "cocon/user/remove vera --force"):
        shared_console.run(line)
    for domain in ("open.local", "shut.local"):
        shared_console.run(f"domain/remove {domain} --force")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fault injection library."""
    needs("cc")
    return compiled(tmp_path_factory.mktemp("faults") / "faults.so")


@pytest.fixture
def faults(library: Path, stopped_console: ConsoleServer, tmp_path_factory: pytest.TempPathFactory) -> Faults:
    """The control of a console's injected faults."""
    return Faults.make(library, tmp_path_factory.mktemp("control") / "control", stopped_console.folder)


@pytest.fixture
def filled(stopped_console: ConsoleServer, monkeypatch: pytest.MonkeyPatch) -> ConsoleServer:
    """A store with data and no server, the current folder, and a way to encrypt and open a backup."""
    console = stopped_console
    assert console.program("init").returncode == 0
    with closing(sqlite3.connect(console.database)) as connection:
        connection.execute("INSERT INTO domains VALUES ('biysk.local', '2021-02-16T08:00:00Z', 'biysk.local')")
        connection.execute("INSERT INTO history (user_name, line) VALUES ('admin', 'domain/list')")
        connection.commit()
    (console.folder / "identity").write_text(f"# made for this test\n{IDENTITY}\n")
    (console.folder / "passphrase").write_text(PASSPHRASE + "\n")
    monkeypatch.chdir(console.folder)
    return console


@pytest.fixture
def heard_ctrl_c() -> Iterator[None]:
    """Let child processes receive Ctrl-C even where the tests run in a background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server shared by all tests of a worker; they may only use databases of their own."""
    needs_postgresql()
    with postgresql_server() as server:
        yield server


@pytest.fixture
def own_postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server for one test, which may stop, kill, configure and replicate it."""
    needs_postgresql()
    with postgresql_server() as server:
        yield server


@pytest.fixture
def database(postgresql: PostgresqlServer) -> Iterator[Database]:
    """An empty PostgreSQL database for one test."""
    made = postgresql.database(f"test_{secrets.token_hex(4)}")
    yield made
    postgresql.drop(made)


@pytest.fixture(scope="session")
def store_template(postgresql: PostgresqlServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage key of the store in the template of `store_database`."""
    return make_template(postgresql, tmp_path_factory.mktemp("template"))


@pytest.fixture
def store_database(postgresql: PostgresqlServer, store_template: Path) -> Iterator[Database]:  # noqa: ARG001
    """A PostgreSQL database with an empty store, for one test."""
    made = postgresql.database(f"test_{secrets.token_hex(4)}", TEMPLATE)
    yield made
    postgresql.drop(made)


@pytest.fixture
def awkward(filled: ConsoleServer, database: Database, monkeypatch: pytest.MonkeyPatch) -> ConsoleServer:
    """A store on SQLite with rows in every table, in the current folder, and the password of PostgreSQL configured."""
    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__PASSWORD_FILE", str(database.password_file))
    fill(filled.database)
    return filled


@pytest.fixture
def migrated(awkward: ConsoleServer, database: Database, monkeypatch: pytest.MonkeyPatch) -> ConsoleServer:
    """The same store on PostgreSQL, which is configured."""
    assert status_of("migrate-store", SQLITE_URL, database.url) == 0
    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__URL", database.url)
    return awkward


@pytest.fixture(params=[*ENGINES])
def opened(request: pytest.FixtureRequest) -> Opened:
    """Open an engine on the store of a folder; the test closes it."""
    return ENGINES[request.param](request)


@pytest_asyncio.fixture
async def engine(opened: Opened, tmp_path: Path) -> AsyncIterator[Engine]:
    """An engine on a new store, open."""
    made, _ = await opened(tmp_path)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def any_store(opened: Opened, tmp_path: Path) -> AsyncIterator[Store]:
    """A new store, open, on each engine."""
    store = Store(*await opened(tmp_path))
    yield store
    await store.close()


@pytest.fixture(scope="session")
def pair(postgresql: PostgresqlServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The running nodes ds1@ecss1 and ds2@ecss1, shared by tests that leave both running."""
    needs("ssh-keygen")
    needs("ssh")
    database = postgresql.database(f"pair_{secrets.token_hex(4)}")
    folder = tmp_path_factory.mktemp("pair")
    one = make_node(folder / "ds1", database, "ds1@ecss1")
    two = make_node(folder / "ds2", database, "ds2@ecss1", one)
    with running(one, two):
        yield Pair(database, one, two)
    postgresql.drop(database)


@pytest.fixture
def new_node(database: Database, tmp_path: Path) -> Iterator[Callable[[str], NodeServer]]:
    """Make nodes on the database of this test; those that still run at its end are killed."""
    needs("ssh-keygen")
    made: list[NodeServer] = []

    def make(name: str) -> NodeServer:
        made.append(make_node(tmp_path / f"node{len(made)}", database, name, made[0] if made else None))
        return made[-1]

    yield make
    for node in made:
        if node.process is not None and node.process.poll() is None:
            node.process.kill()
            node.process.wait()
