"""`ecss-console config check`: prints the configuration in force."""

from __future__ import annotations

from server.cli.output import say
from server.config import Config


def check(config: Config) -> None:
    """Print the configuration. `load_config` has refused a wrong one before."""
    say(config.model_dump_json(indent=2))
