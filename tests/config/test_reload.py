"""SIGHUP reloads the configuration and the keys whole or not at all, and logs when changes apply."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import asyncssh
import pytest
import yaml
from console import PASSWORD, PROMPT, ConsoleServer

from server.config import Config, load_config
from server.config.current import declared, differences, takeable
from server.config.values import Counts

#: A value other than the default for every key, so that a reload finds each one changed.
OTHER = {
    "listen.host": "127.0.0.2",
    "listen.port": 1,
    "node.name": "other@node",
    "node.version": "9",
    "storage.url": "sqlite:///elsewhere.db",
    "storage.password_file": "elsewhere.password",
    "keys.dir": "elsewhere",
    "keys.storage_key_file": "elsewhere.key",
    "ssh.policy": "post-quantum",
    "ssh.rekey_megabytes": 512,
    "audit.log": "stderr",
    "keepalive.interval_seconds": 31,
    "keepalive.count": 4,
    "limits.login_grace_time": 31,
    "limits.max_auth_tries": 7,
    "limits.max_startups": "63:30:99",
    "limits.per_source_max_startups": 63,
    "limits.max_login_bytes": 65537,
    "limits.max_connections": 900,
    "limits.per_source_max_connections": 800,
    "limits.max_sessions_per_user": 700,
    "limits.max_sessions": 63,
    "limits.per_source_penalties": False,
    "limits.per_source_penalty_exempt_list": ["127.0.0.1"],
    "limits.per_source_net_block_size": "24:64",
    "greeting.banner": "authorised people only\n",
    "greeting.motd": "welcome\n",
    "prompt.format": "{user}@[{node}]:{path}$ ",
    "prompt.colour": "green",
    "integrations.show_keys": "masked",
    "sessions.idle_seconds": 3600,
    "sessions.longest_seconds": 7200,
    "auth.trusted_user_ca_keys": "ca.pub",
    "log.format": "json",
    "log.level": "debug",
    "metrics.public": True,
    "metrics.listen": "127.0.0.1:1",
}
RESTART = {f"{section}.{key}" for section, key, when in declared() if when is Counts.RESTART}


def _write(console: ConsoleServer, **sections: dict[str, object]) -> None:
    (console.folder / "config.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")


def _reload(console: ConsoleServer, *words: str) -> None:
    """Request a reload and wait until the log reports its end."""
    assert console.process is not None
    console.log.clear()
    console.process.send_signal(signal.SIGHUP)
    found = console.logs(*(words or ("reloaded ",)))
    assert found, "".join(console.log)


def _banner(console: ConsoleServer) -> str:
    """Return the text shown before the login."""
    program, *words = console.ssh_words()
    ran = subprocess.run(
        [program, "-o", "LogLevel=INFO", *words, "whoami"], capture_output=True, check=True, timeout=60
    )
    return ran.stderr.decode().splitlines()[-1]


def _key_exchanges(console: ConsoleServer) -> list[str]:
    """Return the key exchange algorithms that the server offers, from its first packet (RFC 4253, 7.1)."""
    with socket.create_connection(("127.0.0.1", console.port), 10) as client, client.makefile("rb") as stream:
        client.sendall(b"SSH-2.0-test\r\n")
        assert stream.readline().startswith(b"SSH-2.0-")
        packet = stream.read(int.from_bytes(stream.read(4), "big"))
    names = packet[1 + 1 + 16 :]  # after the padding length, the packet type and the cookie
    return names[4 : 4 + int.from_bytes(names[:4], "big")].decode().split(",")


def _until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _sections(values: dict[str, object]) -> dict[str, dict[str, object]]:
    sections: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    return sections


def test_every_key_documents_when_a_change_applies() -> None:
    names = [f"{section}.{key}" for section, key, _ in declared()]  # raises for a key without one
    assert set(names) == set(OTHER)
    root = Path(__file__).parents[2]
    words = [sys.executable, str(root / "scripts" / "configuration_page.py"), "--check"]
    assert subprocess.run(words, check=False).returncode == 0
    page = root / "docs" / "configuration.md"
    rows = {row.split("`")[1]: row for row in page.read_text(encoding="utf-8").splitlines() if row.startswith("| `")}
    assert set(rows) == set(names)
    assert all(rows[f"{section}.{key}"].endswith(f"| {when.value} |") for section, key, when in declared())


def test_a_reload_applies_all_but_keys_that_need_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(_sections(OTHER)))
    new, running = load_config(path, {}), Config()
    assert {each.name for each in differences(running, new)} == set(OTHER)
    taken = takeable(new, running)
    assert {each.name for each in differences(running, taken)} == set(OTHER) - RESTART
    assert {each.name for each in differences(taken, new)} == RESTART
    assert taken.database == running.database


def test_a_reload_logs_each_changed_key_and_whether_it_applies(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start()
    (console.folder / "ca.pub").write_bytes((console.folder / "id_admin.pub").read_bytes())
    # the port comes from the environment of the test's server, and the policy would refuse the test's client
    changed = {name: value for name, value in OTHER.items() if name not in {"listen.port", "ssh.policy"}}
    _write(console, **_sections(changed))
    _reload(console)  # the file was not there at the start
    told = [json.loads(line) for line in console.log if line.startswith("{")]  # log.format is one of the keys
    applied = {line["key"]: line for line in told if line.get("event") == "config.applied"}
    waiting = {line["key"]: line for line in told if line.get("event") == "config.waiting"}
    assert set(waiting) == RESTART & set(changed)
    assert set(applied) == set(changed) - RESTART
    defaults = Config().model_dump(mode="json")
    for name, line in (applied | waiting).items():
        section, _, key = name.partition(".")
        assert (line["before"], line["now"]) == (defaults[section][key], changed[name])
        assert line["message"].startswith(f"reload: {name}: ")
    assert waiting["node.name"]["message"] == 'reload: node.name: "ds1@ecss1" → "other@node" waits for a restart'
    fields = json.loads(console.run("node/info | json"))["fields"]
    assert fields["configuration"] == str(console.folder / "config.yaml")
    assert fields["waiting"].split(", ") == [name for name in changed if name in RESTART]
    detail = "detail"
    _until(lambda: "limits.max_sessions" in console.run("cocon/audit/list --event host.change | last 1 | json"))
    row = json.loads(console.run("cocon/audit/list --event host.change | last 1 | json"))["rows"][0]
    assert row["command"] == "SIGHUP"
    assert set(row[detail].removeprefix("changed: ").split(", ")) == set(applied)


def test_a_reload_with_mistakes_reports_all_and_changes_nothing(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    _write(console, greeting={"banner": "before"})
    console.start()
    key = (console.folder / "keys" / "ssh_host_ed25519_key").read_bytes()
    broken = {"max_sessions": -1, "max_auth_tries": "many"}
    _write(console, greeting={"banner": "after"}, limits=broken, log={"format": "xml"})
    (console.folder / "keys" / "ssh_host_ed25519_key").write_text("no key")
    _reload(console, "not reloaded", "the host key")
    for name in ("limits.max_sessions", "limits.max_auth_tries", "log.format"):
        assert console.logs("ERROR", "not reloaded, nothing has changed", name)
    assert _banner(console) == "before"
    assert not any("→" in line for line in console.log)
    assert "│ecss_console_config_reload_ok│      │0" in console.run("node/metrics | match reload_ok")
    # a missing key is not recreated: every client would be warned
    (console.folder / "keys" / "ssh_host_ed25519_key").unlink()
    (console.folder / "config.yaml").unlink()
    _reload(console, "not reloaded", "config.yaml cannot be read")
    assert console.logs("not reloaded", "the host key")
    assert not (console.folder / "keys" / "ssh_host_ed25519_key").exists()
    (console.folder / "keys" / "ssh_host_ed25519_key").write_bytes(key)
    _write(console, greeting={"banner": "after"}, auth={"trusted_user_ca_keys": "absent.pub"})
    _reload(console, "not reloaded", "auth.trusted_user_ca_keys", "absent.pub")
    _write(console, greeting={"banner": "after"})
    _reload(console, "1 keys changed, 0 wait")
    assert _banner(console) == "after"
    _reload(console, "0 keys changed, 0 wait")


async def test_reloaded_values_apply_to_open_and_new_sessions(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    _write(console)
    console.start()
    console.run("domain/declare biysk.local")
    assert "curve25519-sha256" in _key_exchanges(console)
    key = console.run("domain/biysk.local/integrations/add crm").split("API key: ")[1][:64]
    async with console.asyncssh(client_version="OpenSSH_9.9") as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(80, 24), encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        _write(
            console,
            integrations={"show_keys": "masked"},
            sessions={"longest_seconds": 30},
            greeting={"motd": "the disk is changed tonight"},
            limits={"max_sessions": 1, "max_login_bytes": 9000, "max_sessions_per_user": 2},
            ssh={"policy": "post-quantum"},
        )
        await asyncio.to_thread(_reload, console, "7 keys changed")
        assert "This session ends in" in await shell.stdout.readuntil(PROMPT)  # a minute before
        shell.stdin.write("domain/biysk.local/integrations/list\n")
        listed = await shell.stdout.readuntil("exec at")
        assert "widget" in listed
        assert key not in listed
        with pytest.raises(asyncssh.ChannelOpenError, match="max_sessions"):
            await connection.create_process("whoami")
        assert "curve25519-sha256" not in await asyncio.to_thread(_key_exchanges, console)
        # either side may give up first, so the client's error varies
        with pytest.raises(asyncssh.DisconnectError):
            await console.connected(kex_algs=["curve25519-sha256"])
        _write(console, greeting={"motd": "the disk is changed tonight"}, limits={"max_sessions_per_user": 1})
        await asyncio.to_thread(_reload, console)
        ran = await asyncio.to_thread(console.ssh, "whoami")
        assert b"1 are allowed (max_sessions_per_user)" in ran.stderr
    _until(lambda: b"admin" in console.ssh("whoami").stdout)
    async with console.asyncssh(client_version="OpenSSH_9.9") as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(80, 24), encoding="utf-8")
        assert "the disk is changed tonight" in await shell.stdout.readuntil(PROMPT)


def test_penalties_end_when_they_are_switched_off(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    _write(console)
    console.start()
    refused = False
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", console.port), 10) as client:
            refused = client.recv(64).startswith(b"Not allowed")
        if refused:
            break
    assert refused
    _write(console, limits={"per_source_penalties": False})
    _reload(console)
    assert console.run("whoami").startswith("admin\n")


def test_certificate_authorities_are_reloaded(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    folder = console.folder
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", ""]
    for name in ("ca", "id_cert"):
        subprocess.run([*make, "-f", str(folder / name)], check=True)
    signed = ["ssh-keygen", "-q", "-s", str(folder / "ca"), "-I", "t", "-n", "admin", str(folder / "id_cert.pub")]
    subprocess.run(signed, check=True)
    _write(console)
    console.start()

    def comes_in() -> bool:
        words = [str(folder / "id_cert") if word == str(console.key) else word for word in console.ssh_words()]
        words[1:1] = ["-o", "BatchMode=yes"]
        return subprocess.run([*words, "whoami"], capture_output=True, check=False, timeout=60).returncode == 0

    assert not comes_in()
    _write(console, auth={"trusted_user_ca_keys": "trusted"})
    (folder / "trusted").write_bytes((folder / "ca.pub").read_bytes())
    _reload(console, "1 authorities")
    assert comes_in()
    (folder / "trusted").write_bytes((folder / "id_admin.pub").read_bytes())  # the same name, another authority
    _reload(console, "0 keys changed", "1 authorities")
    assert not comes_in()
    (folder / "trusted").unlink()
    _reload(console, "not reloaded", "auth.trusted_user_ca_keys")
    os.mkfifo(folder / "trusted")  # all sessions once waited until data was written to it
    _reload(console, "not reloaded", "auth.trusted_user_ca_keys", "no file")
    assert not comes_in()


def test_a_failed_reload_does_not_stop_later_reloads(stopped_console: ConsoleServer) -> None:
    """An unexpected error once ended the SIGHUP task: later reloads did nothing, silently."""
    console = stopped_console
    _write(console)
    console.start()
    (console.folder / "config.yaml").unlink()
    (console.folder / "config.yaml").symlink_to("x" * 300)
    _reload(console, "not reloaded", "config.yaml cannot be read: File name too long")
    (console.folder / "config.yaml").unlink()
    _write(console)
    _reload(console, "0 keys changed")


def test_a_lone_surrogate_in_the_configuration_is_refused(stopped_console: ConsoleServer) -> None:
    """A YAML escape can make one. Accepted, it blocked every audit record, and a banner blocked all logins."""
    console = stopped_console
    console.start()
    (console.folder / "config.yaml").write_text('greeting: {banner: "\\ud800", motd: "\\udfff"}\n')
    _reload(console, "not reloaded", "greeting.banner: half a character cannot be part of it")
    assert console.logs("greeting.motd: half a character")
    assert console.run("whoami").startswith("admin\n")
    ran = console.program("config", "check")
    assert ran.returncode == 78
    assert len(ran.stderr.splitlines()) == 2


def test_a_reload_while_the_console_begins_or_stops_does_no_harm(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start()
    assert console.process is not None
    console.process.send_signal(signal.SIGHUP)  # it listens but is not ready yet
    assert console.logs("reloaded the defaults: 0 keys changed")
    with subprocess.Popen([*console.ssh_words(), "sleep 2"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as busy:
        _until(lambda: "│ecss_console_commands_running│      │2" in console.run("node/metrics | match running"))
        console.process.terminate()
        assert console.logs("stopping: no more logins")
        console.process.send_signal(signal.SIGHUP)
        assert console.stop() == 0
        assert busy.wait(20) == 0
    assert re.search(r"drained: 1 sessions have ended, 0 of them interrupted", "".join(console.log))


async def test_a_login_in_progress_at_shutdown_gets_the_reason(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start()
    parted: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    class Late(asyncssh.SSHClient):
        """Knows its password only when the server stops."""

        def connection_lost(self, exc: Exception | None) -> None:
            parted.set_result(exc)

        async def password_auth_requested(self) -> str:
            assert console.process is not None
            console.process.terminate()
            await asyncio.to_thread(console.logs, "stopping: no more logins")
            return PASSWORD

    async with console.asyncssh() as busy:
        running = await busy.create_process("sleep 2")
        with suppress(asyncssh.DisconnectError):
            await console.connected(client_factory=Late, client_keys=None, preferred_auth=["password"])
        assert "The console is stopping; log in again later." in str(await asyncio.wait_for(parted, 20))
        assert (await running.wait()).exit_status == 0
