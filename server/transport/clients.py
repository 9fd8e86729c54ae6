"""Guess whether a person with a capable terminal uses the client.

The lists are allow-lists: an unknown client gets the plain editor. A wrong guess costs comfort, never correctness,
because both editors read complete lines in the same way.
"""

from __future__ import annotations

import re

_PERSONS = re.compile(
    r"SSH-2\.0-(?:OpenSSH|PuTTY|KiTTY|MoTTY|SecureCRT|dropbear|TTSSH|Termius|.*Bitvise|.*VanDyke)", re.IGNORECASE
)
_DRAWABLE = re.compile(
    r"(?:xterm|screen|tmux|rxvt|linux|vt100|vt102|vt220|putty|konsole|gnome|alacritty|kitty|foot|wezterm|ghostty"
    r"|iterm2?|cygwin|ansi|eterm|st)(?:[-+.].*)?",
    re.IGNORECASE,
)
#: Terminals that do not rewrap their rows when the window width changes, by client and by TERM.
_KEEPS_ROWS = re.compile(r"SSH-2\.0-(?:PuTTY|KiTTY|MoTTY|SecureCRT|TTSSH)", re.IGNORECASE)
_KEEPS_ROWS_TERM = re.compile(r"(?:xterm|linux|vt\d+|putty|cygwin|ansi|eterm|st)(?:-(?!256color).*)?", re.IGNORECASE)
_DEFAULT_SIZE = (80, 24)
_LARGEST_SIZE = (1000, 300)


def edits_lines(client_version: str, term: str, columns: int, rows: int) -> bool:
    """Tell whether a shell with a pty gets the line editor."""
    if not columns or not rows:
        return False
    return bool(_PERSONS.match(client_version) and _DRAWABLE.fullmatch(term))


def reflows(client_version: str, term: str) -> bool:
    """Tell whether the terminal rewraps its rows when its width changes.

    Most terminals named xterm-256color do. xterm itself, named xterm, does not. A wrong guess draws a wrong line until
    Ctrl-L or Enter.
    """
    return not (_KEEPS_ROWS.match(client_version) or _KEEPS_ROWS_TERM.fullmatch(term))


def clamped_size(columns: int, rows: int) -> tuple[int, int]:
    """Return a usable window size: 80x24 for 0, at most 1000x300."""
    return (
        min(columns or _DEFAULT_SIZE[0], _LARGEST_SIZE[0]),
        min(rows or _DEFAULT_SIZE[1], _LARGEST_SIZE[1]),
    )
