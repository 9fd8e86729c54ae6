"""Load the configuration from YAML and from environment variables.

The error lists all mistakes, each with its dotted name and its position.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)

from server.config.schema import Config
from server.encoding import decoded
from server.errors import ConfigurationError
from server.file_names import DATABASE_PASSWORD_NAME, STORAGE_KEY_NAME
from server.plain_files import MOST_TEXT_BYTES, read_plain

ENVIRONMENT_PREFIX = "ECSS_CONSOLE_"
DEFAULT_FILE = Path("config.yaml")
_MOST_DIGITS = 4_000


@dataclass(frozen=True, slots=True)
class _Source:
    """The state of one load: positions by dotted name, ids of the YAML nodes read, and mistakes found."""

    places: dict[str, str]
    met: set[int]
    mistakes: list[str]


def load_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """Load the configuration from a file and the environment.

    Without `path` it reads `config.yaml` in the current folder, if that exists. Raises ConfigurationError with every
    mistake.
    """
    if path is None and (DEFAULT_FILE.exists() or DEFAULT_FILE.is_symlink()):
        path = DEFAULT_FILE
    source = _Source({}, set(), [])
    values = _read_file(path, source) if path is not None else {}
    _override(values, environment, source)
    try:
        config = Config.model_validate(values)
        config._base = path.parent if path else Path()  # noqa: SLF001  this module fills in the private fields
        config._file = path  # noqa: SLF001  likewise
        config._credential = _credential(environment, STORAGE_KEY_NAME)  # noqa: SLF001  likewise
        config._password_credential = _credential(environment, DATABASE_PASSWORD_NAME)  # noqa: SLF001  likewise
    except ValidationError as error:
        source.mistakes.extend(_mistakes(error, source.places))
    if source.mistakes:
        raise ConfigurationError(tuple(source.mistakes))
    return config


def _credential(environment: Mapping[str, str], name: str) -> Path | None:
    """Return the path of a secret that systemd passes (`LoadCredential=storage.key:…`), if any."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return None
    path = Path(folder, name)
    try:
        return path if path.exists() else None
    except OSError:
        return path  # the error appears when the store is opened


def _read_file(path: Path, source: _Source) -> dict[str, Any]:
    try:
        node = yaml.compose(decoded(read_plain(path, MOST_TEXT_BYTES)), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigurationError((f"{path} cannot be read: {error.strerror}",)) from error
    except RecursionError as error:
        raise ConfigurationError((f"{path}: this is no YAML: it is nested too deeply",)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or getattr(error, "reason", "it cannot be read")
        raise ConfigurationError((f"{where}: this is no YAML: {problem}",)) from error
    except ValueError as error:
        raise ConfigurationError((f"{path}: {error}",)) from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigurationError((f"{path}:1: sections are expected, as in listen: {{port: 8023}}",))
    values = _value(node, "", path, source)
    return {section: inside for section, inside in values.items() if inside is not None}


def _value(node: yaml.Node, name: str, path: Path, source: _Source) -> Any:  # noqa: ANN401  a YAML value is anything
    """Return the value of a YAML node.

    Records the position of each dotted name, and duplicate names as mistakes.
    """
    place = f"{path}:{node.start_mark.line + 1}"
    source.places.setdefault(name, place)
    if id(node) in source.met:
        source.mistakes.append(f"{place}: {name}: aliases (*) are not taken, write the value out")
        return None
    source.met.add(id(node))
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            dotted = f"{name}.{key}" if name else key
            place = f"{path}:{key_node.start_mark.line + 1}"
            if key in values:
                source.mistakes.append(f"{place}: {dotted}: stands twice, first at {source.places[dotted]}")
            source.places.setdefault(dotted, place)
            values[key] = _value(value_node, dotted, path, source)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, f"{name}.{index}", path, source) for index, each in enumerate(node.value)]
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or error
        if len(node.value) > _MOST_DIGITS and "digits" in str(problem):  # Python's message names a function
            problem = "a number of so many digits"
        source.mistakes.append(f"{place}: {name}: this is no value: {problem}")
        return None


def _override(values: dict[str, Any], environment: Mapping[str, str], source: _Source) -> None:
    """Apply overrides such as `ECSS_CONSOLE_LISTEN__PORT=2222` for `listen.port`."""
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        text = environment[variable]
        if not key:
            source.mistakes.append(f"{variable}: SECTION__KEY is expected, as in {ENVIRONMENT_PREFIX}LISTEN__PORT")
            continue
        inside = values.setdefault(section, {})
        if not isinstance(inside, dict):
            continue  # the file has no section here; the validation reports it with its line
        listed = text.startswith("[") and text.endswith("]")
        inside[key] = [item.strip() for item in text[1:-1].split(",") if item.strip()] if listed else text
        source.places[f"{section}.{key}"] = source.places[section] = f"environment {variable}"


def _mistakes(error: ValidationError, places: Mapping[str, str]) -> list[str]:
    found = []
    for detail in error.errors(include_url=False):
        dotted = ".".join(str(part) for part in detail["loc"])
        place = places.get(dotted) or places.get(dotted.rpartition(".")[0]) or "configuration"
        found.append(f"{place}: {dotted}: {_plain(detail['type'], detail['msg'])}")
    return found


def _plain(kind: str, text: str) -> str:
    """Return pydantic's message in the style of the console's own."""
    if kind == "extra_forbidden":
        return "there is no such key; config.example.yaml names them all"
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return "keys are expected below it"
    if kind == "string_type":
        return "text is expected; put it in quotes"
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
