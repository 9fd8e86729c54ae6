"""The configuration in force, and the values of a new configuration that a running server can apply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from server.config.schema import Config
from server.config.values import Counts


class Current:
    """Holds the configuration in force.

    Read each value when you use it, because a reload replaces `config`. `waiting` has the dotted names of the changed
    keys that need a restart.
    """

    def __init__(self, config: Config) -> None:
        """Take the configuration of the start."""
        self.config = config
        self.waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """A key with a changed value."""

    name: str
    before: object
    now: object


def declared() -> Iterator[tuple[str, str, Counts]]:
    """Yield section, name and `Counts` of every key.

    Raises TypeError for a key without exactly one `Counts`.
    """
    for section, of_section in Config.model_fields.items():
        keys = of_section.annotation
        if not (isinstance(keys, type) and issubclass(keys, BaseModel)):
            raise TypeError(section)
        for key, field in keys.model_fields.items():
            counts = [each for each in field.metadata if isinstance(each, Counts)]
            if len(counts) != 1:
                message = f"{section}.{key} must declare once when a changed value counts"
                raise TypeError(message)
            yield section, key, counts[0]


def takeable(new: Config, running: Config) -> Config:
    """Return `new`, but with the running values of all keys that need a restart.

    Relative paths still start from the running configuration's folder.
    """
    sections: dict[str, dict[str, object]] = {}
    for section, key, when in declared():
        values = getattr(running if when is Counts.RESTART else new, section)
        sections.setdefault(section, {})[key] = getattr(values, key)
    models = {section: type(getattr(new, section)).model_validate(values) for section, values in sections.items()}
    taken = running.model_copy(update=models)
    taken._file = new.file  # noqa: SLF001  the running configuration may have had no file
    return taken


def differences(before: Config, now: Config) -> list[Difference]:
    """Return every changed key, in the order of the schema."""
    found = []
    for section, key, _ in declared():
        old, new = getattr(getattr(before, section), key), getattr(getattr(now, section), key)
        if old != new:
            found.append(Difference(f"{section}.{key}", old, new))
    return found
