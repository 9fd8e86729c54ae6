"""Files as Windows writes them, with a byte order mark or in UTF-16: input, documents, keys, settings."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path
from typing import IO

import pytest
from backups import IDENTITY, backup_made, status_of
from console import PROGRAM, PROMPT, ConsoleServer

from server.backup.encryption import Keys, Lock, decrypt, encrypt
from server.cli.passphrase import known_passphrase, new_passphrase
from server.config import load_config
from server.encoding import BYTE_ORDER_MARK, decoded, foreign_encoding
from server.errors import ConfigurationError, StartError

MARK = b"\xef\xbb\xbf"
SCRIPT = "echo declared\nwhoami\n"
UTF_16 = {
    "little endian with a mark": b"\xff\xfe" + SCRIPT.encode("utf-16-le"),
    "big endian with a mark": b"\xfe\xff" + SCRIPT.encode("utf-16-be"),
    "little endian": SCRIPT.encode("utf-16-le"),
    "big endian": SCRIPT.encode("utf-16-be"),
    "lines of Windows": b"\xff\xfe" + SCRIPT.replace("\n", "\r\n").encode("utf-16-le"),
    "an empty first line": ("\n" + SCRIPT).encode("utf-16-le"),
}
UTF_32 = {"UTF-32": SCRIPT.encode("utf-32-le"), "UTF-32 with a mark": b"\xff\xfe\0\0" + SCRIPT.encode("utf-32-le")}
KEY = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01"
DOCUMENT = '{"rows": [{"client_id": "j1", "type": "widget", "api_key": "' + KEY + '"}]}\n'


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("options", [(), ("-tt",)])
def test_field_a_script_with_a_byte_order_mark_runs_from_its_first_line(
    shared_console: ConsoleServer, options: tuple[str, ...], end: str
) -> None:
    """The first line was once an unknown command, and the status was that of the last line: 0."""
    ran = shared_console.ssh(text=MARK + (SCRIPT + "exit 3\n").replace("\n", end).encode(), options=options)
    assert ran.returncode == 3
    assert ran.stdout.decode().count("[exec at: ") == 2
    assert "declared" in ran.stdout.decode()
    assert "\ufeff" not in ran.stdout.decode()


async def test_field_a_mark_that_arrives_byte_by_byte_is_dropped(shared_console: ConsoleServer) -> None:
    async with shared_console.asyncssh() as connection:
        process = await connection.create_process(encoding=None)
        for byte in MARK + b"whoami\n":
            process.stdin.write(bytes([byte]))
        process.stdin.write_eof()
        printed = (await process.wait()).stdout
    assert isinstance(printed, bytes)
    assert printed.decode().startswith(f"{PROMPT}admin\n")


def test_field_only_one_mark_at_the_start_is_dropped(shared_console: ConsoleServer) -> None:
    assert shared_console.run("\ufeffwhoami").startswith("admin\n")
    for command in ("\ufeff\ufeffwhoami", "whoami\n\ufeffwhoami"):
        ran = shared_console.ssh(command)
        assert ran.returncode == 2
        assert "U+FEFF (ZERO WIDTH NO-BREAK SPACE) at column 1" in ran.stdout.decode()
    piped = shared_console.ssh(text=b"whoami\n" + MARK + b"nonsense\n")
    assert piped.returncode == 2


@pytest.mark.parametrize("options", [(), ("-tt",)])
@pytest.mark.parametrize("name", [*UTF_16, *UTF_32])
def test_field_a_script_in_utf_16_is_refused_once_and_nothing_of_it_runs(
    shared_console: ConsoleServer, options: tuple[str, ...], name: str
) -> None:
    """NUL was dropped: all lines but the first ran, with letters beyond ASCII changed."""
    ran = shared_console.ssh(text=(UTF_16 | UTF_32)[name], options=options)
    printed = ran.stdout.decode()
    encoding = "UTF-32" if name in UTF_32 else "UTF-16"
    assert ran.returncode == 2
    assert printed.count("Invalid command's arguments: ") == printed.count("[exec at: ") == 1
    assert f"none of it was run: this is {encoding} text; save it as UTF-8" in printed
    assert "admin\n" not in printed.replace("\r", "")


def test_field_utf_16_in_the_midst_of_a_stream_is_refused_line_by_line(shared_console: ConsoleServer) -> None:
    """For example two concatenated files: the lines would have run without letters beyond ASCII."""
    ran = shared_console.ssh(text=b"whoami\n" + "\ufeffecho x\necho Бийск\n".encode("utf-16-le"))
    printed = ran.stdout.decode()
    assert ran.returncode == 2
    assert printed.startswith(f"{PROMPT}admin\n")
    assert printed.count("it has NUL characters, as UTF-16 text has; save it as UTF-8") >= 2
    assert "x\n\n[" not in printed


@pytest.mark.parametrize("shell", [False, True])
def test_field_a_document_with_a_mark_is_imported_and_one_in_utf_16_named(
    console: ConsoleServer, *, shell: bool
) -> None:
    console.run("domain/declare biysk.local")
    line = "domain/biysk.local/integrations/import"

    def given(document: bytes) -> tuple[int, str]:
        ran = console.ssh(text=f"{line}\n".encode() + document) if shell else console.ssh(line, text=document)
        return ran.returncode, ran.stdout.decode()

    for wrong in (b"\xff\xfe" + DOCUMENT.encode("utf-16-le"), DOCUMENT.encode("utf-16-be")):
        status, told = given(wrong)
        assert status == 2
        assert "UTF-16 text" in told
        assert "save it as UTF-8" in told
    status, told = given(MARK + DOCUMENT.encode())
    assert (status, "Integrations added with their keys: 1" in told) == (0, True)


def test_field_an_answer_in_utf_16_confirms_nothing(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    ran = console.ssh("domain/remove biysk.local", text="yes\n".encode("utf-16"))
    assert ran.returncode == 2
    assert b"this is UTF-16 text" in ran.stdout
    assert "biysk.local" in console.run("domain/list")


def _files(text: str) -> dict[str, tuple[bytes, str]]:
    """Return file contents, each with the expected error, empty for a valid file."""
    utf_16 = "this is UTF-16 text; save it as UTF-8"
    return {
        "mark": (MARK + text.encode(), ""),
        "mark and lines of Windows": (MARK + text.replace("\n", "\r\n").encode(), ""),
        "UTF-16 with a mark": (text.encode("utf-16"), utf_16),
        "UTF-16": (text.encode("utf-16-be"), utf_16),
        "UTF-32": (text.encode("utf-32"), "this is UTF-32 text; save it as UTF-8"),
        "NUL later": (("я" + text).encode("utf-16-le"), "save it as UTF-8"),
        "Latin-1": (b"\xe9" + text.encode(), "this is not UTF-8 text"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", _files(""))
def test_field_key_and_authority_files_in_windows_encodings(stopped_console: ConsoleServer, name: str) -> None:
    console = stopped_console
    content, told = _files(Path(f"{console.key}.pub").read_text())[name]
    (console.folder / "k.pub").write_bytes(content)
    ran = console.program("user", "add", "eve", "--authorized-key", "k.pub")
    assert (ran.returncode, told in ran.stderr) == (1 if told else 0, True)
    (console.folder / "config.yaml").write_text("auth: {trusted_user_ca_keys: k.pub}\n")
    if told:
        served = console.program("serve")
        assert (served.returncode, told in served.stderr) == (1, True)
    else:
        console.start()
        assert console.told("eve", "whoami")[0] == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_field_a_password_on_standard_input_in_windows_encodings(stopped_console: ConsoleServer, encoding: str) -> None:
    (stopped_console.folder / "password").write_text("correct horse battery\r\n", encoding=encoding)
    words = (*PROGRAM, "user", "add", "eve", "--password-stdin")
    with (stopped_console.folder / "password").open("rb") as given:
        ran = subprocess.run(
            words, stdin=given, cwd=stopped_console.folder, capture_output=True, text=True, check=False, timeout=30
        )
    if encoding == "utf-8-sig":
        assert (ran.returncode, ran.stdout) == (0, "User eve added.\n")
    else:
        assert ran.returncode == 1
        assert "the password on standard input cannot be read: this is UTF-16 text; save it as UTF-8" in ran.stderr


@pytest.mark.parametrize("name", _files(""))
def test_field_a_configuration_in_windows_encodings(tmp_path: Path, name: str) -> None:
    content, told = _files("listen: {port: 7}\n")[name]
    (tmp_path / "config.yaml").write_bytes(content)
    if told:
        with pytest.raises(ConfigurationError, match=told):
            load_config(tmp_path / "config.yaml", {})
    else:
        assert load_config(tmp_path / "config.yaml", {}).listen.port == 7


def test_field_a_passphrase_file_with_a_mark_opens_old_and_new_backups(tmp_path: Path) -> None:
    """Older versions took the mark as part of the passphrase. Such a file still opens their backups."""
    marked, utf_16 = tmp_path / "marked", tmp_path / "utf-16"
    marked.write_bytes(MARK + b"correct horse battery\r\n")
    utf_16.write_text("correct horse battery\n", encoding="utf-16")
    assert new_passphrase(str(marked)) == "correct horse battery"
    keys = Keys(passphrase=known_passphrase(str(marked)))
    before = BytesIO()
    encrypt(_write, before, Keys(passphrase=BYTE_ORDER_MARK + "correct horse battery"))
    before.seek(0)
    assert decrypt(lambda plain: plain.read(), before, Lock.PASSPHRASE, keys) == b"all of it"
    with pytest.raises(StartError, match="utf-16: this is UTF-16 text; save it as UTF-8"):
        new_passphrase(str(utf_16))


def _write(plain: IO[bytes]) -> None:
    plain.write(b"all of it")


def test_field_an_identity_file_with_a_mark_opens_a_backup(filled: ConsoleServer) -> None:
    backup = backup_made("backup", "--recipient", IDENTITY.to_public())
    identity = filled.folder / "identity"
    identity.write_bytes(MARK + identity.read_bytes())
    assert status_of("restore", backup, "--verify-only", "--identity", "identity") == 0


def test_encodings_are_detected_from_the_first_bytes() -> None:
    assert [foreign_encoding(raw) for raw in UTF_16.values()] == ["UTF-16"] * len(UTF_16)
    assert [foreign_encoding(raw) for raw in UTF_32.values()] == ["UTF-32"] * len(UTF_32)
    for raw in (b"", b"l", b"ls", b"l\0", b"ls\0\0", b"\0\0\0\0", "я\n".encode(), MARK + b"ls"):
        assert foreign_encoding(raw) == ""
    assert decoded(MARK + MARK + b"x") == "\ufeffx"
    with pytest.raises(ValueError, match="NUL"):
        decoded(b"l\0")
