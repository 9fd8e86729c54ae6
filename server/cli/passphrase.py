"""Read the passphrase of a backup from a file, standard input or a terminal, never an argument."""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from pathlib import Path

from server.cli.terminal import asked
from server.encoding import BYTE_ORDER_MARK, decoded
from server.errors import StartError
from server.plain_files import MOST_TEXT_BYTES, read_named

FEWEST_CHARACTERS = 10
_FROM_STDIN = "-"


def new_passphrase(file: str | None) -> str:
    """Return the passphrase for a new backup.

    Asks twice at a terminal. Raises StartError for a short passphrase.
    """
    if file is not None:
        return _long_enough(_first_line(file).removeprefix(BYTE_ORDER_MARK))
    passphrase = _long_enough(_asked("Passphrase of the backup: "))
    if _asked("Once more: ") != passphrase:
        message = "the two passphrases differ; nothing was written"
        raise StartError(message)
    return passphrase


def known_passphrase(file: str | None) -> str:
    """Return the passphrase of an existing backup.

    Raises StartError without a file and without a terminal. It keeps a byte order mark of the file. Older backups
    counted the mark as part of the passphrase, so `decrypt` tries both.
    """
    return _first_line(file) if file is not None else _asked("Passphrase of the backup: ")


def _asked(question: str) -> str:
    return asked(question, "passphrase", "give --passphrase-file FILE, - for standard input")


def _first_line(file: str) -> str:
    try:
        if file == _FROM_STDIN:
            raw = sys.stdin.buffer.readline(MOST_TEXT_BYTES) if sys.stdin is not None else b""
        else:
            raw = read_named(Path(file), MOST_TEXT_BYTES).partition(b"\n")[0]
        mark = BYTE_ORDER_MARK if raw.startswith(BOM_UTF8) else ""
        return mark + decoded(raw).removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        message = f"the passphrase cannot be read from {file}: {why}"
        raise StartError(message) from error


def _long_enough(passphrase: str) -> str:
    if len(passphrase) < FEWEST_CHARACTERS:
        message = f"a passphrase has at least {FEWEST_CHARACTERS} characters; nothing was written"
        raise StartError(message)
    return passphrase
