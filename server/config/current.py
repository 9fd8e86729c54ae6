"""The configuration in force, and what of a new one the running server can take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from server.config.schema import Config
from server.config.values import Counts


class Current:
    """Where the configuration in force stands. Who needs a value asks here each time, so a reload counts for all.

    `waiting` are the dotted names that a reload found changed and that need a restart.
    """

    def __init__(self, config: Config) -> None:
        """Begin with what the server starts with."""
        self.config = config
        self.waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """A key whose value is another one."""

    name: str
    before: object
    now: object


def declared() -> Iterator[tuple[str, str, Counts]]:
    """Yield (section, key, when a change counts) of every key; raises TypeError where the last is not declared."""
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
    """Return `new` as the server can take it: keys that need a restart, and what paths start from, stay as they are."""
    sections: dict[str, dict[str, object]] = {}
    for section, key, when in declared():
        values = getattr(running if when is Counts.RESTART else new, section)
        sections.setdefault(section, {})[key] = getattr(values, key)
    models = {section: type(getattr(new, section)).model_validate(values) for section, values in sections.items()}
    taken = running.model_copy(update=models)
    taken._file = new.file  # noqa: SLF001  at the start there may have been none
    return taken


def differences(before: Config, now: Config) -> list[Difference]:
    """Return every key whose value is another one, in the order of the schema."""
    found = []
    for section, key, _ in declared():
        old, new = getattr(getattr(before, section), key), getattr(getattr(now, section), key)
        if old != new:
            found.append(Difference(f"{section}.{key}", old, new))
    return found
