"""The plain editor, for terminals of which nothing is known: echo, erase, Ctrl-C, Ctrl-D; it never sends an escape."""

from __future__ import annotations

import re

from rich.cells import cell_len

from server.grammar.tokens import MOST_CHARACTERS
from server.shell.terminal import EndOfInputError, LineDroppedError
from server.transport.tty import INTERRUPT, Tty

_RUN = re.compile(r"[^\x00-\x1f\x7f-\x9f]+|[\x00-\x1f\x7f-\x9f]")
_ESCAPED = re.compile(
    r"""\x1b(?: \[ [0-?]* [\ -/]* [@-~]         # CSI … final
              | \] [^\x00-\x1f]* (?:\x07|\x1b\\)  # OSC … BEL or ST
              | O [\x20-\x7e]                    # SS3 and one key
              | [^\[\]O\x00-\x1f] )              # Alt and one key
    """,
    re.VERBOSE,
)
_OPEN_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x00-\x1f]*\x1b?|O)?\Z")
#: Characters after which no more is read before they have been acted on: what follows may be for another reader.
_STOPS = "\r\x03\x04"
_ERASE, _DELETE, _KILL_LINE, _KILL_WORD, _END = "\x08", "\x7f", "\x15", "\x17", "\x04"


class PlainEditor:
    """Reads one line after another. Without a pty nothing is edited and nothing echoed."""

    def __init__(self, tty: Tty, *, hidden: bool = False) -> None:
        """Take the terminal; `hidden` echoes nothing but line ends."""
        self._tty = tty
        self._hidden = hidden
        self._line: list[str] = []
        self._length = 0
        self._open_escape = ""

    def remember(self, line: str) -> None:
        """There is no history here."""

    def painted(self, prompt: str) -> str:
        """There are no colours here."""
        return prompt

    def announce(self, text: str) -> bool:  # noqa: ARG002
        """Nothing is drawn again here."""
        return False

    async def edit(self, prompt: str, typed: str = "") -> str:  # noqa: ARG002  the prompt is on the screen already
        """Return the line, of which `typed` is on the screen already; the prompt is too.

        A line of more than 64 K characters comes back cut to just above that limit, so that it is refused whole.
        Raises EndOfInputError or LineDroppedError.
        """
        self._line, self._length, self._open_escape = list(typed), len(typed), ""
        while True:
            await self._tty.wait()
            text = self._tty.take_through(_STOPS if self._tty.pty else "\r")
            if not text and not self._line:
                self._echo("\n")
                raise EndOfInputError
            self._take(text.removesuffix("\r"))
            if text.endswith("\r") or not text:
                self._echo("\n")
                return "".join(self._line)

    def _take(self, text: str) -> None:
        if not self._tty.pty:
            self._insert(text)
            return
        text = _ESCAPED.sub("", self._open_escape + text)
        cut = _OPEN_ESCAPE.search(text)
        self._open_escape = cut[0][:64] if cut else ""
        for run in _RUN.findall(text[: cut.start()] if cut else text):
            self._key(run)

    def _key(self, run: str) -> None:
        if run == INTERRUPT:
            self._echo("^C\n")
            raise LineDroppedError
        if run == _END and not self._line:
            self._echo("\n")
            raise EndOfInputError
        if run in {_ERASE, _DELETE}:
            self._erase(1)
        elif run == _KILL_LINE:
            self._erase(len(self._line))
        elif run == _KILL_WORD:
            kept = "".join(self._line).rstrip().rpartition(" ")
            self._erase(len(self._line) - len(kept[0] + kept[1]))
        elif run == "\t":
            self._insert(" ")
        elif run[0] >= " " and not _DELETE <= run[0] <= "\x9f":
            self._insert(run)

    def _insert(self, text: str) -> None:
        room = MOST_CHARACTERS + 1 - self._length
        kept = text[:room] if room > 0 else ""
        self._line.extend(kept)
        self._length += len(kept)
        self._echo("" if self._hidden else kept)

    def _erase(self, count: int) -> None:
        """Erase characters at the end; not of an over-long line, which would be run cut."""
        if self._length > MOST_CHARACTERS or not count:
            return
        gone = "".join(self._line[-count:]) if count <= len(self._line) else "".join(self._line)
        del self._line[len(self._line) - len(gone) :]
        self._length = len(self._line)
        self._echo("" if self._hidden else "\b \b" * cell_len(gone))

    def _echo(self, text: str) -> None:
        if self._tty.pty:
            self._tty.write(text)
