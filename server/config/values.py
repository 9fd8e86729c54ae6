"""Types of configuration values, and the moment when a changed value applies."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, field_validator

from server.addresses import plain_network


def _no_switch(value: object) -> object:
    if isinstance(value, bool):
        message = "a whole number is expected"
        raise ValueError(message)  # noqa: TRY004  pydantic reports only ValueError as a mistake
    return value


def _no_nul(text: str) -> str:
    if "\0" in text:
        message = "the character NUL cannot be part of it"
        raise ValueError(message)
    return text


def _network(text: str) -> str:
    plain_network(text)
    return text


Text = Annotated[str, AfterValidator(_no_nul)]
Whole = Annotated[int, BeforeValidator(_no_switch)]
Network = Annotated[str, AfterValidator(_network)]


class Counts(Enum):
    """The moment when a changed value applies, after SIGHUP has reloaded the configuration."""

    NOW = "at once"
    NEXT = "for new connections"
    RESTART = "after a restart"


class Section(BaseModel):
    """One section of the configuration. It refuses unknown keys and is read-only."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        """Refuse lone surrogates: a YAML escape can write one, but UTF-8 cannot store or send it."""
        if isinstance(value, str) and any("\ud800" <= each <= "\udfff" for each in value):
            message = "half a character cannot be part of it"
            raise ValueError(message)
        return value
