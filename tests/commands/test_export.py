"""An export rebuilds a domain's integrations: every id, type, number, key, and their order."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from console import PASSWORD, PROMPT, ConsoleServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.commands import exports
from server.cooperative import Turns
from server.errors import CommandError
from server.model.exports import Row, read_rows
from server.model.integrations import Integration, IntegrationType, new_key
from server.model.numbers import parse_numbers
from server.storage.integrations import Keyed

_HERE = "domain/biysk.local/integrations"
_ID = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", fullmatch=True)
_NUMBERS = st.lists(st.from_regex(r"[0-9]{1,32}", fullmatch=True), max_size=30) | st.integers(1, 500).map(
    lambda count: [f"{number:06}" for number in range(98, 98 + count)]
)
_SERVICE = st.tuples(_ID, st.just("service"), _NUMBERS)
_DOMAIN = st.lists(
    _SERVICE | st.tuples(_ID, st.just("widget"), st.just([])), max_size=20, unique_by=lambda each: each[0]
)


def _rows(domain: Sequence[tuple[str, str, list[str]]]) -> list[dict[str, Any]]:
    """Return the rows of `list | json` for these integrations, each with a new key."""
    rows = []
    for client_id, kind, numbers in sorted(domain):
        kept = parse_numbers(",".join(numbers)) if numbers else ()
        rows.append({"client_id": client_id, "type": kind, "api_key": new_key(), "numbers": [*kept]})
    return rows


def _stored(rows: Sequence[dict[str, Any]]) -> list[tuple[Integration, str]]:
    return [
        (Integration(row["client_id"], IntegrationType(row["type"]), tuple(row["numbers"])), row["api_key"])
        for row in rows
    ]


def _import(console: ConsoleServer, document: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    return console.ssh(f"{_HERE}/import", *words, text=document)


def _database(console: ConsoleServer, sql: str) -> list[Any]:
    connection = sqlite3.connect(console.database)
    rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


@pytest.mark.slow
def test_every_domain_is_rebuilt_from_its_export(shared_console: ConsoleServer) -> None:
    """Random domains on the real server, as commands and as a document, compared whole."""
    console = shared_console
    domain = "rebuilt.local"
    here = f"domain/{domain}/integrations"

    async def rebuilt(connection: asyncssh.SSHClientConnection, rows: list[dict[str, Any]]) -> None:
        async def told(command: str, text: str = "") -> str:
            ran = await connection.run(command, input=text)
            assert ran.exit_status == 0, ran.stdout
            return str(ran.stdout)

        async def listed() -> object:
            return json.loads(await told(f"{here}/list | json"))["rows"]

        await connection.run(f"domain/remove {domain} --force")  # from the previous example
        await console.seed(domain, _stored(rows))
        script, document = await told(f"{here}/export"), await told(f"{here}/export | json")
        assert await listed() == rows
        await told(f"domain/remove {domain} --force")
        shell = await connection.create_process()
        out, _ = await shell.communicate(script)
        assert shell.exit_status == 0, out
        assert await listed() == rows
        assert await told(f"{here}/export") == script
        await told(f"domain/remove {domain} --force")
        await told(f"domain/declare {domain}")
        await told(f"{here}/import", document)
        assert await listed() == rows

    with asyncio.Runner() as runner:
        connection = runner.run(console.connected())

        @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(_DOMAIN)
        def every(made: list[tuple[str, str, list[str]]]) -> None:
            runner.run(rebuilt(connection, _rows(made)))

        every()
        connection.close()
        runner.run(connection.wait_closed())


def test_openssh_pipes_one_console_into_another(console: ConsoleServer, tmp_path: Path) -> None:
    console.run("domain/declare biysk.local")
    for words in ("crm", "ivr --service --numbers 007,24010{0-1}", "empty --service"):
        console.run(f"{_HERE}/add {words}")
    rows = json.loads(console.run(f"{_HERE}/list | json"))["rows"]
    script = tmp_path / "script"
    script.write_text(console.run(f"{_HERE}/export"))
    assert script.read_text().startswith("domain/declare biysk.local\ndomain/biysk.local/integrations/adopt crm ")
    assert len(script.read_text().splitlines()) == 4, "no footer"
    console.run("domain/remove biysk.local --force")
    fed = console.ssh(text=script.read_bytes())
    assert fed.returncode == 0, fed.stdout
    assert json.loads(console.run(f"{_HERE}/list | json"))["rows"] == rows
    assert console.run(f"{_HERE}/export | match ' crm '").splitlines() == script.read_text().splitlines()[1:2]
    assert "Count: 4" in console.run(f"{_HERE}/export | count")


def test_ten_thousand_integrations_are_imported_and_exported(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    rows = _rows([(f"c{number:05}", "service", [f"{number:07}", "0100"]) for number in range(10_000)])
    document = json.dumps({"rows": rows}, indent=1)
    checked = console.ssh(f"{_HERE}/import --check", text=document)
    assert checked.returncode == 0, checked.stdout[:500]
    assert b"add 10,000 integrations to domain biysk.local" in checked.stdout
    assert "Count: 0" in console.run(f"{_HERE}/list | count")
    done = _import(console, document)
    assert done.returncode == 0, done.stdout[:500]
    assert done.stdout.startswith(b"Integrations added with their keys: 10000\n\n[exec at: ")
    assert json.loads(console.run(f"{_HERE}/export | json"))["rows"] == rows
    assert len(console.run(f"{_HERE}/export").splitlines()) == 10_001
    ((detail, arguments),) = _database(
        console, "SELECT detail, arguments FROM audit WHERE command LIKE '%import' AND event = 'change'"
    )
    assert detail.startswith(
        "add 10,000 integrations to domain biysk.local, with the keys that they have: c00000, c00001"
    )
    assert arguments == '{"domain": "biysk.local"}'


async def test_export_progress_is_shown_to_its_own_session_only(stopped_console: ConsoleServer) -> None:
    console, numbers = stopped_console, tuple(f"{number}" for number in range(1000, 9000, 7))
    stored = [(Integration(f"c{each}", IntegrationType.SERVICE, numbers), new_key()) for each in range(600)]
    await console.seed("biysk.local", stored)
    console.start()
    async with console.asyncssh(client_version="OpenSSH_9.9") as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(80, 24))
        await shell.stdout.readuntil(PROMPT)
        for key in f"{_HERE}/export | count":
            shell.stdin.write(key)
            await asyncio.sleep(0.01)
        shell.stdin.write("\r")
        told = await shell.stdout.readuntil("nodes: ")
        shell.stdin.write_eof()
    assert re.search(r"━+╸? +\d+ of 600 keys", told)
    assert re.search(r"━+╸? +\d+ of 600 commands", told)
    assert re.search(r"\r\x1b\[K\S*Count: 601\r\n", told)  # replaces the progress bar
    script = await asyncio.to_thread(console.ssh, text=f"{_HERE}/export | count\n", options=["-tt"])
    assert b"Count: 601" in script.stdout
    assert b" of 600 " not in script.stdout


def test_every_conflict_is_named_and_nothing_is_changed(console: ConsoleServer) -> None:
    for domain in ("biysk.local", "secret.local", "barnaul.local"):
        console.run(f"domain/declare {domain}")
        console.run(f"domain/{domain}/integrations/add tester")
    console.add_user("olga", "operator", "biysk.local", "barnaul.local")
    others = {
        domain: json.loads(console.run(f"domain/{domain}/integrations/export | json"))["rows"][0]["api_key"]
        for domain in ("barnaul.local", "secret.local")
    }
    rows = [
        {"client_id": "new", "type": "widget", "api_key": new_key()},
        {"client_id": "tester", "type": "widget", "api_key": new_key()},
        {"client_id": "ivr", "type": "widget", "api_key": others["barnaul.local"]},
        {"client_id": "crm", "type": "widget", "api_key": others["secret.local"]},
    ]
    before = _database(console, "SELECT * FROM integrations")
    words = [*console.ssh_words(user="olga"), f"{_HERE}/import"]
    ran = subprocess.run(words, input=json.dumps({"rows": rows}).encode(), capture_output=True, check=False)
    assert ran.returncode == 1
    assert ran.stdout.decode().splitlines()[:4] == [
        "Command error: 3 conflicts, nothing was changed",
        "the key of crm is that of another domain's already",
        "the key of ivr is that of integration tester in domain barnaul.local already",
        "integration tester exists already in domain biysk.local",
    ]
    assert _database(console, "SELECT * FROM integrations") == before
    again = console.ssh(f"{_HERE}/adopt tester {new_key()}")
    assert again.stdout.startswith(b"Command error: integration tester exists already in domain biysk.local, give --")
    # restore yesterday's key in one step, and store no part of it where others read
    assert console.ssh(f"{_HERE}/adopt nobody {new_key()} --replace").stdout.startswith(
        b"Command error: there is no integration nobody in domain biysk.local, adopt it without --replace"
    )
    old = new_key()
    console.run(f"{_HERE}/adopt tester {old} --service --numbers 1{{0-2}} --replace")
    assert f"│tester   │service│{old}│Numbers:│" in console.run(f"{_HERE}/list")
    taken = console.ssh(f"{_HERE}/adopt tester {others['barnaul.local']} --replace")
    assert taken.returncode == 1
    assert old in console.run(f"{_HERE}/list")
    assert console.ssh(f"domain/nowhere.local/integrations/adopt tester {new_key()}").stdout.startswith(
        b"Command error: there is no domain nowhere.local"
    )


_GOOD = {"client_id": "crm", "type": "widget", "api_key": "K" * 64}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("", "no document was given"),
        ("{", "the document is no JSON: it ends too soon"),
        ("crm", "the document is no JSON: Expecting an object with rows"),
        ('{"rows": [}', "the document is no JSON: Expecting value, character 11"),
        ('{"lines": [], "status": 1}', "the document has no rows"),
        ('{"rows": []', "the document is no JSON: it ends too soon"),
        ('{"rows": [], "status": 0}\n{"rows": []}\n', "something follows the document, character 27"),
        ("[] []", "something follows the document, character 4"),
        ('{"rows": [], "rows": []}', "the document has rows twice"),
        ("[1]", "integration 1: an object with client_id, type, api_key, numbers is expected"),
        ([{**_GOOD, "client_id": ".crm"}], "integration 1: a client id is 1 to 64"),
        ([{**_GOOD, "type": "gadget"}], "integration 1: unknown type 'gadget'; use widget or service"),
        ([{**_GOOD, "api_key": "KKKK" + "*" * 56 + "KKKK"}], "integration 1: the key is masked"),
        ([{**_GOOD, "api_key": "short"}], "integration 1: the key is not an API key"),
        ([{**_GOOD, "numbers": ["1"]}], "integration 1: crm is a widget: only a service has numbers"),
        ([{**_GOOD, "type": "service", "numbers": [7]}], "integration 1: numbers is a list of texts"),
        ([{**_GOOD, "typ": "x"}], "integration 1: there is no field 'typ'"),
        ([{"client_id": "crm"}], "integration 1: type is missing"),
        ([_GOOD, _GOOD], "integration 2, crm: the client id is already used by integration 1"),
        ([_GOOD, {**_GOOD, "client_id": "ivr"}], "integration 2, ivr: the key is already used by integration 1"),
        ("[" * 100_000, "the document is no JSON"),
        ('[{"client_id": "a", "client_id": "b"}]', "the name 'client_id' stands twice in an object"),
        ('{"rows": [], "status": ' + "9" * 5_000 + ', "status": 1}', "the document is no JSON: Expecting"),
        ([{**_GOOD, "type": "service", "numbers": [10**4_000]}], "integration 1: numbers is a list of texts"),
        (
            "[{" + ", ".join(f'"{number}": 0' for number in range(200_000)) + "}]",
            "at character 2 is longer than 640,000",
        ),
        ('{"x": "' + "x" * 700_000 + '", "rows": []}', "at character 7 is longer than 640,000 characters"),
        ([{**_GOOD, "type": "service", "numbers": ["1"] * 90_000}], "integration 1: 90,000 numbers, at most 10,000"),
    ],
)
def test_a_document_is_refused_for_each_kind_of_mistake(
    shared_console: ConsoleServer, document: object, told: str
) -> None:
    text = document if isinstance(document, str) else json.dumps({"status": 0, "rows": document})
    ran = _import(shared_console, text)
    assert ran.returncode == 2
    assert told in ran.stdout.decode()
    assert b"Usage: " in ran.stdout
    assert b"KKKKKKKK" not in ran.stdout


def test_all_mistakes_of_a_document_are_reported_together() -> None:
    good, bad = _GOOD, {**_GOOD, "type": "gadget"}
    found = [*read_rows(json.dumps([bad, good, bad]))]
    assert [isinstance(each, Row) for each in found] == [False, True, False]


async def test_summarising_many_numbers_yields_the_event_loop() -> None:
    """An export of ten thousand services with a hundred numbers once blocked all other sessions for a second."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    numbers = tuple(f"{number}" for number in range(10_000_000, 10_140_000, 7))
    service = Keyed(Integration("ivr", IntegrationType.SERVICE, numbers), new_key())
    counting = asyncio.create_task(count())
    with pytest.raises(CommandError):
        await exports._refuse_unspeakable(  # noqa: SLF001  what export does first
            Turns().of("eve"), "biysk.local", [service] * 10, lambda _: None
        )
    counting.cancel()
    assert turns >= 5


def test_an_export_without_the_key_permission_has_no_keys(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    key = re.findall(r"[A-Za-z0-9]{64}", console.run(f"{_HERE}/add tester"))[0]
    console.add_user("vera", "viewer", "biysk.local")
    console.add_user("olga", "operator", "biysk.local")
    status, told = console.told("vera", f"{_HERE}/export --reveal")
    assert status == 126
    assert "needs keys.reveal" in told
    assert console.told("vera", f"{_HERE}/adopt x {new_key()}")[0] == 126
    assert key in console.told("olga", f"{_HERE}/export")[1]
    assert console.told("olga", "domain/elsewhere.local/integrations/export")[0] == 126
    console.stop()
    console.start(ECSS_CONSOLE_INTEGRATIONS__SHOW_KEYS="masked")
    status, told = console.told("olga", f"{_HERE}/export")
    assert status == 1
    assert "give --reveal" in told
    assert key in console.told("olga", f"{_HERE}/export --reveal")[1]
    shown = console.run("cocon/audit/list --user olga | match export | json")
    assert [row["arguments"] for row in json.loads(shown)["rows"]][-1] == '{"domain": "biysk.local", "reveal": true}'


async def test_a_typed_api_key_is_stored_nowhere(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    typed, misspelt, wrong, documented = (new_key() for _ in range(4))
    lines = [
        f"{_HERE}/adopt crm {typed}",
        f"{_HERE}/adpt crm {misspelt}",
        f"{_HERE}/adopt crm {wrong} --servce",
        f"{_HERE}/import",
        json.dumps([{**_GOOD, "client_id": "ivr", "api_key": documented}]),
        "whoami",
        "history",
    ]
    async with console.asyncssh(client_keys=None, password=PASSWORD, client_version="OpenSSH_9.9") as connection:
        shell = await connection.create_process(term_type="xterm", encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        seen = ""
        for line in lines[:-3]:
            for key in line:
                shell.stdin.write(key)
            shell.stdin.write("\r")
            seen += await shell.stdout.readuntil(": " if line.endswith("import") else PROMPT)
        shell.stdin.write(lines[-3] + "\r")
        seen += await shell.stdout.readuntil(PROMPT)
        assert documented not in seen, "it is not echoed"
        shell.stdin.write("\x1b[A\x1b[A")  # the arrow key does not recall the line with the key
        await asyncio.sleep(0)
        shell.stdin.write("\x15" + lines[-2] + "\r")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write(lines[-1] + "\r")
        listed = await shell.stdout.readuntil(PROMPT)
        shell.stdin.write("exit\r")
        await shell.wait()
    assert "whoami" in listed
    assert f"{_HERE}/import" in listed
    console.run("cocon/audit/list --last 1")
    console.stop()
    secrets = (typed, misspelt, wrong, documented)
    assert not any(secret in listed for secret in secrets)
    ((arguments,),) = _database(console, "SELECT arguments FROM audit WHERE command LIKE '%adopt' AND event = 'change'")
    assert arguments == '{"domain": "biysk.local", "client_id": "crm", "key": "***"}'
    for path in console.folder.rglob("*"):
        if path.is_file():
            assert not any(secret.encode() in path.read_bytes() for secret in secrets), path
    assert not any(secret in "".join(console.log) for secret in secrets)


async def test_a_shell_takes_a_document_of_any_length_on_one_line(shared_console: ConsoleServer) -> None:
    shared_console.run("domain/declare long.local")
    here = "domain/long.local/integrations"
    rows = _rows([(f"c{number:04}", "service", ["1" * 32, "0" * 32]) for number in range(3_000)])
    document = json.dumps({"rows": rows})
    assert len(document) > 262_144 + 65_536
    for term, options in ((None, {}), ("xterm", {}), ("xterm", {"client_version": "OpenSSH_9.9"})):
        async with shared_console.asyncssh(**options) as connection:
            shell = await connection.create_process(term_type=term)
            out, _ = await shell.communicate(f"{here}/import --check\n{document}\nwhoami\nexit 7\n")
            assert shell.exit_status == 7
            text = str(out).replace("\r\n", "\n")
            assert "add 3,000 integrations to domain long.local" in text
            assert "$ admin\n" in text or "$ whoami\nadmin\n" in text
            assert rows[0]["api_key"] not in text
            assert "no such command" not in text


async def test_ctrl_c_and_the_end_of_input_refuse_a_document(shared_console: ConsoleServer) -> None:
    async with shared_console.asyncssh() as connection:
        shell = await connection.create_process(term_type="xterm")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write(f"{_HERE}/import\n")
        await shell.stdout.readuntil("on one line: ")
        shell.stdin.write('{"rows"')
        shell.stdin.write("\x03")
        assert "^C" in await shell.stdout.readuntil(PROMPT)
        shell.stdin.write(f"{_HERE}/import\n")
        await shell.stdout.readuntil("on one line: ")
        shell.stdin.write("\x04")
        assert "no document was given" in await shell.stdout.readuntil(PROMPT)
        shell.stdin.write("exit\n")
        await shell.wait()


def test_numbers_too_long_for_a_line_are_exported_as_a_document(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    numbers = [f"{number * 7919:032}"[::-1] for number in range(10_000)]
    rows = [{"client_id": "huge", "type": "service", "api_key": new_key(), "numbers": numbers}]
    assert _import(console, json.dumps(rows)).returncode == 0
    ran = console.ssh(f"{_HERE}/export")
    assert ran.returncode == 1
    assert ran.stdout.startswith(
        b"Command error: the numbers of these do not fit into a line, export with | json\nhuge\n"
    )
    assert json.loads(console.run(f"{_HERE}/export | json"))["rows"][0]["numbers"] == sorted(set(numbers))
