"""Errors for operators, one class for each cause, and errors that end the program.

Each class declares the first words of its reply and its exit status. Scripts rely on both, so renderers and the shell
read them only from here.
"""

from __future__ import annotations

from typing import ClassVar


class OperatorError(Exception):
    """A failed command. The operator sees its lines, never a traceback.

    `message` is one line: what is wrong and, where it helps, what would be right. `hints` are further lines of the
    reply, such as `Usage: …` or `Did you mean …?`. `nodes` are the nodes of the footer, when the command ran on others.
    """

    prefix: ClassVar[str] = "Command error: "
    status: ClassVar[int] = 1
    kind: ClassVar[str] = "refused"

    def __init__(self, message: str, *hints: str) -> None:
        """Take the message and its hints. They must be safe to show to every user who may run the command."""
        super().__init__(message)
        self.message = message
        self.hints = hints
        self.nodes: tuple[str, ...] | None = None

    def lines(self) -> tuple[str, ...]:
        """Return the reply's lines: the prefix with the message, then the hints."""
        return (self.prefix + self.message, *self.hints)


class CommandError(OperatorError):
    """The present state refuses the command: something is unknown, exists already, or is not allowed here."""


class ArgumentError(OperatorError):
    """The command's arguments are wrong or incomplete."""

    prefix = "Invalid command's arguments: "
    status = 2
    kind = "arguments"


class TemporaryError(OperatorError):
    """The store is busy or unavailable; the same command may work later.

    Scripts look for `temporary locked`.
    """

    prefix = "Command error: temporary locked: "
    status = 75
    kind = "temporary"


class PermissionDeniedError(OperatorError):
    """The operator's role or domains do not allow the command."""

    prefix = "Command error: permission denied: "
    status = 126
    kind = "permission"


class UnknownCommandError(OperatorError):
    """There is no such command. The message is the first word as the operator typed it."""

    prefix = "There is no such command: "
    status = 127
    kind = "unknown"


class InterruptedByOperatorError(OperatorError):
    """Ctrl-C, `signal INT` or a break ended the running command.

    Its reply is a bare `^C` without a footer.
    """

    prefix = ""
    status = 130
    kind = "interrupted"

    def __init__(self) -> None:
        """Set the message to `^C`."""
        super().__init__("^C")


class InternalError(OperatorError):
    """A defect of the program. The log has the traceback under the same incident number."""

    prefix = "Command error: internal error, incident "
    status = 70
    kind = "internal"


class StartError(Exception):
    """A subcommand cannot do its work.

    The program prints the message on standard error and exits with status 1.
    """


class ConfigurationError(Exception):
    """The configuration is wrong.

    The program prints every mistake and exits with status 78, sysexits' EX_CONFIG.
    """

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        """Take the mistakes, one printable line each."""
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes
