"""What an operator may be told, typed by whose fault it is.

Every outcome that is not "done" is one of these classes; the first words of its reply and its exit status are
contracts with scripts, so they stand here once, as a table that renderers and the shell read.
"""

from __future__ import annotations

from typing import ClassVar


class OperatorError(Exception):
    """An outcome that the operator is told in plain words; never a traceback.

    `message` is one line that says what is wrong and, where it helps, what would be right. `hints` are further lines
    of the reply (`Usage: …`, `Did you mean …?`).
    """

    prefix: ClassVar[str] = "Command error: "
    status: ClassVar[int] = 1
    kind: ClassVar[str] = "refused"

    def __init__(self, message: str, *hints: str) -> None:
        """Keep the message and its hints; both may be shown to anyone who may run the command."""
        super().__init__(message)
        self.message = message
        self.hints = hints

    def lines(self) -> tuple[str, ...]:
        """Return the reply's lines: the prefix with the message, then the hints."""
        return (self.prefix + self.message, *self.hints)


class CommandError(OperatorError):
    """The state of the exchange refuses it: something is unknown, exists already, or is not allowed here."""


class ArgumentError(OperatorError):
    """The operator's words are wrong or incomplete."""

    prefix = "Invalid command's arguments: "
    status = 2
    kind = "arguments"


class TemporaryError(OperatorError):
    """The store is busy or away; the same command may work later. Scripts look for `temporary locked`."""

    prefix = "Command error: temporary locked: "
    status = 75
    kind = "temporary"


class PermissionDeniedError(OperatorError):
    """The operator's role does not allow it."""

    prefix = "Command error: permission denied: "
    status = 126
    kind = "permission"


class UnknownCommandError(OperatorError):
    """No such command; the message is the first word as it was typed."""

    prefix = "There is no such command: "
    status = 127
    kind = "unknown"


class InterruptedByOperatorError(OperatorError):
    """Ctrl-C, `signal INT` or a break while the command ran; its reply is the bare `^C`, without footer."""

    prefix = ""
    status = 130
    kind = "interrupted"

    def __init__(self) -> None:
        """There is nothing to say but `^C`."""
        super().__init__("^C")


class InternalError(OperatorError):
    """A defect of ours; the log has the traceback under the same incident."""

    prefix = "Command error: internal error, incident "
    status = 70
    kind = "internal"


class StartError(Exception):
    """The program cannot do what its command line asked; told on stderr, ends with exit status 1."""


class ConfigurationError(Exception):
    """The configuration is wrong; carries every mistake found, ends with exit status 78 (sysexits' EX_CONFIG)."""

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        """Keep the mistakes, one line each, as they are to be printed."""
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes
