"""Login options in the user name, as in `admin+plain+strict@host`."""

from __future__ import annotations

from dataclasses import dataclass

_EXPLAINED = {
    "plain": "the plain reader on every terminal",
    "rich": "the line editor for every client",
    "json": "every reply as one JSON line",
    "strict": "the session ends at the first command that fails, with its status",
}


@dataclass(frozen=True, slots=True)
class LoginOptions:
    """The options of a login. Without `plain` and `rich`, the client and its terminal decide."""

    plain: bool = False
    rich: bool = False
    json: bool = False
    strict: bool = False


def split_login_name(username: str) -> tuple[str, str]:
    """Return the bare user name and its options. They are parsed after the login."""
    name, _, options = username.partition("+")
    return name, options


def parse_login_options(text: str) -> LoginOptions:
    """Parse options such as `plain+strict`. Raises ValueError that lists the known ones."""
    names = text.split("+") if text else []
    unknown = [name for name in names if name not in _EXPLAINED]
    if unknown:
        known = ", ".join(f"+{name} ({meaning})" for name, meaning in _EXPLAINED.items())
        message = f"there is no login option {', '.join(f'+{name}' for name in unknown)}; known are {known}"
        raise ValueError(message)
    if "plain" in names and "rich" in names:
        message = "the login options +plain and +rich exclude each other"
        raise ValueError(message)
    return LoginOptions(**dict.fromkeys(names, True))
