"""A truncated or split API key was once stored in the audit, the log and the history (an attack)."""

from __future__ import annotations

import hashlib
import json
import random
import re
import sqlite3
import string
from contextlib import closing

import asyncssh
import paramiko
import pytest
from console import PROMPT, ConsoleServer

from server.commands import command_tree
from server.grammar.match import match
from server.grammar.secrets import holds_secret
from server.grammar.tokens import tokenize
from server.grammar.tree import Location
from server.model.integrations import holds_key, new_key, without_keys

HERE = "domain/biysk.local/integrations"
_FINGERPRINT = "SHA256:HrqqNvV9vJfk3M1RGArdkrBAkUDTk3oJgN5bvJS7rjs"


async def test_attack_a_truncated_or_split_api_key_is_stored_nowhere(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_AUDIT__LOG=str(console.folder / "audit.jsonl"))
    console.run("domain/declare biysk.local")
    key = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=64))  # noqa: S311  the same at every run
    halves = (key[:32], key[32:])
    lines = [
        f"{HERE}/show {key[:-1]}",
        f"{HERE}/remove {key[:48]} --check",
        f"echo {halves[0]} {halves[1]}",
        f"echo {halves[0]}-{halves[1]}",
        f"{HERE}/add crm {halves[0]} {halves[1]}",
        f"{HERE}/adopt crm {halves[0]} {halves[1]}",
        f"{HERE}/adopt {halves[0]}",
        f"{HERE}/adopt crm {key[:30]}",
        f"{HERE}/adopt crm {key[:20]} {key[20:40]} {key[40:]}",
        f"{HERE}/adopt {halves[0]} {halves[1]} --check",
        f"{HERE}/adpot crm {key[:25]}",
        f"adopt crm {key[:25]}",
        f"delete {HERE}/adopt crm {key[:25]}",
        f'{HERE}/adopt crm "{key[:25]}',
        f'cocon/user/key/add admin from="{key[:28]}" ssh-ed25519 AAAA',
        f"cocon/user/key/add admin 'from=\"{key[:28]}\" ssh-ed25519 AAAA'",
        f"cocon/user/add eve --kye {key[:28]}",
    ]
    async with console.asyncssh(username="admin+rich") as connection:
        shell = await connection.create_process(term_type="xterm", encoding="utf-8")
        for line in (*lines, "echo this is kept"):
            await shell.stdout.readuntil(PROMPT)
            shell.stdin.write(f"{line}\n")
        shell.stdin.write("exit\n")
        await shell.wait()
    for name in (key[:-1], f"{halves[0]}-{halves[1]}"):
        with pytest.raises(paramiko.AuthenticationException), console.paramiko(username=name, password="wrong"):
            pass
        with pytest.raises(asyncssh.PermissionDenied):
            await console.connected(username=f"{name} x")
    assert console.stop() == 0
    with closing(sqlite3.connect(console.database)) as database:
        assert ("echo this is kept",) in database.execute("SELECT line FROM history").fetchall()
    files = [path for path in console.folder.rglob("*") if path.is_file()]
    assert {"console.db", "audit.jsonl"} <= {path.name for path in files}
    for start in range(0, 64, 8):
        part = key[start : start + 8]
        assert [path.name for path in files if part.encode() in path.read_bytes()] == []
        assert part not in "".join(console.log)


@pytest.mark.parametrize("gap", ["", " ", "-", "\n", "\r\n", "\\r\\n", "  ", "_", "\t"])
def test_attack_a_key_with_one_break_or_missing_letter_is_masked(gap: str) -> None:
    for length in (64, 63, 62):
        key = new_key()[:length]
        for place in range(17, 47):
            text = f"crm {key[:place]}{gap}{key[place:]}, then more"
            assert without_keys(text) == "crm ***, then more", text
            assert holds_key(text)


@pytest.mark.parametrize(
    "text",
    [
        _FINGERPRINT,
        "12:" + "0123456789abcdef" * 4,
        f"let user customerrelationsmanager in with key {_FINGERPRINT} customerrelationsmanager no more",
        hashlib.sha1(b"", usedforsecurity=False).hexdigest(),
        "0123456789" * 3 + "01 " + "9876543210" * 3 + "12",
        "240100,240101," + ",".join(str(10**31 + number) for number in range(20)),
        "ecss-10.customer-support.telephony-gateway.novosibirsk-region.example.internal.rt-sib.ru",
        "550e8400-e29b-41d4-a716-446655440000 550e8400-e29b-41d4-a716-446655440000",
        "crm-backup-of-the-customer-relations-manager.production_2026@siberia",
        "a" * 47,
    ],
)
def test_attack_ordinary_audit_text_is_not_masked(text: str) -> None:
    assert without_keys(text) == text


def test_attack_compared_heads_are_not_masked_in_the_audit(console: ConsoleServer) -> None:
    head = console.run("cocon/audit/verify").split("head ")[1].split("\n")[0]
    assert re.fullmatch(r"\d+:[0-9a-f]{64}", head)
    console.run(f"cocon/audit/verify --head {head}")
    hidden = head.partition(":")[2]
    console.ssh(f"echo {hidden} SHA256:{hidden}")
    assert console.stop() == 0
    records = [str(each["arguments"]) for each in console.audit()]
    assert json.dumps({"head": head}) in records
    assert sum(hidden in each for each in records) == 1


def test_attack_lines_of_commands_with_secrets_are_not_stored() -> None:
    root = command_tree()
    kept = {
        "domain/list": False,
        "domain/biysk.local/integrations/add crm": False,
        "cocon/user/list": False,
        "cocon/user/passwd eve": False,
        "nosuch words": False,
        "domain/biysk.local/integrations/adopt": True,
        "domain/biysk.local/integrations/adopt x": True,
        "domain/biysk.local/integrations/adopt crm short --chek": True,
        "domain/biysk.local/integrations/adopt | nosuch": True,
        "cocon/user/add eve --role operator": True,
        "cocon/user/key/add eve": True,
        "cocon/user/key/ad eve x": True,
        "adotp crm x": True,
        "admin@ds1@ecss1:/$ domain/biysk.local/integrations/adopt crm x": True,
    }

    def holds(text: str, location: Location = ()) -> bool:
        line = tokenize(text)
        return holds_secret(root, text, line, match(root, location, line))

    assert {line: holds(line) for line in kept} == kept
    assert holds("adopt crm x", ("domain", "biysk.local", "integrations"))
